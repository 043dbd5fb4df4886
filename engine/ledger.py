"""The ledger: contacts and their one end, as pure changes of the facts.

A contact is reserved, then confirmed, released or expired: exactly one of them. Confirming or releasing twice
gives the same answer; the other end after an end is a conflict. An expired reservation can still be confirmed
if everything allows it anew. Nothing here judges rules; nothing here reads a clock.
"""

from bisect import insort
from typing import Final

from msgspec.structs import replace

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
