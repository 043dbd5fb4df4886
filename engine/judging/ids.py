"""Ids that find their own way: the tag of the customer they belong to, and a uid within that customer.

A decision, its reservation and its contact are one message, so they share one id:
16 characters of tag (a keyed hash of the customer id, never the id itself) and 12 of uid (44 bits of the
millisecond it was made, 28 random bits). Nothing has to be looked up to know where a record lies.
"""

from base64 import urlsafe_b64encode
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from hashlib import blake2b
from re import compile as pattern
from typing import Final

from features.facts import EXTERNAL

Random = Callable[[int], bytes]
TAG_LENGTH: Final = 16
UID_LENGTH: Final = 12
_TO_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE: Final = str.maketrans("-_", "+/")
_PUBLIC: Final = pattern(r"[A-Za-z0-9_-]{28}").fullmatch


class RandomPool:
    """Random bytes from the system, fetched a few thousand at a time: a call a decision is a system call too many."""

    __slots__ = ("_at", "_bytes", "_source")

    def __init__(self, source: Random, size: int = 4096) -> None:
        """`source(n)` gives n random bytes, such as os.urandom."""
        self._source = source
        self._bytes = source(size)
        self._at = 0

    def __call__(self, count: int) -> bytes:
        """Return `count` bytes that nobody got before."""
        start, self._at = self._at, self._at + count
        if self._at > len(self._bytes):
            self._bytes = self._source(max(len(self._bytes), count))
            start, self._at = 0, count
        return self._bytes[start : self._at]


def make_uid(now: int, random: Random) -> str:
    """Return a new uid made at `now` (ms); `random(n)` gives n random bytes."""
    number = (now & ((1 << 44) - 1)) << 28 | int.from_bytes(random(4), "big") >> 4
    return b2a_base64(number.to_bytes(9, "big"), newline=False).translate(_TO_URLSAFE).decode()


def derived_uid(seed: bytes, index: int) -> str:
    """Return the uid that a retry of the same request makes again: a hash of its seed and the row's index."""
    return urlsafe_b64encode(
        blake2b(index.to_bytes(8, "big"), key=seed[:64], digest_size=9).digest()
    ).decode()


def made_at(uid: str) -> int:
    """Return when a uid was made (ms)."""
    return int.from_bytes(a2b_base64(uid.translate(_FROM_URLSAFE)), "big") >> 28


def public_id(tag: str, uid: str) -> str:
    """Return the id that callers see; a contact id that the outside gave is its own."""
    return uid[1:] if uid.startswith(EXTERNAL) else tag + uid


def stored_uid(tag: str, uid: str, at: str) -> str:
    """Return the uid under which the customer of tag `at` keeps a message that was made under `tag`.

    A message keeps the id that it was given: what came by a merge or an unlink is kept under its whole id.
    """
    return uid if tag == at or uid.startswith(EXTERNAL) else EXTERNAL + tag + uid


def split_id(public: str) -> tuple[str, str] | None:
    """Return (tag, uid) of an id that we made, or None where it cannot be one."""
    return (public[:TAG_LENGTH], public[TAG_LENGTH:]) if _PUBLIC(public) else None
