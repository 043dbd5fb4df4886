"""The choice: a policy whose probabilities can be computed, and that is then sampled from them.

Marginal Thompson sampling over a shortlist: each priority is taken as a normal with its mean and deviation,
and an offer's probability is that of being the greatest, by one quadrature on a common grid. A floor spreads
a uniform share over the shortlist. Because we sample from the computed numbers, what we state is true whatever
the quadrature's error (drawing first and estimating the chance afterwards is biased).

For several slots the ranks are drawn without replacement, each from the same probabilities scaled up over what
is left. A draw hashes the decision's id and the rank: a retry makes the same choice.
"""

from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np
from scipy.special import ndtr

from engine.scoring import Array
from policies.model import Exploration

GRID: Final = 48
"""Points of the quadrature: the choice probabilities then lie within 1 % of the exact integral."""
_REACH: Final = 4.0
"""Deviations on each side that the grid covers."""


class Pick(NamedTuple):
    """One rank's choice: the offer's place among the candidates, and the chance that it was chosen."""

    place: int
    probability: float


def uniform(uid: str, purpose: str) -> float:
    """Return a number in [0, 1) that depends on the decision's id and the purpose alone."""
    digest = blake2b(f"{uid}|{purpose}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def shortlist(mean: Array, deviation: Array, size: int) -> Array:
    """Return the places of the `size` offers that could best be the greatest: by mean and two deviations."""
    if len(mean) <= size:
        return np.arange(len(mean), dtype=np.float64)
    reach = mean + 2 * deviation
    best = np.argpartition(-reach, size - 1)[:size]
    best.sort()
    return best.astype(np.float64)


def probabilities(mean: Array, deviation: Array, floor: float) -> Array:
    """Return each offer's chance of being the greatest, mixed with a uniform share of `floor`."""
    count = len(mean)
    if count == 1:
        return np.ones(1)
    spread = np.maximum(deviation, 1e-9 * max(1.0, float(np.abs(mean).max())))
    low = float((mean - _REACH * spread).max())
    high = float((mean + _REACH * spread).max())
    # No offer is more than _REACH deviations above `low`, so no chance on the grid is zero: products divide.
    below = ndtr((np.linspace(low, high, GRID)[:, None] - mean) / spread)
    # The chance that the offer lies in a cell of the grid, times that all others lie below the cell's middle;
    # the first cell is everything below the grid.
    cell = below.copy()
    cell[1:] -= below[:-1]
    below[1:] += below[:-1]
    below[1:] *= 0.5
    greatest = (below.prod(axis=1)[:, None] / below * cell).sum(axis=0)
    total = greatest.sum()
    chance = greatest / total if total > 0 else np.full(count, 1 / count)
    mixed: Array = (1 - floor) * chance + floor / count
    return mixed


def choose(
    mean: Array, deviation: Array, exploration: Exploration, uid: str, slots: int, *, at_random: bool
) -> tuple[list[Pick], Array]:
    """Draw up to `slots` offers; return the picks in rank order and each offer's first-rank probability.

    `mean` and `deviation` are of the priority, over the candidates that are left. `at_random` draws
    uniformly from all of them (the random group).
    """
    count = len(mean)
    chance = np.zeros(count)
    if at_random:
        places = np.arange(count)
        chance[:] = 1 / count
    else:
        places = shortlist(mean, deviation, max(exploration.shortlist, slots)).astype(np.intp)
        chance[places] = probabilities(mean[places], deviation[places], exploration.floor)
    left = chance[places]
    picks = []
    for rank in range(min(slots, len(places))):
        scaled = left / left.sum()
        cumulative = np.cumsum(scaled)
        drawn = uniform(uid, f"rank-{rank + 1}") * cumulative[-1]
        position = min(int(np.searchsorted(cumulative, drawn, side="right")), len(places) - 1)
        picks.append(Pick(int(places[position]), float(scaled[position])))
        left[position] = 0.0
        if not left.any():
            break
    return picks, chance
