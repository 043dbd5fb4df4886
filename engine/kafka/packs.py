"""Writing events to Kafka: those of one partition are packed into one record, and nothing is said before the ack.

What holds, and why:
- One record a partition is in flight at a time; what comes meanwhile waits for the next one. So packs grow with the
  load by themselves, and a partition whose broker fails holds up no other.
- `acks=all` and an idempotent producer: an acknowledged record is on every broker in sync, once. A producer that has
  failed, or that is not answered for too long, is replaced and its records are sent again; event ids tell the copies.
- Who waits is answered within `WITHIN_S`. What is not on its way by then is taken back; the rest may still arrive.
- What waits is bounded, in bytes and in calls. While a partition gets no acknowledgements, more is refused at once.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from engine.kafka.settings import KafkaSettings
from engine.kafka.topics import EVENTS, RECORD_BYTES_MAX, KafkaAway, TopicMismatch, ensure
from engine.store.connection import StoreUnavailable

LINGER_S: Final = 0.002
"""How long the first event of a pack waits for company."""
PACK_MAX: Final = 500
"""Events in one record at most; it is folded as a whole."""
PACK_BYTES_MAX: Final = RECORD_BYTES_MAX // 2
WITHIN_S: Final = 4.0
SILENT_S: Final = 2.0
"""Without an acknowledgement for so long, a partition takes no more."""
STUCK_S: Final = 10.0
"""Without one for so long, the producer is replaced."""
WAITING_BYTES_MAX: Final = 64_000_000
WAITING_CALLS_MAX: Final = 1_000
RETRY_S: Final = 0.5

log = logging.getLogger("tact.journal")


class NotAcknowledged(Exception):  # the sentence is what matters
    """Kafka has not acknowledged the events; they may or may not be there."""


class _Ticket:
    """Events of one call and one partition, and who waits for them."""

    __slots__ = ("blobs", "done", "size")

    def __init__(self, blobs: Sequence[bytes]) -> None:
        self.blobs = blobs
        self.size = sum(map(len, blobs))
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Lane:
    """What one partition's events wait in."""

    __slots__ = ("sent_at", "task", "waiting")

    def __init__(self) -> None:
        self.waiting: list[_Ticket] = []
        self.task: asyncio.Task[None] | None = None
        self.sent_at = 0.0
        """When what is in flight was sent first (monotonic); 0 while nothing is."""


class Packs:
    """Sends encoded events to the partitions of the topic; use it from one event loop."""

    def __init__(self, settings: KafkaSettings, on_new: Callable[[], Awaitable[object]]) -> None:
        """`on_new` is awaited before the topic is made anew (see `topics.ensure`)."""
        self.settings = settings
        self._on_new = on_new
        self._lanes = [_Lane() for _ in range(settings.partitions)]
        self._producer: AIOKafkaProducer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._waiting_bytes = 0
        self._waiting_calls = 0
        self._mismatch: TopicMismatch | None = None
        self._tried = asyncio.Event()
        """Set once a first attempt to connect has ended."""
        self._fault = "Kafka is not connected yet"

    @property
    def fault(self) -> str:
        """Say why events are refused now, nothing when they are taken."""
        if self._producer is None:
            return self._fault
        now = time.monotonic()
        silent = sum(0 < lane.sent_at < now - SILENT_S for lane in self._lanes)
        return f"{silent} partitions acknowledge nothing" if silent else ""

    async def open(self, within_s: float = 2.0) -> None:
        """Begin to connect, and wait for it a little: a server may start without its Kafka.

        TopicMismatch when the topic is found to be another than declared.
        """
        self._connect()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._tried.wait()
        if self._mismatch is not None:
            raise self._mismatch

    async def close(self) -> None:
        """End; what waits fails with NotAcknowledged."""
        tasks = [lane.task for lane in self._lanes if lane.task is not None]
        if self._connecting is not None:
            tasks.append(self._connecting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lane in self._lanes:
            for ticket in lane.waiting:
                if not ticket.done.done():
                    ticket.done.set_exception(NotAcknowledged("the server is going"))
        self._replace(self._producer)
        if self._connecting is not None:
            self._connecting.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def send(self, parts: Mapping[int, Sequence[bytes]]) -> None:
        """Return when all events, by partition, are acknowledged; NotAcknowledged when they are not in time."""
        self._admit(parts)
        self._waiting_calls += 1
        tickets = []
        for partition, blobs in parts.items():
            lane = self._lanes[partition]
            for part in _parts(blobs):
                ticket = _Ticket(part)
                self._waiting_bytes += ticket.size
                tickets.append(ticket)
                lane.waiting.append(ticket)
            if lane.task is None:
                lane.task = asyncio.create_task(self._run(partition, lane))
        try:
            async with asyncio.timeout(WITHIN_S):
                await asyncio.gather(*(ticket.done for ticket in tickets))
        except TimeoutError:
            raise NotAcknowledged(self.fault or "Kafka did not acknowledge the events in time") from None
        finally:
            self._waiting_calls -= 1
            for ticket in tickets:
                self._waiting_bytes -= ticket.size
                ticket.done.cancel()  # what is still in the queue is taken out of it

    def _admit(self, parts: Mapping[int, Sequence[bytes]]) -> None:
        if self._producer is None:
            raise NotAcknowledged(self._fault)
        if self._waiting_bytes > WAITING_BYTES_MAX or self._waiting_calls >= WAITING_CALLS_MAX:
            raise NotAcknowledged("too much waits to be acknowledged already")
        oldest = time.monotonic() - SILENT_S
        if any(0 < self._lanes[partition].sent_at < oldest for partition in parts):
            raise NotAcknowledged(self.fault)

    async def _run(self, partition: int, lane: _Lane) -> None:
        """Send what waits in a lane, pack after pack, until nothing does."""
        try:
            while lane.waiting:
                await asyncio.sleep(LINGER_S)
                tickets = _take(lane)
                if tickets:
                    lane.sent_at = time.monotonic()
                    await self._deliver(partition, tickets)
                    lane.sent_at = 0.0
        finally:
            lane.sent_at, lane.task = 0.0, None

    async def _deliver(self, partition: int, tickets: list[_Ticket]) -> None:
        """Send one pack until it is acknowledged or nobody waits for it any more."""
        while tickets:
            producer = self._producer
            if producer is None:
                await asyncio.wait([self._connect()], timeout=RETRY_S)
            else:
                value = pack([blob for ticket in tickets for blob in ticket.blobs])
                try:
                    async with asyncio.timeout(STUCK_S):
                        await producer.send_and_wait(EVENTS, value, partition=partition)
                except (KafkaError, TimeoutError, OSError, RuntimeError) as error:
                    if producer is self._producer:
                        log.warning("a pack was not acknowledged, the producer is replaced: %r", error)
                        self._replace(producer)
                        self._fault = f"Kafka acknowledges nothing: {str(error) or 'no answer'}"
                        self._connect()
                else:
                    for ticket in tickets:
                        if not ticket.done.done():
                            ticket.done.set_result(None)
                    return
            tickets = [ticket for ticket in tickets if not ticket.done.done()]

    def _connect(self) -> asyncio.Task[None]:
        if self._connecting is None or (self._connecting.done() and self._producer is None):
            self._connecting = asyncio.create_task(self._connect_until_done())
        return self._connecting

    async def _connect_until_done(self) -> None:
        told = ""
        while self._producer is None:
            try:
                await ensure(self.settings, self._on_new)
                self._producer, self._mismatch = await self._started(), None
            except (KafkaAway, KafkaError, StoreUnavailable, OSError, TimeoutError, TopicMismatch) as error:
                self._fault = str(error) or "Kafka does not answer"
                self._mismatch = error if isinstance(error, TopicMismatch) else None
                if self._fault != told:
                    log.warning("events are refused: %s", self._fault)
                    told = self._fault
                self._tried.set()
                await asyncio.sleep(RETRY_S)
        self._tried.set()

    async def _started(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.bootstrap,
            enable_idempotence=True,
            max_request_size=2 * RECORD_BYTES_MAX,
            max_batch_size=RECORD_BYTES_MAX,
            request_timeout_ms=5_000,
            metadata_max_age_ms=60_000,
        )
        try:
            async with asyncio.timeout(5):
                await producer.start()
        except BaseException:
            await _end(producer)
            raise
        return producer

    def _replace(self, producer: AIOKafkaProducer | None) -> None:
        """Give up a producer; it is closed in the background, since one that is stuck does not end."""
        if producer is not None:
            self._producer = None
            task = asyncio.create_task(_end(producer))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def pack(blobs: Sequence[bytes]) -> bytes:
    """Make one msgpack array of encoded events."""
    size = len(blobs)
    head = bytes([0x90 | size]) if size < 16 else b"\xdc" + size.to_bytes(2)
    return head + b"".join(blobs)


def _parts(blobs: Sequence[bytes]) -> list[list[bytes]]:
    """Cut the events of one call into what one record holds."""
    parts: list[list[bytes]] = [[]]
    size = 0
    for blob in blobs:
        size += len(blob)
        if parts[-1] and (len(parts[-1]) == PACK_MAX or size > PACK_BYTES_MAX):
            parts.append([])
            size = len(blob)
        parts[-1].append(blob)
    return parts


def _take(lane: _Lane) -> list[_Ticket]:
    """Take the tickets of the next pack: those that somebody waits for, up to the bounds of a record."""
    tickets: list[_Ticket] = []
    events = size = taken = 0
    for ticket in lane.waiting:
        if not ticket.done.done():
            events += len(ticket.blobs)
            size += ticket.size
            if tickets and (events > PACK_MAX or size > PACK_BYTES_MAX):
                break
            tickets.append(ticket)
        taken += 1
    del lane.waiting[:taken]
    return tickets


async def _end(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(1):
            await producer.stop()
    except Exception as error:  # noqa: BLE001  # it is being thrown away
        log.debug("a producer did not end in order: %r", error)
