"""Events: what happened to a customer, validated once at the edge.

An event is accepted whole or refused with a sentence; after that nothing in the engine checks it again.
All times are integer milliseconds since the Unix epoch (UTC).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

import msgspec

from features.fields import (
    ANSWER_CHARS_MAX,
    IDENTITIES_MAX,
    EventError,
    check_consent,
    check_id,
    check_profile,
    check_properties,
    kind_of,
    pointer_to,
)

__all__ = [
    "AHEAD_MAX_MS",
    "MADE",
    "TYPES",
    "Event",
    "EventError",
    "decode_event",
    "decode_events",
    "encode_event",
    "encode_events",
    "format_time",
    "is_type",
    "parse_event",
    "parse_time",
]

TYPES: Final = frozenset(
    {
        *("page_view", "click", "add_to_cart", "purchase", "store_scan", "store_purchase", "call"),
        *("email_delivered", "email_open", "email_click", "email_bounce", "unsubscribe", "complaint"),
        *("case_opened", "case_closed", "impression", "accept", "reject", "answer"),
        *("consent_changed", "profile_updated"),
    }
)
"""The built-in event types; a type of one's own begins with `x_`."""

AHEAD_MAX_MS: Final = 300_000
"""An event may be dated this far ahead of the server's clock, for clocks differ."""

MADE: Final = "\x01"
"""Prefix of ids made at acceptance: a control character, which no caller's id may contain."""

_OWN_TYPE: Final = re.compile(r"x_[a-z0-9_]{1,60}")
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,3})[0-9]{0,15})?Z"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
"""Without a zone: arithmetic on naive values is twice as fast, and all of ours are UTC."""
_EPOCH_DAY: Final = _EPOCH.toordinal()
_YEAR_MAX: Final = 2200


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One accepted event, as it lies in the journal."""

    event_id: str
    """The caller's id, or one made at acceptance (prefixed so that it cannot clash with a caller's)."""
    type: str
    customer_id: str
    """Whose it is. Empty only while `identities` are still to be resolved."""
    occurred_at: int
    """Milliseconds since the epoch."""
    received_at: int
    """Milliseconds since the epoch, by the store's clock."""
    channel: str | None = None
    decision_id: str | None = None
    offer: str | None = None
    properties: dict[str, Any] = {}
    identities: dict[str, str] = {}
    """Aliases, kind to value; linked to `customer_id` when that is given beside them."""


_KEYS: Final = frozenset(Event.__struct_fields__) - {"received_at"}
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Event)
_BATCH_DECODER: Final = msgspec.msgpack.Decoder(list[Event])


def parse_time(text: str) -> int:
    """Parse an RFC 3339 time that ends in `Z` into milliseconds since the epoch, digits beyond cut off.

    ValueError for anything else: another zone, a leap second, a year outside 1970-2200.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("must be an RFC 3339 time in UTC that ends in Z, such as 2026-11-21T10:00:00Z")
    whole, fraction = match.groups()
    try:
        since = datetime.fromisoformat(whole) - _EPOCH
    except ValueError as error:
        raise ValueError(f"is no such date or time ({error}); send one that exists") from None
    if since.days < 0 or int(whole[:4]) > _YEAR_MAX:
        raise ValueError(f"must lie in the years 1970 to {_YEAR_MAX}")
    millis = int(fraction.ljust(3, "0")) if fraction else 0
    return since.days * 86_400_000 + since.seconds * 1000 + millis


def format_time(ms: int) -> str:
    """Format milliseconds since the epoch as RFC 3339 in UTC with three decimals.

    ValueError or OverflowError outside the years 1 to 9999.
    """
    return f"{_second(ms // 1000)}.{ms % 1000:03}Z"


@functools.lru_cache(maxsize=4096)
def _second(second: int) -> str:
    day, rest = divmod(second, 86_400)
    minutes, seconds = divmod(rest, 60)
    return (
        f"{date.fromordinal(_EPOCH_DAY + day).isoformat()}T{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    )


def is_type(name: str) -> bool:
    """Say whether a name is an event type: a built-in one, or `x_` and up to 60 of a-z, 0-9 and `_`."""
    return name in TYPES or _OWN_TYPE.fullmatch(name) is not None


def parse_event(raw: object, *, now: int, made_id: str, declared: Mapping[str, str] | None = None) -> Event:
    """Make an event of a decoded JSON value, or raise EventError with a pointer and the fix.

    `now` is the server's time (ms), `made_id` a fresh unique id for an event that brings none, `declared`
    the profile fields and their types where the policy set is known.
    """
    if type(raw) is not dict:
        raise EventError("", f"an event must be a JSON object, not {kind_of(raw)}")
    unknown = raw.keys() - _KEYS
    if unknown:
        name = min(unknown, key=str)
        allowed = ", ".join(sorted(_KEYS))
        raise EventError(pointer_to("", name), f"is not a field of an event; the fields are: {allowed}")
    type_ = _parse_type(raw)
    identities = _parse_identities(raw["identities"]) if "identities" in raw else {}
    if "customer_id" in raw:
        customer_id = check_id(raw["customer_id"], "/customer_id")
    elif identities:
        customer_id = ""
    else:
        raise EventError("/customer_id", "is missing; give customer_id, or identities with at least one")
    event_id = check_id(raw["event_id"], "/event_id") if "event_id" in raw else MADE + made_id
    occurred_at = _parse_occurred_at(raw["occurred_at"], now) if "occurred_at" in raw else now
    channel, decision_id, offer = (
        None if raw.get(name) is None else check_id(raw[name], f"/{name}")
        for name in ("channel", "decision_id", "offer")
    )
    properties = check_properties(raw["properties"]) if "properties" in raw else {}
    _check_by_type(type_, properties, declared)
    if type_ in {"accept", "reject"} and offer is None and decision_id is None:
        raise EventError("/offer", f"is missing; {type_} must name an offer or a decision_id")
    return Event(
        event_id=event_id,
        type=type_,
        customer_id=customer_id,
        occurred_at=occurred_at,
        received_at=now,
        channel=channel,
        decision_id=decision_id,
        offer=offer,
        properties=properties,
        identities=identities,
    )


def _parse_type(raw: dict[str, object]) -> str:
    if "type" not in raw:
        raise EventError("/type", "is missing; say what happened, such as page_view")
    name = raw["type"]
    if type(name) is not str:
        raise EventError("/type", f"must be a string such as page_view, not {kind_of(name)}")
    if not is_type(name):
        known = ", ".join(sorted(TYPES))
        raise EventError(
            "/type", f"is unknown; use one of {known}, or x_ and up to 60 of a-z, 0-9 and _ for your own"
        )
    return name


def _parse_identities(value: object) -> dict[str, str]:
    if type(value) is not dict:
        raise EventError(
            "/identities", f'must be an object such as {{"cookie": "abc"}}, not {kind_of(value)}'
        )
    if len(value) > IDENTITIES_MAX:
        raise EventError("/identities", f"has {len(value)} entries; send at most {IDENTITIES_MAX}")
    for kind, alias in value.items():
        here = pointer_to("/identities", kind)
        check_id(kind, here)
        check_id(alias, here)
    return value


def _parse_occurred_at(value: object, now: int) -> int:
    if type(value) is not str:
        raise EventError("/occurred_at", f"must be a time such as 2026-11-21T10:00:00Z, not {kind_of(value)}")
    try:
        at = parse_time(value)
    except ValueError as error:
        raise EventError("/occurred_at", str(error)) from None
    if at > now + AHEAD_MAX_MS:
        raise EventError(
            "/occurred_at",
            f"is more than 5 minutes ahead of the server ({format_time(now)}); "
            "check the sender's clock, or send the event when it has happened",
        )
    return at


def _check_by_type(type_: str, properties: dict[str, Any], declared: Mapping[str, str] | None) -> None:
    """Check what this type of event must bring along."""
    match type_:
        case "consent_changed":
            check_consent(properties)
        case "profile_updated":
            check_profile(properties, declared)
        case "case_opened" | "case_closed":
            if "case_id" not in properties:
                raise EventError("/properties/case_id", f"is missing; {type_} must name the case")
            check_id(properties["case_id"], "/properties/case_id")
        case "answer":
            for name in ("question", "answer"):
                if name not in properties:
                    raise EventError(f"/properties/{name}", f"is missing; {type_} must give it")
            check_id(properties["question"], "/properties/question")
            answer = properties["answer"]
            if type(answer) is not str or not 1 <= len(answer) <= ANSWER_CHARS_MAX:
                raise EventError(
                    "/properties/answer", f"must be a string of 1 to {ANSWER_CHARS_MAX} characters"
                )


def encode_event(event: Event) -> bytes:
    """Encode an event for the journal."""
    return _ENCODER.encode(event)


def decode_event(blob: bytes) -> Event:
    """Decode an event of the journal; EventError for bytes that are none: they belong in the quarantine."""
    try:
        return _DECODER.decode(blob)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError("", f"is not an event of the journal ({error}); quarantine the bytes") from error


def encode_events(events: Sequence[Event]) -> bytes:
    """Encode a batch of events as one value."""
    return _ENCODER.encode(events)


def decode_events(blob: bytes) -> list[Event]:
    """Decode a batch made by `encode_events`; EventError for bytes that are none."""
    try:
        return _BATCH_DECODER.decode(blob)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError("", f"is not a batch of events ({error}); quarantine the bytes") from error
