"""Faust as what fetches: its group, its consumer in a thread of its own, its rebalancing; not its streams.

What holds, and why:
- A stream makes four tasks for each record, so a no-op agent costs more than our fold. Whole fetches are handed over
  instead, where Faust would begin to hand out records.
- Acknowledgements are off, since Faust may commit past work that is under way. `tell` commits for Kafka's tools.
- Partitions begin where the reader says, not where the group has committed.
- What a producer's transaction took back is not read.

Some of these are Faust's inner methods: its version is pinned, and `tests/kafka/` is what a newer one has to pass.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import faust
from aiokafka import TopicPartition
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from faust.types import TP
from mode.threads import WorkerThread

from engine.kafka.settings import KafkaSettings
from engine.kafka.topics import EVENTS, GROUP

SETTLE_S: Final = 1.0
END_S: Final = 5.0
log = logging.getLogger("tact.worker")
NotStarted = ConsumerNotStarted
"""Faust's consumer has not come up, or is gone again."""


class Reader(Protocol):
    """Who is told of partitions and gets the records."""

    async def begin_at(
        self, committed: Mapping[int, int | None], first: Mapping[int, int], end: Mapping[int, int]
    ) -> Mapping[int, int]:
        """Return where to read each partition that was assigned; the group's, the first and the last offset of each."""

    async def take(self, partition: int, batch: Sequence[Any]) -> None:
        """Take what was fetched of a partition: aiokafka's records, in order, at least one."""

    async def settle(self) -> None:
        """Look after partitions while no fetch is under way; called about once in `SETTLE_S`."""


class Fetching:
    """One Faust application, from its start to its end."""

    def __init__(self, settings: KafkaSettings, name: str, reader: Reader) -> None:
        """`name` is this member's own in the group, the same after a restart; empty for a new one each time."""
        self._app: Any = _application(settings, name, reader)

    @property
    def ended(self) -> bool:
        """Say whether it was stopped or has crashed."""
        return bool(self._app.should_stop)

    @property
    def reason(self) -> BaseException | None:
        """Return why it crashed."""
        reason: BaseException | None = self._app.crash_reason
        return reason

    async def start(self) -> None:
        """Start; KafkaError, NotStarted when Kafka goes meanwhile."""
        await self._app.start()

    async def stop(self) -> None:
        """Stop, within some seconds, whatever hangs."""
        with suppress(Exception):
            async with asyncio.timeout(END_S):
                await self._app.stop()

    def assignment(self) -> list[int]:
        """Return the partitions that this member has; NotStarted."""
        return [tp.partition for tp in self._app.consumer.assignment()]

    def end(self, partition: int) -> int:
        """Return the offset behind the last record of a partition that can be read, 0 while that is unknown."""
        with suppress(AssertionError):  # it was taken away a moment ago
            return self._app.consumer.highwater(TP(EVENTS, partition)) or 0
        return 0

    async def position(self, partition: int) -> int:
        """Return the offset that is fetched next, -1 while that is unknown."""
        position: int | None = await self._app.consumer.position(TP(EVENTS, partition))
        return -1 if position is None else position

    async def seek(self, partition: int, offset: int) -> None:
        """Fetch from an offset on."""
        await self._app.consumer.seek_wait({TP(EVENTS, partition): offset})

    async def tell(self, offsets: Mapping[int, int]) -> None:
        """Commit offsets, for Kafka's tools; nobody depends on it."""
        await self._app.consumer.tell(
            {TP(EVENTS, partition): offset for partition, offset in offsets.items()}
        )


class _App(faust.App):
    def _create_directories(self) -> None:
        """Make none: there are no tables."""


class _Loose(WorkerThread):
    """A thread that the interpreter does not wait for: one that waits for a broker that hangs would keep it."""

    def __init__(self, service: Any, **more: Any) -> None:
        super().__init__(service, **more)
        self.daemon = True


class _Thread(AIOKafkaConsumerThread):
    Worker = _Loose

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer: Any = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # noqa: SLF001  # Faust gives no other way
        return consumer

    def highwater(self, tp: TP) -> int:
        return self._ensure_consumer().last_stable_offset(tp) or 0

    async def _commit(self, offsets: Any) -> bool:
        """Commit; unlike Faust's own, a commit that fails crashes nothing."""
        mine = {TopicPartition(*tp): offset for tp, offset in offsets.items() if tp in self.assignment()}
        try:
            await self._ensure_consumer().commit(mine)
        except Exception as error:  # noqa: BLE001  # whatever it is, folding goes on
            log.warning("offsets were not committed: %r", error)
            return False
        return True


class _Consumer(Consumer):
    reader: Reader

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go to where each assigned partition is to be read from."""
        committed = await super().seek_to_committed()
        tps = list(committed)
        first, end = await self.earliest_offsets(*tps), await self.highwaters(*tps)
        starts = await self.reader.begin_at(
            _by_partition(committed), _by_partition(first), _by_partition(end)
        )
        found = {tp: starts[tp.partition] for tp in tps}
        await self.seek_wait(found)
        return found

    async def _drain_messages(self, fetcher: Any) -> None:
        """Hand over what is fetched, a partition at a time, for as long as the fetcher runs."""
        settled_at = 0.0
        while not (self.should_stop or fetcher.should_stop):
            try:
                records, _ = await self._wait_next_records(1.0)
            except self.consumer_stopped_errors:
                if self.app.should_stop:
                    return
                raise
            for tp, batch in (records or {}).items():
                if batch:
                    await self.reader.take(tp.partition, batch)
            now = time.monotonic()
            if now - settled_at > SETTLE_S and self.flow_active:
                settled_at = now
                await self.reader.settle()

    async def tell(self, offsets: Mapping[TP, int]) -> None:
        await self._commit(offsets)


def _by_partition(offsets: Mapping[TP, Any]) -> dict[int, Any]:
    return {tp.partition: offset for tp, offset in offsets.items()}


def _application(settings: KafkaSettings, name: str, reader: Reader) -> Any:
    app = _App(
        GROUP,
        broker=[f"kafka://{place}" for place in settings.brokers],
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=name or None,
        consumer_max_fetch_size=1 << 20,
        broker_session_timeout=6,
        broker_heartbeat_interval=1,
        broker_request_timeout=15,
        broker_commit_interval=2,
        stream_wait_empty=False,
    )
    own: Any = app.transport
    own.Consumer = type("Consumer", (_Consumer,), {"reader": reader})
    app.topics.add(app.topic(EVENTS, acks=False))
    return app
