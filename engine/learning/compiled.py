"""A head compiled for serving one placement: what does not depend on the customer is worked out once a snapshot.

Gives what `Hybrid.predict_all` gives, for the placement's offers. A customer costs two products of a matrix and a
vector: the means are `W f`, with what the offers share added to their own weights; the variances are linear in the
products of pairs of inputs, so both parts' covariances lie in one matrix. Its numbers are of single precision:
serving is bound by the memory that it walks through.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.learning.encoding import CUT, Array, Context, flatten
from engine.learning.hybrid import Hybrid

Single = NDArray[np.float32]
LAID_OUT_MAX: Final = 1 << 20
"""Numbers that the shared part's covariance may have when it is laid out over pairs of (attribute, input)."""


class CompiledHead:
    """One head and the offers of one placement."""

    def __init__(
        self, head: Hybrid, offers: Sequence[str], starts: tuple[Array, Array], scale: float = 1.0
    ) -> None:
        """Copy what serving needs: the head itself is never changed, and may go on learning elsewhere.

        An offer that the head has not met stands at its start: (mean, deviation) in `starts`. All deviations are
        multiplied by `scale`.
        """
        encoder, own = head.encoder, head.own
        self._encoder = encoder
        variance = encoder.squares / np.maximum(encoder.count, 1.0)
        shrink = np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)
        numbers = zip(encoder.mean.tolist(), shrink.tolist(), strict=True)
        self._scaled: list[tuple[float, float]] = list(numbers)
        self._columns = encoder.columns
        self._waves = own.waves
        waves = np.column_stack([encoder.phase, encoder.projection * encoder.number])
        self._waving: Single = waves.astype(np.float32)
        self._first = own.first
        met = [offer in head.offers for offer in offers]
        self._rows = np.array([head.offers.get(offer, 0) for offer in offers], dtype=np.intp)
        self._factor = np.square(head.spread[self._rows] * scale) * met
        self._shared = head.shared
        described = head.shared.described[self._rows] * np.array(met)[:, None]
        unlike, of = np.unique(described, axis=0, return_inverse=True)
        self._unlike, self._of = unlike, of.ravel()
        laid = self._lay_out()
        attributes, inputs = head.shared.pair.shape
        self._by_inputs = (
            laid.transpose(1, 3, 0, 2).reshape(inputs**2, attributes**2) if laid is not None else None
        )
        weights = own.mean[self._rows]
        weights[:, self._waves] += head.start[self._rows]
        if not head.shared.empty:
            weights[:, self._waves :] += described @ head.shared.mean[head.shared.pair]
        loose, dense = own.loose[self._rows], own.dense[self._rows]
        if dense.shape[1] and not head.shared.empty:
            self._add_shared(dense[:, self._waves - self._first :, self._waves - self._first :], laid)
        upper = np.triu_indices(dense.shape[1])
        self._upper = upper[0] * dense.shape[1] + upper[1]
        pairs = dense[:, upper[0], upper[1]] * np.where(upper[0] == upper[1], 1.0, 2.0)
        variances = np.hstack([loose, pairs]) * self._factor[:, None]
        # The constant is 1, and so is its square: there stands what an unknown offer starts from.
        square = (
            self._waves
            if self._waves < self._first
            else self._first + int(np.flatnonzero(upper[0] == self._waves - self._first)[0])
        )
        for place in np.flatnonzero(~np.array(met, dtype=bool)):
            weights[place] = variances[place] = 0.0
            weights[place, self._waves] = starts[0][place]
            variances[place, square] = (starts[1][place] * scale) ** 2
        self._weights: Single = weights.astype(np.float32)
        self._variances: Single = variances.astype(np.float32)

    def encode(self, context: Context) -> Single:
        """Return the constant and the inputs' columns, numbers scaled: all that `predict` depends on."""
        values = [0.0] * len(self._scaled)
        columns = self._columns
        for name, value in context.items():
            kind = type(value)
            if kind is str:
                column = columns.get(f"{name}={value}")
                if column is not None:
                    values[column] += 1.0
                    continue
            elif (kind is float or kind is int) and "=" not in name:
                column = columns.get(name)
                if column is not None and math.isfinite(value):  # type: ignore[arg-type]  # it is a number
                    centre, shrink = self._scaled[column]
                    scaled = (value - centre) * shrink  # type: ignore[operator]  # likewise
                    values[column] += CUT if scaled > CUT else max(scaled, -CUT)
                    continue
            self._encode_other(name, value, values)
        values.insert(0, 1.0)
        return np.array(values, dtype=np.float32)

    def predict(self, encoded: Single) -> tuple[Single, Single]:
        """Return means and published deviations of the offers' logits (or values), in the order of the offers."""
        waves, first = self._waves, self._first
        vector = encoded
        if waves:
            vector = np.empty(self._weights.shape[1], dtype=np.float32)
            vector[waves:] = encoded
            np.cos(self._waving @ encoded, out=vector[:waves])
        squares: Single = np.empty(self._variances.shape[1], dtype=np.float32)
        head, tail = vector[:first], vector[first:]
        np.multiply(head, head, out=squares[:first])
        np.multiply.outer(tail, tail).take(self._upper, out=squares[first:], mode="clip")
        variance = self._variances @ squares
        if first == len(vector) and not self._shared.empty:
            variance += self._factor * self._look_at_shared(encoded)
        return self._weights @ vector, np.sqrt(np.maximum(variance, 0.0, out=variance), out=variance)

    def _encode_other(self, name: str, value: Any, values: list[float]) -> None:
        """Add what is neither a known number nor a known string."""
        for flat, number in flatten({name: value}).items():
            column = self._encoder.column(flat)
            if column is None:
                continue
            if "=" in flat:
                values[column] += number
            else:
                centre, shrink = self._scaled[column]
                values[column] += min(max((number - centre) * shrink, -CUT), CUT)

    def _lay_out(self) -> Array | None:
        """Lay the shared covariance out as (attribute, input, attribute, input), where it isn't too large."""
        shared = self._shared
        if shared.empty or shared.pair.size**2 > LAID_OUT_MAX:
            return None
        laid: Array = shared.covariance[shared.pair[:, :, None, None], shared.pair]
        return laid

    def _add_shared(self, dense: Array, laid: Array | None) -> None:
        """Add the shared covariance to each offer's own one over the inputs: as many as are described unalike."""
        shared = self._shared
        attributes, inputs = shared.pair.shape
        for number, described in enumerate(self._unlike):
            if laid is not None:
                half = (described @ laid.reshape(attributes, -1)).reshape(inputs, attributes, inputs)
                part = np.tensordot(half, described, axes=(1, 0))
            else:
                spread = np.zeros((inputs, len(shared.prior)))
                for attribute in np.flatnonzero(described):
                    np.add.at(spread, (np.arange(inputs), shared.pair[attribute]), described[attribute])
                part = spread @ shared.covariance @ spread.T
            dense[self._of == number] += part

    def _look_at_shared(self, inputs: Single) -> Array:
        """Return the shared variances of the offers, where no pairs of own weights have taken them up."""
        if self._by_inputs is None:
            return self._shared.look_all(inputs.astype(np.float64))[1][self._rows]
        size = self._unlike.shape[1]
        gram = (np.multiply.outer(inputs, inputs).ravel() @ self._by_inputs).reshape(size, size)
        found: Array = ((self._unlike @ gram) * self._unlike).sum(axis=1)
        return found[self._of]
