"""Who plays in the worlds. A player is told of a yes when it arrives, and of silence when it is final.

Ours learns an assumed "no" at once and takes it back on a yes; gittins has a ledger of its own; VW, which can do
neither, learns a yes when it comes and a no when it is final.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Final, Protocol

import gittins  # type: ignore[import-untyped]
import numpy as np
from vowpalwabbit import Workspace  # type: ignore[import-untyped]

from engine.judging.choice import distribution
from engine.learning.hybrid import Hybrid, Setting
from engine.learning.levers import untried
from loadtests.bandits.players import acceptance
from loadtests.bandits.worlds import World
from policies.model import Exploration

PRIOR: Final = 0.02
"""What the marketer expects of any offer."""


class Visitor(Protocol):
    """One learner in one world."""

    def choose(self, decision: int, on_offer: Sequence[int]) -> int:
        """Return the chosen offer's place."""

    def accepted(self, decision: int) -> None:
        """Take the yes that arrives for an earlier decision."""

    def silent(self, decision: int) -> None:
        """Take it that no yes will come for an earlier decision."""


Maker = Callable[[World, int], Visitor]


class Tact:
    """Ours, with the one shipped setting."""

    def __init__(
        self, world: World, seed: int, setting: Setting | None = None, alpha: float | None = None
    ) -> None:
        self.world = world
        self.random = np.random.default_rng((seed, 1))
        self.exploration = Exploration() if alpha is None else Exploration(alpha=alpha)
        self.model = Hybrid(setting)
        self.names = [f"o{place}" for place in range(len(world.attributes))]
        self.rows: list[int] = []
        """Row of the model to place in the world."""
        self.open: dict[int, tuple[int, float]] = {}

    def choose(self, decision: int, on_offer: Sequence[int]) -> int:
        """Choose by the stated probabilities, and assume a no."""
        model, context = self.model, self.world.contexts[decision]
        if len(on_offer) > len(self.rows):
            fresh = [place for place in on_offer if place not in self.rows]
            self.rows += fresh
            model.add_offers(
                {self.names[place]: math.log(PRIOR / (1 - PRIOR)) for place in fresh},
                {self.names[place]: self.world.attributes[place] for place in fresh},
            )
        mean, deviation = model.predict_all(context)
        new = untried(model, [self.names[place] for place in self.rows])
        over = distribution(
            *acceptance(mean, deviation, self.exploration), np.arange(len(mean)), self.exploration, new
        )
        drawn = self.random.random() * over.cumulative[-1]
        row = over.places[min(bisect_right(over.cumulative, drawn), len(over.places) - 1)]
        chosen = self.rows[row]
        self.open[decision] = chosen, model.learn(context, self.names[chosen], 0.0)
        return chosen

    def accepted(self, decision: int) -> None:
        """Take the no back."""
        chosen, expected = self.open.pop(decision)
        self.model.take_back(self.world.contexts[decision], self.names[chosen], 0.0, 1.0)
        self.model.check(expected, 1.0)

    def silent(self, decision: int) -> None:
        """Count the no as final."""
        _, expected = self.open.pop(decision)
        self.model.check(expected, 0.0)


class VowpalWabbit:
    """VW with action features."""

    def __init__(self, world: World, seed: int, arguments: str) -> None:
        self.world = world
        self.random = np.random.default_rng((seed, 2))
        self.workspace: Any = Workspace(f"--cb_explore_adf {arguments} --quiet --random_seed {seed}")
        self.actions = [f"|A o={place} {_vw_features(named)}" for place, named in enumerate(world.attributes)]
        self.open: dict[int, tuple[list[str], int, float]] = {}

    def choose(self, decision: int, on_offer: Sequence[int]) -> int:
        """Draw from VW's own probabilities."""
        lines = [f"shared |U {_vw_features(self.world.contexts[decision])}"]
        lines += [self.actions[place] for place in on_offer]
        chance = self.workspace.predict(lines)
        cumulative = list(accumulate(chance))
        drawn = bisect_right(cumulative, self.random.random() * cumulative[-1])
        position = min(drawn, len(on_offer) - 1)
        self.open[decision] = lines, position, max(chance[position], 1e-6)
        return on_offer[position]

    def accepted(self, decision: int) -> None:
        """Learn the yes."""
        self._learn(decision, -1.0)

    def silent(self, decision: int) -> None:
        """Learn the no."""
        self._learn(decision, 0.0)

    def _learn(self, decision: int, cost: float) -> None:
        lines, position, chance = self.open.pop(decision)
        lines[position + 1] = f"0:{cost}:{chance} {lines[position + 1]}"
        self.workspace.learn(lines)


def _vw_features(named: dict[str, float | str]) -> str:
    return " ".join(
        f"{name}:{value:.6g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in named.items()
    )


class Gittins:
    """gittins with its defaults; its clock is the decision's number, its horizon the world's window."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.seed = seed
        self.state = gittins.create(18, float(world.window))
        self.now = 0.0
        self.ids: dict[int, str] = {}

    def choose(self, decision: int, on_offer: Sequence[int]) -> int:
        """Let it decide."""
        self.now = float(decision)
        gittins.expire(self.state, self.now)
        candidates = [(f"o{place}", self.world.attributes[place]) for place in on_offer]
        context = self.world.contexts[decision]
        decided = gittins.decide(self.state, context, candidates, self.now, f"{self.seed}-{decision}")
        self.ids[decision] = decided.decision_id
        return on_offer[int(decided.chosen)]

    def accepted(self, decision: int) -> None:
        """Report the reward."""
        gittins.learn(self.state, self.ids.pop(decision), 1.0, self.now)

    def silent(self, decision: int) -> None:
        """Its ledger knows."""
        self.ids.pop(decision)


class Chance:
    """Any offer."""

    def __init__(self, world: World, seed: int) -> None:  # noqa: ARG002  # it doesn't look
        self.random = np.random.default_rng((seed, 4))

    def choose(self, decision: int, on_offer: Sequence[int]) -> int:  # noqa: ARG002  # it doesn't look
        """Take any."""
        return on_offer[int(self.random.integers(len(on_offer)))]

    def accepted(self, decision: int) -> None:
        """Learn nothing."""

    def silent(self, decision: int) -> None:
        """Learn nothing."""


class Oracle:
    """The best offer, always."""

    def __init__(self, world: World, seed: int) -> None:  # noqa: ARG002  # it leaves nothing to chance
        self.world = world

    def choose(self, decision: int, on_offer: Sequence[int]) -> int:
        """Look it up."""
        return on_offer[int(self.world.truth[decision, list(on_offer)].argmax())]

    def accepted(self, decision: int) -> None:
        """Learn nothing."""

    def silent(self, decision: int) -> None:
        """Learn nothing."""


VW_DEFAULT: Final = "--squarecb -q UA"
VW_SETTINGS: Final = tuple(
    f"{explore} -l {rate} -q UA"
    for explore in (
        "--squarecb --gamma_scale 100",
        "--squarecb --gamma_scale 1000",
        "--epsilon 0.05",
        "--first 1000",
    )
    for rate in (0.05, 0.5)
)
MAKERS: Final[dict[str, Maker]] = {
    "tact": Tact,
    "vw": lambda world, seed: VowpalWabbit(world, seed, VW_DEFAULT),
    "gittins": Gittins,
    "random": Chance,
    "oracle": Oracle,
}
