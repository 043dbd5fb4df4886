"""The choice: a policy whose probabilities can be computed, and that is then sampled from them.

Marginal Thompson sampling over a shortlist: each priority is taken as a normal with its mean and deviation,
and an offer's probability is that of being the greatest, by one quadrature on a common grid. A floor spreads
a share over the shortlist. Because we sample from the computed numbers, what we state is true whatever
the quadrature's error (drawing first and estimating the chance afterwards is biased).

For several slots the ranks are drawn without replacement, each from the same probabilities scaled up over what
is left. A draw hashes the decision's id and the rank: a retry makes the same choice.
"""

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.scoring import Array
from policies.model import Exploration

GRID: Final = 48
"""Even points of the quadrature."""
_EVEN: Final = np.arange(GRID) / (GRID - 1)
_STEEP: Final = np.array([-3.5, -2.5, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5])
"""Further points, in deviations, for each offer that the even ones are too far apart for: with them the choice
probabilities lie within 0.01 of the exact integral."""
PLAUSIBLE: Final = 3.0
"""Deviations to each side within which an offer may well lie."""
EVERYBODY: Final = 0.25
"""The part of the floor that goes to those as well who can hardly be the greatest: so that no chance is 0."""
_REACH: Final = 4.0
"""Deviations on each side that the grid covers."""


class Pick(NamedTuple):
    """One rank's choice: the offer's place in the placement, and the chance that it was chosen."""

    place: int
    probability: float


class Distribution(NamedTuple):
    """The first rank's choice before it is drawn: who can be chosen, and with what chance.

    A function of who is left and of the snapshot alone, so it is worked out once for each such set.
    """

    places: tuple[int, ...]
    """Places in the placement, ascending."""
    chance: tuple[float, ...]
    cumulative: tuple[float, ...]
    packed: tuple[bytes, bytes]
    """Places as uint16 and chances as float32, as records keep them."""


def uniform(uid: str, purpose: str) -> float:
    """Return a number in [0, 1) that depends on the decision's id and the purpose alone."""
    digest = blake2b(f"{uid}|{purpose}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def shortlist(mean: Array, deviation: Array, size: int) -> NDArray[np.intp]:
    """Return the places of the `size` offers that could best be the greatest: by mean and two deviations."""
    if len(mean) <= size:
        return np.arange(len(mean), dtype=np.intp)
    reach = mean + 2 * deviation
    best = np.argpartition(-reach, size - 1)[:size]
    best.sort()
    return best


def normal_cdf(x: Array) -> Array:
    """Return P(Z <= x) of the standard normal, within 1e-7 (Abramowitz and Stegun 26.2.17)."""
    t = 1 / (1 + 0.2316419 * np.abs(x))
    tail = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail *= np.exp(-0.5 * x * x) * 0.3989422804014327
    cdf: Array = np.where(x < 0, tail, 1 - tail)
    return cdf


def probabilities(mean: Array, deviation: Array, floor: float) -> Array:
    """Return each offer's chance of being the greatest, mixed with a share of `floor`.

    The floor is for finding out, so most of it is spread over those whose best case (`PLAUSIBLE` deviations up)
    reaches the others' worst; `EVERYBODY` of it over all.
    """
    count = len(mean)
    if count == 1:
        return np.ones(1)
    spread = np.maximum(deviation, 1e-9 * max(1.0, float(np.abs(mean).max())))
    chance = _greatest(mean, spread)
    plausible = mean + PLAUSIBLE * spread >= (mean - PLAUSIBLE * spread).max()
    share = (1 - EVERYBODY) / np.count_nonzero(plausible) * plausible + EVERYBODY / count
    mixed: Array = (1 - floor) * chance + floor * share
    return mixed


def _greatest(mean: Array, spread: Array) -> Array:
    """Return each normal's chance of being the greatest."""
    low = float((mean - _REACH * spread).max())
    near = mean + _REACH * spread > low
    if not near.all():
        chance = np.zeros(len(mean))
        chance[near] = _greatest(mean[near], spread[near])
        return chance
    high = float((mean + _REACH * spread).max())
    # No offer is more than _REACH deviations above `low`, so no chance on the grid is zero: products divide.
    grid = low + (high - low) * _EVEN
    steep = spread < 1.5 * (high - low) / GRID
    if steep.any():
        further = (mean[steep, None] + spread[steep, None] * _STEEP).ravel()
        grid = np.sort(np.concatenate([grid, further[further > low]]))
    below = normal_cdf((grid[:, None] - mean) / spread)
    # The chance that the offer lies in a cell of the grid, times that all others lie below the cell's middle;
    # the first cell is everything below the grid.
    cell = below.copy()
    cell[1:] -= below[:-1]
    below[1:] += below[:-1]
    below[1:] *= 0.5
    greatest = (below.prod(axis=1)[:, None] / below * cell).sum(axis=0)
    total = greatest.sum()
    return greatest / total if total > 0 else np.full(len(mean), 1 / len(mean))


def distribution(
    mean: Array, deviation: Array, places: Sequence[int], exploration: Exploration
) -> Distribution:
    """Return the distribution over the offers at `places`; means and deviations are of all the placement's."""
    all_places = np.array(places, dtype=np.intp)
    best = all_places[shortlist(mean[all_places], deviation[all_places], exploration.shortlist)]
    return _made(best, probabilities(mean[best], deviation[best], exploration.floor))


def uniform_distribution(places: Sequence[int]) -> Distribution:
    """Return the uniform distribution over the offers at `places` (the random group)."""
    return _made(np.array(places, dtype=np.intp), np.full(len(places), 1 / len(places)))


def _made(places: NDArray[np.intp], chance: Array) -> Distribution:
    packed = places.astype("<u2").tobytes(), chance.astype("<f4").tobytes()
    return Distribution(
        tuple(places.tolist()), tuple(chance.tolist()), tuple(np.cumsum(chance).tolist()), packed
    )


def draw(over: Distribution, uid: str, slots: int) -> list[Pick]:
    """Draw up to `slots` offers without replacement, in rank order."""
    chance, cumulative = over.chance, over.cumulative
    picks: list[Pick] = []
    while True:
        drawn = uniform(uid, f"rank-{len(picks) + 1}") * cumulative[-1]
        position = min(bisect_right(cumulative, drawn), len(cumulative) - 1)
        picks.append(Pick(over.places[position], chance[position] / cumulative[-1]))
        if len(picks) >= min(slots, len(over.places)):
            return picks
        # The next rank draws from the same chances, scaled up over what is left.
        chance = (*chance[:position], 0.0, *chance[position + 1 :])
        cumulative = tuple(accumulate(chance))
        if cumulative[-1] <= 0:
            return picks
