"""One event into everything known of its customer, and two customers into one."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from features.catalogue import Catalogue
from features.definition import FeatureDef
from features.event import Event, parse_time
from features.facts import Case, Contact, Dated, Facts, Item, Mark
from features.fold import apply, merge_facts, merge_seen, with_consent, with_profile
from features.state import GROUP_SHIFT, Customer, Seen, event_hash

DAY_MS = 86_400_000
NOW = parse_time("2026-11-21T10:00:00Z")
CATALOGUE = Catalogue([FeatureDef("views", "count", ("page_view",), within_ms=DAY_MS)])


@dataclass
class Setting:
    """How events are applied in a test."""

    named: tuple[str, ...] = ()
    mark_types: frozenset[str] = frozenset({"complaint", "reject"})
    keep_ms: int = 30 * DAY_MS


def event(event_id: str, type_: str, at: int = NOW, /, **properties: Any) -> Event:
    return Event(event_id, type_, "c1", at, at, properties=properties)


def applied(*events: Event, start: Customer | None = None, setting: Setting | None = None) -> Customer:
    setting = setting or Setting()
    customer = start or Customer(Facts(customer_id="c1"))
    for one in events:
        customer = apply(
            CATALOGUE,
            customer,
            one,
            named=setting.named,
            mark_types=setting.mark_types,
            keep_ms=setting.keep_ms,
            question_fields={"shopping-for": "shops_for"},
            channel_purposes={"email": "marketing_email"},
        )
    return customer


def views(customer: Customer) -> object:
    return CATALOGUE.read(customer.state, None, NOW)["views"]


def test_an_event_delivered_twice_counts_once() -> None:
    once = applied(event("e1", "page_view"))
    assert applied(event("e1", "page_view"), start=once) is once
    assert views(applied(event("e2", "page_view"), start=once)) == 2


def test_a_page_view_leaves_the_very_same_facts() -> None:
    start = Customer(Facts(customer_id="c1", consent={"marketing_email": Dated("granted", 1)}))
    assert applied(event("e1", "page_view"), start=start).facts is start.facts


@pytest.mark.parametrize(
    "late",
    [
        event("e9", "consent_changed", NOW - 1, marketing_email="denied"),
        event("e9", "profile_updated", NOW - 1, tier="basic"),
        event("e9", "answer", NOW - 1, question="shopping-for", answer="family"),
        event("e9", "case_opened", NOW - 1, case_id="k"),
    ],
)
def test_what_came_too_late_to_matter_leaves_the_very_same_facts(late: Event) -> None:
    start = applied(
        event("e1", "consent_changed", NOW, marketing_email="granted"),
        event("e2", "profile_updated", NOW, tier="gold"),
        event("e3", "answer", NOW, question="shopping-for", answer="gifts"),
        event("e4", "case_opened", NOW, case_id="k"),
    )
    assert applied(late, start=start).facts is start.facts


def test_denied_wins_at_one_moment_and_the_latest_wins_otherwise() -> None:
    granted = event("g", "consent_changed", NOW, marketing_email="granted")
    denied = event("d", "consent_changed", NOW, marketing_email="denied")
    later = event("l", "consent_changed", NOW + 1, marketing_email="granted")
    for order in ((granted, denied), (denied, granted)):
        assert applied(*order).facts.consent == {"marketing_email": Dated("denied", NOW)}
    assert applied(later, denied).facts.consent == {"marketing_email": Dated("granted", NOW + 1)}


def test_an_unsubscribe_denies_the_purpose_of_its_channel() -> None:
    email = Event("u1", "unsubscribe", "c1", NOW, NOW, channel="email")
    web = Event("u2", "unsubscribe", "c1", NOW, NOW, channel="web")
    nowhere = Event("u3", "unsubscribe", "c1", NOW, NOW)
    assert applied(email).facts.consent == {"marketing_email": Dated("denied", NOW)}
    assert applied(web, nowhere).facts.consent == {}


@pytest.mark.parametrize(
    ("at", "value", "left"), [(NOW + 1, "granted", 0), (NOW, "granted", NOW), (NOW + 1, "denied", NOW)]
)
def test_only_a_later_grant_ends_an_erasure(at: int, value: str, left: int) -> None:
    start = Customer(Facts(customer_id="c1", erased_at=NOW))
    assert applied(event("e1", "consent_changed", at, call=value), start=start).facts.erased_at == left


def test_a_late_grant_ends_an_erasure_though_a_denial_came_after_it() -> None:
    start = Customer(Facts(customer_id="c1", erased_at=NOW))
    facts = applied(
        event("e1", "consent_changed", NOW + 9, call="denied"),
        event("e2", "consent_changed", NOW + 5, call="granted"),
        start=start,
    ).facts
    assert (facts.erased_at, facts.consent) == (0, {"call": Dated("denied", NOW + 9)})


def test_an_answer_is_kept_and_sets_its_profile_field() -> None:
    facts = applied(
        event("e1", "answer", question="shopping-for", answer="gifts"),
        event("e2", "answer", question="why", answer="because"),
    ).facts
    assert facts.answers == {"shopping-for": Dated("gifts", NOW), "why": Dated("because", NOW)}
    assert facts.profile == {"shops_for": Dated("gifts", NOW)}


def test_null_hides_an_older_profile_value() -> None:
    facts = applied(
        event("e2", "profile_updated", NOW, tier=None),
        event("e1", "profile_updated", NOW - 1, tier="gold", owned=["boots"]),
    ).facts
    assert facts.profile == {"tier": Dated(None, NOW), "owned": Dated(("boots",), NOW - 1)}


def test_a_case_is_open_while_it_was_opened_after_it_was_closed() -> None:
    opened, closed = (
        event("o", "case_opened", NOW, case_id="k"),
        event("c", "case_closed", NOW + 1, case_id="k"),
    )
    assert applied(opened).facts.open_cases() == 1
    assert applied(closed, opened).facts.cases == (Case("k", NOW, NOW + 1),)
    assert applied(closed, opened, event("r", "case_opened", NOW + 2, case_id="k")).facts.open_cases() == 1


def test_a_mark_names_the_offers_of_the_decision_or_of_the_event() -> None:
    reject = Event("r", "reject", "c1", NOW, NOW, offer="hat", decision_id="d")
    key = int.from_bytes(event_hash("r"))
    assert applied(reject).facts.marks == (Mark("reject", NOW, ("hat",), key),)
    assert applied(reject, setting=Setting(named=("hat", "boots"))).facts.marks == (
        Mark("reject", NOW, ("hat", "boots"), key),
    )


def test_two_events_at_one_moment_are_two_marks_and_others_are_none() -> None:
    facts = applied(event("a", "complaint"), event("b", "complaint"), event("c", "call")).facts
    assert [mark.type for mark in facts.marks] == ["complaint", "complaint"]


def test_marks_are_forgotten_when_no_rule_can_look_back_so_far() -> None:
    old, new = event("a", "complaint", NOW - 31 * DAY_MS), event("b", "complaint", NOW)
    just = event("c", "complaint", NOW - 30 * DAY_MS)
    assert [mark.at for mark in applied(old, just, new).facts.marks] == [NOW - 30 * DAY_MS, NOW]
    start = applied(new)
    assert applied(old, start=start).facts is start.facts


def test_ids_are_forgotten_group_by_group_and_not_before_their_time() -> None:
    def has(customer: Customer, event_id: str) -> bool:
        return customer.seen.has(event_hash(event_id))

    start = applied(event("old", "page_view", NOW))
    kept = applied(event("new", "page_view", NOW + 30 * DAY_MS), start=start)
    gone = applied(event("new", "page_view", NOW + 30 * DAY_MS + (2 << GROUP_SHIFT)), start=start)
    assert (has(kept, "old"), has(gone, "old"), has(gone, "new")) == (True, False, True)


def test_a_match_across_two_hashes_is_none() -> None:
    run = bytes(range(12))
    seen = Seen({0: run})
    assert seen.has(run[6:])
    assert not seen.has(run[3:9])
    assert Seen({0: run[3:9] * 2 + run[:6]}).has(run[:6])


def test_a_position_moves_with_its_source() -> None:
    seen = Seen().at("s1", (5, 0)).at("s2", (1, 1)).at("s1", (6, 0))
    assert seen.positions == {"s1": (6, 0), "s2": (1, 1)}


def contact(uid: str, at: int, state: Any = "confirmed") -> Contact:
    return Contact(uid, at, "email", (Item(None, "promotion"),), state, NOW + 1 if state == "reserved" else 0)


def merge_customers(into: Customer, other: Customer) -> Customer:
    return Customer(
        merge_facts(into.facts, other.facts),
        CATALOGUE.merge(into.state, other.state),
        merge_seen(into.seen, other.seen),
    )


def test_a_merge_unites_everything_and_keeps_the_survivor() -> None:
    into = Customer(
        Facts(
            customer_id="c1",
            version=7,
            high_water=NOW,
            since=NOW - 5,
            contacts=(contact("b", 2), contact("c", 3, "reserved")),
            consent={"email": Dated("granted", 9), "call": Dated("denied", 1), "push": Dated("granted", 1)},
            profile={"tier": Dated("gold", 5)},
            aliases=(("cookie", "x"),),
        ),
        seen=Seen(positions={"s1": (5, 0), "s2": (1, 0)}, merged=("tag-1",)),
    )
    other = Customer(
        Facts(
            customer_id="c2",
            version=9,
            high_water=NOW + 3,
            since=NOW - 9,
            erased_at=4,
            contacts=(contact("a", 1), contact("c", 4, "confirmed")),
            consent={"email": Dated("denied", 2), "call": Dated("granted", 8), "sms": Dated("granted", 3)},
            profile={"tier": Dated("basic", 6), "owned": Dated(("hat",), 1)},
            cases=(Case("k", 3, 0),),
            answers={"q": Dated("a", 1)},
            marks=(Mark("complaint", 1, (), 1),),
            aliases=(("card", "y"),),
        ),
        seen=Seen(positions={"s1": (4, 9)}, merged=("tag-0", "tag-2")),
    )
    into = applied(event("e1", "page_view"), event("both", "page_view"), start=into)
    other = applied(event("e2", "page_view"), start=other)
    merged = merge_customers(into, other)
    assert merged.facts == Facts(
        customer_id="c1",
        version=7,
        high_water=NOW + 3,
        since=NOW - 9,
        erased_at=4,
        contacts=(contact("a", 1), contact("b", 2), contact("c", 4, "confirmed")),
        consent={
            "call": Dated("denied", 8),
            "email": Dated("denied", 9),
            "push": Dated("granted", 1),
            "sms": Dated("granted", 3),
        },
        profile={"owned": Dated(("hat",), 1), "tier": Dated("basic", 6)},
        cases=(Case("k", 3, 0),),
        answers={"q": Dated("a", 1)},
        marks=(Mark("complaint", 1, (), 1),),
        aliases=(("card", "y"), ("cookie", "x")),
    )
    assert views(merged) == 3
    assert all(merged.seen.has(event_hash(one)) for one in ("e1", "e2", "both"))
    assert merged.seen.positions == {"s1": (4, 9)}
    assert merged.seen.merged == ("tag-0", "tag-1", "tag-2")
    assert merge_facts(merged.facts, other.facts) == merged.facts
    assert merge_customers(other, into) == Customer(
        msgspec.structs.replace(merged.facts, customer_id="c2", version=9), merged.state, merged.seen
    )


@pytest.mark.parametrize(
    ("one", "two", "wins"),
    [
        ("confirmed", "reserved", "confirmed"),
        ("confirmed", "released", "confirmed"),
        ("reserved", "released", "reserved"),
    ],
)
def test_a_contact_known_to_both_is_the_one_that_counts(one: str, two: str, wins: str) -> None:
    left = Customer(Facts(customer_id="c1", contacts=(contact("a", 1, one),)))
    right = Customer(Facts(customer_id="c2", contacts=(contact("a", 1, two),)))
    for first, second in ((left, right), (right, left)):
        merged = merge_customers(first, second)
        assert [known.state for known in merged.facts.contacts] == [wins]


def test_changes_from_the_api_follow_the_same_rules() -> None:
    facts = with_consent(Facts(customer_id="c1"), {"email": "granted"}, NOW)
    assert with_consent(facts, {"email": "denied"}, NOW - 1) is facts
    facts = with_profile(facts, {"owned": ["boots"]}, NOW)
    assert facts.profile == {"owned": Dated(("boots",), NOW)}
    assert with_profile(facts, {"owned": []}, NOW - 1) is facts
