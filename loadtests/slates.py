"""Messages of several offers as they are drawn: the chances of each rank given the ones above, and what they earn.

Each rank is drawn among those that are left, by their chances of being the greatest. Decisions that scored alike are
one situation, worked out once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.log import Log
from engine.evaluation.target import priorities
from engine.judging.choice import distribution
from policies.model import Exploration, PolicySet

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Flags = NDArray[np.bool_]
Taken = frozenset[int]


class Situation:
    """One set of candidates with their priorities: every rank's chances, by what the ranks above have taken."""

    def __init__(
        self, mean: Array, deviation: Array, alive: Flags, new: Flags, drawing: Exploration | None
    ) -> None:
        """Arrays have one place an offer, `new` says who is untried; without `drawing` the choice is even."""
        self._mean, self._deviation, self._alive, self._drawing = mean, deviation, alive, drawing
        self._new = new
        self._known: dict[Taken, Array] = {}
        self._earned: dict[Taken, float] = {}

    def chances(self, taken: Taken) -> Array:
        """Return each offer's chance of the next rank."""
        if taken not in self._known:
            left = self._alive.copy()
            left[list(taken)] = False
            places, chances = np.flatnonzero(left), np.zeros(len(left))
            if self._drawing is None:
                chances[places] = 1 / max(len(places), 1)
            elif len(places):
                over = distribution(self._mean, self._deviation, places, self._drawing, self._new)
                chances[over.places] = over.chance
            self._known[taken] = chances
        return self._known[taken]

    def earns(self, taken: Taken, rates: Array, shares: Sequence[float]) -> float:
        """Return what the ranks after `taken` are expected to earn; ask one situation about one world only."""
        rank = len(taken)
        if rank == len(shares):
            return 0.0
        if taken not in self._earned:
            chances = self.chances(taken)
            self._earned[taken] = sum(
                float(chances[place])
                * (shares[rank] * float(rates[place]) + self.earns(taken | {place}, rates, shares))
                for place in np.flatnonzero(chances).tolist()
            )
        return self._earned[taken]


class Situations(NamedTuple):
    """The situations of a log's decisions under one policy."""

    each: list[Situation]
    of: Whole
    """The situation of each decision."""
    segment: Whole
    """The segment of each situation: one situation has one."""


def dense(log: Log, offers: Sequence[str], values: Any) -> Any:
    """Return what all candidates have as one row a decision, one column an offer; 0 where it is no candidate."""
    place = np.array([offers.index(offer) for offer in log.offers], dtype=np.int64)
    rows = np.zeros((len(log), len(offers)), dtype=np.asarray(values).dtype)
    rows[log.row, place[log.offer]] = values
    return rows


def situations(
    log: Log, offers: Sequence[str], segment: Whole, policy: PolicySet | None, *, groups: bool = False
) -> Situations:
    """Return the situations under a policy set, or under even choice; with `groups` the random group chooses evenly."""
    if policy is None:
        mean = deviation = np.zeros((len(log), len(offers)))
        alive = dense(log, offers, log.reached)
        evenly = np.ones(len(log), dtype=bool)
    else:
        mean, deviation, alive = (dense(log, offers, values) for values in priorities(log, policy))
        evenly = (log.group == "random") & groups
    mean, deviation = (np.where(alive & ~evenly[:, None], values, 0.0) for values in (mean, deviation))
    new = dense(log, offers, log.untried)
    keys = np.column_stack([segment, evenly, alive, new, mean, deviation])
    _, first, of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    drawing = policy.arbitration.exploration if policy is not None else None
    each = [
        Situation(mean[row], deviation[row], alive[row], new[row], None if evenly[row] else drawing)
        for row in first.tolist()
    ]
    return Situations(each, of.reshape(-1).astype(np.int64), segment[first])
