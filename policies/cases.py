"""A policy's own test cases: `tests/*.yaml` as frozen values, every mistake with its file and line.

A case is a whole situation with its own clock. Nothing is run here. Nothing in it may lie after its `now`,
and every name must be declared in the policy set that it tests.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from features.facts import Item
from policies.model import RESERVED_NAMES, PolicyError, PolicySet
from policies.reading.knowledge import FIELD_CEL
from policies.reading.nodes import Node, Report, compose
from policies.reading.situation import Customer, declared_entries, present, quietly, read_customer, read_item
from policies.reading.survey import Names, Reading
from policies.reading.values import Value

__all__ = ["Case", "Check", "Customer", "Decide", "parse_cases", "read_cases"]

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
        customer=fields.maybe("customer", lambda member: read_customer(reading, member, now)) or Customer(),
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


def _spent(reading: Reading, value: Value) -> dict[str, int]:
    known = declared_entries(value, reading.names.offers, "offer", "offers.yaml")
    return present({name: member.money_micro() for name, member in known.items()})


def _used(reading: Reading, value: Value) -> dict[str, int]:
    known = declared_entries(value, reading.names.channels, "channel", "channels.yaml")
    return present({name: member.whole(0) for name, member in known.items()})


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
    item = read_item(reading, fields, value) or Item(None, "")
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
        key: quietly(one) if key in checked else one.json(times=True) for key, one in fields.values.items()
    }
