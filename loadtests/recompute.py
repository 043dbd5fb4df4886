"""Features recomputed plainly from the raw events: the independent side of every comparison.

It shares the definitions with the engine and nothing else: no buckets, no states, floating point as it comes.
A windowed value may hold up to one bucket (1/24 of the window) too much, so the values that are right form a
range: everything between the exact window and one that is a bucket longer.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from features.definition import FeatureDef


class Occurrence(NamedTuple):
    """One raw event."""

    type: str
    at: int
    properties: dict[str, Any]
    event_id: str


def differences(
    definitions: Iterable[FeatureDef], events: Sequence[Occurrence], got: dict[str, Any], now: int
) -> list[str]:
    """Return a sentence for each feature whose value is not right at `now` (ms, give or take a second)."""
    wrong = []
    for definition in definitions:
        value = got[definition.name]
        rights = _rights(definition, events, now)
        # The server reads its clock a moment after we read ours: ages are right within two seconds.
        slack = 2.0 if definition.kind == "since" else 1e-9
        if not any(_same(value, right, slack) for right in rights):
            wrong.append(f"{definition.name} is {value!r}, not {rights[0]!r}")
    return wrong


def _same(value: Any, right: Any, slack: float) -> bool:
    if isinstance(value, float) and isinstance(right, float):
        return math.isclose(value, right, rel_tol=1e-6, abs_tol=slack)
    return bool(value == right)


def _rights(definition: FeatureDef, events: Sequence[Occurrence], now: int) -> list[Any]:
    matching = sorted(
        (e for e in events if e.type in definition.of and e.at <= now + 1000), key=lambda e: -e.at
    )
    if definition.kind == "since":
        return [(now - matching[0].at) / 1000 if matching else None]
    if definition.kind == "rate":
        trials = [e for e in events if e.type in definition.per]
        weigh = [
            sum(2 ** (-(now - e.at) / definition.half_life_ms) for e in part) for part in (matching, trials)
        ]
        return [(weigh[0] + definition.prior_hits) / (weigh[1] + definition.prior_trials)]
    named = [
        (e.at, e.properties[definition.property]) for e in matching if definition.property in e.properties
    ]
    if definition.kind == "last":
        newest = max((at for at, _ in named), default=None)
        return [None] if newest is None else [value for at, value in named if at == newest]
    if definition.kind == "top":
        weights: dict[str, float] = {}
        for at, value in named:
            weights[value] = weights.get(value, 0.0) + 2 ** (-(now - at) / definition.half_life_ms)
        ranked = sorted(weights, key=lambda value: (-round(weights[value], 9), value))
        return [ranked[: definition.keep]]
    times = [e.at for e in matching]
    low = now - definition.within_ms
    cuts = [low, *(at - 1 for at in times if low - definition.within_ms // 24 - 1000 <= at <= low + 1000)]
    return [_window(definition, matching, named, cut) for cut in cuts]


def _window(
    definition: FeatureDef, matching: Sequence[Occurrence], named: Sequence[tuple[int, Any]], cut: int
) -> Any:
    values = [value for at, value in named if at > cut]
    if definition.kind == "count":
        return sum(event.at > cut for event in matching)
    if definition.kind == "distinct":
        return len(set(values))
    if definition.kind == "sum":
        return float(sum(values))
    return sum(values) / len(values) if values else None
