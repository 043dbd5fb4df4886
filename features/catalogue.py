"""The catalogue: features.yaml compiled, so that folding and reading cost about a microsecond a feature.

A state belongs to the catalogue of its id; folding or reading it with another is a programmer's error, since
values are told apart by their place only. `migrate` carries a state over to changed definitions.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from features.definition import FeatureDef
from features.event import Event
from features.kinds import KINDS, FeatureValue, Kind
from features.state import FeatureState

_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))


Reader = tuple[str, int, Callable[[Any, int], FeatureValue]]
"""The name of a feature, its place among the values of a state, and what reads a value at a moment (ms)."""


class Catalogue:
    """All features of a policy set; immutable."""

    __slots__ = ("_by_type", "_definitions", "_empty", "_kinds", "_readers", "event_types", "id")

    def __init__(self, definitions: Sequence[FeatureDef]) -> None:
        """Compile the definitions; ValueError if two bear one name."""
        if len({definition.name for definition in definitions}) != len(definitions):
            raise ValueError("two features have the same name")
        kinds: list[Kind] = [KINDS[definition.kind](definition) for definition in definitions]
        by_type: dict[str, list[tuple[int, Callable[[Any, Event], Any]]]] = {}
        for index, definition in enumerate(definitions):
            for type_ in dict.fromkeys((*definition.of, *definition.per)):
                by_type.setdefault(type_, []).append((index, kinds[index].fold))
        self._definitions: Final = {definition.name: definition for definition in definitions}
        self._kinds: Final = tuple(kinds)
        self._by_type: Final = by_type
        self._readers: Final = {
            definition.name: (index, kinds[index].read) for index, definition in enumerate(definitions)
        }
        self._empty: Final = (None,) * len(definitions)
        self.event_types: Final = frozenset(by_type)
        """The event types that feed a feature."""
        self.id: Final = _id(definitions)
        """48 bits that tell which states this catalogue can read; equal for equal names and meanings."""

    def fold(self, state: FeatureState, event: Event) -> FeatureState:
        """Return the state with an event in it; ValueError for a state of another catalogue."""
        values = self.values(state)
        as_of = max(state.as_of, event.occurred_at)
        folds = self._by_type.get(event.type)
        if folds is None:
            return FeatureState(self.id, as_of, values)
        out = list(values)
        for index, fold in folds:
            out[index] = fold(out[index], event)
        return FeatureState(self.id, as_of, tuple(out))

    def read(self, state: FeatureState, names: Iterable[str] | None, now: int) -> dict[str, FeatureValue]:
        """Return the named features (None: all) at `now` (ms).

        KeyError for an unknown name, ValueError for a state of another catalogue.
        """
        values = self.values(state)
        readers = self._readers
        out: dict[str, FeatureValue] = {}
        for name in readers if names is None else names:
            index, read = readers[name]
            out[name] = read(values[index], now)
        return out

    def readers(self, names: Iterable[str]) -> tuple[Reader, ...]:
        """Return what reads the named features, for a caller that reads the same ones over and over."""
        return tuple((name, *self._readers[name]) for name in names)

    def merge(self, one: FeatureState, two: FeatureState) -> FeatureState:
        """Return the state that the events of both would have made; ValueError as in `fold`."""
        pairs = zip(self._kinds, self.values(one), self.values(two), strict=True)
        values = tuple([kind.merge(left, right) for kind, left, right in pairs])
        return FeatureState(self.id, max(one.as_of, two.as_of), values)

    def definition(self, name: str) -> str:
        """Say in words what a feature is, such as "count of page_view within 7d"; KeyError if unknown."""
        return _in_words(self._definitions[name])

    def names(self) -> tuple[str, ...]:
        """Return the names of all features, in order of definition."""
        return tuple(self._definitions)

    def values(self, state: FeatureState) -> tuple[Any, ...]:
        """Return one value a feature, None for what nothing has fed; ValueError as in `fold`."""
        if state.catalogue_id == self.id:
            return state.values
        if state.catalogue_id:
            raise ValueError("the state belongs to another catalogue; migrate it first")
        return self._empty


def migrate(state: FeatureState, old: Catalogue, new: Catalogue) -> FeatureState:
    """Carry a state of `old` over to `new`: features of the same name and meaning go on, others start empty.

    ValueError if the state belongs to neither.
    """
    if state.catalogue_id == new.id:
        return state
    values = dict(zip(old.names(), old.values(state), strict=True))
    meanings = {
        definition.name: _meaning(definition)
        for definition in old._definitions.values()  # noqa: SLF001  # the same module
    }
    return FeatureState(
        new.id,
        state.as_of,
        tuple(
            values[definition.name] if meanings.get(definition.name) == _meaning(definition) else None
            for definition in new._definitions.values()  # noqa: SLF001  # the same module
        ),
    )


def _meaning(definition: FeatureDef) -> tuple[object, ...]:
    """Return what the state of a feature depends on: priors and `keep` matter only when it is read."""
    return (
        definition.kind,
        sorted(set(definition.of)),
        sorted(set(definition.per)),
        definition.property,
        definition.within_ms,
        definition.half_life_ms,
    )


def _id(definitions: Sequence[FeatureDef]) -> int:
    meanings = [(definition.name, _meaning(definition)) for definition in definitions]
    digest = hashlib.blake2b(msgspec.json.encode(meanings), digest_size=6, person=b"tact-catalogue").digest()
    return int.from_bytes(digest) or 1


def _in_words(definition: FeatureDef) -> str:
    of, per = ", ".join(definition.of), ", ".join(definition.per)
    subject = definition.property
    words = {
        "count": f"count of {of}",
        "sum": f"sum of {subject} of {of}",
        "mean": f"mean of {subject} of {of}",
        "rate": f"rate of {of} per {per}",
        "since": f"seconds since {of}",
        "last": f"last {subject} of {of}",
        "top": f"top {definition.keep} of {subject} of {of}",
        "distinct": f"distinct {subject} of {of}",
    }[definition.kind]
    if definition.within_ms:
        words += f" within {_duration(definition.within_ms)}"
    if definition.half_life_ms:
        words += f", half-life {_duration(definition.half_life_ms)}"
    if definition.kind == "rate" and (definition.prior_hits or definition.prior_trials):
        words += f", prior {definition.prior_hits:g} of {definition.prior_trials:g}"
    return words


def _duration(ms: int) -> str:
    for unit, size in _UNITS:
        if ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"
