"""Facts packed for the store: every decision loads them, so ten contacts take 300 bytes and 10 microseconds.

What repeats is stored once: names go into a table of words, and what contacts have in common (state, channel,
items) into a table of shapes. Times ascend, so each is stored as the distance from the one before. Our own
contact ids are 12 characters of base64url, that is 9 bytes, and lie end to end.

    shape:  state code, channel, then offer and category of each item; all but the code are numbers of
            words, which begin with 1, as 0 stands for no offer
    rare:   what few contacts have, by position: an id of another form, `expires_at`, `overrun`
    mark:   type, time since the mark before, event key, offers
"""

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, Final

import msgspec

from features.facts import Case, Contact, Dated, Facts, Item, Mark, State

_STATES: Final[tuple[State, ...]] = ("reserved", "confirmed", "released")
_OWN_UID: Final = re.compile(r"[A-Za-z0-9_-]{12}")
_UID_BYTES: Final = 9
_UID_CHARS: Final = 12
_NO_UID: Final = b"\0" * _UID_BYTES
_TO_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE: Final = str.maketrans("-_", "+/")


class Rare(msgspec.Struct, frozen=True, array_like=True):
    """What few contacts have."""

    position: int
    uid: str
    """Empty: the contact's own 9 bytes are its id."""
    expires_in: int
    """`expires_at` minus `at`."""
    overrun: tuple[str, ...]


class PackedFacts(msgspec.Struct, array_like=True):
    """The body of a facts record; mutable, so that a contact can be added without unpacking it."""

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
        shape = [_STATES.index(contact.state), words.number(contact.channel)]
        for item in contact.items:
            shape.append(0 if item.offer is None else words.number(item.offer))
            shape.append(words.number(item.category))
        contacts += (shapes.number(tuple(shape)), contact.at - before)
        before = contact.at
        if not own or contact.expires_at or contact.overrun:
            expires_in = contact.expires_at - contact.at
            rare.append(Rare(position, "" if own else contact.uid, expires_in, contact.overrun))
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


def append(body: PackedFacts, contact: Contact, since: int) -> None:
    """Add a contact behind all others, `since` ms after the last one; its uid is one of ours."""
    shape = [_STATES.index(contact.state), _word(body, contact.channel)]
    for item in contact.items:
        shape.append(0 if item.offer is None else _word(body, item.offer))
        shape.append(_word(body, item.category))
    if shape not in body.shapes:
        body.shapes.append(shape)
    if contact.expires_at or contact.overrun:
        position, expires_in = len(body.contacts) // 2, contact.expires_at - contact.at
        body.rare.append(Rare(position, "", expires_in, contact.overrun))
    body.contacts += (body.shapes.index(shape), since)
    body.uids += a2b_base64(contact.uid.translate(_FROM_URLSAFE))


def _word(body: PackedFacts, word: str) -> int:
    if word not in body.words:
        body.words.append(word)
    return body.words.index(word) + 1


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
    shapes = []
    for shape in body.shapes:
        if len(shape) == 4:  # one item: nearly all of them, so unrolled
            code, channel, offer, category = shape
            items: tuple[Item, ...] = (Item(words[offer], words[category]),)
        else:
            code, channel, *pairs = shape
            items = tuple(
                [Item(words[offer], words[kind]) for offer, kind in zip(pairs[::2], pairs[1::2], strict=True)]
            )
        shapes.append((words[channel], items, _STATES[code]))
    uids = b2a_base64(body.uids, newline=False).translate(_TO_URLSAFE).decode()
    numbers = body.contacts
    count = len(numbers) // 2
    if len(uids) != count * _UID_CHARS:
        raise ValueError("contacts and their ids differ in number")
    ids = [uids[start : start + _UID_CHARS] for start in range(0, len(uids), _UID_CHARS)]
    ats = list(accumulate(numbers[1::2]))
    kinds = [shapes[number] for number in numbers[::2]]
    expiries: list[int] = [0] * count
    overruns: list[tuple[str, ...]] = [()] * count
    for rare in body.rare:
        at = rare.position
        if rare.uid:
            ids[at] = rare.uid
        expiries[at] = ats[at] + rare.expires_in
        overruns[at] = rare.overrun
    return tuple(
        [
            Contact(uid, at, channel, about, state, expires_at, overrun)
            for uid, at, (channel, about, state), expires_at, overrun in zip(
                ids, ats, kinds, expiries, overruns, strict=True
            )
        ]
    )


def _marks(packed_marks: list[list[int]], words: list[Any]) -> tuple[Mark, ...]:
    out = []
    at = 0
    for type_, since, key, *offers in packed_marks:
        at += since
        out.append(Mark(words[type_], at, tuple([words[offer] for offer in offers]), key))
    return tuple(out)
