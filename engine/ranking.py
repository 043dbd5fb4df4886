"""How a placement's offers rank: priorities from scores and levers, and the chances that come of them."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from engine.arbitration import Distribution, distribution, uniform_distribution
from engine.masks import Mask, mask_of, places_of
from engine.scoring import Array, Scores
from policies.model import Exploration
from policies.priority import Priority


class Scored(msgspec.Struct, frozen=True):
    """A placement's offers as a model ranks them for one customer; arrays as in `PlacementPlan`."""

    version: str
    scores: Scores
    priority: Array
    deviation: Array
    below_threshold: Mask
    exploration: Exploration

    @property
    def propensity(self) -> Array:
        """P(accept | shown) at the mean."""
        return self.scores.propensity

    def distribution(self, alive: Mask, *, at_random: bool) -> Distribution:
        """Return the distribution of the first rank over the candidates of the mask (not empty)."""
        places = places_of(alive)
        if at_random:
            return uniform_distribution(places)
        return distribution(self.priority, self.deviation, places, self.exploration)

    def packed(self, alive: Mask) -> bytes:
        """Return the scores of the candidates of the mask, as records keep them."""
        return self.scores.table[:, places_of(alive)].astype("<f4").tobytes()


def priorities(expression: Priority, levers: Mapping[str, Any], scores: Scores) -> tuple[Array, Array]:
    """Return each offer's priority at the mean, and its deviation (already scaled by alpha)."""
    table = scores.table
    mean, low, high = np.broadcast_to(expression.evaluate({"propensity": table, **levers}), table.shape)
    with np.errstate(invalid="ignore"):
        deviation = np.abs(high - low) / 2
    deviation[~np.isfinite(deviation)] = 0.0
    return mean.copy(), deviation


def below(priority: Array, threshold: float) -> Mask:
    """Return the candidates whose priority does not reach the threshold."""
    reached = priority >= threshold
    return 0 if reached.all() else mask_of(np.flatnonzero(~reached).tolist())
