"""What the machines know of people: facts as plain values, changed as the contract says, by code of its own."""

import json
from collections.abc import Iterable

from features.facts import Contact, Dated, Facts, Mark

CERTAINTY = {"presumed": 0, "reserved": 1, "released": 2, "confirmed": 3}


def certainty(contact: Contact) -> tuple[int, int]:
    known = "presumed" if contact.state == "confirmed" and contact.expires_at else contact.state
    return CERTAINTY[known], contact.at


class Person:
    """One person; several names may lead here after merges."""

    def __init__(self) -> None:
        self.contacts: dict[str, Contact] = {}
        self.consent: dict[str, Dated] = {}
        self.profile: dict[str, Dated] = {}
        self.marks: set[Mark] = set()
        self.high_water = 0
        self.erased_at = 0

    def now(self, clock: int) -> int:
        """Time never runs back for a customer who was written to."""
        return max(clock, self.high_water)

    def wrote(self, now: int) -> None:
        self.high_water = max(self.high_water, now)

    def facts(self) -> Facts:
        return Facts(
            customer_id="model",
            contacts=tuple(sorted(self.contacts.values(), key=lambda contact: (contact.at, contact.uid))),
            consent=dict(self.consent),
            profile=dict(self.profile),
            marks=tuple(sorted(self.marks, key=lambda mark: (mark.at, mark.type, mark.event_key))),
            erased_at=self.erased_at,
        )

    def said(self, name: str) -> object:
        dated = self.profile.get(name)
        return dated.value if dated is not None else None

    def take_in(self, other: "Person", homes: Iterable[str]) -> None:
        """Become the union of two: denied wins, the latest of everything else; ends that are known hold."""
        for uid, contact in other.contacts.items():
            mine = self.contacts.get(uid, contact)
            self.contacts[uid] = max(mine, contact, key=certainty)
        for uid in homes:
            if uid in self.contacts and certainty(self.contacts[uid])[0] == 0:
                self.contacts[uid] = changed(self.contacts[uid], state="reserved")
        for purpose, theirs in other.consent.items():
            ours = self.consent.get(purpose, theirs)
            latest = max(ours.at, theirs.at)
            if "denied" in {ours.value, theirs.value}:
                self.consent[purpose] = Dated("denied", latest)
            else:
                self.consent[purpose] = Dated("granted", latest)
        for name, theirs in other.profile.items():
            self.profile[name] = max(self.profile.get(name, theirs), theirs, key=lateness)
        self.marks |= other.marks
        self.high_water = max(self.high_water, other.high_water)
        self.erased_at = max(self.erased_at, other.erased_at)

    def apart(self, now: int) -> "Person":
        """Whoever leaves by an unlink: every contact that counts, and every denial."""
        person = Person()
        for uid, contact in self.contacts.items():
            if contact.state == "confirmed":
                person.contacts[uid] = contact
            elif contact.state == "reserved" and now < contact.expires_at:
                person.contacts[uid] = changed(contact, state="confirmed", at=contact.expires_at - 1)
        person.consent = {name: dated for name, dated in self.consent.items() if dated.value == "denied"}
        person.erased_at = self.erased_at
        person.wrote(now)
        return person


def lateness(dated: Dated) -> tuple[int, str]:
    return dated.at, json.dumps(dated.value)


def changed(contact: Contact, **fields: object) -> Contact:
    values = {name: getattr(contact, name) for name in Contact.__struct_fields__} | fields
    return Contact(**values)


def without(facts: Facts, uid: str) -> Facts:
    values = {name: getattr(facts, name) for name in Facts.__struct_fields__}
    return Facts(**values | {"contacts": tuple(one for one in facts.contacts if one.uid != uid)})
