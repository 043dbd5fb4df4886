"""Records of the topic of events, made into entries to fold.

A record of ours is a pack: a msgpack array of accepted events. Other producers write JSON: an event or an array of
them, as `POST /v1/events` takes it, judged in the same way. Such an event is received when the broker says so, its
identities are resolved here, and an id that it lacks is made of its place, so that reading it again makes it anew.
What cannot be read or is not valid goes to the quarantine.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

from engine.services.journal import Journal
from engine.workers.folding import Entry, Folding
from features.event import Event, EventError, decode_events, parse_event

_JSON: Final = (b"{", b"[", b" ", b"\n", b"\t", b"\r")


class Record(NamedTuple):
    """One record as it was read."""

    source: str
    """Topic, partition and epoch: what its offset counts in."""
    partition: int
    offset: int
    at: int
    """When the broker appended it (ms)."""
    value: bytes


class Intake:
    """Turns records into entries."""

    def __init__(self, folding: Folding, journal: Journal) -> None:
        """Take what folds, and the journal, which knows whose identities are."""
        self.folding = folding
        self.journal = journal

    async def entries(self, records: Sequence[Record]) -> tuple[list[Entry], int]:
        """Return the entries of some records in order, and how many events or records were set aside."""
        entries: list[Entry] = []
        aside = 0
        for record in records:
            try:
                if record.value[:1] in _JSON:
                    events, refused = await self._foreign(record)
                    aside += refused
                else:
                    events = list(enumerate(decode_events(record.value)))
            except ValueError as error:
                await self.folding.quarantine(
                    record.value, "unreadable", f"the record {_place(record)} cannot be read: {error}"
                )
                aside += 1
                continue
            # Offsets begin with 0, and a position that nothing lies before is (0, 0).
            entries += [Entry(record.source, (record.offset + 1, index), event) for index, event in events]
        return entries, aside

    async def _foreign(self, record: Record) -> tuple[list[tuple[int, Event]], int]:
        """Read JSON: the valid events with their places in it, and how many were not; ValueError where it is none."""
        value: Any = orjson.loads(record.value)
        now, version = await self.folding.store.clock()
        plan = await self.folding.plans.get(version)
        declared = {field.name: field.type for field in plan.policy.profile.values()}
        events, places, refused = [], [], 0
        for index, one in enumerate(value if isinstance(value, list) else [value]):
            try:
                made_id = f"{_place(record)}:{index}"
                events.append(parse_event(one, now=min(record.at, now), made_id=made_id, declared=declared))
                places.append(index)
            except EventError as error:
                said = f"{error.pointer}: {error.detail}" if error.pointer else error.detail
                await self.folding.quarantine(
                    orjson.dumps(one), "invalid", f"event {index} of the record {_place(record)}: {said}"
                )
                refused += 1
        return list(zip(places, await self.journal.resolve(events), strict=True)), refused


def _place(record: Record) -> str:
    return f"{record.source}@{record.offset}"
