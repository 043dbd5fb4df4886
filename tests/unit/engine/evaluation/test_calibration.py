"""Whether stated probabilities come true is seen on the exploration slice, and only there."""

from pathlib import Path

import numpy as np
import pytest

from engine.evaluation.calibration import Calibration, calibrations, wilson
from tests.unit.engine.evaluation.logged import Row, candidate, logged, row


def shown(number: int, rng: np.random.Generator, group: str, said: float, real: float, chance: float) -> Row:
    made = [
        candidate("boots", propensity=said, chance=chance, opt_out=0.02),
        candidate("socks", propensity=0.1, chance=1 - chance, opt_out=0.02),
    ]
    accepted = float(rng.random() < real)
    return row(
        number,
        made,
        "boots",
        grp=group,
        reward=accepted,
        outcome="accepted" if accepted else "silent",
        opted_out=bool(rng.random() < 0.02),
    )


def only(found: list[Calibration], head: str) -> Calibration:
    return next(one for one in found if one.head == head)


def test_true_probabilities_are_found_true_and_false_ones_false(tmp_path: Path) -> None:
    rng = np.random.default_rng(31)
    for name, factor in (("true", 1.0), ("false", 1.5)):
        said = rng.uniform(0.05, 0.5, 4000)
        rows = [
            shown(place, rng, "random", one, min(one * factor, 1.0), 0.5) for place, one in enumerate(said)
        ]
        found = only(calibrations(logged(tmp_path / name, rows)), "accept")
        assert (found.low <= 0 <= found.high) is (factor == 1.0)
        assert (found.error < 0.03) is (factor == 1.0)
        assert sum(one.decisions for one in found.bins) == 4000
        assert len(found.bins) == 10
        assert (found.channel, found.slice, found.effective) == ("email", "random_group", 4000)


def test_both_heads_are_judged(tmp_path: Path) -> None:
    rng = np.random.default_rng(32)
    found = calibrations(
        logged(tmp_path, [shown(place, rng, "random", 0.2, 0.2, 0.5) for place in range(600)])
    )
    assert [one.head for one in found] == ["accept", "opt_out"]
    assert only(found, "opt_out").predicted == pytest.approx(0.02)


def test_a_large_random_group_alone_is_looked_at(tmp_path: Path) -> None:
    rng = np.random.default_rng(33)
    rows = [shown(place, rng, "random", 0.2, 0.2, 0.5) for place in range(600)]
    rows += [shown(place, rng, "none", 0.2, 0.9, 0.9) for place in range(600, 2000)]
    found = only(calibrations(logged(tmp_path, rows)), "accept")
    assert found.decisions == 600
    assert found.low <= 0 <= found.high


def test_without_one_all_decisions_are_weighted_to_an_even_choice(tmp_path: Path) -> None:
    # Half are chosen with 0.9 and half with 0.1: weights 0.5 / 0.9 and 0.5 / 0.1.
    rng = np.random.default_rng(34)
    rows = [shown(place, rng, "none", 0.2, 1.0, 0.9) for place in range(50)]
    rows += [shown(place, rng, "none", 0.6, 0.0, 0.1) for place in range(50, 100)]
    found = only(calibrations(logged(tmp_path, rows)), "accept")
    heavy, light = 0.5 / 0.1, 0.5 / 0.9
    assert found.slice == "weighted"
    assert found.predicted == pytest.approx((light * 0.2 + heavy * 0.6) / (light + heavy))
    assert found.observed == pytest.approx(light / (light + heavy))
    assert found.effective == pytest.approx(100 * (light + heavy) ** 2 / 2 / (light**2 + heavy**2))


def test_a_message_of_several_offers_is_compared_as_a_whole(tmp_path: Path) -> None:
    made = [candidate("boots", propensity=0.5, chance=0.5), candidate("socks", propensity=0.2, chance=0.5)]
    message = row(0, made, "boots")
    message["chosen"].append({"offer": "socks", "rank": 2, "selection_probability": 1.0})
    found = only(calibrations(logged(tmp_path, [message])), "accept")
    assert found.predicted == pytest.approx(1 - 0.5 * 0.8)


def test_open_outcomes_and_silence_are_no_evidence(tmp_path: Path) -> None:
    made = [candidate("boots", chance=1.0)]
    rows = [row(0, made, "boots", reward=None, outcome="open"), row(1, made, None)]
    assert calibrations(logged(tmp_path, rows)) == []


def test_wilsons_interval_is_the_textbooks() -> None:
    assert wilson(0.1, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
