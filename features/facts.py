"""Facts: what decides whether a customer may be contacted, exact and versioned.

Everything here was acknowledged to somebody, so it is never approximated: contacts with their own times,
consent, open cases, answers, the profile, and the events that suppressions look back at. Features live in a
record of their own (`features.state`), so that a page view never makes a reservation retry.

All times are integer milliseconds since the Unix epoch (UTC). Values are frozen; a change makes a new value. They
can hold no cycle, so the garbage collector need not look at them.
"""

from typing import Final, Literal

import msgspec

State = Literal["reserved", "confirmed", "released"]
Scalar = str | float | bool | int
Value = Scalar | tuple[str, ...] | None

EXTERNAL: Final = "!"
"""Prefix of the stored uid of a contact whose id was given by the outside."""


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a message is about: one offer (or none) of one category."""

    offer: str | None
    category: str


class Contact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message to one customer on one channel.

    `at` is the moment of the confirm, or of the reservation while it is live. A reservation is live while
    `state` is "reserved" and the time is before `expires_at`; after that it has expired.
    """

    uid: str
    at: int
    channel: str
    items: tuple[Item, ...]
    state: State = "confirmed"
    expires_at: int = 0
    """Set while `state` is "reserved", and on the copy of a reservation that another customer may still confirm."""
    overrun: tuple[str, ...] = ()
    """Names of the rules that a contact recorded from outside broke when it was recorded."""

    def live(self, now: int) -> bool:
        """Say whether this is a reservation that may still be confirmed at `now` (ms)."""
        return self.state == "reserved" and now < self.expires_at


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event that suppressions may look back at: type, time, and the offers that it named."""

    type: str
    at: int
    offers: tuple[str, ...] = ()
    event_key: int = 0
    """Hash of the event id, so that two events at one moment stay two."""


class Dated(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value and when it was set (ms); the latest wins, whatever the order of arrival."""

    value: Value
    at: int


class Case(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A service case: latest opening and latest closing (ms, 0 for never). Open iff opened after closed."""

    case_id: str
    opened_at: int = 0
    closed_at: int = 0


class Facts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All facts of one customer at one version."""

    customer_id: str
    version: int = 0
    """Counts the writes; a commit succeeds only on the version that was judged (G2). 0: never written."""
    high_water: int = 0
    """The latest store time (ms) seen in a write: time never runs back for this customer (G6)."""
    moved_to: str = ""
    """The surviving customer id after a merge, else empty."""
    erased_at: int = 0
    """When the person asked to be forgotten (ms), else 0; reset by a consent granted anew."""
    contacts: tuple[Contact, ...] = ()
    """Ascending by `at`, then uid. Released and expired ones are kept for a while to answer retries."""
    consent: dict[str, Dated] = {}
    """Purpose to "granted" or "denied"; at one moment, denied wins."""
    profile: dict[str, Dated] = {}
    """Declared fields and `timezone`; null means the default again."""
    marks: tuple[Mark, ...] = ()
    """Ascending by (at, type, event_key)."""
    cases: tuple[Case, ...] = ()
    """Ascending by case id."""
    answers: dict[str, Dated] = {}
    aliases: tuple[tuple[str, str], ...] = ()
    """(kind, value), ascending."""
    since: int = 0
    """When this customer was first seen (ms)."""

    def open_cases(self) -> int:
        """Count the cases that are open."""
        return sum(case.opened_at > case.closed_at for case in self.cases)

    def timezone(self) -> str | None:
        """Return the customer's IANA zone, or None where it is unknown."""
        dated = self.profile.get("timezone")
        return dated.value if dated is not None and isinstance(dated.value, str) else None
