"""The ledger: contacts and their one end, as pure changes of the facts.

A contact is reserved, then confirmed, released or expired: exactly one of them. Confirming or releasing twice
gives the same answer; the other end after an end is a conflict. An expired reservation can still be confirmed
if everything allows it anew. Nothing here judges rules; nothing here reads a clock.

Where customers are merged or taken apart, the same contact may lie with both: it goes by its whole id there, and
what is known of its end on either side is its end.
"""

from bisect import insort
from collections.abc import Collection, Sequence
from typing import Final

from msgspec.structs import replace

from engine.judging.ids import split_id, stored_uid
from features.facts import EXTERNAL, Contact, Facts, Item, Mark

ENDED_KEPT_MS: Final = 30 * 86_400_000
"""How long released and expired reservations are remembered, so that a retry gets the same answer (ms)."""


def find(facts: Facts, uid: str) -> Contact | None:
    """Return the contact with this uid, or None."""
    return next((contact for contact in reversed(facts.contacts) if contact.uid == uid), None)


def reserve(facts: Facts, uid: str, channel: str, items: tuple[Item, ...], now: int, ttl_ms: int) -> Facts:
    """Add a live reservation that expires `ttl_ms` after `now` (ms)."""
    return _with(facts, Contact(uid, now, channel, items, "reserved", now + ttl_ms))


def confirm(facts: Facts, contact: Contact, now: int) -> Facts:
    """Turn a reservation into a contact that happens `now` (ms)."""
    return _with(_without(facts, contact.uid), replace(contact, at=now, state="confirmed", expires_at=0))


def release(facts: Facts, contact: Contact, now: int) -> Facts:
    """End a reservation without a contact, at `now` (ms)."""
    return _with(_without(facts, contact.uid), replace(contact, at=now, state="released", expires_at=0))


def record(facts: Facts, contact: Contact) -> Facts:
    """Add a contact that happened elsewhere, at its own time."""
    return _with(facts, contact)


def external_uid(contact_id: str) -> str:
    """Return the uid under which a contact id that the outside gave is kept."""
    return EXTERNAL + contact_id


def pruned(facts: Facts, now: int, keep_contacts_ms: int, keep_events_ms: int) -> Facts:
    """Drop what no rule may look back at any more: contacts and marks past their keep, ended reservations."""
    if nothing_over(facts, now, keep_contacts_ms, keep_events_ms):
        return facts
    contacts = tuple(c for c in facts.contacts if not _is_over(c, now, keep_contacts_ms))
    marks: tuple[Mark, ...] = facts.marks
    if marks and marks[0].at <= now - keep_events_ms:
        marks = tuple(mark for mark in marks if mark.at > now - keep_events_ms)
    if len(contacts) == len(facts.contacts) and marks is facts.marks:
        return facts
    return replace(facts, contacts=contacts, marks=marks)


def nothing_over(facts: Facts, now: int, keep_contacts_ms: int, keep_events_ms: int) -> bool:
    """Say that `pruned` drops nothing, by the oldest alone: nearly always enough."""
    contacts, marks = facts.contacts, facts.marks
    return (not contacts or contacts[0].at > now - min(keep_contacts_ms, ENDED_KEPT_MS)) and (
        not marks or marks[0].at > now - keep_events_ms
    )


def carried(contacts: Sequence[Contact], tag: str, at: str) -> tuple[Contact, ...]:
    """Return contacts of the customer of `tag` as the customer of tag `at` keeps them: the ids stay what they are."""
    moved = []
    for contact in contacts:
        place = split_id(contact.uid.removeprefix(EXTERNAL)) if contact.uid.startswith(EXTERNAL) else None
        came_home = place is not None and place[0] == at
        uid = place[1] if place is not None and came_home else stored_uid(tag, contact.uid, at)
        moved.append(contact if uid == contact.uid else replace(contact, uid=uid))
    return tuple(moved)


def presumed(contact: Contact) -> Contact:
    """Return what a live reservation counts as with a customer who will not hear of its end.

    It counts in every window up to its expiry, and from then on as sent in the last moment before: no earlier, so
    no slot is freed too soon. It is the one kind of confirmed contact that keeps its `expires_at`.
    """
    if contact.state != "reserved":
        return contact
    return replace(contact, at=contact.expires_at - 1, state="confirmed")


def settled(contacts: Sequence[Contact], at: str, homes: Collection[str]) -> tuple[Contact, ...]:
    """Return contacts of which the open ones are reservations where their end will be told, and presumed elsewhere.

    `at` is the tag of the customer who keeps them; `homes` are the tags of all ids of that customer.
    """
    found = []
    for contact in contacts:
        if contact.expires_at:
            place = split_id(contact.uid.removeprefix(EXTERNAL))
            at_home = (at if place is None else place[0]) in homes
            contact = replace(contact, state="reserved") if at_home else presumed(contact)  # noqa: PLW2901  # its form
        found.append(contact)
    return tuple(sorted(found, key=lambda contact: (contact.at, contact.uid)))


def united(one: Sequence[Contact], two: Sequence[Contact]) -> tuple[Contact, ...]:
    """Unite two customers' contacts; of one that lies with both, the end that is known wins, so it has only one."""
    known = {contact.uid: contact for contact in one}
    for contact in two:
        known[contact.uid] = max(known.get(contact.uid, contact), contact, key=_certainty)
    return tuple(sorted(known.values(), key=lambda contact: (contact.at, contact.uid)))


def _certainty(contact: Contact) -> tuple[int, int]:
    """Rank: sent, given back, still open, presumed sent; of two alike, the one that counts for longer."""
    if contact.state == "confirmed":
        return (0 if contact.expires_at else 3), contact.at
    return (2 if contact.state == "released" else 1), contact.expires_at


def _is_over(contact: Contact, now: int, keep_ms: int) -> bool:
    if contact.state == "confirmed":
        return contact.at <= now - keep_ms
    return max(contact.at, contact.expires_at) <= now - ENDED_KEPT_MS


def _without(facts: Facts, uid: str) -> Facts:
    return replace(facts, contacts=tuple(c for c in facts.contacts if c.uid != uid))


def _with(facts: Facts, contact: Contact) -> Facts:
    contacts = list(facts.contacts)
    insort(contacts, contact, key=lambda c: (c.at, c.uid))
    return replace(facts, contacts=tuple(contacts))
