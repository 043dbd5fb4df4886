"""The trail: what became of decisions, in one order, for the learner and the archive to follow.

A step is written by the very script that makes it true, so a decision is on the trail if and only if it was
committed, and a step never comes before what it stands for. It names its decision; the decision itself lies with its
customer. Whoever follows remembers the last entry it has taken in, and goes on from there.

    step:  kind (1 byte) | tag (16) | uid (12) | for an outcome: type, time (ms), offer or null, amount (msgpack)

The amount stands there only where the event told one.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from engine.judging.ids import TAG_LENGTH, UID_LENGTH

TRAIL: Final = "tact:trail"
LEARNED: Final = "tact:learner:done"
"""How far the learner's last checkpoint has come."""
ARCHIVED: Final = "tact:archive:done"
"""How far the archive has come."""

MADE: Final = "d"
CONFIRMED: Final = "c"
RELEASED: Final = "r"
OUTCOME: Final = "o"
YES: Final = frozenset({"accept", "purchase", "store_purchase"})
"""Outcomes that are an acceptance, as they name the decision."""
SEEN: Final = frozenset({"impression", "click", "email_click", "accept", "reject"})
"""Outcomes that only somebody who has seen the message can give."""
_ID: Final = 1 + TAG_LENGTH + UID_LENGTH
AMOUNT_MAX: Final = 1e9
"""An amount beyond it, either way, is a mistake and counts as not told."""


class Outcome(NamedTuple):
    """An event that named a decision."""

    type: str
    at: int
    """When it happened (ms)."""
    offer: str | None
    amount: float | None = None
    """What it brought, in the policy's currency, where the event told it."""


_OUTCOME: Final = msgspec.msgpack.Decoder(Outcome)


class Step(NamedTuple):
    """One entry of the trail."""

    kind: str
    tag: str
    uid: str
    outcome: Outcome | None = None


def step(kind: str, tag: str, uid: str, outcome: bytes = b"") -> bytes:
    """Encode a step; `outcome` is an encoded outcome."""
    return f"{kind}{tag}{uid}".encode() + outcome


def encode_outcome(outcome: Outcome) -> bytes:
    """Encode an outcome, as it stands in a step and beside its decision."""
    return msgspec.msgpack.encode(tuple(outcome) if outcome.amount is not None else tuple(outcome)[:3])


def parse_outcome(blob: bytes) -> Outcome:
    """Decode an outcome, with an amount or without; ValueError for anything that `encode_outcome` did not make."""
    return _OUTCOME.decode(blob)


def amount_of(properties: Mapping[str, object]) -> float | None:
    """Return the amount that an event tells of, None where it tells none that can be."""
    amount = properties.get("amount")
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        return None
    return float(amount) if abs(amount) <= AMOUNT_MAX else None


def written_at(position: str) -> int:
    """Return when the entry at a position was written (the store's time, ms)."""
    return int(position.partition("-")[0])


def parse_step(blob: bytes) -> Step:
    """Decode a step; ValueError for anything that `step` did not make."""
    head = blob[:_ID].decode("ascii")
    if len(head) != _ID or head[0] not in (MADE, CONFIRMED, RELEASED, OUTCOME):
        raise ValueError("an entry of the trail is damaged")
    kind, tag, uid = head[0], head[1 : 1 + TAG_LENGTH], head[1 + TAG_LENGTH :]
    return Step(kind, tag, uid, parse_outcome(blob[_ID:]) if kind == OUTCOME else None)
