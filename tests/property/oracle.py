"""The oracle: what the contract says of a contact, in plain Python that shares nothing with the governor.

It knows facts and rules as values and one question: does this rule stop this contact at that moment? When a
rule would allow it again is found by asking at every moment at which something could change.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from features.facts import Contact, Facts, Item, Mark
from policies.model import After, Cap, Channel, PolicySet, QuietHours, Suppression, When

DAY_MS = 86_400_000
YEAR_MS = 400 * DAY_MS
"""Quiet hours of several zones that leave no moment free for so long leave none."""
SETTLED_MS = 8 * DAY_MS
"""So long after the last change of a clock, every day has been like the one before."""


class Verdict(NamedTuple):
    """By which rules the contact is stopped, when each would allow it, and when all would."""

    rules: dict[str, int | None]
    eligible_at: int | None


class Situation(NamedTuple):
    """One question; `whiles` says for each `while` rule whether its condition is true (None: unknown)."""

    policy: PolicySet
    facts: Facts
    now: int
    channel: Channel
    item: Item
    whiles: Mapping[str, bool | None]
    zones: tuple[str, ...]


# ---------------------------------------------------------------------- local time


def wall(zone: str, at: int) -> datetime:
    return datetime.fromtimestamp(at // 1000, UTC).astimezone(ZoneInfo(zone))


@lru_cache(maxsize=4096)
def changes(zone: str, year: int) -> tuple[int, ...]:
    """Moments (ms) of a year at which the zone's offset changes."""
    found = []
    at = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())

    def offset(moment: int) -> timedelta | None:
        return wall(zone, moment * 1000).utcoffset()

    while at < end:
        low, high = at, at + 43_200
        if offset(low) != offset(high):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
            found.append(high * 1000)
        at += 43_200
    return tuple(found)


def changes_between(zone: str, start: int, end: int) -> list[int]:
    years = range(wall("UTC", start).year, wall("UTC", end).year + 1)
    return [at for year in years for at in changes(zone, year) if start <= at <= end]


@lru_cache(maxsize=200_000)
def shown_at(zone: str, day: date, minute: int) -> tuple[int, ...]:
    """Moments (ms) at which the zone's clock may show a minute of a day: both passes of a repeated one."""
    naive = datetime(day.year, day.month, day.day, minute // 60, minute % 60)  # noqa: DTZ001  # a wall time
    both = {naive.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC).timestamp() for fold in (0, 1)}
    return tuple(round(at * 1000) for at in sorted(both))


def date_of(zone: str, at: int) -> date:
    """The latest date that the zone has shown up to a moment: a clock set back begins no old day anew."""
    before = [wall(zone, change - 1).date() for change in changes_between(zone, at - 26 * 3_600_000, at)]
    return max([wall(zone, at).date(), *before])


def period_of(zone: str, calendar: str, week_starts: int, at: int) -> date:
    day = date_of(zone, at)
    if calendar == "day":
        return day
    if calendar == "month":
        return date(day.year, day.month, 1)
    while day.weekday() != week_starts:
        day -= timedelta(days=1)
    return day


def is_quiet(zone: str, quiet: QuietHours, at: int) -> bool:
    clock = wall(zone, at)
    minute = clock.hour * 60 + clock.minute
    if quiet.from_min < quiet.to_min:
        return quiet.from_min <= minute < quiet.to_min
    return not quiet.to_min <= minute < quiet.from_min


def local_moments(zone: str, minute: int, start: int, end: int) -> Iterable[int]:
    """Moments in [start, end] at which a minute of the day begins, or at which the clock jumps."""
    yield from changes_between(zone, start, end)
    day = date_of(zone, start - DAY_MS)
    while day <= date_of(zone, end) + timedelta(days=1):
        yield from (at for at in shown_at(zone, day, minute) if start <= at <= end)
        day += timedelta(days=1)


# ---------------------------------------------------------------------- what a rule looks at


def attribute(policy: PolicySet, item: Item, name: str) -> object:
    return policy.offers[item.offer].attributes.get(name) if item.offer in policy.offers else None


def meets(policy: PolicySet, when: When, channel: str, item: Item) -> bool:
    kind = policy.channels[channel].kind
    asked: list[tuple[frozenset[str], str | None]] = [
        (when.kind, kind),
        (when.channel, channel),
        (when.category, item.category),
        (when.offer, item.offer),
    ]
    return all(not wanted or value in wanted for wanted, value in asked) and all(
        attribute(policy, item, name) in wanted for name, wanted in when.attributes
    )


def counted_under(policy: PolicySet, cap: Cap, channel: str, item: Item) -> tuple[object, ...]:
    """The value that a cap counts this item by, alone in a tuple; empty where the cap does not look at it."""
    if policy.channels[channel].kind == "inbound" and not (
        channel in cap.when.channel or "inbound" in cap.when.kind
    ):
        return ()
    if not meets(policy, cap.when, channel, item):
        return ()
    match cap.each:
        case "":
            return ("all",)
        case "offer":
            value: object = item.offer
        case "category":
            value = item.category
        case "channel":
            value = channel
        case _:
            value = attribute(policy, item, cap.each.removeprefix("attribute."))
    return () if value is None else (value,)


def times_of(situation: Situation, cap: Cap, value: object) -> list[int]:
    """When each contact counts that the cap counts under this value; what may still be confirmed counts now."""
    policy, now, found = situation.policy, situation.now, []
    for contact in situation.facts.contacts:
        if not any(
            policy.categories[item.category].counts_toward_caps
            and counted_under(policy, cap, contact.channel, item) == (value,)
            for item in contact.items
        ):
            continue
        if contact.state == "confirmed" and not contact.expires_at > now:
            found.append(contact.at)
        elif contact.state != "released" and now < contact.expires_at:
            found.append(now)
    return found


# ---------------------------------------------------------------------- does it stop at a moment?


def cap_stops(situation: Situation, cap: Cap, times: Sequence[int], at: int) -> bool:
    if cap.gap_ms:
        return any(at - time < cap.gap_ms for time in times)
    if cap.per_ms:
        return sum(at - cap.per_ms < time <= at for time in times) >= cap.max
    assert cap.calendar is not None
    starts = situation.policy.week_starts
    return any(
        sum(
            period_of(zone, cap.calendar, starts, time) == period_of(zone, cap.calendar, starts, at)
            for time in times
        )
        >= cap.max
        for zone in situation.zones
    )


def completing(after: After, marks: Sequence[Mark], offer: str | None) -> list[int]:
    """Times of the events that have enough others within reach before them, themselves included."""
    if after.same_offer and offer is None:
        return []
    times = [
        mark.at
        for mark in marks
        if mark.type == after.event and (not after.same_offer or offer in mark.offers)
    ]
    return [
        at
        for at in times
        if sum(time <= at and (not after.within_ms or time > at - after.within_ms) for time in times)
        >= after.count
    ]


def suppression_stops(rule: Suppression, ends: Sequence[int], at: int) -> bool:
    return any(time <= at < time + rule.for_ms for time in ends)


def quiet_stops(situation: Situation, at: int) -> bool:
    quiet = situation.channel.quiet
    return quiet is not None and any(is_quiet(zone, quiet, at) for zone in situation.zones)


def consent_stop(situation: Situation) -> str | None:
    channel, facts = situation.channel, situation.facts
    if facts.erased_at and channel.kind == "outbound":
        return "erased"
    if channel.consent is None:
        return None
    said = facts.consent[channel.consent].value if channel.consent in facts.consent else "unknown"
    if channel.kind == "inbound":
        return "consent" if said == "denied" else None
    return None if said == "granted" else "consent"


# ---------------------------------------------------------------------- the verdict


class Asked(NamedTuple):
    """One rule that time heals: whether it stops at a moment, and the moments at which that may change."""

    name: str
    stops: "Stops"
    moments: list[int]


class Stops(NamedTuple):
    situation: Situation
    rule: Cap | Suppression | None
    times: list[int]

    def at(self, moment: int) -> bool:
        if self.rule is None:
            return quiet_stops(self.situation, moment)
        if isinstance(self.rule, Cap):
            return cap_stops(self.situation, self.rule, self.times, moment)
        return suppression_stops(self.rule, self.times, moment)


def asked_rules(situation: Situation) -> list[Asked]:
    policy, now = situation.policy, situation.now
    found = []
    for rule in policy.suppressions:
        if rule.after is not None and meets(policy, rule.when, situation.channel.name, situation.item):
            ends = completing(rule.after, situation.facts.marks, situation.item.offer)
            found.append(Asked(rule.name, Stops(situation, rule, ends), [end + rule.for_ms for end in ends]))
    for cap in policy.caps:
        value = counted_under(policy, cap, situation.channel.name, situation.item)
        if value:
            times = times_of(situation, cap, value[0])
            moments = [time + cap.per_ms + cap.gap_ms for time in times]
            if cap.calendar and times:
                reach = {"day": 2, "week": 9, "month": 33}[cap.calendar] * DAY_MS
                moments = [at for zone in situation.zones for at in local_moments(zone, 0, now, now + reach)]
            found.append(Asked(cap.name, Stops(situation, cap, times), moments))
    return found


def first(stops: Iterable[Stops], moments: Iterable[int], start: int) -> int | None:
    """The first moment that no rule stops, among the candidates from `start` on; the one before it is stopped."""
    asked = list(stops)
    for at in sorted({start, *(moment for moment in moments if moment > start)}):
        if not any(stop.at(at) for stop in asked):
            assert at == start or any(stop.at(at - 1) for stop in asked)
            return at
    return None


def quiet_moments(situation: Situation, start: int, last: int) -> list[int]:
    """Moments at which some zone's quiet may end: in all days up to some after `last`, and after later changes."""
    quiet = situation.channel.quiet
    if quiet is None:
        return []
    spans = [(start, last + SETTLED_MS)]
    spans += [
        (change, change + SETTLED_MS)
        for zone in situation.zones
        for change in changes_between(zone, last, last + YEAR_MS)
    ]
    return [
        at
        for begin, end in spans
        for zone in situation.zones
        for at in local_moments(zone, quiet.to_min, begin, end)
    ]


def judge(situation: Situation) -> Verdict:
    """Judge one contact now, and find the first moments at which each rule, and all of them, would allow it."""
    policy, now = situation.policy, situation.now
    if not policy.categories[situation.item.category].obeys_caps:
        return Verdict({}, now)
    rules: dict[str, int | None] = {}
    never = consent_stop(situation)
    if never is not None:
        rules[never] = None
    quiet = Stops(situation, None, [])
    if quiet.at(now):
        rules["quiet_hours"] = first([quiet], quiet_moments(situation, now, now), now)
    for rule in policy.suppressions:
        if (
            rule.while_ is not None
            and meets(policy, rule.when, situation.channel.name, situation.item)
            and situation.whiles[rule.name] is not False
        ):
            rules[rule.name] = None
    asked = asked_rules(situation)
    for one in asked:
        at = first([one.stops], one.moments, now)
        if at != now:
            assert at is not None
            rules[one.name] = at
    if None in rules.values():
        return Verdict(rules, None)
    # Nothing can allow before the last of them does; all of them may first agree later still.
    start = max([now, *(at for at in rules.values() if at is not None)])
    last = max([start, *(moment for one in asked for moment in one.moments)])
    moments = [moment for one in asked for moment in one.moments]
    moments += quiet_moments(situation, start, last)
    return Verdict(rules, first([quiet, *(one.stops for one in asked)], moments, start))


def windows_broken(situation: Situation, cap: Cap, extra: Contact) -> bool:
    """Say whether one more contact puts any window of the cap over its limit, wherever the window lies."""
    item = extra.items[0]
    value = counted_under(situation.policy, cap, extra.channel, item)
    if not value:
        return False
    others = times_of(situation, cap, value[0])
    times, at = [*others, extra.at], extra.at
    if cap.gap_ms:
        return any(abs(time - at) < cap.gap_ms for time in others)
    if cap.per_ms:
        return any(
            sum(end - cap.per_ms < time <= end for time in times) > cap.max
            for end in times
            if at <= end < at + cap.per_ms
        )
    assert cap.calendar is not None
    starts = situation.policy.week_starts
    return any(
        sum(period_of(z, cap.calendar, starts, t) == period_of(z, cap.calendar, starts, at) for t in times)
        > cap.max
        for z in situation.zones
    )
