"""How a placement's offers rank for a customer: priorities from scores and levers, and the chances that come of them.

One kind of ranking serves both: the marketer's priors, worked out once for everyone, and a model's for one customer.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

import msgspec
import numpy as np

from engine.judging.choice import Distribution, Pick, distribution, draw, uniform_distribution
from engine.judging.masks import Mask, flags_of, mask_of, place_array
from engine.judging.scoring import Array, Scores
from policies.model import Arbitration
from policies.priority import Priority

_REMEMBERED: Final = 4096
LEARNED: Final = ("value", "opt_out")
"""Levers that may be learned, in the order of the rows in which a record keeps them."""
NOTHING: Final[Mapping[str, Array]] = {}


class Ranking(msgspec.Struct, frozen=True):
    """A placement's offers as they rank; arrays run over the placement's offers, in file order."""

    version: str
    """Of the model that scored; empty where the marketer's priors did."""
    scores: Scores
    priority: Array
    deviation: Array
    below_threshold: Mask
    everyone: Mask
    arbitration: Arbitration
    levers: Mapping[str, Any]
    """What the priority is made of beside the propensity."""
    learned: bool
    """Whether any lever was learned for this customer."""
    untried: Mask
    """Offers that are too new for anything to be known of them."""
    remembered: dict[tuple[Mask, bool], Distribution]
    """Distributions by who is left and whether the choice is at random; a cache, not a state."""
    packs: dict[Mask, bytes]
    """What `packed` returned; likewise."""

    def distribution(self, left: Mask, *, at_random: bool) -> Distribution:
        """Return the distribution of the next rank over the candidates of the mask (not empty)."""
        known = self.remembered.get((left, at_random))
        if known is None:
            places = place_array(left)
            new = flags_of(self.untried, len(self.priority)) if self.untried else None
            known = (
                uniform_distribution(places)
                if at_random
                else distribution(self.priority, self.deviation, places, self.arbitration.exploration, new)
            )
            if len(self.remembered) >= _REMEMBERED:
                self.remembered.clear()
            self.remembered[left, at_random] = known
        return known

    def choose(
        self, alive: Mask, uid: str, slots: int, *, at_random: bool
    ) -> tuple[Distribution, list[Pick]]:
        """Draw up to `slots` of the candidates of the mask (not empty), each among those not drawn before it.

        Returns the distribution of rank 1, and the picks in rank order.
        """
        first = self.distribution(alive, at_random=at_random)
        picks = [draw(first, uid, 1)]
        left = alive
        for number in range(2, min(slots, alive.bit_count()) + 1):
            left &= ~(1 << picks[-1].place)
            picks.append(draw(self.distribution(left, at_random=at_random), uid, number))
        return first, picks

    def packed(self, of: Mask) -> bytes:
        """Return the scores of the candidates of the mask, as records keep them; empty for the priors.

        Rows of propensity, low and high, and where a lever was learned, of those in `LEARNED`.
        """
        if not self.version:
            return b""
        known = self.packs.get(of)
        if known is not None:
            return known
        table = self.scores.table
        if self.learned:
            table = np.vstack(
                [table, *(np.broadcast_to(self.levers[name], table[0].shape) for name in LEARNED)]
            )
        part = table if of == self.everyone else table[:, place_array(of)]
        if len(self.packs) >= _REMEMBERED:
            self.packs.clear()
        packed = self.packs[of] = part.astype("<f4").tobytes()
        return packed

    def value(self, place: int) -> float:
        """Return what an accept of the offer is taken to be worth."""
        return float(self.levers["value"][place])


def rank(
    version: str,
    scores: Scores,
    levers: Mapping[str, Any],
    arbitration: Arbitration,
    everyone: Mask,
    learned: Mapping[str, Array] = NOTHING,
    untried: Mask = 0,
) -> Ranking:
    """Rank the offers by the policy's expression; `levers` are what it reads beside the propensity.

    `learned` are those of the levers that were learned for this customer; `untried` are offers that are too new.
    """
    whole = {**levers, **learned} if learned else levers
    priority, deviation = priorities(arbitration.priority, whole, scores)
    below = below_threshold(priority, arbitration.threshold)
    return Ranking(
        version,
        scores,
        priority,
        deviation,
        below,
        everyone,
        arbitration,
        whole,
        learned=bool(learned),
        untried=untried,
        remembered={},
        packs={},
    )


def priorities(expression: Priority, levers: Mapping[str, Any], scores: Scores) -> tuple[Array, Array]:
    """Return each offer's priority at the mean, and its deviation (already scaled by alpha)."""
    table = scores.table
    whole = expression.evaluate({"propensity": table, **levers}, table.shape)
    mean, low, high = whole
    if not isfinite(whole.sum()):  # minus infinity less minus infinity: it has no deviation
        with np.errstate(invalid="ignore"):
            deviation = np.abs(high - low) / 2
        deviation[~np.isfinite(deviation)] = 0.0
        return mean, deviation
    deviation = high - low
    deviation *= 0.5
    return mean, np.abs(deviation, out=deviation)


def below_threshold(priority: Array, threshold: float) -> Mask:
    """Return the candidates whose priority does not reach the threshold."""
    reached = priority >= threshold
    return 0 if reached.all() else mask_of(np.flatnonzero(~reached).tolist())
