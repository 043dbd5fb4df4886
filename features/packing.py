"""Facts packed for the store: every decision loads them, so ten contacts take 300 bytes and 10 microseconds.

What repeats is stored once: names go into a table of words, and what contacts have in common (state, life,
channel, items) into a table of shapes. Times ascend, so each is stored as the distance from the one before. Our own
contact ids are 12 characters of base64url, that is 9 bytes, and lie end to end.

    shape:  state code, `expires_at` minus `at` (0 for none), channel, then offer and category of each item;
            all but the first two are numbers of words, which begin with 1, as 0 stands for no offer
    rare:   what few contacts have, by position: an id of another form, an odd `expires_at`, `overrun`
    mark:   type, time since the mark before, event key, offers
"""

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from features.facts import Case, Contact, Dated, Facts, Item, Mark, State

_STATES: Final[tuple[State, ...]] = ("reserved", "confirmed", "released")
_OWN_UID: Final = re.compile(r"[A-Za-z0-9_-]{12}")
_UID_BYTES: Final = 9
_UID_CHARS: Final = 12
_NO_UID: Final = b"\0" * _UID_BYTES
_TO_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE: Final = str.maketrans("-_", "+/")


class Rare(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What few contacts have."""

    position: int
    uid: str
    """Empty: the contact's own 9 bytes are its id."""
    expires_at: int
    overrun: tuple[str, ...]


class PackedFacts(msgspec.Struct, array_like=True, gc=False):
    """The body of a facts record."""

    customer_id: str
    high_water: int = 0
    moved_to: str = ""
    erased_at: int = 0
    since: int = 0
    words: list[str] = []
    shapes: list[list[int]] = []
    uids: bytes = b""
    contacts: list[int] = []
    """Shape and time since the contact before, alternating."""
    rare: list[Rare] = []
    consent: dict[str, Dated] = {}
    profile: dict[str, Dated] = {}
    answers: dict[str, Dated] = {}
    marks: list[list[int]] = []
    cases: tuple[Case, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()


class _Table:
    """Numbers things in order of their first appearance."""

    __slots__ = ("first", "numbers")

    def __init__(self, first: int) -> None:
        self.first = first
        self.numbers: dict[Any, int] = {}

    def number(self, thing: Any) -> int:
        """Return the thing's number, a new one at its first appearance."""
        return self.numbers.setdefault(thing, len(self.numbers) + self.first)


def packed(facts: Facts) -> PackedFacts:
    """Pack facts; the version is not part of the body."""
    words, shapes = _Table(1), _Table(0)
    uids: list[bytes] = []
    contacts: list[int] = []
    rare: list[Rare] = []
    before = 0
    for position, contact in enumerate(facts.contacts):
        own = _OWN_UID.fullmatch(contact.uid) is not None
        uids.append(a2b_base64(contact.uid.translate(_FROM_URLSAFE)) if own else _NO_UID)
        expires_in = _expires_in(contact)
        shape = [_STATES.index(contact.state), expires_in, words.number(contact.channel)]
        for item in contact.items:
            shape.append(0 if item.offer is None else words.number(item.offer))
            shape.append(words.number(item.category))
        contacts += (shapes.number(tuple(shape)), contact.at - before)
        before = contact.at
        if not own or contact.overrun or (contact.expires_at and not expires_in):
            rare.append(Rare(position, "" if own else contact.uid, contact.expires_at, contact.overrun))
    return PackedFacts(
        customer_id=facts.customer_id,
        high_water=facts.high_water,
        moved_to=facts.moved_to,
        erased_at=facts.erased_at,
        since=facts.since,
        uids=b"".join(uids),
        contacts=contacts,
        rare=rare,
        consent=facts.consent,
        profile=facts.profile,
        answers=facts.answers,
        marks=_packed_marks(facts.marks, words),
        cases=facts.cases,
        aliases=facts.aliases,
        words=list(words.numbers),
        shapes=[list(shape) for shape in shapes.numbers],
    )


def appended(
    body: PackedFacts, contact: Contact, gap: int, *, customer_id: str, high_water: int, since: int
) -> PackedFacts:
    """Return the body with a contact behind all others, `gap` ms after the last; its uid is one of ours."""
    words, shapes, rare = body.words, body.shapes, body.rare
    said: list[str | None] = [contact.channel]
    for item in contact.items:
        said += (item.offer, item.category)
    for word in said:
        if word is not None and word not in words:
            words = [*words, word]
    expires_in = _expires_in(contact)
    shape = [
        _STATES.index(contact.state),
        expires_in,
        *[0 if word is None else words.index(word) + 1 for word in said],
    ]
    if shape not in shapes:
        shapes = [*shapes, shape]
    if contact.overrun or (contact.expires_at and not expires_in):
        rare = [*rare, Rare(len(body.contacts) // 2, "", contact.expires_at, contact.overrun)]
    return replace(
        body,
        customer_id=customer_id,
        high_water=high_water,
        since=since,
        words=words,
        shapes=shapes,
        rare=rare,
        contacts=[*body.contacts, shapes.index(shape), gap],
        uids=body.uids + a2b_base64(contact.uid.translate(_FROM_URLSAFE)),
    )


def _expires_in(contact: Contact) -> int:
    """Return the life that goes into a contact's shape (ms): many share one; 0 where there is none, or an odd one."""
    return max(0, contact.expires_at - contact.at)


def _packed_marks(marks: Iterable[Mark], words: _Table) -> list[list[int]]:
    out = []
    before = 0
    for mark in marks:
        offers = [words.number(offer) for offer in mark.offers]
        out.append([words.number(mark.type), mark.at - before, mark.event_key, *offers])
        before = mark.at
    return out


def unpacked(body: PackedFacts, version: int) -> Facts:
    """Unpack facts; IndexError or ValueError for a body that `packed` did not make."""
    words = [None, *body.words]
    return Facts(
        customer_id=body.customer_id,
        version=version,
        high_water=body.high_water,
        moved_to=body.moved_to,
        erased_at=body.erased_at,
        contacts=_contacts(body, words) if body.contacts else (),
        consent=body.consent,
        profile=body.profile,
        marks=_marks(body.marks, words) if body.marks else (),
        cases=body.cases,
        answers=body.answers,
        aliases=body.aliases,
        since=body.since,
    )


def _contacts(body: PackedFacts, words: list[Any]) -> tuple[Contact, ...]:
    shapes: list[tuple[str, tuple[Item, ...], State, int]] = []
    for code, life, channel, *pairs in body.shapes:
        if len(pairs) == 2:  # one item: nearly all of them, so unrolled
            items: tuple[Item, ...] = (Item(words[pairs[0]], words[pairs[1]]),)
        else:
            items = tuple(
                [Item(words[offer], words[kind]) for offer, kind in zip(pairs[::2], pairs[1::2], strict=True)]
            )
        shapes.append((words[channel], items, _STATES[code], life))
    uids = b2a_base64(body.uids, newline=False).translate(_TO_URLSAFE).decode()
    if len(uids) * 2 != len(body.contacts) * _UID_CHARS:
        raise ValueError("contacts and their ids differ in number")
    numbers = iter(body.contacts)
    contacts: list[Contact] = []
    at = start = 0
    for number, gap in zip(numbers, numbers, strict=True):
        channel_name, items, state, life = shapes[number]
        at += gap
        end = start + _UID_CHARS
        contacts.append(Contact(uids[start:end], at, channel_name, items, state, at + life if life else 0))
        start = end
    for rare in body.rare:
        plain = contacts[rare.position]
        contacts[rare.position] = replace(
            plain, uid=rare.uid or plain.uid, expires_at=rare.expires_at, overrun=rare.overrun
        )
    return tuple(contacts)


def _marks(packed_marks: list[list[int]], words: list[Any]) -> tuple[Mark, ...]:
    out = []
    at = 0
    for type_, since, key, *offers in packed_marks:
        at += since
        out.append(Mark(words[type_], at, tuple([words[offer] for offer in offers]), key))
    return tuple(out)
