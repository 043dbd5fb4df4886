"""Packs: what goes into a record, what a producer that fails costs, and what is refused.

Kafka is a stand-in here, since a real broker fails in these ways only by chance; `tests/kafka/` has real ones.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from aiokafka.errors import OutOfOrderSequenceNumber

from engine.kafka import packs
from engine.kafka.packs import NotAcknowledged, Packs, pack
from engine.kafka.settings import BadKafkaSettings, KafkaSettings
from engine.kafka.topics import KafkaAway
from features.event import Event, decode_events, encode_event
from tests.conftest import eventually_in_loop

SETTINGS = KafkaSettings(("127.0.0.1:1",), 4, 1, 3_600_000)


class Broker:
    """Takes records; `fails` says what becomes of the next ones."""

    def __init__(self) -> None:
        self.records: list[tuple[int, list[str]]] = []
        self.fails: list[Exception] = []
        self.silent = asyncio.Event()
        self.producers = 0

    def producer(self, **_: object) -> "Producer":
        self.producers += 1
        return Producer(self)


class Producer:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def send_and_wait(self, _topic: str, value: bytes, *, partition: int) -> None:
        self.broker.records.append((partition, [event.event_id for event in decode_events(value)]))
        if self.broker.fails:
            raise self.broker.fails.pop(0)
        if self.broker.silent.is_set():
            await asyncio.Event().wait()


def event(name: str, size: int = 0) -> bytes:
    return encode_event(Event(name, "page_view", "c1", 1, 1, properties={"text": "x" * size}))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[Packs, Broker], Coroutine[Any, Any, None]]], None]:
    """Run a scenario on packs that have connected."""

    async def around(scenario: Callable[[Packs, Broker], Coroutine[Any, Any, None]]) -> None:
        broker = Broker()
        monkeypatch.setattr(packs, "AIOKafkaProducer", broker.producer)

        async def ensured(*_: object) -> None: ...

        monkeypatch.setattr(packs, "ensure", ensured)
        one = Packs(SETTINGS, ensured)
        await one.open()
        try:
            await asyncio.wait_for(scenario(one, broker), 30)
        finally:
            await one.close()

    return lambda scenario: asyncio.run(around(scenario))


Run = Callable[[Callable[[Packs, Broker], Coroutine[Any, Any, None]]], None]


@pytest.mark.parametrize("count", [1, 15, 16, 500])
def test_a_pack_is_what_the_journal_decodes(count: int) -> None:
    names = [f"e{number}" for number in range(count)]
    assert [one.event_id for one in decode_events(pack([event(name) for name in names]))] == names


def test_what_comes_together_is_one_record_of_each_partition(run: Run) -> None:
    async def scenario(one: Packs, broker: Broker) -> None:
        await asyncio.gather(
            one.send({0: [event("a"), event("b")], 1: [event("c")]}), one.send({0: [event("d")]})
        )
        assert sorted(broker.records) == [(0, ["a", "b", "d"]), (1, ["c"])]

    run(scenario)


def test_a_record_is_bounded_in_events_and_in_bytes(run: Run) -> None:
    async def scenario(one: Packs, broker: Broker) -> None:
        await one.send({0: [event(f"e{number}") for number in range(packs.PACK_MAX + 1)]})
        assert sorted(len(names) for _, names in broker.records) == [1, packs.PACK_MAX]
        broker.records.clear()
        await one.send({0: [event(f"e{number}", 15_000) for number in range(60)]})
        assert sum(len(names) for _, names in broker.records) == 60
        assert max(len(names) for _, names in broker.records) <= packs.PACK_BYTES_MAX // 15_000

    run(scenario)


def test_a_producer_that_failed_is_replaced_and_the_pack_is_sent_again(run: Run) -> None:
    async def scenario(one: Packs, broker: Broker) -> None:
        broker.fails.append(OutOfOrderSequenceNumber())
        await one.send({2: [event("a")]})
        assert broker.records == [(2, ["a"]), (2, ["a"])]
        assert broker.producers == 2

    run(scenario)


def test_who_is_not_acknowledged_in_time_is_told_and_what_was_not_sent_is_taken_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "WITHIN_S", 0.2)
    monkeypatch.setattr(packs, "STUCK_S", 1.0)

    async def scenario(one: Packs, broker: Broker) -> None:
        broker.silent.set()
        first = asyncio.create_task(one.send({0: [event("a")]}))
        await eventually_in_loop(lambda: bool(broker.records))
        with pytest.raises(NotAcknowledged):
            await one.send({0: [event("b")]})
        with pytest.raises(NotAcknowledged):
            await first
        broker.silent.clear()
        await eventually_in_loop(lambda: broker.producers == 2 and not one.fault)
        await one.send({0: [event("c")]})
        assert [names for _, names in broker.records] == [["a"], ["c"]]

    run(scenario)


def test_a_partition_that_acknowledges_nothing_takes_no_more_and_the_others_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "SILENT_S", 0.1)

    async def scenario(one: Packs, broker: Broker) -> None:
        broker.silent.set()
        waiting = asyncio.create_task(one.send({0: [event("a")]}))
        await asyncio.sleep(0.3)
        assert one.fault == "1 partitions acknowledge nothing"
        with pytest.raises(NotAcknowledged, match="acknowledge nothing"):
            await one.send({0: [event("b")]})
        broker.silent.clear()
        await one.send({1: [event("c")]})
        waiting.cancel()

    run(scenario)


@pytest.mark.parametrize(("bound", "most"), [("WAITING_BYTES_MAX", 10), ("WAITING_CALLS_MAX", 1)])
def test_what_waits_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch, bound: str, most: int) -> None:
    monkeypatch.setattr(packs, bound, most)

    async def scenario(one: Packs, broker: Broker) -> None:
        broker.silent.set()
        waiting = asyncio.create_task(one.send({0: [event("a")]}))
        await asyncio.sleep(0.01)
        with pytest.raises(NotAcknowledged, match="too much waits"):
            await one.send({1: [event("b")]})
        waiting.cancel()

    run(scenario)


def test_events_are_refused_at_once_while_kafka_was_never_there_and_taken_when_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = [KafkaAway("nobody is there"), KafkaAway("nobody is there")]
    monkeypatch.setattr(packs, "RETRY_S", 0.01)

    async def ensured(*_: object) -> None:
        if away:
            raise away.pop()

    async def scenario() -> None:
        broker = Broker()
        monkeypatch.setattr(packs, "AIOKafkaProducer", broker.producer)
        monkeypatch.setattr(packs, "ensure", ensured)
        one = Packs(SETTINGS, ensured)
        await one.open()
        with pytest.raises(NotAcknowledged, match="nobody is there"):
            await one.send({0: [event("a")]})
        await eventually_in_loop(lambda: not one.fault)
        await one.send({0: [event("a")]})
        await one.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_the_settings_of_kafka_are_read() -> None:
    assert KafkaSettings.parse("a:1, [::1]:9092", "16", "3", "2w") == KafkaSettings(
        ("a:1", "[::1]:9092"), 16, 3, 14 * 86_400_000
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("kafka", "16", "1", "7d"), "TACT_KAFKA names 'kafka': write each broker as host:port"),
        (("a:1,", "16", "1", "7d"), "TACT_KAFKA names ''"),
        (("a:99999", "16", "1", "7d"), "TACT_KAFKA names 'a:99999'"),
        (("a:1", "0", "1", "7d"), "TACT_KAFKA_PARTITIONS is '0': write a whole number from 1 to 1024"),
        (("a:1", "x", "1", "7d"), "TACT_KAFKA_PARTITIONS is 'x'"),
        (("a:1", "16", "10", "7d"), "TACT_KAFKA_COPIES is '10'"),
        (("a:1", "16", "1", "7"), "TACT_KAFKA_RETENTION is '7': write a whole number and one of h d w"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(given: tuple[str, str, str, str], named: str) -> None:
    with pytest.raises(BadKafkaSettings) as refused:
        KafkaSettings.parse(*given)
    assert named in str(refused.value)
