"""How sure an average is: intervals with the customer as the unit.

Decisions of one customer depend on each other, so their parts of an estimate are added up before the spread is
taken: a customer with ten decisions is one observation, not ten. Every estimator here is an average or a ratio
of averages; `influence` is what each decision adds to the estimate's error (its mean is zero).

Rewards are rare and weights uneven, so the sums are skewed to the right, and the symmetric normal interval is
too short above and too long below. Hall's cubic transformation (Hall 1992, Journal of the Royal Statistical
Society B 54) takes the measured skewness out: deterministic, unlike a bootstrap, and as accurate to second
order. With fewer than `FEW` rewarded customers neither spread nor skewness can be measured; then the empirical
Bernstein bound (Maurer and Pontil 2009) holds whatever the distribution, and is as wide as that deserves.
"""

from math import cbrt, log, sqrt
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from engine.evaluation.log import Whole
from engine.judging.scoring import Array

FEW: Final = 10
"""Customers with a reward below which only the Bernstein bound is used."""


class Interval(NamedTuple):
    """Where the true value lies, with a stated confidence."""

    low: float
    high: float
    error: float
    """Standard error."""
    method: str
    """hall or bernstein."""


def by_customer(influence: Array, customer: Whole) -> Array:
    """Return the sum of the influence of each customer's decisions; `customer` holds any whole numbers."""
    known, place = np.unique(customer, return_inverse=True)
    sums: Array = np.bincount(place, weights=influence, minlength=len(known)).astype(np.float64)
    return sums


def standard_error(influence: Array, customer: Whole) -> float:
    """Return the standard error of an estimate over `len(influence)` decisions, customers being independent."""
    sums = by_customer(influence, customer)
    count = len(sums)
    if count < 2:
        return float("inf")
    return sqrt(count / (count - 1) * float(sums @ sums)) / len(influence)


def hall(value: float, influence: Array, customer: Whole, confidence: float = 0.95) -> Interval:
    """Return the interval of an estimate with its skewness taken out."""
    error = standard_error(influence, customer)
    if error == 0 or not np.isfinite(error):
        return Interval(value - error, value + error, error, "hall")
    sums = by_customer(influence, customer)
    spread = sqrt(float((sums**2).mean()))
    tilt = float((sums**3).mean()) / spread**3 / sqrt(len(sums))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return Interval(value - error * _unskewed(z, tilt), value - error * _unskewed(-z, tilt), error, "hall")


def _unskewed(z: float, tilt: float) -> float:
    """Return the studentised deviation whose transform is `z`; `tilt` is skewness / sqrt(n)."""
    if abs(tilt) < 1e-6:
        return z
    return 3 / tilt * (cbrt(1 + tilt * (z - tilt / 6)) - 1)


def bernstein(
    value: float, influence: Array, customer: Whole, reach: float, confidence: float = 0.95
) -> Interval:
    """Return the empirical Bernstein interval; `reach` bounds what one customer's decisions can add up to."""
    sums = by_customer(influence, customer)
    count = len(sums)
    if count < 2:
        return Interval(-float("inf"), float("inf"), float("inf"), "bernstein")
    scale = count / len(influence)
    doubt = log(4 / (1 - confidence))
    half = sqrt(2 * float(sums.var(ddof=1)) * doubt / count) + 7 * reach * doubt / (3 * (count - 1))
    error = standard_error(influence, customer)
    return Interval(value - half * scale, value + half * scale, error, "bernstein")
