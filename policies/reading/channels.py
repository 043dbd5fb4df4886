"""channels.yaml: the ways to reach a customer, and the places that ask."""

from typing import Final, get_args

from policies.model import Capacity, Channel, Kind, Placement, QuietHours
from policies.reading.survey import FILES, Reading
from policies.reading.values import Value

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MAX_TTL_MS: Final = 604_800_000
"""The longest life of a reservation that a request may ask for, too."""
MAX_SLOTS: Final = 100
MAX_CAPACITY: Final = 10**12


def read_channels(reading: Reading, root: Value) -> tuple[dict[str, Channel], dict[str, Placement]]:
    """Return channels and placements by name."""
    fields = root.fields(FILES["channels.yaml"], required=("channels",))
    channels, placements = fields.get("channels"), fields.get("placements")
    return (
        {name: _channel(name, value) for name, value in (channels.named() if channels else {}).items()},
        {
            name: _placement(reading, name, value)
            for name, value in (placements.named() if placements else {}).items()
        },
    )


def kind_of(value: Value) -> Kind | None:
    """Return inbound or outbound."""
    text = value.choice(KINDS, "a kind of channel")
    return next((kind for kind in KINDS if kind == text), None)


def _channel(name: str, value: Value) -> Channel:
    keys = ("kind", "cost", "consent", "reservation_ttl", "quiet_hours", "capacity")
    fields = value.fields(keys, required=("kind",))
    return Channel(
        name=name,
        kind=fields.maybe("kind", kind_of) or "outbound",
        cost=fields.read("cost", lambda cost: cost.number(0), 0.0),
        consent=fields.maybe("consent", lambda consent: consent.name("a purpose")),
        reservation_ttl_ms=fields.read("reservation_ttl", _ttl, 1_800_000),
        quiet=fields.maybe("quiet_hours", _quiet_hours),
        capacity=fields.maybe("capacity", _capacity),
    )


def _ttl(value: Value) -> int | None:
    ttl = value.duration()
    if ttl is not None and ttl > MAX_TTL_MS:
        value.fail("a reservation lives at most 7 days", "write 7d or less")
    return ttl


def _quiet_hours(value: Value) -> QuietHours | None:
    fields = value.fields(("from", "to"), required=("from", "to"))
    start, end = fields.maybe("from", Value.clock), fields.maybe("to", Value.clock)
    if start is None or end is None:
        return None
    if start == end:
        value.fail("quiet hours end where they begin", "write two different times, or leave quiet_hours out")
        return None
    return QuietHours(start, end)


def _capacity(value: Value) -> Capacity | None:
    fields = value.fields(("max", "per"), required=("max", "per"))
    fields.maybe("per", lambda per: per.choice(("day",), "a period of capacity"))
    most = fields.maybe("max", lambda number: number.whole(1, MAX_CAPACITY))
    return None if most is None else Capacity(most)


def _placement(reading: Reading, name: str, value: Value) -> Placement:
    names = reading.names
    fields = value.fields(("channel", "slots", "fallback"), required=("channel",))
    return Placement(
        name=name,
        channel=fields.read(
            "channel", lambda channel: channel.reference(names.channels, "a channel", "channels.yaml"), ""
        ),
        slots=fields.read("slots", lambda slots: slots.whole(1, MAX_SLOTS), 1),
        fallback=fields.maybe(
            "fallback", lambda offer: offer.reference(names.offers, "an offer", "offers.yaml")
        ),
    )
