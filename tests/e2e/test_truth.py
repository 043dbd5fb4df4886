"""What the engine states as its chances is what it does: in small, over HTTP, and the checker sees what is not so."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from engine.judging.choice import distribution
from loadtests import stated
from loadtests.slates import Situation
from loadtests.truth import CARRIES, complaints, measure
from policies.model import Exploration

SEED = 5


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """One small run for all tests here."""
    return measure(3_000, SEED, rate=600, window_s=4, say=False)


def test_the_log_of_a_running_engine_says_the_truth(found: dict[str, Any]) -> None:
    assert complaints(found) == []
    assert {"even", "other weights"} <= {
        name for name, one in found["estimates"].items() if one["effective"] >= CARRIES
    }
    assert found["models"] > 1  # the policy changed while it ran


def test_chances_of_one_in_n_are_found_to_be_untrue(found: dict[str, Any]) -> None:
    control = found["control"]
    assert control["rejected"]
    assert min(test["p"] for test in control["choices"]) < 1e-9
    assert max(abs(one["errors_off"]) for one in control["estimates"].values()) > stated.FAR_OFF


def test_complaints_name_what_is_wrong(found: dict[str, Any]) -> None:
    wrong = found | {
        "accepted_logged": found["accepted"] - 1,
        "stated_off": {"rank 1": 0.1},
        "rejected": True,
    }
    said = complaints(wrong)
    assert len(said) == 3
    assert "the log has" in said[2]


# ----------------------------------------------------------------------------------------- the arithmetic


def draws(true: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return np.array([rng.choice(true.shape[1], p=row) for row in true])


def chances(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    weights = rng.gamma(0.5, size=(count, 6)) + 0.01
    shares: np.ndarray[Any, Any] = weights / weights.sum(axis=1, keepdims=True)
    return shares


def test_a_chi_square_of_true_chances_is_uniform() -> None:
    rng = np.random.default_rng(SEED)
    p = []
    for _ in range(200):
        said = chances(rng, 300)
        p.append(stated.chi_square("true", said, draws(said, rng)).p)
    assert np.histogram(p, bins=4, range=(0, 1))[0].tolist() == pytest.approx([50] * 4, abs=20)


def test_a_chi_square_of_untrue_chances_rejects() -> None:
    rng = np.random.default_rng(SEED)
    said = chances(rng, 3_000)
    tilted = 0.9 * said + 0.1 * np.eye(6)[0]
    assert stated.chi_square("untrue", said, draws(tilted, rng)).p < 1e-3


def test_what_a_message_earns_is_the_sum_over_all_ways_to_draw_it() -> None:
    rng = np.random.default_rng(SEED)
    mean, deviation, drawing = rng.normal(1, 0.3, 6), rng.uniform(0.1, 0.5, 6), Exploration()
    rates, shares = rng.uniform(0, 0.3, 6), (0.9, 0.6, 0.4)
    situation = Situation(mean, deviation, np.ones(6, dtype=bool), np.zeros(6, dtype=bool), drawing)
    expected = 0.0
    for drawn in permutations(range(6), 3):
        chance, left = 1.0, list(range(6))
        for offer in drawn:
            over = distribution(mean, deviation, np.array(left), drawing)
            chance *= dict(zip(over.places, over.chance, strict=True))[offer]
            left.remove(offer)
        expected += chance * float(np.dot(shares, rates[list(drawn)]))
    assert situation.earns(frozenset(), rates, shares) == pytest.approx(expected, rel=1e-6)
