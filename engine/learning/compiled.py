"""A head compiled for serving one placement: what does not depend on the customer is worked out once a snapshot.

Gives what `Hybrid.predict_all` gives, for the rows of one placement's offers. The shared part's means are added to
the offers' own weights, and its covariance is laid out by pairs of inputs, so a customer costs a few products of a
matrix and a vector.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.learning.encoding import CUT, Array, Context, flatten
from engine.learning.hybrid import Hybrid

LAID_OUT_MAX: Final = 1 << 20
"""Numbers that the laid out covariance may have; a larger one is worked through for each customer."""


class CompiledHead:
    """One head and the rows of some of its offers."""

    def __init__(self, head: Hybrid, rows: NDArray[np.intp]) -> None:
        """Copy what serving needs: the head itself is never changed, and may go on learning elsewhere."""
        encoder, own, shared = head.encoder, head.own, head.shared
        self._column = encoder.column
        variance = encoder.squares / np.maximum(encoder.count, 1.0)
        scale = np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)
        self._centre: list[float] = encoder.mean.tolist()
        self._scale: list[float] = scale.tolist()
        self._waves = own.waves
        self._projection = encoder.projection * encoder.number
        self._phase = encoder.phase
        self._first = own.first
        self._weights = own.mean[rows]
        self._start = head.start[rows]
        self._spread = head.spread[rows]
        self._loose = own.loose[rows]
        self._dense = own.dense[rows].reshape(len(rows), own.dense.shape[1] ** 2)
        self._described: Array | None = None
        self._pairs: Array | None = None
        self._shared = shared
        if not shared.empty:
            self._described = described = shared.described[rows]
            self._weights[:, self._waves :] += described @ shared.mean[shared.pair]
            attributes, inputs = shared.pair.shape
            if (attributes * inputs) ** 2 <= LAID_OUT_MAX:
                laid = shared.covariance[shared.pair[:, :, None, None], shared.pair]
                self._pairs = laid.transpose(1, 3, 0, 2).reshape(inputs**2, attributes**2)
        self._rows = rows

    def predict(self, context: Context) -> tuple[Array, Array]:
        """Return means and published deviations of the offers' logits, in the order of the rows."""
        vector = self._vector(context)
        first = self._first
        tail, inputs = vector[first:], vector[self._waves :]
        variance: Array = self._dense @ (tail[:, None] * tail).ravel()
        if first:
            variance += self._loose @ (vector[:first] * vector[:first])
        mean: Array = self._weights @ vector + self._start
        if self._described is not None:
            if self._pairs is not None:
                size = self._described.shape[1]
                gram = ((inputs[:, None] * inputs).ravel() @ self._pairs).reshape(size, size)
                variance += ((self._described @ gram) * self._described).sum(axis=1)
            else:
                variance += self._shared.look_all(inputs)[1][self._rows]
        return mean, self._spread * np.sqrt(np.maximum(variance, 0.0))

    def _vector(self, context: Context) -> Array:
        values = [0.0] * len(self._centre)
        for name, value in flatten(context).items():
            column = self._column(name)
            if column is None:
                continue
            if "=" in name:
                values[column] += value
            else:
                scaled = (value - self._centre[column]) * self._scale[column]
                values[column] += CUT if scaled > CUT else max(scaled, -CUT)
        waves = self._waves
        vector = np.empty(waves + 1 + len(values))
        vector[waves] = 1.0
        vector[waves + 1 :] = values
        if waves:
            np.cos(self._projection @ vector[waves + 1 :] + self._phase, out=vector[:waves])
        return vector
