"""The choice: a policy whose probabilities can be computed, and that is then sampled from them.

Marginal Thompson sampling over a shortlist: each priority is taken as a normal with its mean and deviation,
and an offer's probability is that of being the greatest, by one quadrature on a common grid. A floor spreads
a share over the shortlist. Because we sample from the computed numbers, what we state is true whatever
the quadrature's error (drawing first and estimating the chance afterwards is biased).

For several slots the ranks are drawn one after the other, each by the chances of being the greatest among those that
are left. A draw hashes the decision's id and the rank: a retry makes the same choice.
"""

from array import array
from bisect import bisect_right
from hashlib import blake2b
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.judging.scoring import Array
from policies.model import Exploration

GRID_MAX: Final = 64
"""Even points of the quadrature, at most."""
_STEP: Final = 0.5
"""Distance of the even points, in the smallest deviation; no larger, the choice probabilities lie within 0.01 of the
exact integral."""
_CUBIC, _LINEAR, _ONE, _HALF = np.array([-0.07135481282, -1.595769121605731, 1.0, 0.5], dtype=np.float32)
_STEEP: Final = np.array([-3.5, -2.5, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5])
"""Further points, in deviations, for each offer that the even ones are too far apart for."""
_EVEN: Final = [np.arange(count) / max(count - 1, 1) for count in range(GRID_MAX + 1)]
PLAUSIBLE: Final = 3.0
"""Deviations to each side within which an offer may well lie."""
EVERYBODY: Final = 0.25
"""The part of the floor that goes to those as well who can hardly be the greatest: so that no chance is 0."""
_REACH: Final = 4.0
"""Deviations below the offers' best worst case from which on the quadrature looks."""
_CERTAIN: Final = 1e-9
"""A deviation below this is none; the quadrature needs some."""
Single = NDArray[np.float32]
Flags = NDArray[np.bool_]


class Pick(NamedTuple):
    """One rank's choice: the offer's place in the placement, and the chance that it was chosen."""

    place: int
    probability: float


class Distribution:
    """One rank's choice before it is drawn: who can be chosen, and with what chance."""

    __slots__ = ("chance", "cumulative", "packed", "places")

    def __init__(self, places: NDArray[np.intp], chance: Array) -> None:
        """Take places in the placement, ascending, and their chances."""
        self.places: list[int] = places.tolist()
        self.chance: list[float] = chance.tolist()
        self.cumulative = list(accumulate(self.chance))
        self.packed = array("H", self.places).tobytes(), array("f", self.chance).tobytes()
        """Places as uint16 and chances as float32, as records keep them."""


def uniform(uid: str, purpose: str) -> float:
    """Return a number in [0, 1) that depends on the decision's id and the purpose alone."""
    digest = blake2b(f"{uid}|{purpose}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def shortlist(mean: Array, deviation: Array, size: int, untried: Flags | None = None) -> NDArray[np.intp]:
    """Return the places of the `size` offers that could best be the greatest: by mean and two deviations.

    A quarter of the list is kept for `untried` offers, as far as there are any.
    """
    if len(mean) <= size:
        return np.arange(len(mean), dtype=np.intp)
    reach = mean + 2 * deviation
    fresh = untried.nonzero()[0] if untried is not None else ()
    if 0 < len(fresh) < len(mean):
        kept = min(size // 4, len(fresh))
        reach[fresh[np.argsort(-reach[fresh], kind="stable")[:kept]]] = np.inf
    best = np.argpartition(-reach, size - 1)[:size]
    best.sort()
    return best


def normal_cdf(x: Single) -> Single:
    """Return P(Z <= x) of the standard normal, within 2e-4 (Page, 1977): it is what the quadrature spends its time on.

    In single precision, where exponentials are six times as fast; works in place: `x` is gone.
    """
    scale = x * x
    scale *= _CUBIC
    scale += _LINEAR
    x *= scale
    np.exp(x, out=x)
    x += _ONE
    return np.reciprocal(x, out=x)


def probabilities(mean: Array, deviation: Array, floor: float, untried: Flags | None = None) -> Array:
    """Return each offer's chance of being the greatest, mixed with a share of `floor`.

    The floor is for finding out, so most of it is spread over those whose best case (`PLAUSIBLE` deviations up)
    reaches the others' worst, and over the `untried`; `EVERYBODY` of it over all.
    """
    count = len(mean)
    if count == 1:
        return np.ones(1)
    if deviation.min() < _CERTAIN:
        deviation = np.maximum(deviation, max(_CERTAIN, 1e-9 * float(np.abs(mean).max())))
    reach = PLAUSIBLE * deviation
    best = mean + reach
    plausible = best >= (mean - reach).max()
    if plausible.all():
        # Whoever is untried is among them.
        return _greatest(mean, deviation, best.max()) * (1 - floor) + floor / count
    near = plausible.nonzero()[0]
    tried = near if untried is None else (plausible | untried).nonzero()[0]
    mixed = np.full(count, floor * EVERYBODY / count)
    mixed[tried] += floor * (1 - EVERYBODY) / len(tried)
    if len(near) == 1:
        mixed[near] += 1 - floor
    else:
        mixed[near] += (1 - floor) * _greatest(mean[near], deviation[near], best.max())
    return mixed


def _greatest(mean: Array, spread: Array, high: float) -> Array:
    """Return each normal's chance of being the greatest, which is hardly above `high`."""
    # No mean is more than _REACH deviations above `low`, so no chance on the grid is zero: products divide.
    low = (mean - _REACH * spread).max()
    width = high - low
    wanted = width / (_STEP * spread.min())
    grid = low + width * _EVEN[min(max(int(wanted) + 1, 2), GRID_MAX)]
    if wanted > GRID_MAX:
        steep = spread < width / (_STEP * GRID_MAX)
        further = (mean[steep, None] + spread[steep, None] * _STEEP).ravel()
        grid = np.sort(np.concatenate([grid, further[further > low]]))
    standard = (grid - mean[:, None]).astype(np.float32)
    standard /= spread[:, None].astype(np.float32)
    below = normal_cdf(standard)  # row by offer, column by point
    # The chance that the offer lies in a cell of the grid, times that all others lie below the cell's middle;
    # the first cell is everything below the grid.
    cell = below.copy()
    cell[:, 1:] -= below[:, :-1]
    below[:, 1:] += below[:, :-1]
    below[:, 1:] *= _HALF
    cell /= below
    greatest = cell @ below.prod(axis=0)
    total = float(greatest.sum())
    return greatest / total if total > 0 else np.full(len(mean), 1 / len(mean))


def distribution(
    mean: Array,
    deviation: Array,
    places: NDArray[np.intp],
    exploration: Exploration,
    untried: Flags | None = None,
) -> Distribution:
    """Return the distribution over the offers at `places`; the arrays are of all the placement's offers."""
    if len(places) < len(mean):
        mean, deviation = mean[places], deviation[places]
        untried = untried[places] if untried is not None else None
    if len(places) > exploration.shortlist:
        best = shortlist(mean, deviation, exploration.shortlist, untried)
        mean, deviation, places = mean[best], deviation[best], places[best]
        untried = untried[best] if untried is not None else None
    return Distribution(places, probabilities(mean, deviation, exploration.floor, untried))


def uniform_distribution(places: NDArray[np.intp]) -> Distribution:
    """Return the uniform distribution over the offers at `places` (the random group)."""
    return Distribution(places, np.full(len(places), 1 / len(places)))


def draw(over: Distribution, uid: str, rank: int) -> Pick:
    """Draw the offer of a rank (from 1)."""
    cumulative = over.cumulative
    drawn = uniform(uid, f"rank-{rank}") * cumulative[-1]
    position = min(bisect_right(cumulative, drawn), len(cumulative) - 1)
    return Pick(over.places[position], over.chance[position])
