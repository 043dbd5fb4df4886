"""Which factor decides: how many winners change when one of them is taken away.

Taken away means made equal for all candidates of a decision: propensity and value become their mean over the
decision's candidates, weight becomes 1 and the channel's cost 0. A winner is the candidate with the greatest
priority, or silence where none reaches the threshold. Draws play no part in it.
"""

from typing import Final, NamedTuple

import numpy as np

from engine.evaluation.log import Flags, Log, Whole
from engine.evaluation.sample import Judged, summed
from engine.evaluation.target import levers
from engine.judging.scoring import Array
from policies.model import PolicySet

FACTORS: Final = ("propensity", "value", "weight", "cost")


class Factor(NamedTuple):
    """How many of the judged decisions would have another winner without one factor."""

    factor: str
    changed: int
    decisions: int
    silenced: int
    """Of the changed, those where silence wins without it."""


def factors(log: Log, judged: Judged, policy: PolicySet) -> list[Factor]:
    """Return the factors of a policy set's arbitration, in the order of FACTORS."""
    read, candidates = levers(log, policy)
    winner = _winners(log, dict(read), candidates, policy)[judged.rows]
    found = []
    for factor in FACTORS:
        without = dict(read)
        if factor in ("propensity", "value"):
            without[factor] = _even(log, read[factor], candidates)
        elif factor == "weight":
            without[factor] = np.ones_like(read[factor])
        else:
            without["channel_cost"] = np.zeros_like(read["channel_cost"])
        other = _winners(log, without, candidates, policy)[judged.rows]
        changed = other != winner
        found.append(Factor(factor, int(changed.sum()), len(judged.rows), int((changed & (other < 0)).sum())))
    return found


def _even(log: Log, factor: Array, candidates: Flags) -> Array:
    count = summed(log.row, candidates.astype(np.float64), len(log))
    total = summed(log.row, np.where(candidates, factor, 0.0), len(log))
    mean: Array = (total / np.maximum(count, 1))[log.row]
    return mean


def _winners(log: Log, read: dict[str, Array], candidates: Flags, policy: PolicySet) -> Whole:
    """Return each decision's winner, by its place among all candidates; -1 for silence."""
    arbitration = policy.arbitration
    used = {name: read[name] for name in {*arbitration.priority.names, "propensity"}}
    priority = np.asarray(arbitration.priority.evaluate(used), dtype=np.float64)
    alive = np.flatnonzero(candidates & (priority >= arbitration.threshold))
    # The last of each decision's candidates in ascending order of priority; among equals the first in place.
    order = alive[np.lexsort((-alive, priority[alive], log.row[alive]))]
    winner = np.full(len(log), -1, dtype=np.int64)
    winner[log.row[order]] = order
    return winner
