"""What is learned beside the chance of an accept, as the priority reads it: what a yes is worth, and opting out.

`value` is what the model of values expects of this customer, for offers of which it has learned any amount; for the
others the file's. `opt_out` is the chance of the events that the model of opt-outs predicts, once it has learned
anything; before that, and without such a model, 0. Only what the priority reads is worked out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.judging.plan import PlacementPlan, Plan
from engine.judging.scoring import Real
from engine.learning.compiled import CompiledHead
from engine.learning.encoding import Array, Context
from engine.learning.inputs import Inputs
from engine.learning.outcomes import Head, start_of
from engine.learning.river_head import CompiledRiver, RiverHead
from features.facts import Value
from features.state import FeatureState
from policies.model import Role

ROLES: Final[tuple[Role, ...]] = ("value", "opt_out")
"""Roles of models whose predictions the priority may read, by the names of its variables."""
TRIED: Final = 3.0
"""An offer is new until it was shown as often as would bring so many accepts at its start."""


class Compiled(Protocol):
    """A head compiled for the offers of one placement."""

    def encode(self, context: Context) -> Any:
        """Return an array: all that `predict` depends on."""

    def predict(self, encoded: Any) -> tuple[Real, Real]:
        """Return means and deviations of the offers' logits (or values), in their order."""


def compile_head(
    head: Head, offers: Sequence[str], starts: tuple[Array, Array], scale: float = 1.0
) -> Compiled:
    """Compile any head for the offers of one placement; an offer that it has not met stands at its start."""
    if isinstance(head, RiverHead):
        return CompiledRiver(head, offers, starts, scale)
    return CompiledHead(head, offers, starts, scale)


def untried(head: Head, offers: Sequence[str]) -> NDArray[np.bool_] | None:
    """Return which of the offers are too new for anything to be known of them; None where none is."""
    rows = [head.offers.get(offer) for offer in offers]
    wanted = TRIED * (1 + np.exp(-head.start))
    new = np.array([row is None or head.outcomes[row] < wanted[row] for row in rows], dtype=bool)
    return new if new.any() else None


class Levers:
    """The learned levers of one placement of one policy set, compiled from one snapshot."""

    def __init__(self, plan: Plan, placement: PlacementPlan, heads: Mapping[str, Head]) -> None:
        """Compile the heads of the models that the priority reads, where they have learned anything."""
        self._placement = placement
        self._file: Array = placement.levers["value"]
        self._heads: list[tuple[str, Inputs, Compiled, Any]] = []
        """Each variable with its inputs, its head, and for values which offers have one."""
        offers = [offer.id for offer in placement.offers]
        for role in ROLES:
            model = plan.policy.model(role)
            head = heads.get(model.head) if model is not None else None
            if model is None or head is None or not head.outcomes.any():
                continue
            if role not in plan.policy.arbitration.priority.names:
                continue
            start = np.array([start_of(model, offer) for offer in placement.offers], dtype=np.float64)
            known = np.array(
                [offer in head.offers and head.outcomes[head.offers[offer]] > 0 for offer in offers]
            )
            compiled = compile_head(head, offers, (start, np.zeros(len(offers))))
            self._heads.append((role, Inputs(plan, model), compiled, known))

    def encode(
        self,
        state: FeatureState,
        profile: Mapping[str, Value],
        context: Mapping[str, Any],
        now: int,
        known: Mapping[str, Any],
    ) -> list[Any]:
        """Return what the heads see of a customer at `now` (ms), one array each: the same arrays, the same levers."""
        name = self._placement.placement.name
        return [
            compiled.encode(inputs.read(state, profile, context, name, now, known))
            for _, inputs, compiled, _ in self._heads
        ]

    def read(self, encoded: Sequence[Any]) -> dict[str, Array]:
        """Return the levers by variable, over the placement's offers; `encoded` is of `encode`."""
        found: dict[str, Array] = {}
        for (role, _, compiled, known), vector in zip(self._heads, encoded, strict=True):
            mean = np.asarray(compiled.predict(vector)[0], dtype=np.float64)
            if role == "value":
                found[role] = np.where(known, mean, self._file)
            else:
                found[role] = 1 / (1 + np.exp(-np.clip(mean, -30.0, 30.0)))
        return found
