"""How far each partition of the topic of events is folded, in the store beside what was folded.

The topic has an epoch, which goes up when it is made anew: offsets count from 0 again then, and what positions and
watermarks say of the old one must not hide the events of the new one.
"""

import logging
from collections.abc import Iterable, Mapping

from engine.kafka.intake import Record
from engine.kafka.journal import DONE, EPOCH, begin_epoch
from engine.kafka.topics import EVENTS
from engine.store.store import Store, as_bytes, as_int, as_list

log = logging.getLogger("tact.worker")


class Watermarks:
    """The partitions of one worker; `begin` at each assignment, `passed` after each fold."""

    def __init__(self, store: Store) -> None:
        """Know nothing yet."""
        self.store = store
        self._epoch = 0
        self._offsets: dict[int, int] = {}
        """Partition to the offset before which everything is folded."""
        self._saved: dict[int, int] = {}

    async def begin_epoch(self) -> None:
        """Note that the topic is about to be made anew."""
        self._epoch = await begin_epoch(self.store)

    async def begin(
        self, committed: Mapping[int, int | None], first: Mapping[int, int], end: Mapping[int, int]
    ) -> dict[int, int]:
        """Take over partitions; returns where to read each from: what is committed or folded, the smaller of both.

        `first` and `end` are the offsets that each has. StoreUnavailable.
        """
        epoch, fields = await self.store.connection.pipeline([("GET", EPOCH), ("HGETALL", DONE)])
        self._epoch = as_int(epoch)
        flat = [(as_bytes(value) or b"").decode() for value in as_list(fields)]
        folded: dict[int, int] = {}
        for name, value in zip(flat[::2], flat[1::2], strict=True):
            in_epoch, _, mark = value.partition(":")
            if int(in_epoch) == self._epoch:
                folded[int(name)] = int(mark)
        if any(folded.get(partition, 0) > end[partition] for partition in committed):
            log.warning("the topic %s was made anew: it is read from its beginning", EVENTS)
            await self.begin_epoch()
            folded, committed = {}, dict.fromkeys(committed)
        starts, marks = {}, {}
        for partition, offset in committed.items():
            known = [at for at in (offset, folded.get(partition)) if at is not None and at >= 0]
            start = min(known, default=first[partition])
            done = folded.get(partition, start)
            if done < first[partition]:
                log.error(
                    "records %d to %d of partition %d were deleted before they were folded: raise TACT_KAFKA_RETENTION",
                    done,
                    first[partition] - 1,
                    partition,
                )
            starts[partition] = min(max(start, first[partition]), end[partition])
            marks[partition] = max(done, starts[partition])
        self._offsets = marks
        # What the group has not committed is told to it with the next save.
        self._saved = {partition: mark for partition, mark in marks.items() if committed[partition] == mark}
        return starts

    def source(self, partition: int) -> str:
        """Return what the positions of a partition's events count in."""
        return f"{EVENTS}:{partition}" if not self._epoch else f"{EVENTS}:{partition}.{self._epoch}"

    def offset(self, partition: int) -> int:
        """Return the offset before which everything is folded, 0 for a partition of somebody else's."""
        return self._offsets.get(partition, 0)

    def passed(self, records: Iterable[Record]) -> None:
        """Note that records are folded."""
        for record in records:
            partition = record.partition
            if partition in self._offsets and record.source == self.source(partition):
                self._offsets[partition] = max(self._offsets[partition], record.offset + 1)

    def skip(self, partition: int, offset: int) -> None:
        """Note that nothing lies before an offset but what is folded, and no records."""
        if partition in self._offsets:
            self._offsets[partition] = max(self._offsets[partition], offset)

    async def save(self) -> dict[int, int]:
        """Write the watermarks that have moved, and return them; StoreUnavailable."""
        moved = {
            partition: offset
            for partition, offset in self._offsets.items()
            if self._saved.get(partition) != offset
        }
        if moved:
            fields = [part for item in moved.items() for part in (item[0], f"{self._epoch}:{item[1]}")]
            await self.store.connection.call("HSET", DONE, *fields)
            self._saved |= moved
        return moved
