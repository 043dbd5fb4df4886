"""The ledger: a contact has one beginning and one end."""

import pytest

from engine.judging.ledger import ENDED_KEPT_MS, confirm, external_uid, find, pruned, record, release, reserve
from features.facts import Contact, Facts, Item, Mark
from tests.unit.engine.shop import DAY_MS, NOW

ITEMS = (Item("boots", "promotion"),)
EMPTY = Facts(customer_id="c1")
KEEP_MS = 400 * DAY_MS


def reserved(uid: str = "u", at: int = NOW, ttl_ms: int = 1000) -> tuple[Facts, Contact]:
    facts = reserve(EMPTY, uid, "email", ITEMS, at, ttl_ms)
    return facts, facts.contacts[0]


def test_a_reservation_is_live_up_to_its_end_and_not_at_it() -> None:
    _, contact = reserved()
    assert (contact.live(NOW), contact.live(NOW + 999), contact.live(NOW + 1000)) == (True, True, False)


def test_a_confirm_is_the_moment_of_the_contact() -> None:
    facts, contact = reserved()
    assert confirm(facts, contact, NOW + 5).contacts == (
        Contact("u", NOW + 5, "email", ITEMS, "confirmed", 0),
    )


def test_a_release_leaves_the_end_but_no_contact() -> None:
    facts, contact = reserved()
    ended = release(facts, contact, NOW + 5)
    assert ended.contacts == (Contact("u", NOW + 5, "email", ITEMS, "released", 0),)
    assert not ended.contacts[0].live(NOW + 5)


def test_contacts_stay_in_the_order_of_their_times_and_ids() -> None:
    facts = EMPTY
    for uid, at in (("b", 30), ("a", 30), ("c", 10), ("d", 20)):
        facts = record(facts, Contact(uid, at, "email", ITEMS))
    assert [contact.uid for contact in facts.contacts] == ["c", "d", "a", "b"]
    facts = reserve(facts, "e", "email", ITEMS, 15, 100)
    kept = find(facts, "e")
    assert kept is not None
    assert [contact.uid for contact in confirm(facts, kept, 25).contacts] == ["c", "d", "e", "a", "b"]


def test_a_contact_is_found_by_its_uid() -> None:
    facts, contact = reserved()
    assert find(facts, "u") is contact
    assert find(facts, "v") is None


def test_an_id_of_the_outside_never_meets_one_of_ours() -> None:
    facts, _ = reserved("abc")
    assert find(facts, external_uid("abc")) is None


@pytest.mark.parametrize(
    ("contact", "kept"),
    [
        (Contact("u", NOW - KEEP_MS + 1, "email", ITEMS), True),
        (Contact("u", NOW - KEEP_MS, "email", ITEMS), False),
        (Contact("u", NOW - ENDED_KEPT_MS + 1, "email", ITEMS, "released"), True),
        (Contact("u", NOW - ENDED_KEPT_MS, "email", ITEMS, "released"), False),
        (Contact("u", NOW - 40 * DAY_MS, "email", ITEMS, "reserved", NOW - ENDED_KEPT_MS + 1), True),
        (Contact("u", NOW - 40 * DAY_MS, "email", ITEMS, "reserved", NOW - ENDED_KEPT_MS), False),
    ],
)
def test_what_no_rule_may_look_back_at_is_dropped(contact: Contact, kept: bool) -> None:
    facts = record(EMPTY, contact)
    assert (pruned(facts, NOW, KEEP_MS, KEEP_MS).contacts == facts.contacts) is kept


def test_marks_past_their_keep_are_dropped() -> None:
    marks = (Mark("reject", NOW - 10), Mark("reject", NOW - 9))
    facts = Facts(customer_id="c1", marks=marks)
    assert pruned(facts, NOW, KEEP_MS, 10).marks == marks[1:]
    assert pruned(facts, NOW, KEEP_MS, 11) is facts


def test_nothing_to_drop_leaves_the_very_same_facts() -> None:
    facts, _ = reserved()
    assert pruned(facts, NOW, KEEP_MS, KEEP_MS) is facts
