"""The judged policy's chances are those with which it would serve."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from engine.evaluation.log import Log
from engine.evaluation.sample import judge, sample_of, unsupported
from engine.evaluation.target import BadTarget, of_policy, reference
from engine.judging.plan import compile_plan
from engine.judging.scoring import prior_snapshot, score
from policies.model import PolicySet
from tests.unit.engine.evaluation.logged import ALPHA, candidate, logged, policy_set, row

SILENT = candidate("guide", stage="below_threshold", chance=None, propensity=0.01, low=0.005, high=0.02)


def log_of(tmp_path: Path, policy: PolicySet, alpha: float = ALPHA) -> Log:
    """Return one decision whose candidates are scored as serving scores before anything is learned."""
    offers = tuple(policy.offers.values())
    scores = score(prior_snapshot(policy.offers), offers, alpha)
    made = [
        candidate(
            offer.id, propensity=middle, low=low, high=high, value=99.0, weight=99.0, chance=1 / len(offers)
        )
        for offer, middle, low, high in zip(offers, scores.propensity, scores.low, scores.high, strict=True)
    ]
    return logged(tmp_path, [row(0, made, offers[0].id, alpha=alpha)])


@pytest.mark.parametrize(
    "policy",
    [
        policy_set(),
        policy_set(values=(6, 6.2, 5.9), weights=(1, 0.9, 1.2), cost=0.4),
        policy_set(priority="propensity > 0.05 ? value * weight : -1", alpha=0.0),
        policy_set(shortlist=2, floor="0%"),
        policy_set(threshold=0.45),
    ],
)
def test_chances_are_those_of_serving_and_not_of_the_logged_levers(tmp_path: Path, policy: PolicySet) -> None:
    alpha = policy.arbitration.exploration.alpha
    log = log_of(tmp_path, policy, alpha)
    placement = compile_plan(policy).placements["home"]
    over = placement.priors.distribution(
        placement.everyone & ~placement.priors.below_threshold, at_random=False
    )
    wanted = np.zeros(len(placement.offers))
    wanted[list(over.places)] = over.chance
    got = {log.offers[place]: chance for place, chance in zip(log.offer, of_policy(policy)(log), strict=True)}
    assert [got[offer.id] for offer in placement.offers] == pytest.approx(wanted.tolist(), abs=1e-12)


def test_another_alpha_scales_the_logged_uncertainty(tmp_path: Path) -> None:
    logging = policy_set(values=(6, 5.5, 5))
    bold = policy_set(values=(6, 5.5, 5), alpha=1.2)
    got = of_policy(bold)(log_of(tmp_path, logging))
    placement = compile_plan(bold).placements["home"]
    assert got == pytest.approx(
        placement.priors.distribution(placement.everyone, at_random=False).chance, abs=1e-9
    )
    assert not np.allclose(got, of_policy(logging)(log_of(tmp_path, logging)))


def test_a_log_without_alpha_is_taken_to_have_the_judged_sets_own(tmp_path: Path) -> None:
    policy = policy_set()
    log = log_of(tmp_path, policy)
    unknown = structs.replace(log, alpha=np.array([np.nan]))
    assert of_policy(policy)(unknown) == pytest.approx(of_policy(policy)(log))


def test_offers_that_the_judged_set_does_not_have_get_no_chance(tmp_path: Path) -> None:
    log = log_of(tmp_path, policy_set())
    smaller = policy_set(offers=("boots", "socks"), values=(6, 5), weights=(1, 1))
    chances = dict(zip([log.offers[place] for place in log.offer], of_policy(smaller)(log), strict=True))
    assert chances["guide"] == 0
    assert chances["boots"] + chances["socks"] == pytest.approx(1)


def test_a_placement_that_the_judged_set_does_not_have_stays_silent(tmp_path: Path) -> None:
    made = [candidate("boots", chance=1.0)]
    log = logged(tmp_path, [row(0, made, "boots", placement="elsewhere")])
    assert of_policy(policy_set())(log).tolist() == [0.0]


def test_a_lower_threshold_speaks_where_the_log_was_silent(tmp_path: Path) -> None:
    log = logged(tmp_path, [row(0, [SILENT], None, reason="below_threshold")])
    judged = judge(log, "accept")
    assert len(judged.rows) == 1
    strict = of_policy(policy_set(threshold=5.0))(log)
    assert strict.tolist() == [0.0]
    assert unsupported(log, judged, strict).tolist() == [0.0]
    lenient = of_policy(policy_set(threshold=-5.0))(log)
    assert lenient.tolist() == [1.0]
    assert unsupported(log, judged, lenient).tolist() == [1.0]


def test_dropped_candidates_have_no_chance(tmp_path: Path) -> None:
    dropped = candidate("guide", stage="consent", chance=None)
    log = logged(tmp_path, [row(0, [candidate("boots", chance=1.0), dropped], "boots")])
    assert of_policy(policy_set())(log).tolist() == [1.0, 0.0]
    assert reference("random")(log).tolist() == [1.0, 0.0]


def test_the_references_are_what_their_names_say(tmp_path: Path) -> None:
    made = [candidate("boots", chance=0.7), candidate("socks", chance=0.3), SILENT]
    log = logged(tmp_path, [row(0, made, "boots"), row(1, [candidate("boots", chance=1.0)], "boots")])
    assert reference("random")(log).tolist() == [0.5, 0.5, 0.0, 1.0]
    assert reference("logged")(log).tolist() == [0.7, 0.3, 0.0, 1.0]
    assert reference("none")(log).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert reference("always:socks")(log).tolist() == [0.0, 1.0, 0.0, 0.0]


def test_what_is_no_policy_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BadTarget, match="neither a folder of a policy set nor one of random, logged"):
        reference("best")
    log = logged(tmp_path, [row(0, [candidate("boots", chance=1.0)], "boots")])
    with pytest.raises(BadTarget, match='the offer "hats" as a candidate: it has boots'):
        reference("always:hats")(log)


def test_weights_are_judged_over_logged_chances(tmp_path: Path) -> None:
    made = [candidate("boots", chance=0.8), candidate("socks", chance=0.2)]
    log = logged(tmp_path, [row(0, made, "boots"), row(1, made, "socks")])
    sample = sample_of(log, judge(log, "accept"), reference("random")(log), "accept")
    assert sample.weight.tolist() == pytest.approx([0.625, 2.5])
    assert sample.silent.tolist() == [0.0, 0.0]


def test_silence_that_the_log_never_drew_earns_nothing_for_certain(tmp_path: Path) -> None:
    log = logged(
        tmp_path, [row(0, [candidate("boots", chance=1.0)], "boots", reward=1.0, outcome="accepted")]
    )
    sample = sample_of(log, judge(log, "accept"), reference("none")(log), "accept")
    assert (sample.weight[0], sample.silent[0], sample.expected[0]) == (0.0, 1.0, 0.0)


def test_silence_that_the_log_drew_is_an_action_with_its_own_reward(tmp_path: Path) -> None:
    arm = [candidate("boots", chance=0.5)]
    rows = [row(0, arm, "boots"), row(1, arm, None, reward=1.0, outcome="accepted", grp="control")]
    log = logged(tmp_path, rows)
    judged = judge(log, "accept")
    sample = sample_of(log, judged, reference("none")(log), "accept")
    assert sample.weight.tolist() == [0.0, 2.0]
    assert sample.reward.tolist() == [0.0, 1.0]
    assert sample.silent.tolist() == [0.0, 0.0]
