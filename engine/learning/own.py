"""What each offer has of its own: weights over `[waves | 1 | inputs]` and their covariance, one per offer.

The covariances together hold at most `CELLS_MAX` numbers, which bounds a snapshot and the time to serve it. While
it fits, an offer's covariance is full; then full over the inputs and diagonal over the waves; then diagonal. A step
down keeps the diagonal and is never undone, so the sizes depend on what came, not on when a process restarted.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from engine.learning.encoding import Array

CELLS_MAX: Final = (1 << 18, 1 << 19)
"""Numbers in all covariances while they are full, and while they are full over the inputs: 2 and 4 MiB."""
FULL: Final = 0
FULL_OVER_INPUTS: Final = 1
DIAGONAL: Final = 2


class Look(NamedTuple):
    """One offer seen from one context: mean, variance, and P f in its two stretches."""

    mean: float
    variance: float
    loose: Array
    dense: Array


class OwnPart:
    """Weights and covariances of all offers; row by offer, in the order in which they were added."""

    def __init__(self, bias: float) -> None:
        self.level = FULL
        self.waves = 0
        self.prior = np.array([bias**2])
        """Prior variance of each weight, for an offer of scale 1."""
        self.scale = np.zeros(0)
        """Per offer what the prior variances are multiplied by, but for that of the level (the constant)."""
        self.mean = np.zeros((0, 1))
        self.loose = np.zeros((0, 0))
        """Variances of the weights before `first`, which have no covariance."""
        self.dense = np.zeros((0, 1, 1))
        """Covariances of the weights from `first` on."""

    @property
    def first(self) -> int:
        """The first weight that has covariances."""
        return (0, self.waves, len(self.prior))[self.level]

    def add(self, scale: Array) -> None:
        """Add offers at their prior, of which `scale` says how wide it is."""
        count = len(scale)
        self._step_down(len(self.mean) + count, len(self.prior), self.waves)
        first = self.first
        prior = (
            np.stack([self._prior(one) for one in scale.tolist()])
            if count
            else np.zeros((0, len(self.prior)))
        )
        self.scale = np.append(self.scale, scale)
        self.mean = np.concatenate([self.mean, np.zeros_like(prior)])
        self.loose = np.concatenate([self.loose, prior[:, :first]])
        self.dense = np.concatenate([self.dense, prior[:, first:, None] * np.eye(len(self.prior) - first)])

    def add_waves(self, prior: Array) -> None:
        """Put weights for the waves in front, at their prior variances."""
        count = len(prior)
        self._step_down(len(self.mean), len(self.prior) + count, count)
        self.waves = count
        self.prior = np.concatenate([prior, self.prior])
        self.mean = np.pad(self.mean, ((0, 0), (count, 0)))
        if self.level == FULL:
            self.dense = np.pad(self.dense, ((0, 0), (count, 0), (count, 0)))
            self.dense[:, np.arange(count), np.arange(count)] = np.outer(self.scale, prior)
        else:
            self.loose = np.concatenate([np.outer(self.scale, prior), self.loose], axis=1)

    def add_inputs(self, prior: Array) -> None:
        """Put weights for new inputs at the end, at their prior variances."""
        count = len(prior)
        self._step_down(len(self.mean), len(self.prior) + count, self.waves)
        self.prior = np.concatenate([self.prior, prior])
        self.mean = np.pad(self.mean, ((0, 0), (0, count)))
        if self.level == DIAGONAL:
            self.loose = np.concatenate([self.loose, np.outer(self.scale, prior)], axis=1)
            return
        self.dense = np.pad(self.dense, ((0, 0), (0, count), (0, count)))
        last = np.arange(self.dense.shape[1] - count, self.dense.shape[1])
        self.dense[:, last, last] = np.outer(self.scale, prior)

    def look(self, vector: Array, place: int) -> Look:
        """Return one offer's mean and variance in the context."""
        first = self.first
        loose, dense = self.loose[place] * vector[:first], self.dense[place] @ vector[first:]
        variance = loose @ vector[:first] + dense @ vector[first:]
        return Look(float(self.mean[place] @ vector), max(float(variance), 0.0), loose, dense)

    def look_all(self, vector: Array) -> tuple[Array, Array]:
        """Return means and variances of all offers: products of a matrix and a vector, so it is fast."""
        first = self.first
        tail = vector[first:]
        # f' P f is the sum over P times the outer product f f'.
        variance = self.dense.reshape(len(self.mean), -1) @ np.outer(tail, tail).ravel()
        if first:
            variance += self.loose @ np.square(vector[:first])
        return self.mean @ vector, np.maximum(variance, 0.0)

    def move(self, place: int, look: Look, error: float) -> None:
        """Move the weights along P f."""
        first = self.first
        self.mean[place, :first] += error * look.loose
        self.mean[place, first:] += error * look.dense

    def shrink(self, place: int, look: Look, gain: float) -> None:
        """Take what was learned out of the covariance."""
        if self.first:
            self.loose[place] -= gain * np.square(look.loose)
        if self.level != DIAGONAL:
            self.dense[place] -= np.outer(gain * look.dense, look.dense)

    def inflate(self, place: int, factor: float) -> None:
        """Multiply the variances, none above its prior."""
        first = self.first
        prior = self._prior(float(self.scale[place]))
        self.loose[place] = np.minimum(self.loose[place] * factor, prior[:first])
        variance = np.maximum(np.diagonal(self.dense[place]), 1e-300)
        # From both sides by each weight's own root, so that it stays a covariance.
        root = np.sqrt(np.clip(prior[first:] / variance, 1.0, factor))
        self.dense[place] *= np.outer(root, root)

    def _prior(self, scale: float) -> Array:
        prior = self.prior * scale
        prior[self.waves] = self.prior[self.waves]
        return prior

    def _step_down(self, count: int, size: int, waves: int) -> None:
        """Give up covariances until `count` offers of `size` weights fit."""
        while (
            self.level < DIAGONAL
            and count * (size - (waves if self.level else 0)) ** 2 > CELLS_MAX[self.level]
        ):
            before = self.first
            self.level += 1
            kept = self.first - before
            self.loose = np.concatenate(
                [self.loose, np.diagonal(self.dense, axis1=1, axis2=2)[:, :kept]], axis=1
            )
            self.dense = np.ascontiguousarray(self.dense[:, kept:, kept:])

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return all arrays and plain metadata."""
        arrays = {
            "own.prior": self.prior,
            "own.scale": self.scale,
            "own.mean": self.mean,
            "own.loose": self.loose,
            "own.dense": self.dense,
        }
        return arrays, {"level": self.level, "waves": self.waves}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> "OwnPart":
        """Return the part that `to_arrays` wrote."""
        made = cls(1.0)
        made.level, made.waves = meta["level"], meta["waves"]
        made.prior, made.mean = arrays["own.prior"].copy(), arrays["own.mean"].copy()
        made.scale = arrays["own.scale"].copy()
        made.loose, made.dense = arrays["own.loose"].copy(), arrays["own.dense"].copy()
        return made
