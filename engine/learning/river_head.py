"""A head that a River classifier learns: one for each offer, behind the encoder that scales and flattens inputs.

An offer's classifier is made with its first outcome. What it foretells is mixed with where the offer starts, as if
that were worth `TRIALS` outcomes, and the deviation is that start's, shrunk by the outcomes that came:

    p = (TRIALS s + n c) / (TRIALS + n);  deviation = 1 / sqrt((TRIALS + n) s (1 - s))

with `s` the start, `c` the classifier's chance and `n` the outcomes. So a new offer starts where the marketer said.
Where the optimiser keeps a sum of squared gradients (AdaGrad), that is the diagonal of the curvature, and the
inputs' own variance comes on top.

A linear classifier is a row of weights: whoever only serves never imports River. Any other is asked object by
object. Both are kept as plain data (`policies.plain_objects`), and go on from there exactly as they were. A
classifier cannot unlearn, so of a "no" taken back it learns the yes; it forgets as its own parameters say.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.learning.drift import Watch
from engine.learning.encoding import Array, Context, Encoder, flatten
from policies.classifiers import chance, is_linear, linear_of, made
from policies.plain_objects import NotPlain, from_plain, to_plain

TRIALS: Final = 100.0
"""How many outcomes an offer's start is worth, as `engine.judging.scoring` has it."""
ALARM: Final = 10.0
"""How much a drift alarm divides the outcomes that count."""
KIND: Final = "river"


class RiverHead:
    """One head over a set of offers that may grow; learns one outcome at a time."""

    def __init__(self, learner: str, parameters: Mapping[str, Any], linear: bool | None = None) -> None:
        """Name the classifier; raises `policies.classifiers.Unfit` for one that cannot be used.

        Whether it is linear is found out unless it is told.
        """
        self.learner = learner
        self.parameters = dict(parameters)
        self.linear = is_linear(learner, parameters) if linear is None else linear
        self.encoder = Encoder(waves=0)
        self.offers: dict[str, int] = {}
        """Offer id to its row."""
        self.start = np.zeros(0)
        """Per offer the logit before anything is learned."""
        self.outcomes = np.zeros(0, dtype=np.int64)
        """Per offer how many outcomes were learned."""
        self.counted = np.zeros(0)
        """Per offer how many of them count beside its start: all but those that an alarm has put in doubt."""
        self.watch = Watch()
        self._classifiers: dict[int, Any] = {}
        self._plain: dict[int, bytes] = {}
        """Classifiers that were read and have not been needed yet."""
        self._rows: tuple[Array, Array] | None = None
        """Weights and squared gradients as they were read; None once anything was learned."""

    def add_offers(
        self,
        starts: Mapping[str, float],
        attributes: Mapping[str, Context] | None = None,  # noqa: ARG002  # as of Hybrid; an offer's own need none
        at_ms: int = 0,  # noqa: ARG002  # the same
    ) -> None:
        """Add offers with their starting logit; a known one keeps its start and all that was learned."""
        fresh = [offer for offer in starts if offer not in self.offers]
        for offer in fresh:
            self.offers[offer] = len(self.offers)
        self.start = np.append(self.start, [starts[offer] for offer in fresh])
        self.outcomes = np.append(self.outcomes, np.zeros(len(fresh), dtype=np.int64))
        self.counted = np.append(self.counted, np.zeros(len(fresh)))
        if self._rows is not None:
            self._rows = self._read_rows(*self._rows)

    def predict(self, context: Context, offer: str) -> tuple[float, float]:
        """Return mean and deviation of the offer's logit; changes nothing."""
        mean, deviation = self._asked([offer], context)
        return float(mean[0]), float(deviation[0])

    def predict_all(self, context: Context) -> tuple[Array, Array]:
        """Return means and deviations of all offers' logits, by row; changes nothing."""
        return self._asked(list(self.offers), context)

    def _asked(self, offers: list[str], context: Context) -> tuple[Array, Array]:
        nowhere = np.zeros(len(offers))
        asked = CompiledRiver(self, offers, (nowhere, nowhere))
        return asked.predict(asked.encode(context))

    def learn(self, context: Context, offer: str, outcome: float, at_ms: int = 0) -> float:  # noqa: ARG002  # as of Hybrid
        """Learn one outcome (0 or 1); return the probability that was expected."""
        place = self.offers[offer]
        flat = flatten(context)
        self.encoder.observe(flat)
        inputs = _inputs(self.encoder.vector(flat))
        known = self.classifier(place)
        foretold = chance(known, inputs) if known is not None else math.nan
        if known is None:
            known = self._classifiers[place] = made(self.learner, self.parameters)
        self._teach(known, inputs, outcome)
        start = _logistic(self.start[place : place + 1])
        expected = _mixed(start, np.array([foretold]), self.counted[place : place + 1])
        self.outcomes[place] += 1
        self.counted[place] += 1
        return float(expected[0])

    def take_back(self, context: Context, offer: str, was: float, now: float) -> None:  # noqa: ARG002  # as of Hybrid
        """Learn what an outcome turned out to be, beside what was assumed."""
        place = self.offers[offer]
        known = self.classifier(place)
        if known is not None:
            self._teach(known, _inputs(self.encoder.vector(flatten(context))), now)

    def _teach(self, classifier: Any, inputs: dict[int, float], outcome: float) -> None:
        self._rows = None
        # What a classifier cannot take in is left out: one outcome must not stop all learning.
        with suppress(Exception):
            classifier.learn_one(inputs, outcome > 0.5)

    def check(self, expected: float, outcome: float) -> bool:
        """Watch a final outcome beside what was expected of it; at an alarm, doubt what was learned."""
        drifted = self.watch.update(outcome - expected)
        if drifted:
            self.counted /= ALARM
        return drifted

    def classifier(self, place: int) -> Any:
        """Return an offer's classifier, None where it has no outcome yet."""
        plain = self._plain.pop(place, None)
        if plain is not None:
            self._classifiers[place] = from_plain(msgspec.msgpack.decode(plain))
        return self._classifiers.get(place)

    def rows(self) -> tuple[Array, Array]:
        """Return weights (the intercept first) and sums of squared gradients of a linear head's offers, by row."""
        if self._rows is not None:
            return self._rows
        weights = np.zeros((len(self.offers), 1 + len(self.encoder.share)))
        curvature = np.zeros_like(weights)
        for place in (*self._classifiers, *self._plain):
            classifier = self.classifier(place)
            parts = linear_of(classifier)
            if parts is not None:
                weights[place, 0] = parts[1]
                for column, weight in parts[0].items():
                    weights[place, 1 + column] = weight
            gradients = getattr(getattr(classifier, "optimizer", None), "g2", {})
            for column, sum_of_squares in gradients.items():
                curvature[place, 1 + column] = sum_of_squares
        return weights, curvature

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the whole state: arrays by name, and plain metadata; raises NotPlain where it cannot be kept."""
        of_encoder, encoder = self.encoder.to_arrays()
        arrays: dict[str, NDArray[Any]] = {
            **of_encoder,
            "start": self.start,
            "outcomes": self.outcomes,
            "counted": self.counted,
            "watched": self.watch.errors,
        }
        if self.linear:
            weights, curvature = self.rows()
            if not (np.isfinite(weights).all() and np.isfinite(curvature).all()):
                raise NotPlain(
                    f"the weights of {self.learner} grew beyond all bounds: give it a smaller step"
                )
            arrays |= {"weights": weights, "curvature": curvature}
        kept = {
            place: msgspec.msgpack.encode(to_plain(classifier))
            for place, classifier in self._classifiers.items()
        }
        meta = {
            "kind": KIND,
            "learner": self.learner,
            "parameters": self.parameters,
            "linear": self.linear,
            "offers": dict(self.offers),
            "encoder": encoder,
            "classifiers": sorted({**self._plain, **kept}.items()),
        }
        return {name: array.copy() for name, array in arrays.items()}, meta

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> "RiverHead":
        """Return the head that `to_arrays` wrote; it goes on exactly as the one that was written."""
        head = cls(meta["learner"], meta["parameters"], meta["linear"])
        head.offers = dict(meta["offers"])
        head.start, head.outcomes = arrays["start"].copy(), arrays["outcomes"].copy()
        head.counted = arrays["counted"].copy()
        head.watch = Watch(arrays["watched"])
        head.encoder = Encoder.from_arrays(arrays, meta["encoder"])
        head._plain = {int(place): bytes(plain) for place, plain in meta["classifiers"]}
        if head.linear:
            head._rows = arrays["weights"].copy(), arrays["curvature"].copy()
        return head

    def _read_rows(self, *rows: Array) -> tuple[Array, Array]:
        weights, curvature = (np.pad(row, ((0, len(self.offers) - len(row)), (0, 0))) for row in rows)
        return weights, curvature


class CompiledRiver:
    """A River head and the offers of one placement, for serving; asked as `engine.learning.compiled` is.

    It copies a linear head. Of any other it asks the classifiers themselves, so that one must not go on learning.
    """

    def __init__(
        self, head: RiverHead, offers: Sequence[str], starts: tuple[Array, Array], scale: float = 1.0
    ) -> None:
        """Take the offers in their order; one that the head has not met stands at its (mean, deviation) in `starts`.

        All deviations are multiplied by `scale`.
        """
        self._encoder = Encoder.from_arrays(*head.encoder.to_arrays())
        self._scale = scale
        met = np.array([offer in head.offers for offer in offers], dtype=bool)
        rows = np.array([head.offers.get(offer, 0) for offer in offers], dtype=np.intp)
        self._counted = np.zeros(len(offers))
        start, deviation = starts
        if head.offers:
            self._counted = head.counted[rows] * met
            start = np.where(met, head.start[rows], start)
        self._start = _logistic(start)
        weight = self._counted / (TRIALS + self._counted)
        own = 1 / ((TRIALS + self._counted) * self._start * (1 - self._start))
        self._variance: Array = np.where(met, own, np.square(deviation))
        self._weights: Array | None = None
        self._loose: Array | None = None
        self._classifiers: list[Any] = []
        if head.linear and head.offers:
            weights, curvature = head.rows()
            self._weights, curvature = weights[rows], curvature[rows, 1:]
            if curvature.any():
                known = curvature.any(axis=1)
                self._loose = np.square(weight * known)[:, None] / (1 / head.encoder.share + curvature)
        else:
            self._classifiers = [
                head.classifier(place) if known else None
                for place, known in zip(rows.tolist(), met.tolist(), strict=True)
            ]

    def encode(self, context: Context) -> Array:
        """Return the context's vector: equal ones are foretold the same."""
        return self._encoder.vector(flatten(context))

    def predict(self, encoded: Array) -> tuple[Array, Array]:
        """Return means and scaled deviations of the offers' logits, in their order; `encoded` is of `encode`."""
        variance = self._variance
        if self._weights is not None:
            foretold = _logistic(self._weights @ encoded)
            if self._loose is not None:
                variance = variance + self._loose @ np.square(encoded[1:])
        else:
            inputs = _inputs(encoded)
            foretold = np.array(
                [math.nan if one is None else chance(one, inputs) for one in self._classifiers],
                dtype=np.float64,
            )
        mixed = _mixed(self._start, foretold, self._counted)
        mean: Array = np.log(mixed / (1 - mixed))
        return mean, self._scale * np.sqrt(variance)


def _mixed(start: Array, foretold: Array, counted: Array) -> Array:
    """Return chances between where offers start and what was foretold; nothing foretold leaves the start."""
    known = np.where(np.isfinite(foretold), counted, 0.0)
    mixed: Array = (TRIALS * start + known * np.where(known > 0, foretold, 0.0)) / (TRIALS + known)
    return mixed


def _inputs(vector: Array) -> dict[int, float]:
    """Return a vector as a classifier sees it: by column, without the constant."""
    return dict(enumerate(vector[1:].tolist()))


def _logistic(logits: Array) -> Array:
    chances: Array = 1 / (1 + np.exp(-np.clip(logits, -30.0, 30.0)))
    return chances
