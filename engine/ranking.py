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
        places, scores = places_of(alive), self.scores
        columns = (scores.propensity, scores.low, scores.high)
        return b"".join(column[places].astype("<f4").tobytes() for column in columns)


def priorities(expression: Priority, levers: Mapping[str, Any], scores: Scores) -> tuple[Array, Array]:
    """Return each offer's priority at the mean, and its deviation (already scaled by alpha)."""

    def priority(propensity: Array) -> Array:
        result = expression.evaluate({**levers, "propensity": propensity})
        return np.broadcast_to(np.asarray(result, dtype=np.float64), propensity.shape)

    low, high = priority(scores.low), priority(scores.high)
    with np.errstate(invalid="ignore"):
        deviation = np.nan_to_num(np.abs(high - low) / 2, nan=0.0, posinf=0.0, neginf=0.0)
    return priority(scores.propensity).copy(), deviation


def below(priority: Array, threshold: float) -> Mask:
    """Return the candidates whose priority does not reach the threshold."""
    return mask_of(np.flatnonzero(~(priority >= threshold)).tolist())
