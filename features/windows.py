"""Series: what happened per bucket of time, exact and independent of the order of arrival.

A series is a flat list `[newest, v0, v1, ...]`: the index of its newest bucket, then the values of that
bucket and of the ones before it; trailing zeros are cut off. Values are integers, so that adding commutes bit
for bit (floating point does not), and how far back a series reaches depends only on its newest bucket. Hence
the state is a function of the *set* of events (G13), and `merged(fold(A), fold(B)) == fold(A + B)`.

Two kinds of buckets:
- a `Window` (t - within, t] rolls by buckets of at most 1/24 of its length; reading takes every bucket that
  may hold a moment of the window: never too little, at most one bucket too much;
- a `Decay` weighs an occurrence of age t by 2^(-t/h). Its buckets are half-lives, and each occurrence adds
  its weight relative to the bucket's start, in [1, 2), as an integer in units of 2^-40.

Lists are never changed in place. All times are milliseconds.
"""

import math
from typing import Final

from features.event import AHEAD_MAX_MS

Series = list[int]

FOREVER: Final = 2**80
"""A length that never ends: no window, no half-life. Its first bucket holds all time."""
UNIT: Final = 1_000_000_000
"""Sums are integers in units of 1e-9."""
FRACTION_BITS: Final = 40
HALF_LIVES_MAX: Final = 60
"""Occurrences this many half-lives behind the newest weigh less than 1e-18 of it and are dropped."""


def width_ms(within_ms: int) -> int:
    """Return the width of a window's buckets: a 24th where that is whole, else a 25th, else rounded down.

    A width that divides the window makes the buckets touched exceed it by one bucket at the most, both ends
    together; every whole number of seconds can be divided by one of the two.
    """
    for parts in (24, 25):
        if within_ms % parts == 0:
            return within_ms // parts
    return max(1, within_ms // 24)


class Window:
    """A rolling window over buckets; `within_ms` 0 means all time."""

    __slots__ = ("limit", "reach", "width")

    def __init__(self, within_ms: int) -> None:
        """Compute how many buckets must be kept."""
        within = within_ms or FOREVER
        self.width: Final[int] = width_ms(within)
        self.reach: Final[int] = within - 1
        # An event may be dated ahead, so a reading may lie that far behind the newest bucket.
        self.limit: Final[int] = (within + AHEAD_MAX_MS) // self.width + 2

    def index(self, at: int) -> int:
        """Return the bucket of a moment."""
        return at // self.width

    def total(self, series: Series | None, now: int) -> int:
        """Add up the buckets that may hold moments of (now - within, now]."""
        if series is None:
            return 0
        newest = series[0]
        ahead = newest - now // self.width
        end = newest - (now - self.reach) // self.width + 2
        if end <= 1:
            return 0
        return sum(series[1 + ahead if ahead > 0 else 1 : end])


class Decay:
    """Weights that halve every half-life; `half_life_ms` 0 means that they stay."""

    __slots__ = ("half_life",)

    limit: Final = HALF_LIVES_MAX + 1

    def __init__(self, half_life_ms: int) -> None:
        """Keep the half-life."""
        self.half_life: Final[int] = half_life_ms or FOREVER

    def index(self, at: int) -> int:
        """Return the half-life that holds a moment."""
        return at // self.half_life

    def amount(self, at: int) -> int:
        """Return the weight of one occurrence relative to the start of its half-life, in units of 2^-40."""
        return round(math.exp2(FRACTION_BITS + (at % self.half_life) / self.half_life))

    def total(self, series: Series | None, now: int) -> float:
        """Add up the weights as of `now`; half-lives that begin after `now` do not count."""
        if series is None:
            return 0.0
        top = now // self.half_life
        first = 1
        if series[0] > top:
            first += series[0] - top
        else:
            top = series[0]
        weight = 0.0
        for value in reversed(series[first:]):
            weight = weight * 0.5 + value
        return weight * math.exp2((top * self.half_life - now) / self.half_life - FRACTION_BITS)


def added(series: Series | None, index: int, amount: int, limit: int) -> Series:
    """Return the series with an amount added to a bucket, reaching back `limit` buckets from its newest."""
    if series is None:
        return [index, amount] if amount else [index]
    ahead = index - series[0]
    if ahead > 0:
        if ahead >= limit:
            out = [index, amount]
        else:
            out = [index, amount]
            out += [0] * (ahead - 1)
            out += series[1 : limit - ahead + 1]
    else:
        slot = 1 - ahead
        if slot > limit:
            return series
        out = series.copy()
        if slot >= len(out):
            out += [0] * (slot + 1 - len(out))
        out[slot] += amount
    return cut(out, limit)


def merged(one: Series | None, two: Series | None, limit: int) -> Series | None:
    """Return the series that the events of both together would have made."""
    if one is None or two is None:
        return one if two is None else two
    if one[0] < two[0]:
        one, two = two, one
    ahead = one[0] - two[0]
    if ahead >= limit:
        return one
    out = one.copy()
    out += [0] * (ahead + len(two) - len(out))
    for slot, value in enumerate(two[1:], 1 + ahead):
        out[slot] += value
    return cut(out, limit)


def cut(series: Series, limit: int) -> Series:
    """Return the newest `limit` buckets (none below 1) without trailing zeros: a series has one form only."""
    end = max(min(len(series), limit + 1), 1)
    while end > 1 and series[end - 1] == 0:
        end -= 1
    return series if end == len(series) else series[:end]


def units(value: float) -> int:
    """Return a finite number in units of 1e-9, rounded exactly to the nearest."""
    if isinstance(value, int):
        return value * UNIT
    top, bottom = value.as_integer_ratio()
    return (2 * top * UNIT + bottom) // (2 * bottom)
