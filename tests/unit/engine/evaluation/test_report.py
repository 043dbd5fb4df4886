"""A log of a known world is judged truly, and what it cannot say is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.evaluation.factors import factors
from engine.evaluation.log import Log
from engine.evaluation.report import Candidate, Evaluation, Verdict, as_dict, evaluate
from engine.evaluation.sample import Reward, judge, predictions, sample_of
from engine.evaluation.target import of_policy, reference
from policies.model import PolicySet
from tests.unit.engine.evaluation.logged import DAY_MS, START, Row, World, candidate, logged, policy_set, row

LOGGING = policy_set()
OTHER = policy_set(values=(5.0, 9.0, 6.0), weights=(1.0, 1.1, 0.9), alpha=0.6)
STRICT = policy_set(threshold=1.2)
"""Silent in many decisions, which the log never was."""
SURE = 0.9999
"""So that 25 intervals hold together; how often those of 95 % do is tested with the intervals."""
PLAIN = [candidate("boots", chance=0.5), candidate("socks", chance=0.5)]


def named(name: str, policy: PolicySet | None = None) -> Candidate:
    return Candidate(name, of_policy(policy) if policy else reference(name), policy)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Log]:
    made = World(LOGGING, 6000, seed=21, per_customer=2)
    return made, logged(tmp_path_factory.mktemp("world"), made.rows)


@pytest.fixture(scope="module")
def judged(world: tuple[World, Log]) -> Evaluation:
    _, log = world
    asked = [named("other", OTHER), named("random"), named("always:boots"), named("logged"), named("none")]
    return evaluate(log, asked, "accept")


def of(found: Evaluation, name: str) -> Verdict:
    return next(one for one in found.policies if one.name == name)


@pytest.mark.parametrize("name", ["other", "strict", "random", "always:boots", "logged", "none"])
def test_every_estimate_of_other_policies_holds_the_truth(world: tuple[World, Log], name: str) -> None:
    known, log = world
    asked = named(name, {"other": OTHER, "strict": STRICT}.get(name))
    truth = known.value(log, asked.chances(log))
    for estimate in evaluate(log, [asked], "accept", SURE).policies[0].estimates:
        assert estimate.interval.low <= truth <= estimate.interval.high, estimate.name


def test_chances_that_are_not_true_are_far_off_and_found_out(tmp_path: Path) -> None:
    liar = World(LOGGING, 6000, seed=22, lie=True)
    log = logged(tmp_path, liar.rows)
    found = evaluate(log, [named("always:boots")], "accept", SURE).policies[0]
    truth = liar.value(log, reference("always:boots")(log))
    ips = found.estimates[0]
    assert not ips.interval.low <= truth <= ips.interval.high
    assert any("the logged chances do not fit what was done" in warning for warning in found.warnings)


def test_all_ranks_of_a_message_are_weighed(tmp_path: Path) -> None:
    known = World(LOGGING, 5000, seed=23, slots=2)
    log = logged(tmp_path, known.rows)
    asked = [named("random")]
    truth = known.value_of_two(log, reference("random")(log))
    for estimate in evaluate(log, asked, "accept", SURE).policies[0].estimates:
        assert estimate.interval.low <= truth <= estimate.interval.high, estimate.name
    whole = evaluate(log, [*asked, named("logged")], "accept")
    assert of(whole, "logged").estimates[0].value == pytest.approx(whole.done)
    # Rank 1 alone is another question, of another policy, and steadier.
    first = evaluate(log, asked, "accept", first_only=True).policies[0]
    assert first.effective > of(whole, "random").effective
    assert not any("do not fit" in warning for warning in whole.policies[0].warnings)


def test_a_rank_for_which_nobody_is_left_is_not_weighed(tmp_path: Path) -> None:
    message = row(0, PLAIN, "boots")
    message["chosen"].append({"offer": "socks", "rank": 2, "selection_probability": 1.0})
    log = logged(tmp_path, [message])
    judged = judge(log, "accept")
    for name, weight in (("always:boots", 2.0), ("always:socks", 0.0), ("random", 1.0)):
        asked = reference(name)
        sample = sample_of(log, judged, asked(log), "accept", asked.further(log))
        assert sample.weight.tolist() == [weight]


def test_true_chances_are_not_accused(judged: Evaluation) -> None:
    for one in judged.policies:
        assert not any("do not fit" in warning for warning in one.warnings), one.name


def test_what_was_done_is_its_mean_and_differs_from_itself_by_nothing(judged: Evaluation) -> None:
    itself = of(judged, "logged")
    assert itself.estimates[0].value == pytest.approx(judged.done)
    assert itself.verdict == "open"
    assert itself.interval.low <= 0 <= itself.interval.high
    assert itself.effective == pytest.approx(judged.judged)


def test_silence_earns_nothing_where_silence_was_never_measured(judged: Evaluation) -> None:
    silence = of(judged, "none")
    assert [estimate.value for estimate in silence.estimates] == [0.0] * 5
    assert (silence.silence, silence.verdict) == (1.0, "worse")


def test_money_is_what_came_less_what_the_contact_cost(tmp_path: Path) -> None:
    paid = [candidate("boots", chance=1.0, cost=0.5, value=8.0)]
    rows = [
        row(0, paid, "boots", reward=1.0, outcome_value=10.0, outcome="accepted"),
        row(1, paid, "boots", reward=1.0, outcome_value=None, outcome="accepted"),
        row(2, paid, "boots"),
    ]
    log = logged(tmp_path, rows)
    assert judge(log, "value").reward.tolist() == [9.5, 7.5, -0.5]
    assert judge(log, "accept").reward.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("reward", ["accept", "value"])
def test_the_models_prediction_makes_dr_steadier_than_ips(world: tuple[World, Log], reward: Reward) -> None:
    _, log = world
    ips, _, dr, _, _ = evaluate(log, [named("always:boots")], reward).policies[0].estimates
    assert dr.interval.error < ips.interval.error


def test_what_is_not_judged_is_counted_by_its_reason(tmp_path: Path) -> None:
    rows = [
        row(0, PLAIN, "boots"),
        row(1, [], None, grp="control"),
        row(2, [candidate("boots", stage="consent", chance=None)], None),
        row(3, PLAIN, None, action="question"),
        row(4, PLAIN, "boots", reward=None, outcome="open"),
        row(5, PLAIN, "boots", reward=None, outcome="censored"),
        row(6, [candidate("boots", chance=None)], "boots"),
        row(7, [candidate("boots", chance=0.0), PLAIN[1]], "boots"),
    ]
    log = logged(tmp_path, rows)
    found = judge(log, "accept")
    assert found.rows.tolist() == [0]
    assert found.left_out == {
        "control_group": 1,
        "nothing_to_choose": 2,
        "question": 1,
        "young": 0,
        "open": 1,
        "censored": 1,
        "unknown_chance": 1,
    }


def test_open_outcomes_are_warned_of_with_the_time_to_stop_at(tmp_path: Path) -> None:
    rows = [row(number, PLAIN, "boots") for number in range(20)]
    rows.append(row(20, PLAIN, "boots", reward=None, outcome="open"))
    found = evaluate(logged(tmp_path, rows), [named("random")], "accept")
    assert "judge with --until 2026-11-20T00:00:20Z" in found.warnings[0]


def live(number: int, day: float, *, accepted: bool) -> Row:
    """Return a row as the archive writes it: silence is written, and final, after seven days."""
    at = START + int(day * DAY_MS)
    known = at + (60_000 if accepted else 7 * DAY_MS)
    said = {"outcome": "accepted" if accepted else "silent", "reward": float(accepted)}
    return row(number, PLAIN, "boots", at=at, outcome_at=known, **said)


def test_early_yeses_do_not_stand_for_decisions_whose_silence_is_not_in_the_log_yet(tmp_path: Path) -> None:
    settled = [live(number, number / 10, accepted=number % 4 == 0) for number in range(31)]
    early = [live(100 + number, 3.1 + number, accepted=True) for number in range(7)]
    log = logged(tmp_path, settled + early)  # read on the eleventh day
    found = judge(log, "accept")
    assert found.left_out["young"] == 7
    assert found.reward.tolist() == [float(number % 4 == 0) for number in range(31)]


def test_a_log_of_early_yeses_alone_is_warned_of(tmp_path: Path) -> None:
    log = logged(tmp_path, [live(number, number / 10, accepted=True) for number in range(20)])
    (warning,) = evaluate(log, [named("logged")], "accept").warnings
    assert warning.startswith("no silence of this log is final yet")


def test_a_log_in_which_nobody_had_a_choice_cannot_be_judged(tmp_path: Path) -> None:
    found = evaluate(logged(tmp_path, [row(0, [], None)]), [named("random")], "accept")
    assert (found.judged, found.policies) == (0, ())
    assert "no decision of this log can be judged" in found.warnings[0]


def test_too_little_overlap_is_said_in_plain_words(tmp_path: Path) -> None:
    rare = [candidate("boots", chance=0.999), candidate("socks", chance=0.001)]
    rows = [row(number, rare, "socks" if number == 7 else "boots") for number in range(1000)]
    found = evaluate(logged(tmp_path, rows), [named("always:socks")], "accept").policies[0]
    assert found.verdict == "cannot_say"
    assert found.effective == pytest.approx(1.0)
    assert "the 1,000 decisions are worth 1 for this policy" in found.warnings[0]
    assert any("one customer carries 100%" in warning for warning in found.warnings)
    assert any("only 0 customers with a reward" in warning for warning in found.warnings)


def test_choices_that_the_log_could_never_make_are_said(tmp_path: Path) -> None:
    # The third came to the choice, and the shortlist left it out.
    made = [*PLAIN, candidate("guide", chance=0.0, propensity=0.9, low=0.85, high=0.95)]
    rows = [row(number, made, "boots" if number % 2 else "socks") for number in range(400)]
    found = evaluate(logged(tmp_path, rows), [named("guide", LOGGING)], "accept").policies[0]
    assert found.verdict == "cannot_say"
    assert found.unsupported > 0.9
    assert any("the log never could have chosen" in warning for warning in found.warnings)
    assert not any("do not fit" in warning for warning in found.warnings)


def test_predictions_are_corrected_by_what_other_customers_did(tmp_path: Path) -> None:
    # Said was 0.1 of both; boots were accepted in two of five and socks never.
    def rows(own: float) -> list[Row]:
        return [
            row(
                number,
                PLAIN,
                "boots" if number % 2 else "socks",
                reward=own if number == 1 else float(number % 2 and number % 10 < 4),
            )
            for number in range(2000)
        ]

    found = []
    for own in (0.0, 1.0):
        log = logged(tmp_path / str(own), rows(own))
        found.append(predictions(log, judge(log, "accept"), "accept"))
    boots = log.offer == log.offers.index("boots")
    assert float(found[0][boots].mean()) == pytest.approx(0.39, abs=0.03)
    assert float(found[0][~boots].mean()) < 0.02
    same = log.customer[log.row] == 1
    assert found[0][same].tolist() == found[1][same].tolist()
    assert found[0].tolist() != found[1].tolist()


def test_which_factor_decides_is_counted(tmp_path: Path) -> None:
    # boots win by their value, and would lose by propensity; the weight of socks and the cost change nothing.
    first = [
        candidate("boots", propensity=0.1, chance=0.5),
        candidate("socks", propensity=0.11, chance=0.5),
        candidate("guide", propensity=0.05, chance=0.0),
    ]
    # Here nobody is worth the contact, until it costs nothing.
    second = [candidate("guide", propensity=0.01, chance=1.0)]
    log = logged(tmp_path, [row(0, first, "boots"), row(1, second, "guide")])
    policy = policy_set(values=(6.0, 5.0, 4.0), cost=0.1)
    said = {one.factor: one for one in factors(log, judge(log, "accept"), policy)}
    assert {name: one.changed for name, one in said.items()} == {
        "propensity": 0,
        "value": 1,
        "weight": 0,
        "cost": 1,
    }
    assert all(one.decisions == 2 for one in said.values())


def test_a_factor_without_which_nobody_is_left_counts_as_silenced(tmp_path: Path) -> None:
    made = [candidate("boots", propensity=0.1, chance=1.0)]
    log = logged(tmp_path, [row(0, made, "boots")])
    policy = policy_set(weights=(3.0, 1.0, 1.0), threshold=1.0)
    said = {one.factor: one for one in factors(log, judge(log, "accept"), policy)}
    assert (said["weight"].changed, said["weight"].silenced) == (1, 1)


def test_the_report_is_plain_values(judged: Evaluation) -> None:
    plain = as_dict(judged)

    def check(value: Any) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)
        else:
            assert value is None or type(value) in (str, int, float, bool), type(value)
            assert not isinstance(value, float) or np.isfinite(value)

    check(plain)
    assert plain["judged"] == 6000
    assert plain["policies"][0]["estimates"]["dr"]["low"] < plain["policies"][0]["estimates"]["dr"]["high"]
    assert judged.since == START


def test_the_best_of_many_policies_is_said_to_be_lucky(tmp_path: Path) -> None:
    log = logged(tmp_path, World(LOGGING, 300, seed=29).rows)
    few = [
        named(name) for name in ("random", "none", "always:boots", "always:socks", "always:guide", "logged")
    ]
    assert evaluate(log, few, "accept").warnings == ()
    (warning,) = evaluate(log, [*few, named("random")], "accept").warnings
    assert warning.startswith("6 policies are judged at once")
