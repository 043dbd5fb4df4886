"""The learned models as they serve: one immutable snapshot, swapped whole, pinned for the length of a request.

A process that follows the store asks for the version twice a second, and takes a new snapshot only when all of it
is good (G18); until there is one, the marketer's priors rank.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np

from engine.judging.masks import mask_of
from engine.judging.plan import PlacementPlan, Plan
from engine.judging.ranking import Ranking, rank
from engine.judging.scoring import scores_of
from engine.learning.inputs import Inputs
from engine.learning.levers import Levers, compile_head, untried
from engine.learning.outcomes import Head
from engine.learning.snapshot import BadSnapshot, Snapshot, unpack
from engine.store.connection import StoreUnavailable
from engine.store.store import Store, as_bytes
from features.facts import Facts, Value
from features.state import FeatureState
from policies.model import Model

MODEL: Final = "tact:model"
MODEL_VERSION: Final = "tact:model:version"
FOLLOW_S: Final = 0.5
_FITS: Final = 256
_REMEMBERED: Final = 100_000
"""Offers in all rankings that a fit remembers."""
log = logging.getLogger("tact.models")


def profile_of(facts: Facts) -> dict[str, Value]:
    """Return the profile as models read it: what is set, without the time zone."""
    return {
        name: dated.value
        for name, dated in facts.profile.items()
        if dated.value is not None and name != "timezone"
    }


class _Fit:
    """One placement of one policy set beside a snapshot: heads compiled for its offers, and the compiled inputs."""

    def __init__(
        self, plan: Plan, placement: PlacementPlan, model: Model, heads: Mapping[str, Head], version: str
    ) -> None:
        self.plan, self.placement, self.version = plan, placement, version
        places = [plan.snapshot.offers[offer.id] for offer in placement.offers]
        starts = plan.snapshot.mean[places], plan.snapshot.deviation[places]
        offers = [offer.id for offer in placement.offers]
        head = heads[model.head]
        self.head = compile_head(head, offers, starts, plan.policy.arbitration.exploration.alpha)
        new = untried(head, offers)
        self.untried = mask_of(np.flatnonzero(new).tolist()) if new is not None else 0
        self.inputs = Inputs(plan, model)
        self.levers = Levers(plan, placement, heads)
        self.remembered: dict[bytes, Ranking] = {}
        """Rankings by their inputs: visitors of whom nothing is known are many and alike."""

    def ranking(
        self,
        state: FeatureState,
        profile: Mapping[str, Value],
        context: Mapping[str, Any],
        now: int,
        known: Mapping[str, Any],
    ) -> Ranking:
        """Rank the placement's offers for a customer at `now` (ms)."""
        placement = self.placement
        encoded = self.head.encode(
            self.inputs.read(state, profile, context, placement.placement.name, now, known)
        )
        levers = self.levers.encode(state, profile, context, now, known)
        key = encoded.tobytes()
        if levers:
            key += b"".join([vector.tobytes() for vector in levers])
        ranking = self.remembered.get(key)
        if ranking is None:
            scores = scores_of(*self.head.predict(encoded))
            arbitration = self.plan.policy.arbitration
            ranking = rank(
                self.version,
                scores,
                placement.levers,
                arbitration,
                placement.everyone,
                self.levers.read(levers),
                self.untried,
            )
            if len(self.remembered) * len(placement.offers) >= _REMEMBERED:
                self.remembered.clear()
            self.remembered[key] = ranking
        return ranking


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
        known: Mapping[str, Any],
    ) -> Callable[[], Ranking] | None:
        """Return what ranks the placement's offers for a customer at `now` (ms); None without a model of accepts.

        `known` are features that were read at `now` already, by dotted names.
        """
        key = (plan.policy.version, placement.placement.name)
        fit = self._fits[key] if key in self._fits else self.fit(plan, placement)
        if fit is None:
            return None
        return lambda: fit.ranking(state, profile, context, now, known)

    def fit(self, plan: Plan, placement: PlacementPlan) -> _Fit | None:
        """Compile the models for a placement, and remember it."""
        model = plan.policy.model("accept")
        made = None
        if model is not None and model.head in self.heads:
            made = _Fit(plan, placement, model, self.heads, self.version)
        if len(self._fits) >= _FITS:
            self._fits.clear()
        self._fits[plan.policy.version, placement.placement.name] = made
        return made

    def in_use(self) -> list[tuple[Plan, PlacementPlan]]:
        """Return the placements that this snapshot has served."""
        return [(fit.plan, fit.placement) for fit in self._fits.values() if fit is not None]


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
        in_use = self.current.in_use() if self.current is not None else []
        try:
            self.current = await asyncio.to_thread(_ready, blob, in_use)
        except BadSnapshot as error:
            self._refused = version
            log.critical(
                "the model snapshot %s is refused, the one before it stays: %s", version.decode(), error
            )
            return False
        return True

    async def follow(self) -> None:
        """Keep up with what the learner publishes, until cancelled; a store that is away is waited for."""
        while True:
            try:
                await self.refresh()
            except StoreUnavailable:
                log.debug("the store is away: the model stays as it is")
            await asyncio.sleep(FOLLOW_S)


def _ready(blob: bytes, placements: Iterable[tuple[Plan, PlacementPlan]]) -> Served:
    """Unpack a snapshot and compile it for the placements, off the event loop; raises BadSnapshot."""
    served = Served(unpack(blob))
    for plan, placement in placements:
        served.fit(plan, placement)
    return served
