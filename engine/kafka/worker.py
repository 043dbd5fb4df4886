"""The feature worker on Kafka: Faust shares the partitions out and fetches, batches are folded, watermarks say how far.

What holds, and why (each was seen to go wrong without it):
- Faust may commit past work that is still under way, so its acknowledgements are off. How far each partition is folded
  is our own watermark in the store, written after the fold; the group's offset follows it, for Kafka's tools. On
  assignment a partition begins at the smaller of both: what that repeats, the customers' positions tell (G12).
- A record that does not follow the one before is not taken at its word: a rebalance can let records of an older fetch
  through, and folding them first would make what lies between look as if it had been folded. The partition is read
  again from the gap; only a gap that is there a second time is one of Kafka's (deleted, or marks of transactions).
- Consumers have died in silence, so a partition that has records and gets no further ends the process with an error.
- A store or a Kafka that is away is waited for. Nothing is taken further than the store has it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka.errors import KafkaError

from engine.errors import TactError
from engine.kafka.faust_app import Fetching, NotStarted
from engine.kafka.intake import Intake, Record
from engine.kafka.settings import KafkaSettings
from engine.kafka.topics import EVENTS, KafkaAway, ensure
from engine.kafka.watermarks import Watermarks
from engine.services.activation import NoPolicy
from engine.services.journal import Journal
from engine.store.connection import StoreReplyError, StoreUnavailable
from engine.workers.features import BEAT, BEAT_MS
from engine.workers.folding import Folding

LANES: Final = 3
"""Batches under way at a time, each of partitions of its own: one is folded while others wait for the store."""
BATCH_RECORDS: Final = 2_000
BATCH_BYTES: Final = 256_000
"""A batch ends with the record that passes this: some two thousand events."""
AHEAD_BYTES: Final = 4_000_000
"""Bytes taken from Faust and not yet folded; beyond them it has to wait."""
SAVE_S: Final = 0.25
"""How often watermarks are written and committed; what a crash repeats."""
SILENT_S: Final = 30.0
"""Without progress for so long, while there are records, the worker ends with an error."""
REREAD_S: Final = 5.0
RETRY_S: Final = 0.5
END_S: Final = 5.0

log = logging.getLogger("tact.worker")


class _Lane:
    """Records of some partitions that wait to be folded, in order."""

    __slots__ = ("arrived", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Record] = deque()
        self.arrived = asyncio.Event()


class WorkerStuck(Exception):  # the sentence is what matters
    """The worker gets no further; started again, it goes on where it was."""


class KafkaWorker:
    """Folds the partitions that the group gives to this process."""

    def __init__(self, folding: Folding, journal: Journal, settings: KafkaSettings, name: str = "") -> None:
        """`name` is this worker's own, the same after a restart: it then gets its partitions back at once."""
        self.folding = folding
        self.store = folding.store
        self.settings = settings
        self.watermarks = Watermarks(folding.store)
        self._intake = Intake(folding, journal)
        self._next: dict[int, int] = {}
        """Partition to the offset that is to come next."""
        self._gaps: dict[int, tuple[int, int, float]] = {}
        """Partition to a gap that is read again: where it begins, the record behind it, when that was asked for."""
        self._passed: dict[int, int] = {}
        """Partition to where its position once went past offsets that held nothing."""
        self._lanes = [_Lane() for _ in range(LANES)]
        self._waiting_bytes = 0
        self._room = asyncio.Event()
        self._progress_at = time.monotonic()
        self._name = name
        self._fetching: Fetching

    async def run(self, stop: asyncio.Event) -> None:
        """Fold until `stop` is set; TopicMismatch, WorkerStuck, or what ended Faust."""
        folding = asyncio.gather(*(self._fold(lane, stop) for lane in self._lanes))
        try:
            while not stop.is_set() and await self._ready(stop):
                try:
                    await self._follow(stop, folding)
                except (KafkaError, NotStarted) as error:  # Kafka went while Faust started
                    log.warning("waiting: %r", error)
                    await asyncio.sleep(RETRY_S)
        finally:
            stop.set()
            for lane in self._lanes:
                lane.arrived.set()
            await asyncio.wait([folding], timeout=END_S)
            with suppress(StoreUnavailable):
                await self.watermarks.save()

    async def _ready(self, stop: asyncio.Event) -> bool:
        """Wait for Kafka and its topic, and say whether both are there."""
        told = ""
        while not stop.is_set():
            try:
                await ensure(self.settings, self.watermarks.begin_epoch)
            except (KafkaAway, StoreUnavailable) as error:
                if str(error) != told:
                    log.warning("waiting: %s", error)
                    told = str(error)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RETRY_S)
            else:
                return True
        return False

    async def _follow(self, stop: asyncio.Event, folding: "asyncio.Future[Any]") -> None:
        """Run Faust until it ends, `stop` is set, or folding ends; one that crashed is made anew."""
        fetching = self._fetching = Fetching(self.settings, self._name, self)
        self._progress_at = time.monotonic()
        starting = asyncio.create_task(fetching.start())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            saved_at = beaten_at = 0.0
            while not (stop.is_set() or fetching.ended or folding.done()):
                await asyncio.wait([stopping], timeout=0.1)
                now = time.monotonic()
                with suppress(StoreUnavailable, TimeoutError):
                    if now - beaten_at >= 1:
                        await self.store.connection.call("SET", BEAT, 1, "PX", BEAT_MS)
                        beaten_at = now
                    if now - saved_at >= SAVE_S:
                        await self._save()
                        saved_at = now
                self._watch(now)
        finally:
            starting.cancel()
            stopping.cancel()
            with suppress(StoreUnavailable, TimeoutError):
                await self._save()
            await fetching.stop()
        if folding.done():
            folding.result()
        if not stop.is_set():
            log.warning("Faust ended (%r): it is started again", fetching.reason)
            await asyncio.sleep(RETRY_S)

    # ------------------------------------------------------------------ what Faust calls

    async def begin_at(
        self, committed: Mapping[int, int | None], first: Mapping[int, int], end: Mapping[int, int]
    ) -> dict[int, int]:
        """Return where to read each partition that was assigned."""
        while True:
            try:
                starts = await self.watermarks.begin(committed, first, end)
            except StoreUnavailable:
                self._progress_at = time.monotonic()
                await asyncio.sleep(RETRY_S)
            else:
                break
        self._next = dict(starts)
        self._gaps.clear()
        self._passed.clear()
        self._progress_at = time.monotonic()
        return starts

    async def take(self, partition: int, batch: Sequence[Any]) -> None:
        """Take what was fetched of a partition (aiokafka's records, in order); waits while too much is taken."""
        expected = self._next.get(partition, -1)
        if expected < 0 or not await self._follows(partition, expected, batch[0].offset):
            return
        source = self.watermarks.source(partition)
        lane = self._lanes[partition % LANES]
        for record in batch:
            if record.offset >= expected:
                value = record.value or b""
                lane.waiting.append(Record(source, partition, record.offset, record.timestamp, value))
                self._waiting_bytes += len(value)
        self._next[partition] = max(expected, batch[-1].offset + 1)
        lane.arrived.set()
        while self._waiting_bytes > AHEAD_BYTES:
            self._room.clear()
            await self._room.wait()

    async def settle(self) -> None:
        """Pass the offsets behind the last record that hold none, such as the mark that ends a transaction.

        Called while no fetch is under way: then a consumer's position lies behind all that was taken. A position that
        went past offsets is believed when it does so again, from where the last record ended.
        """
        fetching, following = self._fetching, self._next
        for partition in fetching.assignment():
            expected, done = following.get(partition), self.watermarks.offset(partition)
            if expected != done or partition in self._gaps or fetching.end(partition) <= done:
                continue
            position = await fetching.position(partition)
            if position <= done or following is not self._next:
                continue
            if self._passed.get(partition) == expected:
                following[partition] = position
                self.watermarks.skip(partition, position)
            else:
                self._passed[partition] = expected
                await fetching.seek(partition, expected)

    async def _follows(self, partition: int, expected: int, offset: int) -> bool:
        """Say whether what was fetched begins where it should; see to a gap before it."""
        if offset > expected:
            now = time.monotonic()
            begin, behind, at = self._gaps.get(partition, (-1, -1, 0.0))
            if begin != expected or now - at > REREAD_S:
                self._gaps[partition] = (expected, offset, now)
                await self._fetching.seek(partition, expected)
                return False
            if offset != behind:
                return False  # of the fetch that showed the gap
            log.warning(
                "partition %d holds nothing from offset %d to %d: deleted before it was folded, or marks of "
                "transactions",
                partition,
                expected,
                offset - 1,
            )
        self._gaps.pop(partition, None)
        return True

    # ------------------------------------------------------------------ folding

    async def _fold(self, lane: _Lane, stop: asyncio.Event) -> None:
        """Fold what a lane holds, batch after batch."""
        while not stop.is_set():
            await lane.arrived.wait()
            lane.arrived.clear()
            while lane.waiting and not stop.is_set():
                records: list[Record] = []
                size = 0
                while lane.waiting and len(records) < BATCH_RECORDS and size < BATCH_BYTES:
                    records.append(lane.waiting.popleft())
                    size += len(records[-1].value)
                if await self._folded(records, stop):
                    self.watermarks.passed(records)
                self._progress_at = time.monotonic()
                self._waiting_bytes -= size
                self._room.set()

    async def _folded(self, records: list[Record], stop: asyncio.Event) -> bool:
        """Fold a batch, however long the store is away; says whether it was folded before `stop`."""
        told = False
        while not stop.is_set():
            try:
                entries, _ = await self._intake.entries(records)
                await self.folding.fold(entries)
            except (StoreUnavailable, StoreReplyError, TactError) as error:
                if not told:
                    log.warning("waiting: %s", error)
                    told = True
                if isinstance(error, StoreUnavailable | NoPolicy):  # it comes by itself; what refuses may not
                    self._progress_at = time.monotonic()
                await asyncio.sleep(RETRY_S / 2)
            else:
                return True
        return False

    async def _save(self) -> None:
        """Write the watermarks that moved, and commit them for Kafka's tools."""
        moved = await self.watermarks.save()
        if moved and not self._fetching.ended:
            async with asyncio.timeout(1):
                await self._fetching.tell(moved)

    def _watch(self, now: float) -> None:
        """Measure the lag of each partition; WorkerStuck where there is some, or one was never begun, for long."""
        lag, begun = {}, True
        for partition in self._fetching.assignment():
            if partition not in self._next:
                begun = False
            else:
                lag[partition] = max(0, self._fetching.end(partition) - self.watermarks.offset(partition))
        self.folding.measures.lag = {f"{EVENTS}:{partition}": size for partition, size in lag.items()}
        if begun and not any(lag.values()):
            self._progress_at = now
        elif now - self._progress_at > SILENT_S:
            raise WorkerStuck(
                f"no event was folded for {SILENT_S:.0f} s while {sum(lag.values())} records wait or a partition could "
                "not be begun: the worker ends, and goes on where it was when it is started again"
            )
