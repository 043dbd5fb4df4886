"""The kinds of features: each turns an event into state, reads a value at a moment, and merges two states.

State is None until an event counts, then lists, dicts, integers, strings and bytes that nobody changes in
place. `fold` and `merge` make the state a function of the set of events: commutative, associative, and
`merge(fold(A), fold(B)) == fold(A + B)`. An event whose property is missing or of a wrong type does
not count.
"""

import hashlib
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol
from zlib import crc32

from features.definition import FeatureDef
from features.distinct import Sketch, estimate, united, with_value
from features.event import Event
from features.state import HASH_BYTES
from features.windows import HALF_LIVES_MAX, UNIT, Decay, Series, Window, added, cut, merged, units

FeatureValue = int | float | str | list[str] | None

TOP_CELLS_MAX: Final = 512
"""`top` keeps this many (half-life, string) pairs: the newest ones, and of the oldest half-life a sample."""
TOP_CHARS_MAX: Final = 256
"""Longer strings are no interests; `top` passes them over."""

Pair = list[Any]


class Kind(Protocol):
    """What a feature does."""

    def fold(self, state: Any, event: Event) -> Any:
        """Return the state with an event in it; the same object if the event does not count."""

    def read(self, state: Any, now: int) -> FeatureValue:
        """Return the value at `now` (ms)."""

    def merge(self, one: Any, two: Any) -> Any:
        """Return the state that the events of both would have made."""


class Count:
    """How many events lie in the window."""

    def __init__(self, definition: FeatureDef) -> None:
        self.window: Final = Window(definition.within_ms)

    def fold(self, state: Series | None, event: Event) -> Series:
        """Add one to the event's bucket."""
        window = self.window
        return added(state, window.index(event.occurred_at), 1, window.limit)

    def read(self, state: Series | None, now: int) -> int:
        """Return the count."""
        return self.window.total(state, now)

    def merge(self, one: Series | None, two: Series | None) -> Series | None:
        """Add bucket by bucket."""
        return merged(one, two, self.window.limit)


class Sum:
    """The sum of a numeric property in the window, exact to 1e-9."""

    def __init__(self, definition: FeatureDef) -> None:
        self.window: Final = Window(definition.within_ms)
        self.property: Final = definition.property

    def fold(self, state: Series | None, event: Event) -> Series | None:
        """Add the property to the event's bucket."""
        value = event.properties.get(self.property)
        if type(value) is not float and type(value) is not int:
            return state
        window = self.window
        return added(state, window.index(event.occurred_at), units(value), window.limit)

    def read(self, state: Series | None, now: int) -> float:
        """Return the sum."""
        return _ratio(self.window.total(state, now), UNIT)

    def merge(self, one: Series | None, two: Series | None) -> Series | None:
        """Add bucket by bucket."""
        return merged(one, two, self.window.limit)


class Mean:
    """The mean of a numeric property in the window; null of nothing. State: [counts, sums]."""

    def __init__(self, definition: FeatureDef) -> None:
        self.window: Final = Window(definition.within_ms)
        self.property: Final = definition.property

    def fold(self, state: Pair | None, event: Event) -> Pair | None:
        """Add one to the counts and the property to the sums."""
        value = event.properties.get(self.property)
        if type(value) is not float and type(value) is not int:
            return state
        window = self.window
        index = window.index(event.occurred_at)
        counts, sums = state or (None, None)
        return [added(counts, index, 1, window.limit), added(sums, index, units(value), window.limit)]

    def read(self, state: Pair | None, now: int) -> float | None:
        """Return the mean, or None."""
        if state is None:
            return None
        count = self.window.total(state[0], now)
        return _ratio(self.window.total(state[1], now), UNIT * count) if count else None

    def merge(self, one: Pair | None, two: Pair | None) -> Pair | None:
        """Add bucket by bucket."""
        return _pairs_merged(one, two, self.window.limit)


class Rate:
    """(hits + prior hits) / (trials + prior trials), hits and trials decayed. State: [hits, trials]."""

    def __init__(self, definition: FeatureDef) -> None:
        self.decay: Final = Decay(definition.half_life_ms)
        self.hits: Final = frozenset(definition.of)
        self.trials: Final = frozenset(definition.per)
        self.prior_hits: Final = definition.prior_hits
        self.prior_trials: Final = definition.prior_trials

    def fold(self, state: Pair | None, event: Event) -> Pair:
        """Add the event's weight to the hits, the trials, or both."""
        decay = self.decay
        index, amount = decay.index(event.occurred_at), decay.amount(event.occurred_at)
        hits, trials = state or (None, None)
        if event.type in self.hits:
            hits = added(hits, index, amount, decay.limit)
        if event.type in self.trials:
            trials = added(trials, index, amount, decay.limit)
        return [hits, trials]

    def read(self, state: Pair | None, now: int) -> float | None:
        """Return the rate; None where there are neither trials nor a prior."""
        hits, trials = self.prior_hits, self.prior_trials
        if state is not None:
            hits += self.decay.total(state[0], now)
            trials += self.decay.total(state[1], now)
        return hits / trials if trials else None

    def merge(self, one: Pair | None, two: Pair | None) -> Pair | None:
        """Add half-life by half-life."""
        return _pairs_merged(one, two, self.decay.limit)


class Since:
    """Seconds since the latest event; null if never. State: its time (ms)."""

    def __init__(self, definition: FeatureDef) -> None:
        self.within: Final = definition.within_ms

    def fold(self, state: int | None, event: Event) -> int:
        """Keep the later time."""
        return event.occurred_at if state is None or event.occurred_at > state else state

    def read(self, state: int | None, now: int) -> float | None:
        """Return the seconds, never below 0; None if never, or not within the window where there is one."""
        if state is None or (self.within and now - state >= self.within):
            return None
        return (now - state) / 1000 if now > state else 0.0

    def merge(self, one: int | None, two: int | None) -> int | None:
        """Keep the later time."""
        return max(one or 0, two or 0) if one is not None or two is not None else None


class Last:
    """The string of the latest event; at one moment the greatest string. State: [time, string]."""

    def __init__(self, definition: FeatureDef) -> None:
        self.within: Final = definition.within_ms
        self.property: Final = definition.property

    def fold(self, state: Pair | None, event: Event) -> Pair | None:
        """Keep the later one."""
        value = event.properties.get(self.property)
        return self.merge(state, [event.occurred_at, value]) if type(value) is str else state

    def read(self, state: Pair | None, now: int) -> str | None:
        """Return the string; None if there is none, or none within the window where there is one."""
        if state is None or (self.within and now - state[0] >= self.within):
            return None
        return str(state[1])

    def merge(self, one: Pair | None, two: Pair | None) -> Pair | None:
        """Keep the later one."""
        if one is None or two is None:
            return one if two is None else two
        return max(one, two)


class Top:
    """The strings that weigh most, decayed. State: string (ascending) to its series of weights.

    Bounded by dropping what is furthest down a fixed order of (half-life, hash of the string): an order that
    does not depend on the counts, so that arrival doesn't matter. Within the newest 512 pairs it is exact.
    """

    def __init__(self, definition: FeatureDef) -> None:
        self.decay: Final = Decay(definition.half_life_ms)
        self.property: Final = definition.property
        self.keep: Final = definition.keep or 1

    def fold(self, state: dict[str, Series] | None, event: Event) -> dict[str, Series] | None:
        """Add the event's weight to its string."""
        value = event.properties.get(self.property)
        if type(value) is not str or len(value) > TOP_CHARS_MAX:
            return state
        decay = self.decay
        index, amount = decay.index(event.occurred_at), decay.amount(event.occurred_at)
        if not state:
            return {value: [index, amount]}
        return _top_trimmed({**state, value: added(state.get(value), index, amount, decay.limit)})

    def read(self, state: dict[str, Series] | None, now: int) -> list[str]:
        """Return the heaviest strings, heaviest first, ties by name."""
        if not state:
            return []
        total = self.decay.total
        ranked = sorted([(-total(series, now), name) for name, series in state.items()])
        return [name for weight, name in ranked[: self.keep] if weight]

    def merge(self, one: dict[str, Series] | None, two: dict[str, Series] | None) -> dict[str, Series] | None:
        """Add string by string."""
        if not one or not two:
            return one or two
        out = dict(one)
        for name, series in two.items():
            out[name] = merged(out.get(name), series, self.decay.limit) or series
        return _top_trimmed(out)


class Distinct:
    """How many different values of a property lie in the window; strings, numbers and booleans count."""

    def __init__(self, definition: FeatureDef) -> None:
        self.window: Final = Window(definition.within_ms)
        self.property: Final = definition.property

    def fold(self, state: Sketch | None, event: Event) -> Sketch | None:
        """Note the value in its latest bucket."""
        text = canonical(event.properties.get(self.property))
        if text is None:
            return state
        key = hashlib.blake2b(text.encode(), digest_size=HASH_BYTES, person=b"tact-distinct").digest()
        window = self.window
        return with_value(state, key, window.index(event.occurred_at), window.limit)

    def read(self, state: Sketch | None, now: int) -> int:
        """Return the count, exact below 4,096, within 5 % beyond."""
        window = self.window
        return estimate(state, (now - window.reach) // window.width, now // window.width)

    def merge(self, one: Sketch | None, two: Sketch | None) -> Sketch | None:
        """Unite the values, each in its latest bucket."""
        return united(one, two, self.window.limit)


KINDS: Final[dict[str, Callable[[FeatureDef], Kind]]] = {
    "count": Count,
    "sum": Sum,
    "mean": Mean,
    "rate": Rate,
    "since": Since,
    "last": Last,
    "top": Top,
    "distinct": Distinct,
}


def canonical(value: object) -> str | None:
    """Return one text for one JSON scalar, None for others; 1 and 1.0 are the same, "1" and true are not."""
    if isinstance(value, str):
        return "s" + value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else None


def _ratio(top: int, bottom: int) -> float:
    """Divide exactly rounded; what no float can hold becomes the greatest one."""
    try:
        return top / bottom
    except OverflowError:
        return sys.float_info.max if top > 0 else -sys.float_info.max


def _pairs_merged(one: Pair | None, two: Pair | None, limit: int) -> Pair | None:
    if one is None or two is None:
        return one if two is None else two
    return [merged(one[0], two[0], limit), merged(one[1], two[1], limit)]


def _top_trimmed(weights: dict[str, Series]) -> dict[str, Series]:
    """Cut to the newest half-lives and at most 512 (half-life, string) pairs; strings ascending."""
    oldest = max([series[0] for series in weights.values()]) - HALF_LIVES_MAX
    out = {name: cut(weights[name], weights[name][0] - oldest + 1) for name in sorted(weights)}
    out = {name: series for name, series in out.items() if len(series) > 1}
    if sum(map(len, out.values())) <= TOP_CELLS_MAX:
        return out
    cells = [
        (-(series[0] - slot), crc32(name.encode()), name)
        for name, series in out.items()
        for slot, value in enumerate(series[1:])
        if value
    ]
    reach: dict[str, int] = {}
    for minus_index, _, name in sorted(cells)[:TOP_CELLS_MAX]:
        reach[name] = out[name][0] + minus_index + 1
    return {name: cut(series, reach[name]) for name, series in out.items() if name in reach}
