"""The broker that the Kafka suites stand on keeps what it acknowledged and makes no topic of its own accord."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from api.running.kafka.cluster import Cluster
from api.running.kafka.jars import Kafka, KafkaMissing, find
from api.running.kafka.node import QUICK_SESSIONS, Ports, brokers, free_ports, properties
from tests.conftest import is_gone

RECORDS = 3_000
KILL_AFTER = 1_000  # acknowledged records
PARTITIONS = 6


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def producer(bootstrap: str, patience_ms: int = 20_000) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", linger_ms=5, request_timeout_ms=patience_ms
    )
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def new_topic(bootstrap: str, partitions: int = 1, copies: int = 1) -> str:
    """Make a topic of a fresh name: the broker may be one that outlives the suite."""
    topic = f"test-{uuid4().hex}"
    async with admin(bootstrap) as client:
        made = await client.create_topics([NewTopic(topic, partitions, copies)])
    assert [code for _, code, *_ in made.topic_errors] == [0]
    return topic


async def leader(bootstrap: str, topic: str) -> int:
    """Return the number of the node that leads partition 0."""
    async with admin(bootstrap) as client:
        (described,) = await client.describe_topics([topic])
    return next(int(one["leader"]) for one in described["partitions"] if one["partition"] == 0)


async def send(bootstrap: str, topic: str, values: Sequence[bytes]) -> None:
    """Return when all are acknowledged."""
    async with producer(bootstrap) as client:
        await asyncio.gather(*[await client.send(topic, value, partition=0) for value in values])


async def read(bootstrap: str, topic: str, partitions: int = 1) -> list[bytes]:
    """Return every record of a topic from its beginning to the end that it has now."""
    client = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await client.start()
    try:
        parts = [TopicPartition(topic, number) for number in range(partitions)]
        client.assign(parts)
        ends = await client.end_offsets(parts)
        found: list[bytes] = []
        for part in parts:
            client.pause(*[other for other in parts if other != part])
            client.resume(part)
            while await client.position(part) < ends[part]:
                found += [
                    record.value for record in (await client.getmany(part, timeout_ms=1_000)).get(part, [])
                ]
        return found
    finally:
        await client.stop()


def test_a_record_comes_back_as_it_was_sent(bootstrap: str) -> None:
    async def scenario() -> list[bytes]:
        topic = await new_topic(bootstrap)
        await send(bootstrap, topic, [b"first", b"second"])
        return await read(bootstrap, topic)

    assert asyncio.run(scenario()) == [b"first", b"second"]


def test_a_topic_that_nobody_declared_is_not_made_by_writing_to_it(bootstrap: str) -> None:
    topic = f"undeclared-{uuid4().hex}"

    async def scenario() -> list[str]:
        async with producer(bootstrap, patience_ms=1_500) as client:
            with pytest.raises(UnknownTopicOrPartitionError):
                await client.send(topic, b"lost")
        async with admin(bootstrap) as client:
            return [str(name) for name in await client.list_topics()]

    assert topic not in asyncio.run(scenario())


def test_a_broker_killed_and_started_again_has_every_record(own_kafka: Callable[..., Cluster]) -> None:
    cluster = own_kafka(1, QUICK_SESSIONS)
    sent = [b"%d" % number for number in range(500)]
    topic = asyncio.run(new_topic(cluster.bootstrap))
    asyncio.run(send(cluster.bootstrap, topic, sent))
    cluster.node(1).kill()
    assert cluster.node(1).knows() == frozenset()
    cluster.restart()
    assert asyncio.run(read(cluster.bootstrap, topic)) == sent


@pytest.mark.three_brokers
def test_three_brokers_lose_nothing_acknowledged_when_one_is_killed(
    own_kafka: Callable[..., Cluster],
) -> None:
    cluster = own_kafka(3, {})
    topic = asyncio.run(new_topic(cluster.bootstrap, PARTITIONS, copies=3))
    victim = asyncio.run(leader(cluster.bootstrap, topic))
    acknowledged: set[bytes] = set()
    dead = asyncio.Event()

    async def write(client: AIOKafkaProducer, number: int) -> None:
        value = b"%d" % number
        await (await client.send(topic, value, partition=number % PARTITIONS))
        acknowledged.add(value)
        if len(acknowledged) == KILL_AFTER:
            cluster.node(victim).kill()
            dead.set()

    async def scenario() -> None:
        async with producer(cluster.bootstrap) as client, asyncio.TaskGroup() as group:
            for number in range(RECORDS):
                group.create_task(write(client, number))
                if number == 2 * KILL_AFTER:
                    await dead.wait()  # the rest is sent to a cluster that has lost a leader

    asyncio.run(scenario())
    assert acknowledged == {b"%d" % number for number in range(RECORDS)}
    assert cluster.ready()  # the two that are left call each other alive, and nobody else
    assert acknowledged <= set(asyncio.run(read(cluster.bootstrap, topic, PARTITIONS)))
    cluster.restart(victim)
    assert {node.knows() for node in cluster.nodes} == {frozenset({1, 2, 3})}


def test_make_kafka_ends_on_a_signal_and_leaves_no_process_behind(kafka: Kafka, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "api.running.kafka", "--port", str(port), "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert first.startswith(f"Kafka is ready at 127.0.0.1:{port}")
        assert brokers(port) == {1}
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert [is_gone(int(child)) for child in children] == [True]


def test_a_taken_port_is_told_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "api.running.kafka", "--data", str(tmp_path), "--port"]
        process = subprocess.run(
            [*command, str(taken.getsockname()[1])], capture_output=True, text=True, check=False
        )
    assert (process.returncode, process.stderr.count("\n")) == (1, 1)
    assert "make kafka KAFKA_PORT=PORT" in process.stderr


def test_a_second_kafka_on_the_same_data_is_refused_and_says_why(own_kafka: Callable[..., Cluster]) -> None:
    cluster = own_kafka(1, {})
    command = [sys.executable, "-m", "api.running.kafka", "--port", "0", "--data"]
    second = subprocess.run(
        [*command, str(cluster.node(1).folder.parent)], capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert "A Kafka instance in another process or thread is using this directory" in second.stderr
    assert cluster.ready()


def test_a_machine_without_java_is_told_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(KafkaMissing, match="needs a JDK, 17 or newer, and there is no java in PATH"):
        find({"PATH": str(tmp_path)})


def test_a_java_that_is_too_old_is_told_so(tmp_path: Path) -> None:
    java = tmp_path / "bin/java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o700)
    with pytest.raises(KafkaMissing, match=r'is openjdk version "11\.0\.2" 2019-01-15: name a newer one'):
        find({"JAVA_HOME": str(tmp_path), "PATH": os.defpath})


def test_a_machine_without_maven_is_told_what_to_install(tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n")
    java.chmod(0o700)
    with pytest.raises(KafkaMissing, match="fetched once with Maven, and there is no mvn in PATH"):
        find({"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")})


def test_three_nodes_write_to_two_before_they_acknowledge_and_notice_a_death_within_3_s() -> None:
    ports = [Ports(1, 2), Ports(3, 4), Ports(5, 6)]
    settings = properties(2, ports, Path("data"), {})
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:2,2@127.0.0.1:4,3@127.0.0.1:6"
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:3,CONTROLLER://127.0.0.1:4"
    assert (settings["default.replication.factor"], settings["min.insync.replicas"]) == ("3", "2")
    assert settings["broker.session.timeout.ms"] == "3000"


def test_one_node_keeps_one_copy_and_the_usual_session() -> None:
    settings = properties(1, [Ports(1, 2)], Path("data"), {})
    assert (settings["default.replication.factor"], settings["min.insync.replicas"]) == ("1", "1")
    assert "broker.session.timeout.ms" not in settings
