"""A model as bytes: arrays and plain metadata, never a pickle, and never half believed.

    blob:  b"TACTMODEL1" | BLAKE2b-256 of the body (32 bytes) | body (msgpack)

The body holds, for each head, metadata and arrays (type, shape, bytes), and golden inputs: contexts that the writer
has scored, with what it got. Whoever reads scores them again, and refuses the whole where a checksum, a shape or a
score is not what it should be (G18): the model that served before goes on serving.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.learning.hybrid import Hybrid
from engine.learning.inputs import Context
from engine.learning.river_head import KIND, RiverHead

_MAGIC: Final = b"TACTMODEL1"
_DIGEST: Final = 32
_TOLERANCE: Final = 1e-9
_TYPES: Final = frozenset({"<f8", "<i8", "|b1"})


class BadSnapshot(ValueError):
    """Bytes that are no whole snapshot of this release; the sentence says what is wrong."""


class Golden(msgspec.Struct, frozen=True, array_like=True):
    """One context and what a head made of it: mean and deviation of its first offers."""

    context: Context
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class _Head(msgspec.Struct, frozen=True):
    meta: dict[str, Any]
    arrays: dict[str, tuple[str, tuple[int, ...], bytes]]
    golden: tuple[Golden, ...]


class _Body(msgspec.Struct, frozen=True):
    version: str
    heads: dict[str, _Head]
    notes: bytes = b""
    """What the writer adds for itself."""


class Snapshot(msgspec.Struct, frozen=True):
    """Models by head, with the version of the trail that they have learned up to."""

    version: str
    heads: dict[str, Hybrid | RiverHead]
    notes: bytes = b""


def golden_of(model: Hybrid | RiverHead, offers: int = 8) -> tuple[Golden, ...]:
    """Return what the model makes of two contexts, nobody's own: nothing known, and all numbers given."""
    encoder = model.encoder
    numbers = [name for name, column in encoder.columns.items() if encoder.number[column]]
    found = []
    for context in ({}, {name: float(place) for place, name in enumerate(numbers, 1)}):
        mean, deviation = model.predict_all(context)
        found.append(Golden(context, tuple(mean[:offers].tolist()), tuple(deviation[:offers].tolist())))
    return tuple(found)


def pack(snapshot: Snapshot) -> bytes:
    """Encode a snapshot; raises `policies.plain_objects.NotPlain` for a head that cannot be written down."""
    heads = {}
    for name, model in snapshot.heads.items():
        arrays, meta = model.to_arrays()
        heads[name] = _Head(
            meta,
            {key: (array.dtype.str, array.shape, array.tobytes()) for key, array in arrays.items()},
            golden_of(model),
        )
    body = msgspec.msgpack.encode(_Body(snapshot.version, heads, snapshot.notes))
    return _MAGIC + blake2b(body, digest_size=_DIGEST).digest() + body


def unpack(blob: bytes) -> Snapshot:
    """Decode and try a snapshot; raises BadSnapshot for anything that `pack` did not make."""
    start = len(_MAGIC) + _DIGEST
    body = blob[start:]
    if blob[: len(_MAGIC)] != _MAGIC:
        raise BadSnapshot("it is no model snapshot of this release")
    if blake2b(body, digest_size=_DIGEST).digest() != blob[len(_MAGIC) : start]:
        raise BadSnapshot("the checksum does not match: it is damaged")
    try:
        read = msgspec.msgpack.decode(body, type=_Body)
        heads = {name: _head(name, head) for name, head in read.heads.items()}
    except BadSnapshot:
        raise
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadSnapshot(f"it cannot be read: {error}") from error
    return Snapshot(read.version, heads, read.notes)


def _head(name: str, head: _Head) -> Hybrid | RiverHead:
    made: type[Hybrid | RiverHead] = RiverHead if head.meta.get("kind") == KIND else Hybrid
    model = made.from_arrays({key: _array(*stored) for key, stored in head.arrays.items()}, head.meta)
    for golden, tried in zip(head.golden, golden_of(model), strict=True):
        for wanted, got in ((golden.mean, tried.mean), (golden.deviation, tried.deviation)):
            if not np.allclose(wanted, got, rtol=_TOLERANCE, atol=_TOLERANCE):
                raise BadSnapshot(f"the head '{name}' does not score its golden inputs as it should")
    return model


def _array(kind: str, shape: Sequence[int], data: bytes) -> NDArray[Any]:
    if kind not in _TYPES:
        raise BadSnapshot(f"an array of type {kind} has no place in a model")
    array = np.frombuffer(data, dtype=kind).reshape(tuple(shape))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadSnapshot("an array holds what is not a number")
    return array.copy()
