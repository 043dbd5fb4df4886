"""The hybrid model as a River classifier, so that it stands in any River pipeline and passes River's checks.

`x` holds the context's inputs; the key named by `offer` holds the offer's id, and the keys in `attributes` describe
the offer. Without an offer in `x` all rows are of one offer.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import msgspec
from river import base

from engine.learning.hybrid import Hybrid, Setting


class HybridClassifier(base.Classifier):
    """Accept or not, one outcome at a time; drift makes it doubt what it learned."""

    def __init__(
        self,
        offer: str = "offer",
        attributes: Sequence[str] | None = None,
        prior: float = 0.5,
        setting: Mapping[str, Any] | None = None,
    ) -> None:
        self.offer = offer
        self.attributes = attributes
        self.prior = prior
        self.setting = setting
        self._model = Hybrid(msgspec.convert(dict(setting or {}), Setting))

    @property
    def model(self) -> Hybrid:
        """The arrays that do the work."""
        return self._model

    def learn_one(self, x: dict[Hashable, Any], y: base.typing.ClfTarget) -> None:
        """Learn one outcome; an offer seen for the first time starts at `prior`."""
        offer, context, described = self._parts(x)
        if offer not in self._model.offers:
            self._model.add_offers({offer: self._start}, {offer: described})
        outcome = float(y)
        self._model.check(self._model.learn(context, offer, outcome), outcome)

    def predict_proba_one(self, x: dict[Hashable, Any], **kwargs: Any) -> dict[base.typing.ClfTarget, float]:  # noqa: ARG002  # River's signature
        """Return P(accept) under True, and the rest under False."""
        offer, context, _ = self._parts(x)
        known = offer in self._model.offers
        mean = self._model.predict(context, offer)[0] if known else self._start
        accepted = 1 / (1 + math.exp(-max(min(mean, 30.0), -30.0)))
        return {False: 1 - accepted, True: accepted}

    @property
    def _start(self) -> float:
        return math.log(self.prior / (1 - self.prior))

    def _parts(self, x: Mapping[Hashable, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
        described = {name: x[name] for name in self.attributes or () if name in x}
        context = {
            str(name): value for name, value in x.items() if name != self.offer and name not in described
        }
        return str(x.get(self.offer, "")), context, described

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters and the model as arrays: River's drift detector cannot be pickled."""
        kept = {name: value for name, value in self.__dict__.items() if name != "_model"}
        return {**kept, "_arrays": self._model.to_arrays()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take back what `__getstate__` gave."""
        arrays, meta = state.pop("_arrays")
        self.__dict__.update(state)
        self._model = Hybrid.from_arrays(arrays, meta)
