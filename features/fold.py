"""Folding: one event into everything known of its customer, once (G12) and in any order (G13).

Facts and features are two records: an event that changes no fact leaves the very same `facts` object, so that
a page view never makes a reservation retry. Every fact is a maximum or a union over the events, so arrival
order cannot matter: the latest consent wins (denied at one moment), the latest profile value, the latest
opening and closing of a case, all marks. What is kept is cut relative to the newest of its own kind, never
to the time of folding, which would depend on the order.

`version`, `high_water`, `since` and contacts belong to the store's adapter; nothing here touches them, except
that a merge unites them. All times are milliseconds.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from features.catalogue import Catalogue
from features.event import AHEAD_MAX_MS, Event
from features.facts import Case, Contact, Dated, Facts, Mark
from features.state import Customer, Position, Seen, event_hash, split

DENIED: Final = "denied"
GRANTED: Final = "granted"
_STATE_RANK: Final = {"released": 0, "reserved": 1, "confirmed": 2}
_FOREVER_MS: Final = 1 << 62


def apply(
    catalogue: Catalogue,
    customer: Customer,
    event: Event,
    *,
    named: tuple[str, ...] = (),
    mark_types: frozenset[str],
    keep_ms: int,
    question_fields: Mapping[str, str],
    channel_purposes: Mapping[str, str],
) -> Customer:
    """Return the customer with an event in it; the same object if the event was applied before.

    `named` are the offers of the event's decision, `mark_types` the event types that suppressions look at,
    `keep_ms` how long events are kept; `question_fields` maps a question to the profile field that it sets,
    `channel_purposes` a channel to the consent that it needs. ValueError if the features belong to another
    catalogue.
    """
    key = event_hash(event.event_id)
    if customer.seen.has(key):
        return customer
    facts = _with_event(customer.facts, event, question_fields, channel_purposes)
    if event.type in mark_types:
        offers = named or ((event.offer,) if event.offer is not None else ())
        facts = _with_mark(facts, Mark(event.type, event.occurred_at, offers, int.from_bytes(key)), keep_ms)
    return Customer(
        facts,
        catalogue.fold(customer.state, event),
        customer.seen.add(key, event.received_at, keep_ms),
    )


def _with_event(
    facts: Facts, event: Event, question_fields: Mapping[str, str], channel_purposes: Mapping[str, str]
) -> Facts:
    """Return the facts with what this type of event says; the same object where it says nothing new."""
    at, properties = event.occurred_at, event.properties
    match event.type:
        case "consent_changed":
            return with_consent(facts, properties, at)
        case "unsubscribe":
            purpose = channel_purposes.get(event.channel or "")
            return facts if purpose is None else with_consent(facts, {purpose: DENIED}, at)
        case "profile_updated":
            return with_profile(facts, properties, at)
        case "answer":
            question, answer = properties["question"], properties["answer"]
            answers = _latest(facts.answers, {question: Dated(answer, at)}, _later)
            if answers is not facts.answers:
                facts = msgspec.structs.replace(facts, answers=answers)
            field = question_fields.get(question)
            return facts if field is None else with_profile(facts, {field: answer}, at)
        case "case_opened":
            return _with_case(facts, Case(properties["case_id"], opened_at=at))
        case "case_closed":
            return _with_case(facts, Case(properties["case_id"], closed_at=at))
        case _:
            return facts


def with_consent(facts: Facts, changes: Mapping[str, str], at: int) -> Facts:
    """Return the facts with "granted" or "denied" per purpose as of `at`; the latest wins, denied wins ties.

    A consent granted after an erasure ends the erasure, whatever came after the grant.
    """
    dated = {purpose: Dated(value, at) for purpose, value in changes.items()}
    consent = _latest(facts.consent, dated, _later_consent)
    ended = 0 < facts.erased_at < at and GRANTED in changes.values()
    if consent is facts.consent and not ended:
        return facts
    return msgspec.structs.replace(facts, consent=consent, erased_at=0 if ended else facts.erased_at)


def with_profile(facts: Facts, changes: Mapping[str, Any], at: int) -> Facts:
    """Return the facts with profile values as of `at`; the latest wins. Null is kept: it hides older ones."""
    dated = {
        name: Dated(tuple(value) if isinstance(value, list) else value, at) for name, value in changes.items()
    }
    profile = _latest(facts.profile, dated, _later)
    return facts if profile is facts.profile else msgspec.structs.replace(facts, profile=profile)


def _with_case(facts: Facts, case: Case) -> Facts:
    cases = _cases_united(facts.cases, (case,))
    return facts if cases == facts.cases else msgspec.structs.replace(facts, cases=cases)


def _with_mark(facts: Facts, mark: Mark, keep_ms: int) -> Facts:
    marks = _marks_united(facts.marks, (mark,), keep_ms)
    return facts if marks == facts.marks else msgspec.structs.replace(facts, marks=marks)


def _latest(
    old: dict[str, Dated], new: Mapping[str, Dated], later: Callable[[Dated, Dated], Dated]
) -> dict[str, Dated]:
    """Unite by name, the later of two; the same object where nothing changes. Names ascend: one form."""
    out = old
    for name, dated in new.items():
        before = old.get(name)
        after = dated if before is None else later(before, dated)
        if after is not before:
            out = {**out, name: after}
    return out if out is old else dict(sorted(out.items()))


def _later(one: Dated, two: Dated) -> Dated:
    """Return the later one; at one moment the one that is greater as JSON, so that order doesn't matter."""
    if one.at != two.at:
        return one if one.at > two.at else two
    return one if msgspec.json.encode(one.value) >= msgspec.json.encode(two.value) else two


def _later_consent(one: Dated, two: Dated) -> Dated:
    if one.at != two.at:
        return one if one.at > two.at else two
    return two if two.value == DENIED and one.value != DENIED else one


def _denied_first(one: Dated, two: Dated) -> Dated:
    """Return what a merge of two people makes of a consent: denied wins, dated by the later of both."""
    if DENIED in {one.value, two.value}:
        return Dated(DENIED, max(one.at, two.at))
    return one if one.at >= two.at else two


def _cases_united(one: Iterable[Case], two: Iterable[Case]) -> tuple[Case, ...]:
    cases = {case.case_id: case for case in one}
    for case in two:
        known = cases.get(case.case_id, case)
        cases[case.case_id] = Case(
            case.case_id, max(known.opened_at, case.opened_at), max(known.closed_at, case.closed_at)
        )
    return tuple(cases[case_id] for case_id in sorted(cases))


def _marks_united(one: Iterable[Mark], two: Iterable[Mark], keep_ms: int) -> tuple[Mark, ...]:
    """Unite, ascending; marks that no rule can look back at from the newest one are dropped."""
    marks = list(one)
    for mark in two:
        if mark not in marks:
            insort(marks, mark, key=_mark_order)
    oldest = marks[-1].at - AHEAD_MAX_MS - keep_ms if marks else 0
    return tuple(mark for mark in marks if mark.at >= oldest)


def _mark_order(mark: Mark) -> tuple[int, str, int, tuple[str, ...]]:
    return mark.at, mark.type, mark.event_key, mark.offers


def merge_facts(mine: Facts, theirs: Facts) -> Facts:
    """Return `mine` with everything that is known in `theirs`: they are one person (G7). Twice is as once.

    Contacts are united by uid (a confirmed one wins, then a live one: counting is the safe side), consent
    denied on either side stays denied, the latest profile value wins.
    """
    sinces = [since for since in (mine.since, theirs.since) if since]
    return msgspec.structs.replace(
        mine,
        high_water=max(mine.high_water, theirs.high_water),
        erased_at=max(mine.erased_at, theirs.erased_at),
        contacts=_contacts_united(mine.contacts, theirs.contacts),
        consent=_latest(mine.consent, theirs.consent, _denied_first),
        profile=_latest(mine.profile, theirs.profile, _later),
        answers=_latest(mine.answers, theirs.answers, _later),
        marks=_marks_united(mine.marks, theirs.marks, _FOREVER_MS),
        cases=_cases_united(mine.cases, theirs.cases),
        aliases=tuple(sorted({*mine.aliases, *theirs.aliases})),
        since=min(sinces, default=0),
    )


def _contacts_united(one: Iterable[Contact], two: Iterable[Contact]) -> tuple[Contact, ...]:
    contacts = {contact.uid: contact for contact in one}
    for contact in two:
        known = contacts.get(contact.uid, contact)
        contacts[contact.uid] = max(known, contact, key=_contact_rank)
    return tuple(sorted(contacts.values(), key=lambda contact: (contact.at, contact.uid)))


def _contact_rank(contact: Contact) -> tuple[int, int, int, bytes]:
    return (
        _STATE_RANK[contact.state],
        contact.at,
        contact.expires_at,
        msgspec.msgpack.encode(contact),
    )


def merge_seen(one: Seen, two: Seen) -> Seen:
    """Unite event ids; positions are the lower of both, and none where one side has none.

    Ids keep from counting twice what comes again.
    """
    groups = {
        index: _hashes_united(one.groups.get(index, b""), two.groups.get(index, b""))
        for index in sorted({*one.groups, *two.groups})
    }
    positions: dict[str, Position] = {
        source: min(position, two.positions[source])
        for source, position in one.positions.items()
        if source in two.positions
    }
    return Seen(groups, positions, tuple(sorted({*one.merged, *two.merged})))


def _hashes_united(one: bytes, two: bytes) -> bytes:
    return b"".join(sorted({*split(one), *split(two)})) if one and two else one or two
