"""The hybrid Bayesian logistic model: what the offers share, and what each has of its own.

`logit p(a|x) = prior_a + z_a' M x + w_a' f(x)`, with `z_a` the offer's attributes, `x` the inputs, and `f(x)` the
inputs and their waves (see `encoding`). `M` has one full covariance (see `shared`); it exists only where offers have
attributes, and a new offer starts from it. Each `w_a` has a covariance of its own (see `own`). One step an outcome,
the extended Kalman filter of a logistic likelihood:

    h = p (1 - p);  v = f' P f;  m += P f (y - p) / (1 + h v);  P -= h P f f' P / (1 + h v)

with `v` the sum over both parts, whose covariances are kept apart. As `h`, and so `P`, does not depend on `y`, an
assumed "no" is taken back by a step of the mean alone, at any later time. A real-valued head is the linear filter:
`h = 1 / noise`, the noise being the running mean of its squared errors; an error counts as `REACH` times the noise's
deviation at most, so one wild value moves neither far.

The prior is as wide as the offer's start leaves room for: the deviation that inputs can give is in proportion to
`2 sqrt(s (1 - s))`, whole for a start `s` of 0.5. One rare yes then doesn't outweigh all that is known. The
deviation that is published is the posterior's times `SPREAD` over that same proportion (at most 1), so an offer that
nobody knows explores alike wherever it starts; with the policy's `alpha` of 0.3 that is about as much as the loss asks
for (`python -m loadtests.learning`, `python -m loadtests.worlds`).

Forgetting is variance that grows back: doubled each half-life, none above its prior. Time and outcomes are
arguments, and sums run in a fixed order: the same log gives the same bytes.
"""

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.learning.drift import Watch
from engine.learning.encoding import INPUTS_MAX, WAVES, Array, Context, Encoder, flatten
from engine.learning.own import Look, OwnPart
from engine.learning.shared import SharedLook, SharedPart

SPREAD: Final = 1 / 3
ALARM: Final = 10.0
"""How much a drift alarm multiplies the variances."""
REACH: Final = 5.0
_LOGIT_MAX: Final = 30.0


class Setting(msgspec.Struct, frozen=True):
    """How a model learns; the defaults are what ships. Deviations are of the logit (or of the value)."""

    family: Literal["logistic", "gaussian"] = "logistic"
    bias: float = 1.0
    """Prior deviation of the offer's own level."""
    inputs: float = 3.0
    """Prior deviation that all inputs together give at one deviation each, and that all waves together give."""
    shared: float = 1.0
    """Prior deviation of what the offers share."""
    noise: float = 1.0
    """Deviation of a real-valued head's outcomes before any is known."""
    half_life_ms: int | None = None
    waves: int = WAVES
    inputs_max: int = INPUTS_MAX


class Hybrid:
    """One head's model over a set of offers that may grow; learns one outcome at a time."""

    def __init__(self, setting: Setting | None = None) -> None:
        self.setting = setting or Setting()
        self.encoder = Encoder(self.setting.waves, self.setting.inputs_max)
        self.own = OwnPart(self.setting.bias)
        self.shared = SharedPart(self.setting.shared)
        self.offers: dict[str, int] = {}
        """Offer id to its row."""
        self.start = np.zeros(0)
        """Per offer the logit (or value) before anything is learned."""
        self.spread = np.zeros(0)
        """Per offer the share of the posterior deviation that is published."""
        self.outcomes = np.zeros(0, dtype=np.int64)
        """Per offer how many outcomes were learned."""
        self.since_ms = np.zeros(1, dtype=np.int64)
        """Per offer, and last for the shared part, the moment up to which it has forgotten."""
        self.errors = np.array([self.setting.noise**2, 1.0])
        """Of a real-valued head: the sum of squared errors, and their number."""
        self.watch = Watch()

    def add_offers(
        self,
        starts: Mapping[str, float],
        attributes: Mapping[str, Context] | None = None,
        at_ms: int = 0,
    ) -> None:
        """Add offers with their starting logit (or value), and take attributes of new and known ones.

        A known offer keeps its start and all that was learned: so does one that went away and comes back.
        """
        fresh = [offer for offer in starts if offer not in self.offers]
        for offer in fresh:
            self.offers[offer] = len(self.offers)
        self.start = np.append(self.start, [starts[offer] for offer in fresh])
        self.outcomes = np.append(self.outcomes, np.zeros(len(fresh), dtype=np.int64))
        self.since_ms = np.concatenate([self.since_ms[:-1], [at_ms] * len(fresh), self.since_ms[-1:]])
        room = self._room([starts[offer] for offer in fresh])
        self.own.add(np.square(room))
        self.spread = np.append(self.spread, np.minimum(SPREAD / room, 1.0))
        given = {self.offers[offer]: named for offer, named in (attributes or {}).items() if named}
        self.shared.describe(len(self.offers), given, self._shares())

    def observe(self, context: Context) -> Array:
        """Take the context into the feature map, and return its vector."""
        flat = flatten(context)
        self.encoder.observe(flat)
        variance = self.setting.inputs**2
        if self.encoder.waves != self.own.waves:
            self.own.add_waves(np.full(self.encoder.waves, 2 * variance / self.encoder.waves))
        missing = self.encoder.size - len(self.own.prior)
        if missing:
            self.own.add_inputs(variance * self.encoder.share[-missing:])
            self.shared.grow(self._shares())
        return self.encoder.vector(flat)

    def predict(self, context: Context, offer: str) -> tuple[float, float]:
        """Return mean and published deviation of the offer's logit (or value); changes nothing."""
        place = self.offers[offer]
        mean, variance, _, _ = self._look(self.encoder.vector(flatten(context)), place)
        return mean, float(self.spread[place]) * variance**0.5

    def predict_all(self, context: Context) -> tuple[Array, Array]:
        """Return means and published deviations of all offers, by row; changes nothing."""
        vector = self.encoder.vector(flatten(context))
        mean, variance = self.own.look_all(vector)
        mean += self.start
        if not self.shared.empty:
            shared_mean, shared_variance = self.shared.look_all(vector[self.own.waves :])
            mean += shared_mean
            variance += shared_variance
        deviation: Array = self.spread * np.sqrt(variance)
        return mean, deviation

    def learn(self, context: Context, offer: str, outcome: float, at_ms: int = 0) -> float:
        """Learn one outcome (0 or 1, or a value); return what was expected (the probability, or the value)."""
        vector, place = self.observe(context), self.offers[offer]
        self._forget(place, at_ms)
        self._forget(len(self.offers), at_ms)
        mean, variance, own, shared = self._look(vector, place)
        expected, curvature = self._likelihood(mean)
        step = 1 / (1 + curvature * variance)
        missed = outcome - expected
        if self.setting.family == "gaussian":
            reach = REACH * curvature**-0.5
            missed = min(max(missed, -reach), reach)
            self.errors += missed**2 * step, 1.0
        error = missed * step * self._weight(curvature)
        self.own.move(place, own, error)
        self.own.shrink(place, own, curvature * step)
        if shared is not None:
            self.shared.move(shared, error)
            self.shared.shrink(shared, curvature * step)
        self.outcomes[place] += 1
        return expected

    def take_back(self, context: Context, offer: str, was: float, now: float) -> None:
        """Correct an outcome that was learned as `was` and turned out to be `now`: a step of the mean alone.

        Without a shared part the mean is as if `now` had been learned at that time with the same curvature;
        with one it is so to first order. What was forgotten since is not taken off the step.
        """
        vector, place = self.encoder.vector(flatten(context)), self.offers[offer]
        mean, _, own, shared = self._look(vector, place)
        _, curvature = self._likelihood(mean)
        error = (now - was) * self._weight(curvature)
        if shared is None:
            self.own.move(place, own, error)
            return
        # Both parts learned from one error: the step of each was the smaller for the other's variance.
        self.own.move(place, own, error / (1 + curvature * shared.variance))
        self.shared.move(shared, error / (1 + curvature * own.variance))

    def forget(self, at_ms: int) -> None:
        """Let all variances grow to the moment `at_ms`, also of offers without outcomes."""
        for place in range(len(self.offers) + 1):
            self._forget(place, at_ms)

    def check(self, expected: float, outcome: float) -> bool:
        """Watch a final outcome beside what was expected of it; at an alarm, doubt what was learned.

        Feed it outcomes that will not be taken back: an assumed "no" says nothing about the world.
        """
        error = outcome - expected
        if self.setting.family == "gaussian":
            error = math.tanh(error * float(self.errors[1] / self.errors[0]) ** 0.5 / 3)
        drifted = self.watch.update(error)
        if drifted:
            self.alarm()
        return drifted

    def alarm(self) -> None:
        """Multiply all variances tenfold, none above its prior: the world has changed."""
        for place in range(len(self.offers)):
            self.own.inflate(place, ALARM)
        self.shared.inflate(ALARM)

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the whole state: arrays by name, and metadata that JSON can hold."""
        arrays: dict[str, NDArray[Any]] = {
            "start": self.start,
            "spread": self.spread,
            "outcomes": self.outcomes,
            "since_ms": self.since_ms,
            "errors": self.errors,
            "watched": self.watch.errors,
        }
        meta: dict[str, Any] = {"setting": msgspec.to_builtins(self.setting), "offers": dict(self.offers)}
        for name, (of_part, meta_of_part) in {
            "encoder": self.encoder.to_arrays(),
            "own": self.own.to_arrays(),
            "shared": self.shared.to_arrays(),
        }.items():
            arrays.update(of_part)
            meta[name] = meta_of_part
        return {name: array.copy() for name, array in arrays.items()}, meta

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> "Hybrid":
        """Return the model that `to_arrays` wrote; it goes on exactly as the one that was written."""
        made = cls(msgspec.convert(meta["setting"], Setting))
        made.offers = dict(meta["offers"])
        made.start, made.outcomes = arrays["start"].copy(), arrays["outcomes"].copy()
        made.spread = arrays["spread"].copy()
        made.since_ms, made.errors = arrays["since_ms"].copy(), arrays["errors"].copy()
        made.watch = Watch(arrays["watched"])
        made.encoder = Encoder.from_arrays(arrays, meta["encoder"])
        made.own = OwnPart.from_arrays(arrays, meta["own"])
        made.shared = SharedPart.from_arrays(made.setting.shared, arrays, meta["shared"])
        return made

    def _room(self, starts: list[float]) -> Array:
        """Return how wide the priors of offers may be, given where they start; 1 is the widest."""
        if self.setting.family == "gaussian":
            return np.ones(len(starts))
        room: Array = 1 / np.cosh(np.clip(starts, -_LOGIT_MAX, _LOGIT_MAX) / 2)
        return room

    def _shares(self) -> Array:
        return np.concatenate([np.ones(1), self.encoder.share])

    def _look(self, vector: Array, place: int) -> tuple[float, float, Look, SharedLook | None]:
        own = self.own.look(vector, place)
        mean = float(self.start[place]) + own.mean
        if self.shared.empty:
            return mean, own.variance, own, None
        shared = self.shared.look(vector[self.own.waves :], place)
        return mean + shared.mean, own.variance + shared.variance, own, shared

    def _likelihood(self, mean: float) -> tuple[float, float]:
        """Return what is expected, and the curvature of the likelihood there."""
        if self.setting.family == "gaussian":
            return mean, float(self.errors[1] / self.errors[0])
        expected = 1 / (1 + float(np.exp(-min(max(mean, -_LOGIT_MAX), _LOGIT_MAX))))
        return expected, expected * (1 - expected)

    def _weight(self, curvature: float) -> float:
        """Return what an error counts for: 1 on the logit, 1 / noise on a value."""
        return curvature if self.setting.family == "gaussian" else 1.0

    def _forget(self, place: int, at_ms: int) -> None:
        half_life, passed = self.setting.half_life_ms, at_ms - int(self.since_ms[place])
        if half_life is None or passed <= 0:
            return
        self.since_ms[place] = at_ms
        factor = 2.0 ** min(passed / half_life, 60.0)
        if place < len(self.offers):
            self.own.inflate(place, factor)
        else:
            self.shared.inflate(factor)
