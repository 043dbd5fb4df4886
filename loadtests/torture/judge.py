"""An independent judge: plain Python over facts and acknowledgements, sharing no code with the engine.

It rebuilds one customer's history from the facts and from what clients were told: every reservation with the
moment it was made, every end, in the order of the store's time. Then it looks at windows by their definition, by
counting what is in them, never by a formula for when they are free.

A refusal is true if some state that the server may have seen between sending and answer explains it: a prefix of
the history that holds everything acknowledged before the request was sent and nothing made after it was
answered, at a moment between the two. Its `eligible_at` is true if the rule is free at that moment, and blocked
one millisecond before it, with live reservations taken as confirmed at the moment of the judgement.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

HOUR_MS = 3_600_000
FOREVER = 1 << 60


class Rule(NamedTuple):
    """One rule as its author means it; times in ms. `day` counts by the calendar day of the customer's zone."""

    name: str
    max: int = 1
    per: int = 0
    gap: int = 0
    day: bool = False
    each_offer: bool = False
    channels: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    after: str = ""
    lasts: int = 0

    def sees(self, channel: str, category: str) -> bool:
        """Say whether the rule looks at such a message."""
        return (not self.channels or channel in self.channels) and (
            not self.categories or category in self.categories
        )


class Item(NamedTuple):
    """What a message is about."""

    offer: str
    category: str


@dataclass(slots=True)
class Held:
    """One contact of a customer, from the facts and the acknowledgements. Moments in ms; FOREVER: not yet."""

    contact_id: str
    channel: str
    items: tuple[Item, ...]
    made: int
    expires: int
    confirmed: int = FOREVER
    released: int = FOREVER
    made_known: int = FOREVER
    """When an answer first told of it."""
    end_known: int = FOREVER

    def live(self, at: int) -> bool:
        """Say whether it is a live reservation at a moment."""
        return self.made <= at < min(self.expires, self.confirmed, self.released)


class Change(NamedTuple):
    """One change of a customer's facts: when it was judged, by when it was surely written, and what it did."""

    at: int
    known: int
    held: Held
    ends: bool


@dataclass(slots=True)
class State:
    """What the server may have seen: a history up to a change, some events, and a moment."""

    history: "History"
    changes: int
    marks: int
    now: int
    extra: tuple[Held, ...] = ()
    """Contacts taken earlier in the same call."""
    excluding: str = ""


@dataclass(slots=True)
class History:
    """Everything that happened to one customer."""

    rules: tuple[Rule, ...]
    zone: str
    held: list[Held]
    marks: list[tuple[int, int, str]] = field(default_factory=list)
    """(moment, surely known since, type) of each event, ascending."""
    changes: list[Change] = field(default_factory=list)
    _confirmed: dict[tuple[int, str], list[tuple[int, int]]] = field(default_factory=dict)
    _made: list[tuple[int, int, int, Held]] = field(default_factory=list)
    _longest: int = 0

    def __post_init__(self) -> None:
        """Order the changes and file every contact under the rules that count it."""
        for held in self.held:
            self.changes.append(Change(held.made, held.made_known, held, ends=False))
            end = min(held.confirmed, held.released)
            if end != FOREVER:
                self.changes.append(Change(end, held.end_known, held, ends=True))
        # Of one moment, what was acknowledged first was written first; what a contact is made by comes first.
        self.changes.sort(key=lambda change: (change.at, change.ends, change.known))
        ended: dict[str, int] = {}
        for index, change in enumerate(self.changes):
            if change.ends:
                ended[change.held.contact_id] = index
                if change.held.confirmed != FOREVER:
                    for key in self.counters(change.held):
                        self._confirmed.setdefault(key, []).append((change.at, index))
        for index, change in enumerate(self.changes):
            if not change.ends:
                gone = ended.get(change.held.contact_id, FOREVER)
                self._made.append((change.at, index, gone, change.held))
        self._longest = max((held.expires - held.made for held in self.held), default=0)

    def counters(self, held: Held) -> set[tuple[int, str]]:
        """Return every count that the contact adds one to."""
        return {
            (index, item.offer if rule.each_offer else "")
            for index, rule in enumerate(self.rules)
            if not rule.after
            for item in held.items
            if rule.sees(held.channel, item.category)
        }

    # ------------------------------------------------------------------ what a state says

    def live(self, state: State) -> list[Held]:
        """Return the live reservations of a state."""
        found = []
        at = bisect_left(self._made, (state.now + 1, -1))
        while at > 0:
            at -= 1
            made, index, gone, held = self._made[at]
            if made + self._longest <= state.now:
                break
            if index < state.changes <= gone and state.now < held.expires:
                found.append(held)
        return [*(held for held in found if held.contact_id != state.excluding), *state.extra]

    def blocked(self, state: State, live: Sequence[Held], channel: str, item: Item, at: int) -> set[str]:
        """Return the rules that stop the message at `at`, if the live ones are confirmed at the state's moment."""
        found = set()
        for index, rule in enumerate(self.rules):
            if not rule.sees(channel, item.category):
                continue
            if rule.after:
                marks = self.marks[: state.marks]
                if any(kind == rule.after and mark <= at < mark + rule.lasts for mark, _, kind in marks):
                    found.add(rule.name)
                continue
            key = (index, item.offer if rule.each_offer else "")
            start, end = self._window(rule, at)
            count = self._count(key, start, end, state)
            if start <= state.now < end:
                count += sum(key in self.counters(held) for held in live)
            if count >= rule.max:
                found.add(rule.name)
        return found

    def _window(self, rule: Rule, at: int) -> tuple[int, int]:
        """Return [start, end) of the window that a contact at `at` would be in."""
        if rule.day:
            return local_day(self.zone, at)
        return at - (rule.gap or rule.per) + 1, at + 1

    def _count(self, key: tuple[int, str], start: int, end: int, state: State) -> int:
        times = self._confirmed.get(key, [])
        low, high = bisect_left(times, (start, -1)), bisect_left(times, (end, -1))
        # Later changes are later in time as well, so what the state does not hold yet stands at the end.
        while high > low and times[high - 1][1] >= state.changes:
            high -= 1
        return max(0, high - low)

    # ------------------------------------------------------------------ which states there may have been

    def states(
        self,
        sent: int,
        answered: int,
        hints: Iterable[int] = (),
        extra: tuple[Held, ...] = (),
        *,
        excluding: str = "",
        before: str = "",
        ending: bool = False,
    ) -> Iterator[State]:
        """Yield the states that a request sent and answered then may have been judged on.

        `hints` are moments to try first; `before` names a contact that the request itself made (or ended, with
        `ending`): the state is the one that this was done on. What happened at the very same moment may have been
        written before it or after it.
        """
        first = bisect_left(self.changes, sent - 5_000, key=lambda change: change.at)
        last = bisect_right(self.changes, answered, key=lambda change: change.at)
        low = first
        for index in range(first, last):
            if self.changes[index].known < sent:
                low = index + 1
        if before:
            places = range(first, last)
            own = next((i for i in places if self._is(i, before, ending=ending)), -1)
            if own < 0:
                return  # made outside of its own request, which is told elsewhere
            low, last = min(low, own), own
            moment = self.changes[own].at
            while low > first and self.changes[low - 1].at == moment:
                low -= 1
            ties = bisect_right(self.changes, moment, key=lambda change: change.at)
            for changes in range(own + 2, ties + 1):
                yield State(self, changes, len(self.marks), moment, extra, excluding or before)
        marks_low = sum(known < sent for _, known, _ in self.marks)
        marks_high = sum(mark <= answered for mark, _, _ in self.marks)
        for changes in range(last, low - 1, -1):
            start = max(sent, self.changes[changes - 1].at if changes else 0)
            end = answered
            for later in self.changes[changes:last]:
                end = min(end, max(later.known, start))
            moments = dict.fromkeys(
                at for at in (*hints, start, end, *self._edges(changes, start, end)) if start <= at <= end
            )
            for marks in range(marks_high, min(marks_low, marks_high) - 1, -1):
                for now in moments:
                    yield State(self, changes, marks, now, extra, excluding)

    def _is(self, index: int, contact_id: str, *, ending: bool) -> bool:
        change = self.changes[index]
        return change.held.contact_id == contact_id and change.ends == ending

    def _edges(self, changes: int, start: int, end: int) -> Iterator[int]:
        """Yield the moments between two at which a state changes by time alone."""
        if end - start <= 4:
            yield from range(start, end + 1)
            return
        yield (start + end) // 2
        at = bisect_left(self._made, (end + 1, -1))
        while at > 0 and self._made[at - 1][0] + self._longest > start:
            at -= 1
            if start < self._made[at][3].expires <= end:
                yield self._made[at][3].expires
                yield self._made[at][3].expires - 1
        spans = {rule.gap or rule.per for rule in self.rules if not (rule.day or rule.after)}
        for span in spans:
            low = bisect_left(self.changes, start - span, key=lambda change: change.at)
            for change in self.changes[low:changes]:
                if change.at + span > end:
                    break
                if change.ends and change.held.confirmed != FOREVER:
                    yield change.at + span
                    yield change.at + span - 1
        for mark, _, kind in self.marks:
            for rule in self.rules:
                if rule.after == kind and start <= mark + rule.lasts <= end:
                    yield mark + rule.lasts
                    yield mark + rule.lasts - 1

    # ------------------------------------------------------------------ verdicts

    def explains(
        self, state: State, channel: str, item: Item, reasons: Mapping[str, int], eligible_at: int | None
    ) -> bool:
        """Say whether a state leads to exactly this answer: these rules, each free then and not before."""
        live = self.live(state)
        found = self.blocked(state, live, channel, item, state.now)
        if found != reasons.keys():
            return False
        if not reasons:
            return True
        for rule, free in reasons.items():
            if free <= state.now or rule in self.blocked(state, live, channel, item, free):
                return False
            if rule not in self.blocked(state, live, channel, item, free - 1):
                return False
        if eligible_at is None:
            return False
        return not self.blocked(state, live, channel, item, eligible_at) and bool(
            self.blocked(state, live, channel, item, eligible_at - 1)
        )

    def breaches(self, only: Collection[int] | None = None) -> Iterator[str]:
        """Yield every moment at which a rule held more than its limit: confirmed ones and live ones together.

        `only` restricts the look to some moments (ms). A count rises only when a contact is made or confirmed
        late, so these moments are all that need a look.
        """
        for index, rule in enumerate(self.rules):
            if rule.after:
                continue
            keys = {key for held in self.held for key in self.counters(held) if key[0] == index}
            for key in sorted(keys):
                counted = [held for held in self.held if key in self.counters(held)]
                times = sorted(held.confirmed for held in counted if held.confirmed != FOREVER)
                made = sorted(counted, key=lambda held: held.made)
                longest = max(held.expires - held.made for held in counted)
                starts = [held.made for held in made]
                moments: list[int] = []
                for held in counted:
                    for at in (held.made, held.confirmed):
                        if at != FOREVER:
                            insort(moments, at)
                for at in dict.fromkeys(moments):
                    if only is not None and at not in only:
                        continue
                    start, end = self._window(rule, at)
                    count = bisect_left(times, min(end, at + 1)) - bisect_left(times, start)
                    near = made[bisect_left(starts, at - longest) : bisect_right(starts, at)]
                    live = sum(held.live(at) for held in near)
                    if count + live > rule.max:
                        yield (
                            f"{rule.name} {key[1]} held {count} confirmed and {live} live at {at}, "
                            f"its limit is {rule.max}"
                        )


@lru_cache(maxsize=4096)
def _day(zone: str, hour: int) -> tuple[int, int]:
    """Return [start, end) of the local day that holds the middle of an hour since the epoch."""
    local = datetime.fromtimestamp(hour * 3600 + 1, UTC).astimezone(ZoneInfo(zone))
    start = datetime(local.year, local.month, local.day, tzinfo=ZoneInfo(zone))
    end = start + timedelta(days=1)
    return round(start.timestamp() * 1000), round(end.timestamp() * 1000)


def local_day(zone: str, at: int) -> tuple[int, int]:
    """Return [start, end) in ms of the local day; for zones whose midnights fall on whole quarter hours."""
    start, end = _day(zone, at // HOUR_MS)
    if start <= at < end:
        return start, end
    return _day(zone, at // HOUR_MS + 1) if at >= end else _day(zone, at // HOUR_MS - 1)
