"""Made-up worlds with a known truth: who comes, what is on offer, and how likely each offer is accepted.

A world is drawn from its seed whole, so that every learner meets the same customers and the same luck: a decision's
reward is its own uniform number below the chosen offer's true probability, and its delay is its own too.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class World(NamedTuple):
    """Row by decision, column by offer."""

    contexts: list[dict[str, float | str]]
    attributes: list[dict[str, float | str]]
    launched: NDArray[np.int64]
    """Per offer the first decision that may choose it."""
    truth: Array
    """P(accept) of each decision and offer."""
    luck: Array
    delay: NDArray[np.int64]
    """Per decision how many decisions later a yes arrives."""
    window: int
    """Decisions after which silence is final."""
    changed: int | None = None
    """The decision at which the world changes, where it does at once."""

    def best(self) -> Array:
        """Return per decision the greatest probability among what is on offer."""
        on_offer = self.launched <= np.arange(len(self.truth))[:, None]
        best: Array = np.where(on_offer, self.truth, 0.0).max(axis=1)
        return best


INPUTS: Final = 8
DEVICES: Final = ("mobile", "desktop", "till")


def bilinear(seed: int, decisions: int) -> World:
    """Low CTR from attributes times inputs; half of the 40 offers are launched midway; all of it drifts."""
    random = np.random.default_rng((seed, 11))
    inputs, devices = _customers(random, decisions)
    attributes = random.normal(size=(40, 4))
    before, after = (random.normal(size=(INPUTS, 4)) * 0.13 for _ in range(2))
    turn = np.linspace(0, np.pi / 4, decisions)[:, None]
    tastes = np.cos(turn) * (inputs @ before.reshape(INPUTS, 4)) + np.sin(turn) * (inputs @ after)
    own = random.normal(size=40) * 0.2
    logit = -5.0 + tastes @ attributes.T + own + 0.4 * (devices == 0)[:, None]
    launched = np.where(np.arange(40) % 2 == 0, 0, decisions // 2)
    named: list[dict[str, float | str]] = [
        {f"z{number}": float(value) for number, value in enumerate(row)} for row in attributes
    ]
    return _world(random, _contexts(inputs, devices), named, launched, logit, delay=300, window=600)


def independent(seed: int, decisions: int) -> World:
    """Ten offers with nothing in common: each has tastes of its own, and the attributes say nothing."""
    random = np.random.default_rng((seed, 12))
    inputs, devices = _customers(random, decisions)
    logit = -4.4 + inputs @ (random.normal(size=(INPUTS, 10)) * 0.4) + random.normal(size=10) * 0.4
    return _world(
        random, _contexts(inputs, devices), _noise(random, 10), _all(10), logit, delay=100, window=300
    )


def curved(seed: int, decisions: int) -> World:
    """Ten offers whose appeal bends: products and waves of the inputs, hardly anything linear."""
    random = np.random.default_rng((seed, 13))
    inputs, devices = _customers(random, decisions)
    first, second = random.integers(0, 3, size=(2, 10))
    bend = np.sin(1.8 * inputs[:, first] + random.uniform(0, 6, 10)) * 1.2
    logit = -4.4 + bend + 0.8 * inputs[:, first] * inputs[:, second + 1] * random.choice([-1, 1], 10)
    return _world(
        random, _contexts(inputs, devices), _noise(random, 10), _all(10), logit, delay=100, window=300
    )


def heavy(seed: int, decisions: int) -> World:
    """Ten offers; inputs are money and counts with heavy tails (Student's t with 1.3 degrees, log-normal)."""
    random = np.random.default_rng((seed, 14))
    inputs, devices = _customers(random, decisions)
    weights = random.normal(size=(INPUTS, 10)) * 0.5
    logit = -4.4 + inputs @ weights + random.normal(size=10) * 0.3
    half = INPUTS // 2
    seen = np.concatenate(
        [
            inputs[:, :half] * random.chisquare(1.3, size=(decisions, half)) ** -0.5,
            np.exp(2 * inputs[:, half:]),
        ],
        axis=1,
    )
    return _world(
        random, _contexts(seen, devices), _noise(random, 10), _all(10), logit, delay=100, window=300
    )


def late(seed: int, decisions: int) -> World:
    """As `independent`, 1,000 decisions a day, a yes arriving after two days on average, final after seven."""
    world = independent(seed, decisions)
    random = np.random.default_rng((seed, 15))
    delay = random.exponential(2000, size=decisions).astype(np.int64) + 1
    return world._replace(delay=np.minimum(delay, 6999), window=7000)


def step(seed: int, decisions: int) -> World:
    """Ten offers, less rare yeses; midway the offers' tastes are dealt out anew, at once."""
    random = np.random.default_rng((seed, 16))
    inputs, devices = _customers(random, decisions)
    weights, level = random.normal(size=(INPUTS, 10)) * 0.4, random.normal(size=10) * 0.8
    dealt = np.roll(np.arange(10), int(random.integers(2, 9)))
    before, after = inputs @ weights + level, inputs @ weights[:, dealt] + level[dealt]
    middle = decisions // 2
    logit = -2.5 + np.where(np.arange(decisions)[:, None] < middle, before, after)
    world = _world(
        random, _contexts(inputs, devices), _noise(random, 10), _all(10), logit, delay=20, window=50
    )
    return world._replace(changed=middle)


WORLDS: Final[dict[str, Callable[[int, int], World]]] = {
    "bilinear": bilinear,
    "independent": independent,
    "curved": curved,
    "heavy": heavy,
    "late": late,
    "step": step,
}


def _customers(random: np.random.Generator, decisions: int) -> tuple[Array, NDArray[np.int64]]:
    return random.normal(size=(decisions, INPUTS)), random.integers(0, len(DEVICES), size=decisions)


def _contexts(inputs: Array, devices: NDArray[np.int64]) -> list[dict[str, float | str]]:
    names = [f"x{number}" for number in range(inputs.shape[1])]
    return [
        {**dict(zip(names, row, strict=True)), "device": DEVICES[device]}
        for row, device in zip(inputs.tolist(), devices, strict=True)
    ]


def _noise(random: np.random.Generator, offers: int) -> list[dict[str, float | str]]:
    return [{"line": f"line{random.integers(3)}", "discount": float(random.uniform())} for _ in range(offers)]


def _all(offers: int) -> NDArray[np.int64]:
    return np.zeros(offers, dtype=np.int64)


def _world(
    random: np.random.Generator,
    contexts: list[dict[str, float | str]],
    attributes: list[dict[str, float | str]],
    launched: NDArray[np.int64],
    logit: Array,
    **times: Any,
) -> World:
    decisions = len(contexts)
    delay = np.minimum(
        random.exponential(times["delay"], size=decisions).astype(np.int64) + 1, times["window"] - 1
    )
    truth = 1 / (1 + np.exp(-logit))
    return World(
        contexts, attributes, launched, truth, random.uniform(size=decisions), delay, times["window"]
    )
