"""Events that the API did not write as they come: foreign, unreadable, on their way for long, in a topic made anew."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from api.running.kafka.jars import Kafka
from engine.kafka.packs import pack
from engine.kafka.settings import KafkaSettings
from engine.kafka.topics import EVENTS, GROUP, configuration, partition_of
from engine.store.quarantine import QUARANTINE
from engine.store.store import as_bytes, as_list
from features.event import Event, encode_event
from features.identity import tag
from loadtests.fleet import Fleet, Process, wait_for
from loadtests.once import hands, run

WITHIN_S = 20.0


class World:
    """A fleet of one API and one worker, and a hand on its topic."""

    def __init__(self, tact: Fleet, policies: Path) -> None:
        self.tact = tact
        self.policies = policies
        self.secret = asyncio.run(hands.secret(tact.store_url))
        self.worker = run.worker(tact, 1, careless=False)
        tact.workers.append(self.worker)
        self.worker.start()
        self.number = 0

    def partition(self, customer_id: str) -> int:
        return partition_of(tag(self.secret, customer_id), hands.PARTITIONS)

    def produce(self, partition: int, *values: bytes) -> None:
        """Write records and return when they are acknowledged."""

        async def write() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self.tact.cluster.bootstrap, acks="all")
            await producer.start()
            try:
                for value in values:
                    await producer.send_and_wait(EVENTS, value, partition=partition)
            finally:
                await producer.stop()

        asyncio.run(write())

    def transact(self, partition: int, value: bytes, *, commit: bool) -> None:
        """Write a record in a transaction, and end that one way or the other."""

        async def write() -> None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self.tact.cluster.bootstrap, transactional_id="foreign"
            )
            await producer.start()
            try:
                await producer.begin_transaction()
                await producer.send_and_wait(EVENTS, value, partition=partition)
                await (producer.commit_transaction() if commit else producer.abort_transaction())
            finally:
                await producer.stop()

        asyncio.run(write())

    def view(self, customer_id: str) -> Event:
        """Make a page view that was accepted just now."""
        now = asyncio.run(self._now())
        self.number += 1
        return Event(f"w{self.number}", "page_view", customer_id, now, now)

    async def _now(self) -> int:
        async with hands.store(self.tact.store_url) as connection:
            seconds, micros = as_list(await connection.call("TIME"))
        return int(as_bytes(seconds) or 0) * 1000 + int(as_bytes(micros) or 0) // 1000

    def settle(self) -> None:
        """Wait until all is folded."""
        bootstrap = self.tact.cluster.bootstrap
        asyncio.run(hands.wait_until_folded(self.tact.store_url, bootstrap, stalled_s=WITHIN_S))

    def views(self, customer_id: str) -> int:
        self.settle()
        known = self.tact.ask("GET", f"/v1/customers/{customer_id}")
        return int(known["features"]["views"]["value"])

    def link(self, customer_id: str, kind: str, value: str) -> None:
        self.tact.ask(
            "POST", "/v1/identities/link", {"customer_id": customer_id, "kind": kind, "value": value}
        )

    def set_aside(self) -> list[tuple[bytes, str]]:
        """Return what lies in the quarantine, with the reasons, and empty it."""
        self.settle()

        async def take() -> list[tuple[bytes, str]]:
            async with hands.store(self.tact.store_url) as connection:
                rows = as_list(await connection.call("XRANGE", QUARANTINE, "-", "+"))
                await connection.call("DEL", QUARANTINE)
            flat = [[as_bytes(value) or b"" for value in as_list(as_list(row)[1])] for row in rows]
            return [(fields[1], fields[3].decode()) for fields in flat]

        return asyncio.run(take())

    def replay(self) -> None:
        """Let the worker begin at the beginning."""
        self.worker.kill()
        asyncio.run(hands.set_back(self.tact.store_url, 0))
        self.worker.start()
        self.settle()


@pytest.fixture(scope="module")
def world(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with run.running(tmp_path_factory.mktemp("streamed"), apis=1) as (tact, policies):
        yield World(tact, policies)


def as_json(**said: Any) -> bytes:
    return orjson.dumps({"type": "page_view", **said})


def test_what_cannot_be_read_and_what_is_not_valid_is_set_aside_and_the_rest_goes_on(world: World) -> None:
    good = as_json(customer_id="rest")
    bad = {"type": "page_view", "customer_id": "rest", "occurred_at": "yesterday"}
    mixed = orjson.dumps([orjson.loads(good), bad, orjson.loads(good)])
    world.produce(4, b"\xff\x00 no pack", good, b'{"type": ', mixed, good)
    assert world.views("rest") == 4
    found = world.set_aside()
    assert [value for value, _ in found] == [b"\xff\x00 no pack", b'{"type": ', orjson.dumps(bad)]
    unreadable, broken, invalid = (reason for _, reason in found)
    assert unreadable.startswith("the record tact.events:4.")
    assert "cannot be read: " in unreadable
    assert "cannot be read: " in broken
    assert ": /occurred_at: must be an RFC 3339 time" in invalid
    assert invalid.startswith("event 1 of the record tact.events:4.")


def test_kafkas_own_tools_see_how_far_the_workers_are(world: World) -> None:
    world.produce(3, pack([encode_event(world.view("seen"))]))
    world.settle()
    bootstrap = world.tact.cluster.bootstrap

    async def committed() -> dict[int, int]:
        async with hands.consumer(bootstrap, GROUP) as client:
            found = {place.partition: await client.committed(place) for place in client.assignment()}
        return {partition: offset for partition, offset in found.items() if offset}

    def told() -> bool:
        folded = asyncio.run(hands.folded(world.tact.store_url))[1]
        return asyncio.run(committed()) == {
            partition: offset for partition, offset in folded.items() if offset
        }

    wait_for(told, WITHIN_S, world.tact.logs)


def test_json_without_ids_counts_once_when_it_is_read_again_even_after_a_merge(world: World) -> None:
    world.produce(5, as_json(identities={"cookie": "again"}), as_json(identities={"cookie": "again"}))
    world.settle()
    world.link("who", "cookie", "again")  # positions say nothing of what came by the other id
    assert world.views("who") == 2
    world.replay()
    assert world.views("who") == 2


def test_events_of_a_transaction_count_what_was_taken_back_does_not_and_its_marks_are_no_lag(
    world: World,
) -> None:
    world.transact(6, as_json(customer_id="bought"), commit=True)
    assert world.views("bought") == 1  # and all was folded: the mark that ends the transaction is passed
    world.transact(6, as_json(customer_id="bought"), commit=False)
    world.produce(7, as_json(customer_id="bought"))
    assert world.views("bought") == 2
    world.transact(6, as_json(customer_id="bought"), commit=False)
    assert world.views("bought") == 2


def test_an_event_that_was_on_its_way_when_its_customer_was_merged_reaches_the_right_one(
    world: World,
) -> None:
    world.produce(world.partition("gone"), pack([encode_event(world.view("gone"))]))
    world.settle()
    world.link("gone", "card", "shared")
    world.worker.kill()
    late = [world.view("gone") for _ in range(3)]
    world.produce(world.partition("gone"), *(pack([encode_event(event)]) for event in late))
    world.link("stays", "card", "shared")
    world.worker.start()
    assert world.views("stays") == 4
    assert world.views("gone") == 4
    world.replay()
    assert world.views("gone") == 4


def test_a_topic_that_was_deleted_and_made_anew_is_read_from_its_beginning(world: World) -> None:
    partition = world.partition("anew")
    world.produce(partition, *(pack([encode_event(world.view("anew"))]) for _ in range(5)))
    assert world.views("anew") == 5
    world.worker.kill()

    async def make_anew() -> None:
        settings = KafkaSettings.parse(world.tact.cluster.bootstrap, str(hands.PARTITIONS), "1", "7d")
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics([EVENTS])
            topic = NewTopic(
                EVENTS, settings.partitions, settings.copies, topic_configs=configuration(settings)
            )
            while (await admin.create_topics([topic])).topic_errors[0][1]:  # noqa: ASYNC110  # Kafka's
                await asyncio.sleep(0.1)
        finally:
            await admin.close()

    asyncio.run(make_anew())
    world.produce(partition, *(pack([encode_event(world.view("anew"))]) for _ in range(2)))
    world.worker.start()
    epoch = asyncio.run(hands.folded(world.tact.store_url))[0]
    wait_for(lambda: asyncio.run(hands.folded(world.tact.store_url))[0] > epoch, WITHIN_S)
    assert world.views("anew") == 7


@pytest.mark.parametrize("part", [["api"], ["worker", "features"]])
def test_another_number_of_partitions_than_the_topic_has_is_refused_with_a_clear_sentence(
    world: World, part: list[str]
) -> None:
    environment = {**world.tact.environment, "TACT_KAFKA_PARTITIONS": "5", "TACT_PORT": "0"}
    log = world.tact.folder / f"{part[0]}-5.log"
    process = Process(f"{part[0]}-5", part, environment, log)
    process.start()
    try:
        assert process.wait() == 1
    finally:
        process.kill()
    assert log.read_text().splitlines()[-1] == (
        "tact: the topic tact.events has 12 partitions, TACT_KAFKA_PARTITIONS says 5: set it to 12; the number is "
        "fixed once the topic is made"
    )
