"""What the offers share: weights over (offer attributes x inputs), with one full covariance.

An attribute enters as an input does: a string as `name=value`, a number scaled. Its scale is fixed by the first
batch of offers in which it takes two values, so that a later launch does not change what a weight means. Beside the
attributes stands a constant: what any offer gains from an input. There is nothing to share until an offer has
attributes. Pairs beyond `PAIRS_MAX` share a weight by their hash.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.learning.encoding import Array, Context, flatten

PAIRS_MAX: Final = 256
CONSTANT: Final = ""
"""The name of the constant among the attributes."""


class SharedLook(NamedTuple):
    """One offer seen from one context: mean, variance and P f."""

    mean: float
    variance: float
    along: Array


class SharedPart:
    """Weights of (attribute, input) pairs and their covariance."""

    def __init__(self, deviation: float) -> None:
        self.deviation = deviation
        self.attributes: dict[str, int] = {}
        self.scales: dict[str, tuple[float, float]] = {}
        self.described = np.zeros((0, 0))
        """Row by offer, column by attribute."""
        self.raw: dict[int, dict[str, float]] = {}
        self.pair = np.zeros((0, 0), dtype=np.intp)
        """The weight of each (attribute, input), input 0 being the constant."""
        self.prior = np.zeros(0)
        self.mean = np.zeros(0)
        self.covariance = np.zeros((0, 0))

    @property
    def empty(self) -> bool:
        """Whether there is nothing to share."""
        return not self.attributes

    def describe(self, count: int, given: Mapping[int, Context], shares: Array) -> None:
        """Take the attributes of offers by their place; `count` is how many offers there are in all.

        `shares` are the inputs' shares of the prior variance, the constant first.
        """
        self.raw.update({place: flatten(attributes) for place, attributes in given.items()})
        if self.raw:
            self._scale(given)
            names = {name for place in given for name in self.raw[place]}
            fresh = sorted(names - self.attributes.keys())
            if not self.attributes:
                fresh.insert(0, CONSTANT)
            for name in fresh:
                self.attributes[name] = len(self.attributes)
            self.grow(shares)
        self.described = np.zeros((count, len(self.attributes)))
        if self.attributes:
            self.described[:, 0] = 1.0
        for place, raw in self.raw.items():
            for name, value in raw.items():
                self.described[place, self.attributes[name]] = self._scaled(name, value)

    def grow(self, shares: Array) -> None:
        """Give weights to pairs that are new."""
        rows, columns = self.pair.shape
        if not self.attributes or (rows, columns) == (len(self.attributes), len(shares)):
            return
        pair = np.full((len(self.attributes), len(shares)), -1, dtype=np.intp)
        pair[:rows, :columns] = self.pair
        fresh: list[float] = []
        for row, column in np.argwhere(pair < 0):
            size = len(self.prior) + len(fresh)
            pair[row, column] = size if size < PAIRS_MAX else _bucket(int(row), int(column))
            if size < PAIRS_MAX:
                share = shares[column] / (1 if row == 0 else max(len(self.attributes) - 1, 1))
                fresh.append(self.deviation**2 * share)
        self.pair = pair
        extra = len(fresh)
        self.prior = np.append(self.prior, fresh)
        self.mean = np.append(self.mean, np.zeros(extra))
        self.covariance = np.pad(self.covariance, ((0, extra), (0, extra)))
        last = np.arange(len(self.prior) - extra, len(self.prior))
        self.covariance[last, last] = fresh

    def look(self, inputs: Array, place: int) -> SharedLook:
        """Return one offer's shared mean and variance; `inputs` has the constant first."""
        weights = np.outer(self.described[place], inputs)
        vector = np.bincount(self.pair.ravel(), weights=weights.ravel(), minlength=len(self.prior))
        along = self.covariance @ vector
        return SharedLook(float(self.mean @ vector), max(float(along @ vector), 0.0), along)

    def look_all(self, inputs: Array) -> tuple[Array, Array]:
        """Return shared means and variances of all offers: the variance is z' G z with G worked out once."""
        rows, size = len(self.attributes), len(self.prior)
        flat = (self.pair + size * np.arange(rows)[:, None]).ravel()
        spread = np.bincount(flat, weights=np.tile(inputs, rows), minlength=rows * size).reshape(rows, size)
        gram = spread @ self.covariance @ spread.T
        variance = np.einsum("ij,ij->i", self.described @ gram, self.described)
        return self.described @ (spread @ self.mean), np.maximum(variance, 0.0)

    def move(self, look: SharedLook, error: float) -> None:
        """Move the weights along P f."""
        self.mean += error * look.along

    def shrink(self, look: SharedLook, gain: float) -> None:
        """Take what was learned out of the covariance."""
        self.covariance -= np.outer(gain * look.along, look.along)

    def inflate(self, factor: float) -> None:
        """Multiply the variances, none above its prior."""
        variance = np.maximum(np.diagonal(self.covariance), 1e-300)
        root = np.sqrt(np.clip(self.prior / variance, 1.0, factor))
        self.covariance *= np.outer(root, root)

    def _scale(self, given: Mapping[int, Context]) -> None:
        """Fix the scale of numbers that take two values among the offers given now."""
        found: dict[str, list[float]] = {}
        for place in given:
            for name, value in self.raw[place].items():
                if "=" not in name and name not in self.scales:
                    found.setdefault(name, []).append(value)
        for name, values in found.items():
            deviation = float(np.std(values))
            if deviation > 0:
                self.scales[name] = float(np.mean(values)), deviation

    def _scaled(self, name: str, value: float) -> float:
        if "=" in name:
            return value
        mean, deviation = self.scales.get(name, (value, 1.0))
        return min(max((value - mean) / deviation, -3.0), 3.0)

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return all arrays and plain metadata."""
        arrays: dict[str, NDArray[Any]] = {
            "shared.described": self.described,
            "shared.pair": self.pair.astype(np.int64),
            "shared.prior": self.prior,
            "shared.mean": self.mean,
            "shared.covariance": self.covariance,
        }
        raw = {str(place): values for place, values in self.raw.items()}
        return arrays, {"attributes": dict(self.attributes), "scales": dict(self.scales), "raw": raw}

    @classmethod
    def from_arrays(
        cls, deviation: float, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
    ) -> "SharedPart":
        """Return the part that `to_arrays` wrote."""
        made = cls(deviation)
        made.attributes = dict(meta["attributes"])
        made.scales = {name: (scale[0], scale[1]) for name, scale in meta["scales"].items()}
        made.raw = {int(place): dict(values) for place, values in meta["raw"].items()}
        made.described = arrays["shared.described"].copy()
        made.pair = arrays["shared.pair"].astype(np.intp)
        made.prior, made.mean = arrays["shared.prior"].copy(), arrays["shared.mean"].copy()
        made.covariance = arrays["shared.covariance"].copy()
        return made


def _bucket(row: int, column: int) -> int:
    return int.from_bytes(blake2b(f"{row}|{column}".encode(), digest_size=8).digest(), "big") % PAIRS_MAX
