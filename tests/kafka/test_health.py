"""deploy/health.py tells from Kafka and the watermarks in the store how long events have waited for their workers."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from api.running.distributed import ROOT
from api.running.kafka.cluster import Cluster
from api.running.kafka.node import free_ports
from api.running.valkey import ValkeyServer
from engine.kafka.journal import DONE, EPOCH
from engine.kafka.topics import EVENTS
from engine.store.connection import StoreConnection


async def make_topic(bootstrap: str) -> None:
    """Make it with the times of the senders, so that a record can have waited for as long as a test needs."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        made = await admin.create_topics([NewTopic(EVENTS, 2, 1)])
        assert [code for _, code, *_ in made.topic_errors] == [0]
    finally:
        await admin.close()


async def send(bootstrap: str, partition: int, seconds_ago: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        sent_at = int(time.time() * 1000) - 1000 * seconds_ago
        await producer.send_and_wait(EVENTS, b"pack", partition=partition, timestamp_ms=sent_at)
    finally:
        await producer.stop()


def features(bootstrap: str, server: ValkeyServer) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "deploy/health.py", "features"],
        cwd=ROOT,
        env={
            **os.environ,
            "TACT_STORE": f"unix://{server.socket_path}",
            "TACT_KAFKA": bootstrap,
            "TACT_KAFKA_PARTITIONS": "2",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr.strip()


LATE = (1, "that is more than 30000 ms")
WELL = (0, "")


def test_workers_are_unwell_while_a_record_waits_for_more_than_30_s(
    own_kafka: Callable[..., Cluster],
    store: StoreConnection,
    runner: asyncio.Runner,
    valkey_server: ValkeyServer,
) -> None:
    kafka = own_kafka(1, {}).bootstrap

    def told() -> tuple[int, str]:
        return features(kafka, valkey_server)

    async def call(*command: str) -> None:
        await store.call(*command)

    assert told() == WELL  # no topic, so no event
    runner.run(call("SET", EPOCH, "2"))
    runner.run(make_topic(kafka))
    assert told() == WELL  # no record
    runner.run(send(kafka, 1, 60))
    assert told() == LATE  # and no watermark: no worker was ever here
    runner.run(call("HSET", DONE, "1", "2:1"))
    assert told() == WELL
    runner.run(send(kafka, 1, 5))
    assert told() == WELL  # what waits has waited for 5 s only: the older one is folded
    runner.run(send(kafka, 0, 60))
    assert told() == LATE  # in the other partition
    runner.run(call("HSET", DONE, "0", "2:1"))
    assert told() == WELL
    runner.run(call("HSET", DONE, "0", "2:7"))
    assert told() == LATE  # beyond the end: of a topic that is gone
    runner.run(call("HSET", DONE, "0", "2:1"))
    runner.run(call("SET", EPOCH, "3"))
    assert told() == LATE  # of another epoch: the same


def test_workers_are_unwell_while_kafka_is_away(store: StoreConnection, valkey_server: ValkeyServer) -> None:
    (port,) = free_ports(1)
    code, sentence = features(f"127.0.0.1:{port}", valkey_server)
    assert (code, sentence.count("\n")) == (1, 0)
    assert sentence.startswith("nobody says how far features has come: ")
    assert str(port) in sentence
