"""The situation of a test case: its customer, as far as the case describes one.

Nothing in it may lie after the case's `now`, and every name must be declared in the policy set.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from features.facts import Contact, Item, State
from policies.reading.knowledge import BUILT_IN_FIELDS, FIELD_CEL, field_value
from policies.reading.nodes import Report
from policies.reading.setup import timezone
from policies.reading.survey import KnownNames, Reading
from policies.reading.values import Fields, Value

STATES: Final[tuple[State, ...]] = ("confirmed", "reserved", "released")
CUSTOMER_KEYS: Final = (
    "customer_id",
    "timezone",
    "consent",
    "profile",
    "features",
    "events",
    "contacts",
    "answers",
    "groups",
)
CONTACT_KEYS: Final = ("at", "channel", "category", "offer", "items", "state", "expires_at")
EVENT_KEYS: Final = ("event_id", "type", "occurred_at", "channel", "decision_id", "offer", "properties")


class Customer(msgspec.Struct, frozen=True, kw_only=True):
    """The customer of a case; `profile` and `features` win over what the events would give."""

    customer_id: str = "case"
    timezone: str | None = None
    consent: dict[str, str] = {}
    profile: dict[str, Any] = {}
    """Declared fields, `open_cases` and `timezone`; lists are tuples."""
    features: dict[str, Any] = {}
    events: tuple[dict[str, Any], ...] = ()
    """As given: `occurred_at` is a text, or absent for the case's own time."""
    contacts: tuple[Contact, ...] = ()
    answers: dict[str, str] = {}
    control: bool = False
    random: bool = False


def declared_entries(value: Value, names: KnownNames, what: str, file: str) -> dict[str, Value]:
    """Return the entries of a mapping whose keys are declared elsewhere."""
    result = {}
    for name, member in value.named().items():
        if names is not None and name not in names:
            fix = value.near(name, names)
            fix = fix if "did you" in fix else f"declare it in {file}"
            member.fail(f'unknown {what} "{name}"', fix, member.entry_line)
        else:
            result[name] = member
    return result


def present(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that could be read."""
    return {name: result for name, result in results.items() if result is not None}


def read_customer(reading: Reading, value: Value, now: int | None) -> Customer:
    """Return the customer of a case; `now` (ms) is the case's own time."""
    names = reading.names
    fields = value.fields(CUSTOMER_KEYS)

    def known(key: str, declared: KnownNames, what: str, file: str) -> dict[str, Value]:
        member = fields.get(key)
        return declared_entries(member, declared, what, file) if member is not None else {}

    consent = known("consent", names.consents, "purpose", "channels.yaml")
    profile = None if names.profile is None else names.profile.union(BUILT_IN_FIELDS)
    profile_values = known("profile", profile, "profile field", "profile.yaml")
    features = known("features", names.features, "feature", "features.yaml")
    answers = known("answers", names.questions, "question", "questions.yaml")
    groups = fields["groups"].fields(("control", "random")) if "groups" in fields else Fields({})
    events, contacts = fields.get("events"), fields.get("contacts")
    return Customer(
        customer_id=fields.read("customer_id", Value.name, "case"),
        timezone=fields.maybe("timezone", timezone),
        consent=present(
            {name: one.choice(("granted", "denied"), "a consent") for name, one in consent.items()}
        ),
        profile={name: _typed(reading, f"profile.{name}", one) for name, one in profile_values.items()},
        features={name: _typed(reading, f"features.{name}", one) for name, one in features.items()},
        events=tuple(_event(reading, one, now) for one in (events.members() if events else [])),
        contacts=tuple(
            _contact(reading, one, now, place)
            for place, one in enumerate(contacts.members() if contacts else [])
        ),
        answers=present({name: one.text() for name, one in answers.items()}),
        control=groups.read("control", Value.flag, False),
        random=groups.read("random", Value.flag, False),
    )


def _typed(reading: Reading, name: str, value: Value) -> Any:
    """Return a feature or profile field of its declared type, None for null."""
    if name == "profile.timezone":
        return None if value.is_null else timezone(value)
    if name == "profile.open_cases":
        return value.whole(0)
    type_ = reading.env.get(name, "dyn")
    if value.is_null or type_ == "dyn":
        return None
    if type_ == "int":
        return value.whole(0)
    for field_type, cel_type in FIELD_CEL.items():
        if cel_type == type_:
            return field_value(value, field_type)
    return None


def _past(value: Value, now: int | None) -> int | None:
    """Return a moment (ms) that is not later than the case's own time."""
    at = value.instant()
    if at is not None and now is not None and at > now:
        value.fail("this is later than the case's now", "write an earlier time, or a later now")
        return None
    return at


def _event(reading: Reading, value: Value, now: int | None) -> dict[str, Any]:
    names = reading.names
    fields = value.fields(EVENT_KEYS, required=("type",))
    fields.maybe("type", reading.event_type)
    fields.maybe("occurred_at", lambda member: _past(member, now))
    fields.maybe("channel", lambda member: member.reference(names.channels, "a channel", "channels.yaml"))
    fields.maybe("offer", lambda member: member.reference(names.offers, "an offer", "offers.yaml"))
    for key in ("event_id", "decision_id"):
        fields.maybe(key, Value.name)
    properties = fields.maybe(
        "properties", lambda member: member.json() if member.table() is not None else None
    )
    texts = {key: quietly(member) for key, member in fields.values.items() if key != "properties"}
    return texts if properties is None else {**texts, "properties": properties}


def read_item(reading: Reading, fields: Fields, value: Value) -> Item | None:
    """Return the item that `offer` and `category` name; the category may follow from the offer."""
    names = reading.names
    offer = fields.maybe("offer", lambda member: member.reference(names.offers, "an offer", "offers.yaml"))
    if "category" in fields:
        category = fields["category"].reference(names.categories, "a category", "offers.yaml")
        return Item(offer, category) if category is not None else None
    if "offer" not in fields:
        value.fail('"category" is missing', "add category: …, or offer: …", value.entry_line)
        return None
    return Item(offer, reading.offer_categories.get(offer or "", ""))


def _items(reading: Reading, value: Value) -> tuple[Item, ...]:
    found = [
        read_item(reading, member.fields(("offer", "category")), member)
        for member in value.members(some=True)
    ]
    return tuple(item for item in found if item is not None)


def _contact(reading: Reading, value: Value, now: int | None, place: int) -> Contact:
    names = reading.names
    fields = value.fields(CONTACT_KEYS, required=("at", "channel"))
    at = fields.read("at", lambda member: _past(member, now), 0)
    word = fields.read("state", lambda member: member.choice(STATES, "a state of contacts"), "confirmed")
    state = next(known for known in STATES if known == word)
    expires_at = fields.maybe("expires_at", Value.instant)
    if state == "reserved" and "expires_at" not in fields:
        value.fail("a reservation needs expires_at", "add expires_at: …", value.entry_line)
    elif state != "reserved" and "expires_at" in fields:
        fields["expires_at"].fail("only a reservation expires", "add state: reserved, or remove it")
    elif expires_at is not None and expires_at <= at:
        fields["expires_at"].fail("the reservation ends before it begins", "write a time after at")
    if "items" in fields:
        for key in ("category", "offer"):
            if key in fields:
                fields[key].fail(f'beside items, "{key}" says nothing', "write it inside items")
        items = fields.maybe("items", lambda member: _items(reading, member)) or ()
    else:
        item = read_item(reading, fields, value)
        items = (item,) if item is not None else ()
    return Contact(
        uid=f"case-{place}",
        at=at,
        channel=fields.read(
            "channel", lambda member: member.reference(names.channels, "a channel", "channels.yaml"), ""
        ),
        items=items,
        state=state,
        expires_at=expires_at or 0,
    )


def quietly(value: Value) -> Any:
    """Return the JSON of a value whose mistakes were reported already."""
    return Value(value.node, value.field, value.entry_line, value.file, Report()).json(times=True)
