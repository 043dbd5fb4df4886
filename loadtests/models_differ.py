"""How far two learners' models lie apart: every array, every note, bit for bit and to 1e-9.

And how far those of a store lie from a learner's that reads a copy of the trail once, from its beginning.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from api.running.valkey import ValkeyServer
from engine.learning.outcomes import Notes
from engine.learning.snapshot import unpack
from engine.runtime import open_engine
from engine.services.models import MODEL
from engine.store.store import as_bytes
from engine.workers.learner import Learner
from loadtests.trail_copy import Copied, Copy

TOLERANCE: Final = 1e-9


class Head(Protocol):
    """A model as snapshots keep it."""

    outcomes: NDArray[np.int64]

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return all arrays, and plain metadata."""


class Difference(NamedTuple):
    """What a comparison came to."""

    same: bool
    """To 1e-9, absolute or relative, whichever is wider."""
    bit_for_bit: bool
    arrays: int
    numbers: int
    largest: float
    """Largest absolute difference of two numbers."""
    outcomes: int
    """Learned by the second."""
    open: int
    """Decisions that the second has open."""
    where: str
    """The first thing that differs by more; empty where none does."""


def differ(one: Mapping[str, Head], two: Mapping[str, Head], mine: Notes, theirs: Notes) -> Difference:
    """Compare all heads, and all notes."""
    flat_one, flat_two = (dict(_flat(heads, notes)) for heads, notes in ((one, mine), (two, theirs)))
    where = "" if list(flat_one) == list(flat_two) else f"only one has {_odd(flat_one, flat_two)}"
    exact, largest, numbers = not where, 0.0, 0
    for name in flat_one.keys() & flat_two.keys():
        a, b = flat_one[name], flat_two[name]
        if not isinstance(a, np.ndarray):
            if a != b:
                exact, where = False, where or f"{name}: {a} and {b}"
            continue
        numbers += a.size
        if a.tobytes() == b.tobytes() and a.shape == b.shape:
            continue
        exact = False
        if a.shape != b.shape:
            where = where or f"{name}: {a.shape} and {b.shape}"
            continue
        largest = max(largest, float(np.abs(a - b).max()))
        if not np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE):
            where = where or name
    arrays = sum(isinstance(value, np.ndarray) for value in flat_two.values())
    outcomes = sum(int(head.outcomes.sum()) for head in two.values())
    return Difference(not where, exact, arrays, numbers, largest, outcomes, len(theirs.open), where)


def _flat(heads: Mapping[str, Head], notes: Notes) -> list[tuple[str, Any]]:
    """Return names and values: arrays, and plain values that must be equal."""
    found: list[tuple[str, Any]] = []
    for name in sorted(heads):
        arrays, meta = heads[name].to_arrays()
        found += [(f"{name}: {key}", np.asarray(array)) for key, array in sorted(arrays.items())]
        found.append((f"{name}: metadata", msgspec.json.encode(meta, order="sorted")))
    found += [
        ("reporting", notes.reporting),
        ("policies", notes.policies),
        ("answered", notes.answered),
        ("open", [(key, one.made, one.until, one.learned, one.yes) for key, one in notes.open.items()]),
    ]
    expected = [
        number for one in notes.open.values() for _, each in sorted(one.expected.items()) for number in each
    ]
    found.append(("expected", np.array(expected)))
    return found


def _odd(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    return ", ".join(sorted(one.keys() ^ two.keys())) or "another order"


async def compared(server: ValkeyServer, copy: Copy) -> tuple[Difference, Difference]:
    """Return how checkpoint and published snapshot differ from a learner that reads the copy once."""
    engine = await open_engine(f"unix://{server.socket_path}")
    try:
        await copy.more(engine.connection)
        store = Copied(engine.connection, copy)

        async def learned(learner: Learner, until: str) -> Learner:
            learner.store, store.until = store, until
            while await learner.step():
                pass
            return learner

        last = copy.entries[-1][0]
        published = unpack(as_bytes(await engine.connection.call("GET", MODEL)) or b"")
        once = await learned(Learner(engine.customers, engine.plans), published.version)
        at_published = differ(published.heads, once.learning.heads, Notes(), Notes())
        back = Learner(engine.customers, engine.plans)
        await back.load()
        for learner in (once, back):
            await learned(learner, last)
        at_end = differ(back.learning.heads, once.learning.heads, back.learning.notes, once.learning.notes)
    finally:
        await engine.close()
    return at_end, at_published
