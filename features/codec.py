"""How a customer's records lie in the store: small, quick to read, and never half understood.

    facts, state:  version (8 bytes, big endian) | codec (1 byte) | checksum (4 bytes) | body
    seen:                                          codec (1 byte) | checksum (4 bytes) | body

The version comes first so that the commit script compares `string.sub(blob, 1, 8)` and understands nothing
else. The checksum is the CRC-32 of the body: a flipped bit is refused, never taken for a fact. The body is
msgpack; that of the facts is packed further (`features.packing`). A changed layout gets a new codec number,
and the old one stays readable for as long as it may lie in a store.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar
from zlib import crc32

import msgspec

from features.facts import Contact, Facts
from features.packing import PackedFacts, appended, packed, unpacked
from features.state import FeatureState, Seen

CODEC: Final = b"\x02"
VERSION_BYTES: Final = 8
_BODY: Final = 5
_BIG_INT: Final = 1
_VALUE = TypeVar("_VALUE")


class CodecError(ValueError):
    """Bytes of the store that this release cannot read; the sentence says what to do."""


def facts_version(blob: bytes) -> bytes:
    """Return the 8 bytes that a commit compares; the same for a state blob."""
    return blob[:VERSION_BYTES]


def encode_facts(facts: Facts) -> bytes:
    """Encode facts under their own version."""
    return _version(facts.version) + _sealed(_ENCODER.encode(packed(facts)))


def encode_appended(body: PackedFacts | None, facts: Facts, contact: Contact, now: int) -> bytes:
    """Encode the facts' next version with one more contact, which happens after all others and has an id of ours.

    `body` is what the facts were unpacked from, None for a customer who is new. The same as to encode the changed
    facts, for a third of the time: nothing but the contact is packed.
    """
    longer = appended(
        body or PackedFacts(""),
        contact,
        contact.at - facts.contacts[-1].at if facts.contacts else contact.at,
        customer_id=facts.customer_id,
        high_water=max(facts.high_water, now),
        since=facts.since or now,
    )
    return _version(facts.version + 1) + _sealed(_ENCODER.encode(longer))


def decode_facts(blob: bytes) -> Facts:
    """Decode facts; CodecError for anything that `encode_facts` of a known release did not make."""
    return open_facts(blob)[0]


def open_facts(blob: bytes) -> tuple[Facts, PackedFacts]:
    """Decode facts, and return what they were unpacked from beside them; CodecError as for `decode_facts`."""
    version, body = _opened(blob, "facts", VERSION_BYTES)
    try:
        packed_facts = _FACTS_DECODER.decode(body)
        return unpacked(packed_facts, version), packed_facts
    except (msgspec.MsgspecError, ValueError, IndexError, RecursionError) as error:
        raise _unreadable("facts", error) from error


def encode_state(state: FeatureState, version: int) -> bytes:
    """Encode a feature state under a count of writes."""
    try:
        body = _ENCODER.encode(state)
    except OverflowError:
        body = _ENCODER.encode(msgspec.structs.replace(state, values=_with_big_ints(state.values)))
    return _version(version) + _sealed(body)


def decode_state(blob: bytes) -> tuple[FeatureState, int]:
    """Decode a feature state and its count of writes; CodecError as for facts."""
    version, body = _opened(blob, "features", VERSION_BYTES)
    return _decoded(_STATE_DECODER.decode, body, "features"), version


def encode_seen(seen: Seen) -> bytes:
    """Encode what was seen."""
    return _sealed(_ENCODER.encode(seen))


def decode_seen(blob: bytes) -> Seen:
    """Decode what was seen; CodecError as for facts."""
    _, body = _opened(blob, "seen events", 0)
    return _decoded(_SEEN_DECODER.decode, body, "seen events")


def _version(version: int) -> bytes:
    return version.to_bytes(VERSION_BYTES)


def _sealed(body: bytes) -> bytes:
    return CODEC + crc32(body).to_bytes(4) + body


def _opened(blob: bytes, what: str, skip: int) -> tuple[int, bytes]:
    """Return the version and the body, after judging what stands before it."""
    start = skip + _BODY
    body = blob[start:]
    if blob[skip:start] != CODEC + crc32(body).to_bytes(4):
        if len(blob) < start:
            raise _unreadable(what, "they are too short")
        if blob[skip : skip + 1] != CODEC:
            raise CodecError(
                f"the {what} of a customer were written in layout {blob[skip]}, this release reads {CODEC[0]}; "
                "run the release that wrote them, or a newer one"
            )
        raise _unreadable(what, "the checksum does not match")
    return int.from_bytes(blob[:skip]), body


def _decoded(decode: Callable[[bytes], _VALUE], body: bytes, what: str) -> _VALUE:
    try:
        return decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _unreadable(what, error) from error


def _unreadable(what: str, why: object) -> CodecError:
    return CodecError(
        f"the {what} of a customer are damaged ({why}); restore this key from a backup of the store, "
        "or erase the customer and replay their events"
    )


def _with_big_ints(value: Any) -> Any:
    """Wrap the integers that msgpack cannot hold: sums of huge amounts."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        size = value.bit_length() // 8 + 1
        return msgspec.msgpack.Ext(_BIG_INT, value.to_bytes(size, signed=True))
    if isinstance(value, list | tuple):
        return [_with_big_ints(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _with_big_ints(inner) for key, inner in value.items()}
    return value


def _big_int(code: int, data: memoryview) -> int:
    if code != _BIG_INT:
        raise ValueError(f"extension {code} is unknown")
    return int.from_bytes(data, signed=True)


_ENCODER: Final = msgspec.msgpack.Encoder()
_FACTS_DECODER: Final = msgspec.msgpack.Decoder(PackedFacts)
_STATE_DECODER: Final = msgspec.msgpack.Decoder(FeatureState, ext_hook=_big_int)
_SEEN_DECODER: Final = msgspec.msgpack.Decoder(Seen)
