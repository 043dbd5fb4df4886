"""What a model reads of a decision: features, profile fields and context keys, as they were at that moment.

Serving and learning ask the same compiled reader, so a model learns from exactly what it scored with. The placement
is always among the inputs: how well an offer does depends on where it is shown before it depends on anything else.

Features are read to three significant digits: a model learns nothing from more, and what fades with every millisecond
(`since`, `rate`) then stays the same for minutes, so that serving can remember what it worked out.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import floor, isfinite, log10
from typing import Any, Final

from engine.judging.plan import Plan
from features.facts import Value
from features.state import FeatureState
from policies.model import Model

NOTHING: Final[Mapping[str, Any]] = {}
Context = dict[str, Any]
"""Input name to value: numbers, strings, truths or lists of strings; what is null is left out."""


class Inputs:
    """The inputs of one model under one policy set, compiled."""

    def __init__(self, plan: Plan, model: Model) -> None:
        """Resolve the patterns of `models.yaml` (`features.*`, `profile.tier`, `context.*`)."""
        wanted = model.inputs
        self._catalogue = plan.catalogue
        self._readers = tuple(
            ("features." + name, place, read)
            for name, place, read in plan.catalogue.readers(
                name for name in plan.catalogue.names() if _matches("features." + name, wanted)
            )
        )
        self._defaults = {
            name: default for name, default in plan.defaults.items() if default and _matches(name, wanted)
        }
        self._profile = {
            field: f"profile.{field}" for field in plan.policy.profile if _matches(f"profile.{field}", wanted)
        }
        self._context = tuple(pattern for pattern in wanted if pattern.startswith("context."))
        self._all_context = "context.*" in self._context

    def read(
        self,
        state: FeatureState,
        profile: Mapping[str, Value],
        context: Mapping[str, Any],
        placement: str,
        now: int,
        known: Mapping[str, Any] = NOTHING,
    ) -> Context:
        """Return the inputs at `now` (ms); `state` belongs to the plan's catalogue.

        `known` are features that were read at `now` already, by the same names.
        """
        found: Context = {"placement": placement, **self._defaults}
        held = self._catalogue.values(state)
        for name, place, read in self._readers:
            value = held[place]
            if value is not None:
                seen = known[name] if name in known else read(value, now)
                if type(seen) is float:
                    found[name] = rounded(seen)
                elif seen is not None:
                    found[name] = seen
        for field, name in self._profile.items():
            told = profile.get(field)
            if told is not None:
                found[name] = told
        for key, value in context.items():
            name = "context." + key
            if self._all_context or _matches(name, self._context):
                found[name] = value
        return found


def rounded(number: float) -> float:
    """Return a number to three significant digits."""
    if number == 0.0 or not isfinite(number):
        return number
    return round(number, 2 - floor(log10(abs(number))))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
