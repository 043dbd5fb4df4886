"""Whose it is: keyed hashes that stand for people where their ids must not be seen, and sticky groups.

Keys of the store, Kafka keys and log lines carry a tag, never an id (a tag cannot be turned back without the
secret). Each use has a personalisation of its own, so a tag of one kind never equals one of another.
"""

import hashlib
from binascii import b2a_base64
from typing import Final

SECRET_MIN_BYTES: Final = 16
SECRET_MAX_BYTES: Final = 64
_TAG_BYTES: Final = 12
_TO_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
_DERIVED_BYTES: Final = 15


def _hashed(secret: bytes, use: bytes, text: str, size: int) -> str:
    if not SECRET_MIN_BYTES <= len(secret) <= SECRET_MAX_BYTES:
        raise ValueError(f"the secret must have {SECRET_MIN_BYTES} to {SECRET_MAX_BYTES} bytes")
    digest = hashlib.blake2b(text.encode(), digest_size=size, key=secret, person=use).digest()
    return b2a_base64(digest, newline=False).translate(_TO_URLSAFE).decode()


def _joined(kind: str, value: str) -> str:
    """Join so that no other pair gives the same text."""
    return f"{len(kind)}:{kind}{value}"


def tag(secret: bytes, customer_id: str) -> str:
    """Return the 16 characters (A-Z a-z 0-9 - _) under which all keys of a customer lie.

    ValueError unless the secret has 16 to 64 bytes.
    """
    return _hashed(secret, b"tact-customer", customer_id, _TAG_BYTES)


def alias_tag(secret: bytes, kind: str, value: str) -> str:
    """Return the 16 characters under which an alias is looked up; ValueError for a bad secret."""
    return _hashed(secret, b"tact-alias", _joined(kind, value), _TAG_BYTES)


def derived_customer_id(secret: bytes, kind: str, value: str) -> str:
    """Return the customer id (`anon-` and 20 characters) of an identity that nobody has seen before."""
    return "anon-" + _hashed(secret, b"tact-derived", _joined(kind, value), _DERIVED_BYTES)


def bucket(customer_id: str, purpose: str) -> float:
    """Place a customer in [0, 1) for a purpose: always the same place, and even over customers."""
    digest = hashlib.blake2b(
        _joined(purpose, customer_id).encode(), digest_size=8, person=b"tact-group"
    ).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def in_share(customer_id: str, purpose: str, share: float) -> bool:
    """Say whether a customer belongs to the share (0 to 1) of a purpose; a larger share keeps all of them."""
    return bucket(customer_id, purpose) < share
