"""A customer's records: facts, features and what was seen; each lies in the store on its own.

`Seen` is what makes an event count once (G12): ids of applied events, and the journal positions they came to,
written together with the state. It is a function of the set of events, whatever their order.
"""

import hashlib
from bisect import bisect_left
from typing import Any, Final

import msgspec

from features.facts import Facts

HASH_BYTES: Final = 6
"""48 bits: among 10,000 ids of one customer a fresh one is mistaken once in 28 thousand million."""
GROUP_SHIFT: Final = 30
"""Ids lie in groups by arrival, 2^30 ms (12.4 days) each; a group is forgotten as a whole."""

Position = tuple[int, int]


class FeatureState(msgspec.Struct, frozen=True, array_like=True):
    """What the features of one customer have folded; only the catalogue of that id can read the values."""

    catalogue_id: int = 0
    """0: nothing folded yet, so any catalogue may begin."""
    as_of: int = 0
    """The greatest `occurred_at` folded (ms), 0 for none."""
    values: tuple[Any, ...] = ()
    """One per definition, in their order; None while nothing fed it. Never changed in place."""


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """The events already applied to one customer."""

    groups: dict[int, bytes] = {}
    """Arrival group to the hashes of its event ids, ascending, end to end."""
    positions: dict[str, Position] = {}
    """Journal source to the position applied last."""
    merged: tuple[str, ...] = ()
    """Tags of the customers whose features were taken in, ascending: taken again, they would count twice."""

    def has(self, key: bytes) -> bool:
        """Say whether the event of this hash was applied."""
        return any(contains(group, key) for group in self.groups.values())

    def add(self, key: bytes, received_at: int, keep_ms: int) -> "Seen":
        """Remember a hash by its arrival (ms); groups `keep_ms` behind the newest are forgotten."""
        index = received_at >> GROUP_SHIFT
        groups = {**self.groups, index: insert(self.groups.get(index, b""), key)}
        return Seen(recent(groups, keep_ms), self.positions, self.merged)

    def at(self, source: str, position: Position) -> "Seen":
        """Move the position of a journal source."""
        return Seen(self.groups, {**self.positions, source: position}, self.merged)


class Customer(msgspec.Struct, frozen=True):
    """Everything known of one customer."""

    facts: Facts
    state: FeatureState = FeatureState()
    seen: Seen = Seen()


def event_hash(event_id: str) -> bytes:
    """Hash an event id to 6 bytes."""
    return hashlib.blake2b(event_id.encode(), digest_size=HASH_BYTES).digest()


def contains(hashes: bytes, key: bytes) -> bool:
    """Say whether a run of hashes, end to end, has this one; a match across two of them is none."""
    at = hashes.find(key)
    while at > 0 and at % HASH_BYTES:
        at = hashes.find(key, at + 1)
    return at >= 0


def rank(hashes: bytes, key: bytes) -> int:
    """Count the hashes of an ascending run that are smaller than this one."""
    return bisect_left(
        range(len(hashes) // HASH_BYTES),
        key,
        key=lambda index: hashes[index * HASH_BYTES : index * HASH_BYTES + HASH_BYTES],
    )


def insert(hashes: bytes, key: bytes) -> bytes:
    """Put a hash in its place of an ascending run; it must not be there yet."""
    at = rank(hashes, key) * HASH_BYTES
    return hashes[:at] + key + hashes[at:]


def split(hashes: bytes) -> list[bytes]:
    """Cut a run into its hashes."""
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]


def recent(groups: dict[int, bytes], keep_ms: int) -> dict[int, bytes]:
    """Drop the groups that ended `keep_ms` before the newest began: a function of the set of events."""
    oldest = max(groups, default=0) - (keep_ms >> GROUP_SHIFT) - 1
    return {index: groups[index] for index in sorted(groups) if index >= oldest}
