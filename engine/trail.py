"""The trail: what became of decisions, in one order, for the learner and the archive to follow.

A step is written by the very script that makes it true, so a decision is on the trail if and only if it was
committed, and a step never comes before what it stands for. It names its decision; the decision itself lies with its
customer. Whoever follows remembers the last entry it has taken in, and goes on from there.

    step:  kind (1 byte) | tag (16) | uid (12) | for an outcome: type, time (ms), offer or null (msgpack)
"""

from typing import Final, NamedTuple

import msgspec

from engine.ids import TAG_LENGTH, UID_LENGTH

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
_OUTCOME: Final = msgspec.msgpack.Decoder(tuple[str, int, str | None])


class Outcome(NamedTuple):
    """An event that named a decision."""

    type: str
    at: int
    """When it happened (ms)."""
    offer: str | None


class Step(NamedTuple):
    """One entry of the trail."""

    kind: str
    tag: str
    uid: str
    outcome: Outcome | None = None


def step(kind: str, tag: str, uid: str, outcome: bytes = b"") -> bytes:
    """Encode a step; `outcome` is an encoded `Outcome`."""
    return f"{kind}{tag}{uid}".encode() + outcome


def parse_step(blob: bytes) -> Step:
    """Decode a step; ValueError for anything that `step` did not make."""
    head = blob[:_ID].decode("ascii")
    if len(head) != _ID or head[0] not in (MADE, CONFIRMED, RELEASED, OUTCOME):
        raise ValueError("an entry of the trail is damaged")
    kind, tag, uid = head[0], head[1 : 1 + TAG_LENGTH], head[1 + TAG_LENGTH :]
    return Step(kind, tag, uid, Outcome(*_OUTCOME.decode(blob[_ID:])) if kind == OUTCOME else None)
