"""The learned models as they serve: one immutable snapshot, swapped whole, pinned for the length of a request.

A process that follows the store asks for the version twice a second, and takes a new snapshot only when all of it
is good (G18); until there is one, the marketer's priors rank.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.adapters.connection import StoreUnavailable
from engine.adapters.store import Store, as_bytes
from engine.learning.compiled import CompiledHead
from engine.learning.hybrid import Hybrid
from engine.learning.inputs import Inputs
from engine.learning.snapshot import BadSnapshot, Snapshot, unpack
from engine.plan import PlacementPlan, Plan
from engine.ranking import Scored, below, priorities
from engine.scoring import scores_of
from features.facts import Facts, Value
from features.state import FeatureState
from policies.model import Model

MODEL: Final = "tact:model"
MODEL_VERSION: Final = "tact:model:version"
FOLLOW_S: Final = 0.5
_REMEMBERED: Final = 256
log = logging.getLogger("tact.models")


def profile_of(facts: Facts) -> dict[str, Value]:
    """Return the profile as models read it: what is set, without the time zone."""
    return {
        name: dated.value
        for name, dated in facts.profile.items()
        if dated.value is not None and name != "timezone"
    }


class _Fit:
    """One placement of one policy set beside one head: the head compiled for its offers, and the compiled inputs."""

    __slots__ = ("head", "inputs", "known", "starts")

    def __init__(self, plan: Plan, placement: PlacementPlan, model: Model, head: Hybrid) -> None:
        rows = np.array([head.offers.get(offer.id, -1) for offer in placement.offers], dtype=np.intp)
        self.head = CompiledHead(head, np.maximum(rows, 0))
        self.known: NDArray[np.bool_] | None = None if (rows >= 0).all() else rows >= 0
        places = [plan.snapshot.offers[offer.id] for offer in placement.offers]
        self.starts = plan.snapshot.mean[places], plan.snapshot.deviation[places]
        self.inputs = Inputs(plan, model)


class Served:
    """One snapshot, ready to score."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.version = snapshot.version
        self.heads = snapshot.heads
        self._fits: dict[tuple[str, str], _Fit | None] = {}

    def scorer(
        self,
        plan: Plan,
        placement: PlacementPlan,
        state: FeatureState,
        profile: Mapping[str, Value],
        context: Mapping[str, Any],
        now: int,
    ) -> Callable[[], Scored] | None:
        """Return what ranks the placement's offers for a customer at `now` (ms); None without a model of accepts."""
        key = (plan.policy.version, placement.placement.name)
        if key not in self._fits:
            if len(self._fits) >= _REMEMBERED:
                self._fits.clear()
            self._fits[key] = self._fit(plan, placement)
        fit = self._fits[key]
        if fit is None:
            return None

        def score() -> Scored:
            inputs = fit.inputs.read(state, profile, context, placement.placement.name, now)
            mean, deviation = fit.head.predict(inputs)
            if fit.known is not None:  # offers that the model has not met yet stand at their priors
                mean = np.where(fit.known, mean, fit.starts[0])
                deviation = np.where(fit.known, deviation, fit.starts[1])
            arbitration = plan.policy.arbitration
            scores = scores_of(mean, arbitration.exploration.alpha * deviation)
            priority, spread = priorities(arbitration.priority, placement.levers, scores)
            return Scored(
                self.version,
                scores,
                priority,
                spread,
                below(priority, arbitration.threshold),
                placement.exploration,
            )

        return score

    def _fit(self, plan: Plan, placement: PlacementPlan) -> _Fit | None:
        model = next((model for model in plan.policy.models if "accept" in model.predicts), None)
        head = self.heads.get(model.name) if model is not None else None
        if model is None or head is None:
            return None
        return _Fit(plan, placement, model, head)


class Models:
    """The models of this process."""

    def __init__(self, store: Store) -> None:
        """Start without any; `follow` or `refresh` brings them."""
        self.store = store
        self.current: Served | None = None
        self._refused = b""

    async def refresh(self) -> bool:
        """Take the store's snapshot if it is another one and good; say whether one was taken."""
        reply = await self.store.connection.call("GET", MODEL_VERSION)
        version = as_bytes(reply) or b""
        if version in (b"", self._refused) or (
            self.current is not None and version == self.current.version.encode()
        ):
            return False
        blob = as_bytes(await self.store.connection.call("GET", MODEL)) or b""
        try:
            snapshot = await asyncio.to_thread(unpack, blob)
        except BadSnapshot as error:
            self._refused = version
            log.critical(
                "the model snapshot %s is refused, the one before it stays: %s", version.decode(), error
            )
            return False
        self.current = Served(snapshot)
        return True

    async def follow(self) -> None:
        """Keep up with what the learner publishes, until cancelled; a store that is away is waited for."""
        while True:
            try:
                await self.refresh()
            except StoreUnavailable:
                log.debug("the store is away: the model stays as it is")
            await asyncio.sleep(FOLLOW_S)
