"""Lift over the control group: true at every look, and the customer is the unit."""

from pathlib import Path

import numpy as np
import pytest

from engine.evaluation.lift import (
    START_CUSTOMERS,
    Look,
    boundary,
    customers,
    lifts,
    naive,
    sequence,
)
from engine.judging.scoring import Array
from tests.unit.engine.evaluation.logged import DAY_MS, START, Row, candidate, logged, row

LOOKS = 190
OVER = [candidate("boots", chance=1.0)]


def experiment(
    rng: np.random.Generator, size: int, control: float, rate: float, lift: float = 0.0
) -> tuple[Array, Array]:
    treated = (rng.random(size) >= control).astype(np.float64)
    return (rng.random(size) < rate + lift * treated).astype(np.float64), treated


def wrong(looks: list[Look], truth: float = 0.0) -> bool:
    return any(look.low > truth or look.high < truth for look in looks)


def test_looking_190_times_at_nothing_errs_in_at_most_one_of_twenty_and_naively_in_one_of_four() -> None:
    rng = np.random.default_rng(41)
    size, experiments = 8000, 150
    ends = np.unique(np.linspace(size / LOOKS, size, LOOKS).astype(np.int64))
    safe = unsafe = 0
    for _ in range(experiments):
        outcome, treated = experiment(rng, size, control=0.2, rate=0.1)
        safe += wrong(sequence(outcome, treated, ends))
        unsafe += wrong(naive(outcome, treated, ends))
    assert safe / experiments <= 0.05
    assert unsafe / experiments >= 0.25


def test_a_real_lift_is_found_and_held_at_every_look() -> None:
    rng = np.random.default_rng(42)
    outcome, treated = experiment(rng, 20_000, control=0.1, rate=0.10, lift=0.05)
    looks = sequence(outcome, treated, np.arange(100, 20_001, 100))
    assert all(look.low <= 0.05 <= look.high for look in looks)
    assert looks[-1].low > 0


def test_money_with_heavy_tails_is_held_too() -> None:
    rng = np.random.default_rng(43)
    experiments, missed = 60, 0
    for _ in range(experiments):
        bought, treated = experiment(rng, 4000, control=0.3, rate=0.2)
        outcome = bought * rng.lognormal(3, 1, len(bought))
        missed += wrong(sequence(outcome, treated, np.arange(100, 4001, 100)))
    assert missed / experiments <= 0.07


def test_a_sequence_is_wider_than_one_look_and_narrows() -> None:
    assert boundary(10_000, 10_000, 0.95) > 1.96
    widths = [boundary(seen, 10_000, 0.95) / seen**0.5 for seen in (100, 1000, 10_000, 100_000)]
    assert widths == sorted(widths, reverse=True)
    # It is tightest, in standard errors, at the number of customers it was planned for.
    around = [boundary(seen, 10_000, 0.95) for seen in (2_000, 10_000, 50_000)]
    assert min(around) == around[1]


def test_too_few_customers_are_too_early() -> None:
    outcome, treated = np.ones(2 * START_CUSTOMERS - 1), np.zeros(2 * START_CUSTOMERS - 1)
    treated[:START_CUSTOMERS] = 1
    last = sequence(outcome, treated, np.array([len(outcome)]))[-1]
    assert (last.low, last.high) == (-np.inf, np.inf)


def visit(number: int, customer: int, day: float, *, control: bool, reward: float | None) -> Row:
    return row(
        number,
        [] if control else OVER,
        None if control else "boots",
        customer=f"c-{customer:04}",
        at=START + int(day * DAY_MS),
        outcome_at=START + int(day * DAY_MS),
        grp="control" if control else "none",
        reward=reward,
        outcome="open" if reward is None else "accepted" if reward else "silent",
        segment={"profile.tier": "gold" if customer % 2 else "basic"},
    )


def test_a_customer_is_one_observation_of_the_first_days_and_counts_when_they_are_over(
    tmp_path: Path,
) -> None:
    rows = [
        visit(0, 1, 0.0, control=False, reward=1.0),
        visit(1, 1, 1.0, control=False, reward=1.0),
        visit(2, 1, 7.5, control=False, reward=1.0),  # after the first seven days
        visit(3, 2, 0.5, control=True, reward=0.0),
        visit(4, 3, 3.0, control=False, reward=1.0),  # not over yet
        visit(5, 4, 0.2, control=False, reward=None),  # open
        visit(6, 5, 0.1, control=True, reward=1.0),
    ]
    known, waiting = customers(logged(tmp_path, rows), "accept", 7 * DAY_MS)
    assert known.outcome.tolist() == [2.0, 1.0, 0.0]
    assert known.treated.tolist() == [1.0, 0.0, 0.0]
    assert waiting == 2


def two_tiers(size: int) -> list[Row]:
    rng = np.random.default_rng(44)
    rows = []
    for customer in range(size):
        control = bool(rng.random() < 0.3)
        rate = 0.1 if control or customer % 2 == 0 else 0.5
        rows.append(
            visit(customer, customer, customer / size, control=control, reward=float(rng.random() < rate))
        )
    rows.append(visit(size, size, 9.0, control=False, reward=0.0))
    return rows


def test_segments_are_told_apart_and_their_intervals_hold_together(tmp_path: Path) -> None:
    found = lifts(logged(tmp_path, two_tiers(3000)), "accept", "profile.tier", planned=3000)
    assert [one.segment for one in found.segments] == ["basic", "gold"]
    basic, gold = found.segments
    assert gold.verdict == found.overall.verdict == "better"
    assert gold.now.low <= 0.4 <= gold.now.high
    assert basic.verdict == "open"
    rows = two_tiers(3000)
    kept = [one for one in rows if one["segment"]["profile.tier"] == "gold" or one is rows[-1]]
    alone = lifts(logged(tmp_path / "alone", kept), "accept", planned=1500).overall
    assert gold.now.lift == pytest.approx(alone.now.lift)
    assert gold.now.high - gold.now.low > alone.now.high - alone.now.low
    assert found.waiting == 1


def test_without_a_control_group_there_is_no_lift(tmp_path: Path) -> None:
    rows = [visit(0, 1, 0.0, control=False, reward=1.0), visit(1, 2, 8.0, control=False, reward=1.0)]
    found = lifts(logged(tmp_path, rows), "accept")
    assert found.overall.verdict == "too_early"
    assert "no customer of the control group is complete" in found.warnings[0]


def test_a_control_group_of_which_nothing_is_recorded_is_no_yardstick(tmp_path: Path) -> None:
    rows = [
        visit(0, 1, 0.0, control=False, reward=1.0),
        visit(1, 2, 0.0, control=True, reward=0.0),
        visit(2, 3, 8.0, control=True, reward=0.0),
    ]
    found = lifts(logged(tmp_path, rows), "accept")
    assert "what the treated earned, not lift" in found.warnings[0]


def test_a_log_in_which_nobody_is_complete_is_too_early(tmp_path: Path) -> None:
    found = lifts(logged(tmp_path, [visit(0, 1, 0.0, control=False, reward=1.0)]), "accept")
    assert (found.overall.verdict, found.overall.now.treated, found.waiting) == ("too_early", 0, 1)


def test_customers_whose_group_changed_while_they_were_watched_are_told_of(tmp_path: Path) -> None:
    rows = [
        visit(0, 1, 0.0, control=True, reward=0.0),
        visit(1, 1, 3.0, control=False, reward=1.0),
        visit(2, 2, 0.0, control=True, reward=1.0),
        visit(3, 2, 9.0, control=False, reward=1.0),  # its time was over
        visit(4, 3, 9.0, control=False, reward=0.0),
    ]
    found = lifts(logged(tmp_path, rows), "accept")
    (said,) = [warning for warning in found.warnings if "part of their time" in warning]
    assert said.startswith("1 customers")
    steady = lifts(logged(tmp_path / "steady", rows[2:]), "accept")
    assert not any("part of their time" in warning for warning in steady.warnings)


def bought(row: Row, day: float, kind: str = "purchase") -> Row:
    """Return the decision with what its customer did, on a day."""
    return {**row, "responses": [{"type": kind, "at": START + int(day * DAY_MS)}]}


def test_a_customer_counts_who_bought_while_watched_whatever_the_decision_was(tmp_path: Path) -> None:
    control, treated = (
        [visit(place, customer, 0.0, control=control, reward=0.0) for place, customer in places]
        for control, places in ((True, [(0, 1), (1, 2), (2, 3)]), (False, [(3, 4), (4, 5), (5, 6)]))
    )
    rows = [
        bought(control[0], 2.0),
        bought(control[1], 8.0),  # its time was over
        {**control[2], "responses": []},
        bought(treated[0], 2.0, "store_purchase"),
        bought(treated[1], 2.0, "accept"),  # nobody in the control group could have
        {**bought(treated[2], 3.0), "outcome": "silent", "reward": 0.0},
        {**visit(6, 6, 1.0, control=False, reward=0.0), "responses": bought(treated[2], 3.0)["responses"]},
        visit(7, 7, 0.5, control=True, reward=0.0),  # of a log that did not record it
        {**visit(8, 8, 9.0, control=True, reward=0.0), "responses": []},
    ]
    log = logged(tmp_path, rows)
    known, waiting = customers(log, "accept")
    assert known.treated.tolist() == [0, 0, 0, 1, 1, 1]
    assert known.outcome.tolist() == [1, 0, 0, 1, 0, 1]  # bought twice in the log is bought once
    assert waiting == 2
    assert lifts(log, "accept").counted == "bought"
    assert lifts(log, "value").counted == "earned"


def test_customers_of_whom_only_an_early_yes_is_in_the_log_are_not_counted_yet(tmp_path: Path) -> None:
    rows = [
        {**bought(visit(place, place, place / 10, control=place % 2 == 0, reward=0.0), place / 10 + 1)}
        | {"outcome_at": START + int((place / 10 + 7) * DAY_MS)}
        for place in range(10)
    ]
    early = [bought(visit(20, 20, 2.0, control=False, reward=1.0), 2.5)]
    known, waiting = customers(logged(tmp_path, rows + early), "accept", horizon_ms=3 * DAY_MS)
    assert (len(known.outcome), waiting) == (10, 1)


def test_where_nobody_bought_lift_is_what_the_decisions_earned(tmp_path: Path) -> None:
    rows = [{**one, "responses": []} for one in two_tiers(300)]
    found = lifts(logged(tmp_path, rows), "accept")
    assert found.counted == "earned"
    assert found.overall.now.treated_mean > 0
