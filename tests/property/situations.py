"""Situations for judging: small policy sets and facts, drawn so that they sit on the edges of rules."""

from datetime import UTC, datetime
from random import Random

from features.facts import Contact, Dated, Facts, Item, Mark, State
from policies.calendar import day_start, local_date
from policies.conditions import compile_condition, compile_priority
from policies.model import (
    After,
    Arbitration,
    Attribution,
    Cap,
    Category,
    Channel,
    Groups,
    Keep,
    Kind,
    Offer,
    PolicySet,
    QuietHours,
    Suppression,
    When,
)
from tests.property.oracle import Situation

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
NIGHTS = {
    "Europe/London": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "America/St_Johns": ("2010-11-07T02:31", "2010-03-14T03:31", "2026-11-01T04:30"),
    "Australia/Lord_Howe": ("2026-04-04T15:00", "2026-10-03T15:30"),
    "Pacific/Apia": ("2011-12-30T10:00", "2011-12-31T10:00"),
    "America/Sao_Paulo": ("2018-11-04T03:00", "2018-02-18T02:00"),
    "America/Havana": ("2026-11-01T05:00", "2026-03-08T05:00"),
    "Australia/Sydney": ("2026-10-03T16:00", "2026-04-04T16:00"),
    "Asia/Tokyo": ("2026-11-21T15:00",),
    "UTC": ("2026-02-28T23:59", "2026-12-31T23:59"),
}
LISTS = (
    ("Europe/London",),
    ("Europe/London", "America/New_York"),
    ("Pacific/Apia", "America/St_Johns"),
    ("Europe/London", "Australia/Sydney"),
    ("Asia/Tokyo", "America/Sao_Paulo", "Europe/London"),
)
CHANNELS = ("email", "sms", "web", "till")
CATEGORIES = {
    "promotion": Category("promotion"),
    "service": Category("service"),
    "uncounted": Category("uncounted", counts_toward_caps=False),
    "free": Category("free", obeys_caps=False),
    "transactional": Category("transactional", obeys_caps=False, counts_toward_caps=False),
}
OFFERS = {
    offer.id: offer
    for offer in (
        Offer("boots", "promotion", (), attributes={"line": "shoes", "sale": True}),
        Offer("socks", "promotion", (), attributes={"line": "shoes", "sale": False}),
        Offer("coat", "promotion", (), attributes={"line": "coats"}),
        Offer("help", "service", ()),
        Offer("news", "uncounted", (), attributes={"line": "coats"}),
        Offer("receipt", "transactional", ()),
        Offer("recall", "free", (), attributes={"line": "shoes"}),
    )
}
ITEMS = (
    *(Item(offer.id, offer.category) for offer in OFFERS.values()),
    Item(None, "promotion"),
    Item(None, "service"),
)
COMMON_ITEMS = (*ITEMS[:4], Item(None, "promotion"))
EVENTS = ("complaint", "reject")
CONDITION = compile_condition("profile.vip", {"profile.vip": "bool"})


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def some_when(random: Random) -> When:
    parts = random.sample(
        ("kind", "channel", "category", "offer", "line", "sale"), random.choice([0, 1, 1, 1, 2])
    )
    line = ("line", frozenset(random.sample(("shoes", "coats"), random.choice([1, 1, 2]))))
    return When(
        kind=frozenset({random.choice(("outbound", "outbound", "inbound"))} if "kind" in parts else ()),
        channel=frozenset(random.sample(CHANNELS, random.choice([1, 1, 2])) if "channel" in parts else ()),
        category=frozenset(random.sample(sorted(CATEGORIES), 2) if "category" in parts else ()),
        offer=frozenset(random.sample(sorted(OFFERS), 2) if "offer" in parts else ()),
        attributes=(
            *([line] if "line" in parts else ()),
            *([("sale", frozenset({True}))] if "sale" in parts else ()),
        ),
    )


def some_cap(random: Random, number: int) -> Cap:
    each = random.choice(("", "", "", "offer", "category", "channel", "attribute.line"))
    name, when = f"cap-{number}", some_when(random)
    match random.randrange(4):
        case 0:
            return Cap(name, when, gap_ms=random.choice((MINUTE_MS, 4 * HOUR_MS, DAY_MS)), each=each)
        case 1 | 2:
            per = random.choice((HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS))
            return Cap(name, when, max=random.choice((1, 1, 2, 3)), per_ms=per, each=each)
        case _:
            calendar = random.choice(("day", "day", "week", "month"))
            return Cap(name, when, max=random.choice((1, 1, 2, 3)), calendar=calendar, each=each)  # type: ignore[arg-type]


def some_suppression(random: Random, number: int) -> Suppression:
    name, when = f"suppression-{number}", some_when(random)
    if random.random() < 0.2:
        return Suppression(name, when, while_=CONDITION)
    count = random.choice((1, 1, 2, 3))
    after = After(
        random.choice(EVENTS),
        same_offer=random.random() < 0.5,
        count=count,
        within_ms=random.choice((0, HOUR_MS, 14 * DAY_MS)),
    )
    return Suppression(name, when, after=after, for_ms=random.choice((HOUR_MS, 7 * DAY_MS, 30 * DAY_MS)))


def some_channel(random: Random, name: str, kind: Kind) -> Channel:
    start = random.choice((0, 30, 60, 90, 120, 150, 1200, 1260, 1320, 1410))
    length = random.choice((30, 60, 120, 660, 780, 1380))
    return Channel(
        name,
        kind,
        consent=random.choice((None, "marketing")),
        quiet=QuietHours(start, (start + length) % 1440) if random.random() < 0.5 else None,
    )


def some_policy(random: Random) -> PolicySet:
    kinds: dict[str, Kind] = {"email": "outbound", "sms": "outbound", "web": "inbound", "till": "inbound"}
    return PolicySet(
        version="sha256:0",
        name="drawn",
        timezones=random.choice(LISTS),
        currency="GBP",
        week_starts=random.randrange(7),
        groups=Groups(),
        arbitration=Arbitration(compile_priority("propensity")),
        attribution=Attribution(),
        keep=Keep(),
        channels={name: some_channel(random, name, kind) for name, kind in kinds.items()},
        placements={},
        categories=CATEGORIES,
        offers=OFFERS,
        caps=tuple(some_cap(random, number) for number in range(random.choice((1, 2, 3, 5)))),
        suppressions=tuple(some_suppression(random, number) for number in range(random.choice((0, 1, 2)))),
    )


def some_now(random: Random, zone: str) -> int:
    """Mostly near a clock change of the zone, or a midnight, on or beside a whole minute."""
    change = ms(random.choice(NIGHTS[zone]))
    shift = random.choice(
        (0, 0, 30 * MINUTE_MS, HOUR_MS, -HOUR_MS, 5 * HOUR_MS, random.randrange(-3, 3) * DAY_MS)
    )
    return (
        change
        + shift
        + random.randrange(-90, 90) * MINUTE_MS * random.choice((0, 1))
        + random.choice((-1, 0, 1))
    )


def some_past(random: Random, policy: PolicySet, zone: str, now: int) -> int:
    """A moment up to now at which some rule changes its mind: a duration ago or a local midnight, 1 ms aside."""
    ago = [cap.per_ms + cap.gap_ms for cap in policy.caps if not cap.calendar]
    ago += [rule.for_ms for rule in policy.suppressions if rule.after]
    ago += [rule.after.within_ms for rule in policy.suppressions if rule.after]
    if random.random() < 0.4:
        day = local_date(zone, now - random.choice((0, 0, 1, 6, 7, 30)) * DAY_MS)
        at = day_start(zone, day)
    elif random.random() < 0.6:
        at = now - random.choice([0, *ago])
    else:
        at = now - random.randrange(40 * DAY_MS)
    return min(now, at + random.choice((-1, 0, 1, 1)))


def some_contact(random: Random, policy: PolicySet, zone: str, now: int, number: int) -> Contact:
    items = tuple(
        random.sample(COMMON_ITEMS if random.random() < 0.8 else ITEMS, random.choice((1, 1, 1, 2)))
    )
    state: State = random.choice(("confirmed", "confirmed", "confirmed", "reserved", "released"))
    at = some_past(random, policy, zone, now)
    expires_at = 0
    if state == "reserved":
        at, expires_at = now - random.randrange(30 * MINUTE_MS), now + random.choice((-1, 0, 1, MINUTE_MS))
    elif state == "confirmed" and random.random() < 0.1:
        # As an unlink copies a live reservation: it may be sent up to its last moment.
        expires_at = now + random.choice((-DAY_MS, -1, 0, 1, MINUTE_MS, DAY_MS))
        at = expires_at - 1
    return Contact(f"u{number}", at, random.choice(CHANNELS), items, state, expires_at)


def some_situation(random: Random) -> Situation:
    """Draw a whole situation; the facts are in the order that the ledger keeps."""
    policy = some_policy(random)
    zone = random.choice((None, *NIGHTS))
    now = some_now(random, zone or random.choice(policy.timezones))
    zones = (zone,) if zone is not None else policy.timezones
    contacts = [some_contact(random, policy, zones[0], now, n) for n in range(random.choice((0, 1, 2, 4, 7)))]
    marks = []
    for number in range(random.choice((0, 1, 3, 5))):
        offers = random.choice(((), ("boots",), ("socks",), ("boots", "socks")))
        at = some_past(random, policy, zones[0], now)
        if random.random() < 0.1:
            at = now + random.choice((1, 4 * MINUTE_MS))  # a clock of the outside that goes ahead
        marks.append(Mark(random.choice(EVENTS), at, offers, number))
    said = random.choice(("granted", "granted", "granted", "denied", None))
    facts = Facts(
        customer_id="c1",
        erased_at=now - DAY_MS if random.random() < 0.05 else 0,
        contacts=tuple(sorted(contacts, key=lambda contact: (contact.at, contact.uid))),
        consent={} if said is None else {"marketing": Dated(said, 0)},
        profile={} if zone is None else {"timezone": Dated(zone, 0)},
        marks=tuple(sorted(marks, key=lambda mark: (mark.at, mark.type, mark.event_key))),
    )
    vip = random.choice((True, False, False, None))
    return Situation(
        policy,
        facts,
        now,
        policy.channels[random.choice(CHANNELS[:3])],
        random.choice(COMMON_ITEMS if random.random() < 0.9 else ITEMS),
        {rule.name: vip for rule in policy.suppressions},
        zones,
    )
