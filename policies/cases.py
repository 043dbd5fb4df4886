"""A policy's own test cases: `tests/*.yaml` as frozen values, every mistake with its file and line.

A case is a whole situation with its own clock. Nothing is run here. Nothing in it may lie after its `now`,
and every name must be declared in the policy set that it tests.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from features.facts import Contact, Item, State
from policies.model import RESERVED_NAMES, PolicyError, PolicySet
from policies.reading.knowledge import BUILT_IN_FIELDS, FIELD_CEL, field_value
from policies.reading.nodes import Node, Report, compose
from policies.reading.setup import timezone
from policies.reading.survey import Names, Reading
from policies.reading.values import Fields, Value, near

ACTIONS: Final = ("offer", "question", "none")
REASONS: Final = [
    "no_candidates",
    "not_eligible",
    "consent",
    "quiet_hours",
    "suppressed",
    "contact_policy",
    "budget",
    "capacity",
    "below_threshold",
    "control_group",
    "state_unavailable",
]
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
DECIDE_KEYS: Final = ("placement", "context", "limit", "exclude", "preview", "explain")
CHECK_KEYS: Final = ("channel", "category", "offer")
EXPECT_DECIDE: Final = [
    "action",
    "reason",
    "offers",
    "question",
    "rules",
    "eligible_at",
    "placement",
    "channel",
    "reservation",
    "suppressed",
    "trace",
]
EXPECT_CHECK: Final = ("allowed", "rules", "eligible_at", "reasons")


class Decide(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that a case asks for; `limit` is None for the placement's slots."""

    placement: str
    context: dict[str, Any] = {}
    limit: int | None = None
    exclude: tuple[str, ...] = ()
    preview: bool = False
    explain: bool = False


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A contact check that a case asks for."""

    channel: str
    category: str
    offer: str | None = None


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


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One case: a situation at `now` (ms), what is asked, and what must come."""

    name: str
    file: str
    line: int
    now: int
    customer: Customer
    ask: Decide | Check
    expect: dict[str, Any]
    """As given; times are texts."""
    budgets: dict[str, int] = {}
    """By offer: micro-units that are spent already."""
    capacities: dict[str, int] = {}
    """By channel: contacts that the day has seen already."""


def parse_cases(files: Mapping[str, str], policy: PolicySet) -> tuple[Case, ...]:
    """Return the cases of files (name to text) for a policy set; raises PolicyError with every mistake."""
    report = Report()
    reading = Reading(report, _names(policy))
    reading.env = {f"features.{feature.name}": feature.cel_type for feature in policy.features}
    reading.env |= {f"profile.{field.name}": FIELD_CEL[field.type] for field in policy.profile.values()}
    reading.offer_categories = {offer.id: offer.category for offer in policy.offers.values()}
    cases = read_cases(reading, {name: compose(name, text, report) for name, text in files.items()})
    if report.problems:
        raise PolicyError(report.problems)
    return cases


def _names(policy: PolicySet) -> Names:
    offers = policy.offers.values()
    return Names(
        channels=frozenset(policy.channels),
        placements=frozenset(policy.placements),
        categories=frozenset(policy.categories),
        offers=frozenset(policy.offers),
        attributes=frozenset(name for offer in offers for name in offer.attributes),
        features=frozenset(feature.name for feature in policy.features),
        profile=frozenset(policy.profile),
        rules=frozenset([rule.name for rule in policy.caps] + [rule.name for rule in policy.suppressions]),
        questions=frozenset(question.id for question in policy.questions),
        consents=frozenset(c.consent for c in policy.channels.values() if c.consent is not None),
    )


def read_cases(reading: Reading, nodes: Mapping[str, Node | None]) -> tuple[Case, ...]:
    """Return the cases of composed files; mistakes go to the reading's report."""
    found = []
    for file, node in sorted(nodes.items()):
        if node is not None:
            root = Value(node, "", node.line, file, reading.report)
            found += [_case(reading, value) for value in root.members()]
    return tuple(found)


def _case(reading: Reading, value: Value) -> Case:
    keys = ("name", "now", "customer", "ask", "expect", "budgets", "capacities")
    fields = value.fields(keys, required=("name", "now", "ask", "expect"))
    now = fields.maybe("now", Value.instant)
    asked = fields.get("ask")
    ask = _ask(reading, asked) if asked is not None else None
    return Case(
        name=fields.read("name", _title, ""),
        file=value.file,
        line=value.node.line,
        now=now or 0,
        customer=fields.maybe("customer", lambda member: _customer(reading, member, now)) or Customer(),
        ask=Check(channel="", category="") if ask is None else ask,
        expect=fields.read("expect", lambda member: _expect(reading, member, ask), {}),
        budgets=fields.read("budgets", lambda member: _spent(reading, member), {}),
        capacities=fields.read("capacities", lambda member: _used(reading, member), {}),
    )


def _title(value: Value) -> str | None:
    text = value.text("a name")
    if text is not None and not text.strip():
        value.fail("the name is empty", "say in a sentence what must hold")
    return text


def _known(value: Value, names: frozenset[str] | None, what: str, file: str) -> dict[str, Value]:
    """Return the entries of a mapping whose keys are declared elsewhere."""
    result = {}
    for name, member in value.named().items():
        if names is not None and name not in names:
            fix = near(name, names)
            fix = fix if "did you" in fix else f"declare it in {file}"
            member.fail(f'unknown {what} "{name}"', fix, member.entry_line)
        else:
            result[name] = member
    return result


def _present(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result for name, result in results.items() if result is not None}


def _spent(reading: Reading, value: Value) -> dict[str, int]:
    known = _known(value, reading.names.offers, "offer", "offers.yaml")
    return _present({name: member.money_micro() for name, member in known.items()})


def _used(reading: Reading, value: Value) -> dict[str, int]:
    known = _known(value, reading.names.channels, "channel", "channels.yaml")
    return _present({name: member.whole(0) for name, member in known.items()})


# ---------------------------------------------------------------------- the customer


def _customer(reading: Reading, value: Value, now: int | None) -> Customer:
    names = reading.names
    fields = value.fields(CUSTOMER_KEYS)

    def known(key: str, declared: frozenset[str] | None, what: str, file: str) -> dict[str, Value]:
        member = fields.get(key)
        return _known(member, declared, what, file) if member is not None else {}

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
        consent=_present(
            {name: one.choice(("granted", "denied"), "a consent") for name, one in consent.items()}
        ),
        profile={name: _typed(reading, f"profile.{name}", one) for name, one in profile_values.items()},
        features={name: _typed(reading, f"features.{name}", one) for name, one in features.items()},
        events=tuple(_event(reading, one, now) for one in (events.members() if events else [])),
        contacts=tuple(
            _contact(reading, one, now, place)
            for place, one in enumerate(contacts.members() if contacts else [])
        ),
        answers=_present({name: one.text() for name, one in answers.items()}),
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
    texts = {key: _quietly(member) for key, member in fields.values.items() if key != "properties"}
    return texts if properties is None else {**texts, "properties": properties}


def _item(reading: Reading, fields: Fields, value: Value) -> Item | None:
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
        _item(reading, member.fields(("offer", "category")), member) for member in value.members(some=True)
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
        item = _item(reading, fields, value)
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


# ---------------------------------------------------------------------- question and answer


def _ask(reading: Reading, value: Value) -> Decide | Check | None:
    fields = value.fields(("decide", "check"))
    decide, check = fields.get("decide"), fields.get("check")
    if decide is not None and check is not None:
        value.fail("a case asks one thing", "keep decide or check")
    elif decide is not None:
        return _decide(reading, decide)
    elif check is not None:
        return _check(reading, check)
    elif not (value.table() or {}).keys() - {"decide", "check"}:
        value.fail("nothing is asked", "write decide: {…} or check: {…}")
    return None


def _decide(reading: Reading, value: Value) -> Decide:
    names = reading.names
    fields = value.fields(DECIDE_KEYS, required=("placement",))
    exclude, context = fields.get("exclude"), fields.get("context")
    excluded = [
        member.reference(names.offers, "an offer", "offers.yaml")
        for member in (exclude.members() if exclude else [])
    ]
    return Decide(
        placement=fields.read(
            "placement", lambda one: one.reference(names.placements, "a placement", "channels.yaml"), ""
        ),
        context=context.json() if context is not None and context.table() is not None else {},
        limit=fields.maybe("limit", lambda one: one.whole(1, 100)),
        exclude=tuple(name for name in excluded if name is not None),
        preview=fields.read("preview", Value.flag, False),
        explain=fields.read("explain", Value.flag, False),
    )


def _check(reading: Reading, value: Value) -> Check:
    names = reading.names
    fields = value.fields(CHECK_KEYS, required=("channel",))
    channel = fields.read(
        "channel", lambda one: one.reference(names.channels, "a channel", "channels.yaml"), ""
    )
    item = _item(reading, fields, value) or Item(None, "")
    of_offer = reading.offer_categories.get(item.offer or "")
    if of_offer and item.category and of_offer != item.category:
        fields["category"].fail(
            f'the offer "{item.offer}" is of category "{of_offer}"',
            f"write {of_offer}, or leave category out",
        )
    return Check(channel=channel, category=item.category, offer=item.offer)


def _expect(reading: Reading, value: Value, ask: Decide | Check | None) -> dict[str, Any]:
    keys = EXPECT_CHECK if isinstance(ask, Check) else EXPECT_DECIDE
    if ask is None:
        keys = [*EXPECT_DECIDE, *EXPECT_CHECK]
    fields = value.fields(keys)
    entries = value.table()
    if entries is not None and not entries:
        value.fail("nothing is expected", "name what must come, such as action: none")
    fields.maybe("action", lambda one: one.choice(ACTIONS, "an action"))
    fields.maybe("reason", lambda one: None if one.is_null else one.choice(REASONS, "a reason"))
    fields.maybe("allowed", Value.flag)
    fields.maybe("eligible_at", lambda one: None if one.is_null else one.instant())
    rules = reading.names.rules
    known = None if rules is None else rules | RESERVED_NAMES
    listed, offers = fields.get("rules"), fields.get("offers")
    for one in listed.members() if listed is not None else []:
        one.reference(known, "a rule", "contact_policy.yaml")
    for one in offers.members() if offers is not None else []:
        one.reference(reading.names.offers, "an offer", "offers.yaml")
    checked = {"action", "reason", "allowed", "eligible_at", "rules", "offers"}
    return {
        key: _quietly(one) if key in checked else one.json(times=True) for key, one in fields.values.items()
    }


def _quietly(value: Value) -> Any:
    """Return the JSON of a value whose mistakes were reported already."""
    return Value(value.node, value.field, value.entry_line, value.file, Report()).json(times=True)
