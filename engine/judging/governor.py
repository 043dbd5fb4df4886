"""The governor: every rule, once, in plain Python, over facts that it is given.

What holds: a verdict is a function of (rules, facts, values, now). Contacts count by their own times; a live
reservation counts in every window as if it happened now, because it may (G1). Each rule answers one question,
`next_free(t)`: the first moment from t on at which it allows the contact if live reservations are confirmed
now and nothing else happens. A rule stands in the way when that moment is later than now, or never; and the
moment at which *all* rules allow is the fixed point of asking each in turn.

Refused on purpose: per-rule counters (a changed rule would judge a history it never saw), GCRA and fixed
windows (they let twice the limit through at the seams).
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from engine.judging.rules import Counter, Kind, Rules
from features.facts import Contact, Facts, Item, Mark
from policies.calendar import quiet_end_everywhere, quiet_start, window
from policies.conditions import Unknown
from policies.model import Cap, Channel, Suppression

FAR: Final = 1 << 62
"""A moment (ms) that is never reached."""


class Refusal(NamedTuple):
    """One rule that stands in the way."""

    rule: str
    """The rule's name, or consent, quiet_hours, capacity, budget, erased."""
    reason: str
    """The stage: consent, quiet_hours, suppressed, contact_policy, budget, capacity."""
    eligible_at: int | None
    """First moment (ms) at which this rule alone would allow it; None when no time heals it."""
    details: str = ""
    """The purpose of a consent, or the name that was null in a condition."""


_BY_CAP: Final = itemgetter(0)
NextFree = Callable[[int], int | None]


class Standing:
    """Where one customer stands at one moment with all rules; asked for items, channels and offers.

    `excluding` names a reservation that is not counted: its own confirm must not stand in its own way.
    """

    def __init__(
        self, rules: Rules, facts: Facts, values: Mapping[str, Any], now: int, *, excluding: str = ""
    ) -> None:
        """Gather the counted times of every rule; `now` in ms, `values` by dotted names for `while`."""
        self.rules = rules
        self.facts = facts
        self.values = values
        self.now = now
        zone = facts.timezone()
        self.zones: tuple[str, ...] = (zone,) if zone is not None else rules.policy.timezones
        self.excluding = excluding
        self._times = counted_times(rules, facts.contacts, now, excluding)
        self._blocks: dict[tuple[int, str | None], tuple[tuple[int, int], ...]] = {}

    # ------------------------------------------------------------------ caps and gaps

    def cap_free(self, counter: Counter, at: int) -> int:
        """Return the first moment (ms) from `at` on at which the cap of this count has room for one more."""
        times = self._times.get(counter)
        if times is None:
            return at
        cap = self.rules.caps[counter[0]]
        return cap_next_free(cap, times, at, self.zones, self.rules.policy.week_starts)

    def counted_around(self, at: int) -> dict[Counter, list[int]]:
        """Return the ascending times (ms) of every count that a window holding the moment `at` may see."""
        return counted_times(self.rules, self.facts.contacts, self.now, self.excluding, back_from=at)

    def counted(self) -> list[Counter]:
        """Return the counts that hold anything, in the order of the caps."""
        return sorted(self._times, key=_BY_CAP)

    # ------------------------------------------------------------------ suppressions

    def suppression_free(self, index: int, offer: str | None, at: int) -> int | None:
        """Return the first moment (ms) from `at` on outside of suppression `index`; None for a `while`."""
        suppression = self.rules.suppressions[index]
        if suppression.while_ is not None:
            return None if self.while_holds(suppression)[0] else at
        for start, end in self.suppression_blocks(index, offer):
            if start <= at < end:
                at = end
        return at

    def suppression_blocks(self, index: int, offer: str | None) -> tuple[tuple[int, int], ...]:
        """Return the blocked intervals [start, end) of suppression `index`, by start (ms)."""
        suppression = self.rules.suppressions[index]
        after = suppression.after
        if after is None:
            return ()
        named = offer if after.same_offer else None
        if after.same_offer and offer is None:
            return ()
        key = (index, named)
        known = self._blocks.get(key)
        if known is None:
            known = self._blocks[key] = blocked_intervals(suppression, self.facts.marks, named)
        return known

    def named_offers(self, index: int) -> set[str]:
        """Return the offers that the events of a `same: offer` suppression named."""
        after = self.rules.suppressions[index].after
        if after is None or not after.same_offer:
            return set()
        return {offer for mark in self.facts.marks if mark.type == after.event for offer in mark.offers}

    def while_holds(self, suppression: Suppression) -> tuple[bool, str]:
        """Say whether a `while` condition holds; what cannot be known holds, and the null is named."""
        assert suppression.while_ is not None  # noqa: S101  # callers asked before
        try:
            return suppression.while_.evaluate(self.values), ""
        except Unknown as unknown:
            return True, unknown.name

    # ------------------------------------------------------------------ channel: consent and quiet hours

    def consent_refusal(self, channel: Channel) -> Refusal | None:
        """Judge erasure and consent: outbound needs "granted", inbound is stopped only by "denied"."""
        if self.facts.erased_at and channel.kind == "outbound":
            return Refusal("erased", "suppressed", None)
        if channel.consent is None:
            return None
        dated = self.facts.consent.get(channel.consent)
        value = dated.value if dated is not None else None
        stopped = value == "denied" if channel.kind == "inbound" else value != "granted"
        return Refusal("consent", "consent", None, channel.consent) if stopped else None

    def quiet_free(self, channel: Channel, at: int) -> int | None:
        """Return the first moment (ms) from `at` on at which the channel is not quiet for this customer."""
        return at if channel.quiet is None else quiet_end_everywhere(self.zones, channel.quiet, at)

    def quiet_next(self, channel: Channel) -> int:
        """Return the next moment (ms) at which the channel falls quiet; FAR when it never does."""
        if channel.quiet is None:
            return FAR
        return min(quiet_start(zone, channel.quiet, self.now) for zone in self.zones)

    # ------------------------------------------------------------------ one item

    def refusals(self, channel: Channel, item: Item, *, sending_only: bool = False) -> list[Refusal]:
        """Return every rule that stops this item on this channel now, in the order of the stages.

        `sending_only` leaves caps and gaps out: the confirm of a live reservation, which counted already.
        """
        if not self.rules.obeys(item):
            return []
        found = []
        consent = self.consent_refusal(channel)
        if consent is not None:
            found.append(consent)
        quiet = self.quiet_free(channel, self.now)
        if quiet != self.now:
            found.append(Refusal("quiet_hours", "quiet_hours", quiet))
        looks = self.rules.looks(channel.name, item)
        for index in looks.suppressions:
            free = self.suppression_free(index, item.offer, self.now)
            if free != self.now:
                suppression = self.rules.suppressions[index]
                null = self.while_holds(suppression)[1] if suppression.while_ is not None else ""
                found.append(Refusal(suppression.name, "suppressed", free, null))
        if not sending_only:
            for counter in looks.caps:
                free = self.cap_free(counter, self.now)
                if free != self.now:
                    found.append(Refusal(self.rules.caps[counter[0]].name, "contact_policy", free))
        return found

    def eligible_at(self, channel: Channel, item: Item, *, extra: Sequence[NextFree] = ()) -> int | None:
        """Return the first moment (ms) at which all rules allow the item at once; None when none does.

        `extra` are further rules that know their own next free moment (budget, capacity).
        """
        asks: list[NextFree] = list(extra)
        if self.rules.obeys(item):
            if self.consent_refusal(channel) is not None:
                return None
            asks.append(lambda at: self.quiet_free(channel, at))
            looks = self.rules.looks(channel.name, item)
            asks += [
                lambda at, index=index: self.suppression_free(index, item.offer, at)  # type: ignore[misc]
                for index in looks.suppressions
            ]
            asks += [
                lambda at, counter=counter: self.cap_free(counter, at)  # type: ignore[misc]
                for counter in looks.caps
            ]
        return first_free(asks, self.now)

    def yes_until(self, channel: Channel, items: Sequence[Item]) -> int:
        """Return the moment (ms) at which a yes given now could turn into a no by time alone; FAR if never.

        Caps only relax as time passes; quiet hours begin, and so do blocks of events dated ahead of now.
        """
        obeying = [item for item in items if self.rules.obeys(item)]
        if not obeying:
            return FAR
        until = self.quiet_next(channel)
        for item in obeying:
            for index in self.rules.looks(channel.name, item).suppressions:
                for start, _ in self.suppression_blocks(index, item.offer):
                    if start > self.now:
                        until = min(until, start)
        return until


def first_free(asks: Sequence[NextFree], now: int) -> int | None:
    """Return the first moment (ms) from `now` on at which every rule is free; None when there is none."""
    at = now
    while True:
        before = at
        for ask in asks:
            later = ask(at)
            if later is None:
                return None
            at = later
        if at == before:
            return at
        if at - now > FAR >> 8:
            return None


def counted_times(
    rules: Rules, contacts: Sequence[Contact], now: int, excluding: str = "", *, back_from: int | None = None
) -> dict[Counter, list[int]]:
    """Return the ascending times (ms) that each count holds; a live reservation's time is now.

    So is that of a contact which stands for one that another customer may still confirm (`ledger.presumed`).
    Contacts that no window reaching back from `back_from` (ms; now, unless it is earlier) may see are left out.
    """
    horizon = (now if back_from is None else min(now, back_from)) - rules.looks_back_ms
    kinds: dict[Kind, tuple[list[int], list[int]]] = {}
    channel: str = ""
    items: tuple[Item, ...] | None = None
    happened: list[int] = []
    live: list[int] = []
    for contact in contacts:
        at = contact.at
        if at <= horizon or contact.uid == excluding:
            continue
        if (
            contact.items is not items or contact.channel != channel
        ):  # neighbours of one kind share their items
            channel, items = contact.channel, contact.items
            happened, live = kinds.setdefault((channel, items), ([], []))
        if contact.state == "confirmed" and contact.expires_at <= now:
            happened.append(at)
        elif contact.state != "released" and now < contact.expires_at:
            live.append(now)
    times: dict[Counter, list[int]] = {}
    for kind, (happened, live) in kinds.items():
        place = bisect_right(happened, now) if live else 0
        happened[place:place] = live
        for key in rules.counters(kind) if happened else ():
            others = times.get(key)
            times[key] = happened if others is None else sorted(others + happened)
    return times


def cap_next_free(cap: Cap, times: Sequence[int], at: int, zones: tuple[str, ...], week_starts: int) -> int:
    """Return the first moment (ms) from `at` on at which the cap has room, given its ascending times."""
    if cap.gap_ms:
        return max(at, times[-1] + cap.gap_ms)
    if len(times) < cap.max:  # too few for any window
        return at
    if cap.per_ms:
        return max(at, times[-cap.max] + cap.per_ms)
    assert cap.calendar is not None  # noqa: S101  # the loader lets exactly one of the three through
    while True:
        free = at
        for zone in zones:
            start, end = window(zone, cap.calendar, week_starts, free)
            while bisect_right(times, end - 1) - bisect_right(times, start - 1) >= cap.max:
                free = end
                start, end = window(zone, cap.calendar, week_starts, free)
        if free == at:
            return at
        at = free


def blocked_intervals(
    suppression: Suppression, marks: Sequence[Mark], offer: str | None
) -> tuple[tuple[int, int], ...]:
    """Return [start, end) in ms of each block: one from every event that completes the count.

    `offer` restricts the events to those that named it (`same: offer`); None takes all.
    """
    after = suppression.after
    assert after is not None  # noqa: S101  # only `after` rules have intervals
    times = [
        mark.at for mark in marks if mark.type == after.event and (offer is None or offer in mark.offers)
    ]
    blocks = []
    for at in times:
        earliest = bisect_right(times, at - after.within_ms) if after.within_ms else 0
        if bisect_right(times, at) - earliest >= after.count:
            blocks.append((at, at + suppression.for_ms))
    return tuple(blocks)
