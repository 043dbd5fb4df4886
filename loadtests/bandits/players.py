"""Who plays: ours with the one shipped setting, VW, gittins, River with one model per offer, and chance.

A player chooses an offer for a row, then learns that offer's reward; it sees nothing else. VW, gittins and River
get numbers already scaled over the whole set (ours scales them as they come).
"""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Final, Protocol

import gittins  # type: ignore[import-untyped]
import numpy as np
from river import linear_model
from vowpalwabbit import Workspace  # type: ignore[import-untyped]

from engine.judging.choice import distribution
from engine.learning.hybrid import Hybrid, Setting
from engine.learning.levers import untried
from loadtests.bandits.data import Bandit
from policies.model import Exploration

Array = np.ndarray[Any, np.dtype[np.float64]]


class Player(Protocol):
    """One learner in one shuffle of one set."""

    def choose(self, row: int) -> int:
        """Return the place of the chosen offer."""

    def learn(self, row: int, chosen: int, reward: float) -> None:
        """Learn the reward of the offer just chosen."""


Maker = Callable[[Bandit, int], Player]


class Tact:
    """Ours: the hybrid model, and the marginal Thompson choice of `engine.judging.choice` with its shipped default."""

    def __init__(
        self,
        bandit: Bandit,
        seed: int,
        exploration: Exploration | None = None,
        setting: Setting | None = None,
    ) -> None:
        self.bandit = bandit
        self.random = np.random.default_rng((seed, 1))
        self.exploration = exploration or Exploration()
        self.model = Hybrid(setting)
        self.model.add_offers(dict.fromkeys(bandit.offers, 0.0))

    def choose(self, row: int) -> int:
        """Choose by the stated probabilities."""
        mean, deviation = self.model.predict_all(self.bandit.contexts[row])
        new = untried(self.model, self.bandit.offers)
        over = distribution(
            *acceptance(mean, deviation, self.exploration), np.arange(len(mean)), self.exploration, new
        )
        drawn = self.random.random() * over.cumulative[-1]
        return over.places[min(bisect_right(over.cumulative, drawn), len(over.places) - 1)]

    def learn(self, row: int, chosen: int, reward: float) -> None:
        """Learn it."""
        expected = self.model.learn(self.bandit.contexts[row], self.bandit.offers[chosen], reward)
        self.model.check(expected, reward)


def acceptance(mean: Array, deviation: Array, exploration: Exploration) -> tuple[Array, Array]:
    """Return P(accept) and its deviation, from those of the logit, as serving does."""
    spread = exploration.alpha * deviation
    low, propensity, high = (1 / (1 + np.exp(-logit)) for logit in (mean - spread, mean, mean + spread))
    return propensity, (high - low) / 2


class VowpalWabbit:
    """VW's contextual bandit with action features; `arguments` are its own."""

    def __init__(self, bandit: Bandit, seed: int, arguments: str) -> None:
        self.random = np.random.default_rng((seed, 2))
        self.workspace: Any = Workspace(f"--cb_explore_adf {arguments} --quiet --random_seed {seed}")
        self.rows = _vw_rows(bandit)
        self.actions = [f"|A {place}" for place in range(len(bandit.offers))]
        self.chance: list[float] = []

    def choose(self, row: int) -> int:
        """Draw from VW's own probabilities."""
        self.chance = self.workspace.predict([self.rows[row], *self.actions])
        cumulative = list(accumulate(self.chance))
        return min(bisect_right(cumulative, self.random.random() * cumulative[-1]), len(self.actions) - 1)

    def learn(self, row: int, chosen: int, reward: float) -> None:
        """Learn the cost of the chosen action with its probability."""
        lines = [self.rows[row], *self.actions]
        lines[chosen + 1] = f"0:{-reward}:{max(self.chance[chosen], 1e-6)} {self.actions[chosen]}"
        self.workspace.learn(lines)


def _vw_rows(bandit: Bandit) -> list[str]:
    kept: list[str] | None = bandit.__dict__.get("vw_rows")
    if kept is None:
        kept = bandit.__dict__["vw_rows"] = [
            "shared |U "
            + " ".join(
                f"{name.replace(' ', '_')}:{value:.6g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in context.items()
            )
            for context in bandit.scaled
        ]
    return kept


class Gittins:
    """gittins with its defaults."""

    def __init__(self, bandit: Bandit, seed: int) -> None:
        self.bandit = bandit
        self.seed = seed
        self.state = gittins.create(18, 1e9)
        self.candidates: list[tuple[str, dict[str, Any]]] = [(offer, {}) for offer in bandit.offers]
        self.now = 0.0
        self.decision: Any = None

    def choose(self, row: int) -> int:
        """Let it decide."""
        self.now += 1.0
        salt = f"{self.seed}-{self.now}"
        self.decision = gittins.decide(self.state, self.bandit.scaled[row], self.candidates, self.now, salt)
        return int(self.decision.chosen)

    def learn(self, row: int, chosen: int, reward: float) -> None:  # noqa: ARG002  # it knows its decision
        """Report the reward at once."""
        gittins.learn(self.state, self.decision.decision_id, reward, self.now)


class RiverPerOffer:
    """River's logistic regression per offer, the greatest taken but for one decision in twenty."""

    def __init__(self, bandit: Bandit, seed: int) -> None:
        self.bandit = bandit
        self.random = np.random.default_rng((seed, 3))
        self.models: list[Any] = [linear_model.LogisticRegression() for _ in bandit.offers]

    def choose(self, row: int) -> int:
        """Take the greatest, or any."""
        if self.random.random() < 0.05:
            return int(self.random.integers(len(self.models)))
        inputs = self._inputs(row)
        return int(np.argmax([model.predict_proba_one(inputs)[True] for model in self.models]))

    def learn(self, row: int, chosen: int, reward: float) -> None:
        """Learn it."""
        self.models[chosen].learn_one(self._inputs(row), reward > 0.5)

    def _inputs(self, row: int) -> dict[str, float]:
        return {
            name if isinstance(value, float) else f"{name}={value}": value
            if isinstance(value, float)
            else 1.0
            for name, value in self.bandit.scaled[row].items()
        }


class Chance:
    """Any offer."""

    def __init__(self, bandit: Bandit, seed: int) -> None:
        self.random = np.random.default_rng((seed, 4))
        self.count = len(bandit.offers)

    def choose(self, row: int) -> int:  # noqa: ARG002  # it doesn't look
        """Take any."""
        return int(self.random.integers(self.count))

    def learn(self, row: int, chosen: int, reward: float) -> None:
        """Learn nothing."""


VW_DEFAULT: Final = "--squarecb -q UA"
VW_SETTINGS: Final = tuple(
    f"{explore} -l {rate}{crossed}"
    for explore in (
        "--squarecb",
        "--squarecb --gamma_scale 100",
        "--squarecb --gamma_scale 1000",
        "--cover 8",
        "--epsilon 0.02",
        "--epsilon 0.05",
        "--first 200",
        "--first 1000",
    )
    for rate in (0.5, 2, 8)
    for crossed in ("", " -q UA")
)
"""The settings among which `vw-tuned` picks the best of each set."""

MAKERS: Final[dict[str, Maker]] = {
    "tact": Tact,
    "vw": lambda bandit, seed: VowpalWabbit(bandit, seed, VW_DEFAULT),
    "gittins": Gittins,
    "river": RiverPerOffer,
    "random": Chance,
}
