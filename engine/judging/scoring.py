"""Scores for all offers at once, from one snapshot of arrays.

A snapshot is immutable and swapped whole; one request uses one snapshot. Until a learner publishes, the
snapshot is the marketer's own: each offer's `prior` with the uncertainty of `PRIOR_TRIALS` imagined trials.
"""

from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from policies.model import Offer

Array = NDArray[np.float64]
Real = NDArray[np.floating[Any]]
"""In single or double precision."""

_SIDES: Final = np.array([[0.0], [1.0], [-1.0]], dtype=np.float32)
PRIOR_TRIALS: Final = 100.0
"""How many trials a prior is worth: small enough that experience soon outweighs it."""


class Snapshot(msgspec.Struct, frozen=True):
    """What scoring knows: per offer the mean and the standard deviation of the acceptance logit."""

    version: str
    offers: dict[str, int]
    """Offer id to its place in the arrays."""
    mean: Array
    deviation: Array


class Scores(NamedTuple):
    """P(accept | shown) of each offer in three rows: at the mean, and at `alpha` deviations below and above it."""

    table: Real

    @property
    def propensity(self) -> Real:
        """At the mean."""
        row: Real = self.table[0]
        return row

    @property
    def low(self) -> Real:
        """At `alpha` deviations below."""
        row: Real = self.table[1]
        return row

    @property
    def high(self) -> Real:
        """At `alpha` deviations above."""
        row: Real = self.table[2]
        return row


def prior_snapshot(offers: dict[str, Offer]) -> Snapshot:
    """Return the snapshot that holds before anything is learned."""
    prior = np.array([offer.prior for offer in offers.values()], dtype=np.float64).clip(1e-6, 1 - 1e-6)
    return Snapshot(
        version="prior",
        offers={offer: index for index, offer in enumerate(offers)},
        mean=np.log(prior / (1 - prior)),
        deviation=1 / np.sqrt(PRIOR_TRIALS * prior * (1 - prior)),
    )


def score(snapshot: Snapshot, offers: tuple[Offer, ...], alpha: float) -> Scores:
    """Score the offers; `alpha` scales the deviation (the policy's `exploration.alpha`)."""
    places = np.array([snapshot.offers[offer.id] for offer in offers], dtype=np.intp)
    return scores_of(snapshot.mean[places], alpha * snapshot.deviation[places])


def scores_of(mean: Real, spread: Real) -> Scores:
    """Return the probabilities at a mean logit, and `spread` below and above it, in the precision of these."""
    table = np.multiply(spread, _SIDES)
    table -= mean
    np.exp(table, out=table)
    table += 1.0
    return Scores(np.reciprocal(table, out=table))
