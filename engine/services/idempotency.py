"""Idempotency keys: a retry gets the first answer, the same key with another body is refused (G5).

What is stored under a key is the hash of the body that it came with, then the answer. The key itself is hashed
with the route and the caller, so that no two callers meet.
"""

from hashlib import blake2b
from typing import Final

import msgspec

from engine.errors import Invalid

HASH_BYTES: Final = 16
KEPT_MS: Final = 24 * 3_600_000


class Idempotency(msgspec.Struct, frozen=True):
    """One use of a key: where its answer lies and which body it came with."""

    key: str
    body_hash: bytes
    ttl_ms: int = KEPT_MS

    def pack(self, body: bytes) -> bytes:
        """Return what is stored for an answer."""
        return self.body_hash + body


def idempotency(route: str, caller: str, key: str, body: bytes) -> Idempotency:
    """Make the use of a caller's key on a route with a request body."""
    scope = blake2b(f"{route}\0{caller}\0{key}".encode(), digest_size=18).hexdigest()
    return Idempotency("i:" + scope, blake2b(body, digest_size=HASH_BYTES).digest())


def unpack(stored: bytes, used: Idempotency) -> bytes:
    """Return the stored answer; raises Invalid when the key came with another body."""
    if stored[:HASH_BYTES] != used.body_hash:
        raise Invalid("this Idempotency-Key was used with another body: take a new key for a new request")
    return stored[HASH_BYTES:]
