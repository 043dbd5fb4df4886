"""What Kafka holds of Tact, declared here alone: one topic, created or checked before anybody uses it.

The number of partitions cannot change: it decides where a customer's events are, and a position counts in one
partition. Quarantine, outcomes and models are in the store, where an erasure reaches them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from zlib import crc32

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code

from engine.kafka.settings import KafkaSettings

EVENTS: Final = "tact.events"
GROUP: Final = "tact-features"
"""The consumer group of the feature workers; what it commits is for Kafka's own tools, see `kafka_worker`."""
RECORD_BYTES_MAX: Final = 1_000_000
"""Bytes of one record; the broker's own limit is a little higher."""
WITHIN_MS: Final = 5_000


class KafkaAway(Exception):  # the sentence is what matters
    """No broker answers, or none that can do what was asked; trying again may help."""


class TopicMismatch(Exception):  # as above
    """The topic is not as it is declared: somebody has to decide which of both is right."""


def partition_of(tag: str, partitions: int) -> int:
    """Return the partition of a customer's events, by the keyed tag: nothing of a person is in Kafka's keys."""
    return crc32(tag.encode()) % partitions


def configuration(settings: KafkaSettings) -> dict[str, str]:
    """Return the topic's configuration."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(settings.retention_ms),
        "message.timestamp.type": "LogAppendTime",  # an event is received when the broker says so, not its sender
        "max.message.bytes": str(RECORD_BYTES_MAX + 100_000),
    }


async def ensure(settings: KafkaSettings, on_new: Callable[[], Awaitable[object]]) -> None:
    """Make the topic, or check the one that is there; KafkaAway, TopicMismatch.

    `on_new` is awaited before one is made: what was known of an older topic of that name is no longer true.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap, request_timeout_ms=WITHIN_MS)
    try:
        async with asyncio.timeout(4 * WITHIN_MS / 1000):
            await admin.start()
            if EVENTS not in await admin.list_topics():
                await on_new()
                await _create(admin, settings)
            await _check(admin, settings)
    except (KafkaConnectionError, OSError, TimeoutError) as error:
        raise KafkaAway(f"no broker of {settings.bootstrap} answers") from error
    except KafkaError as error:
        raise KafkaAway(f"Kafka at {settings.bootstrap} cannot be used: {error}") from error
    finally:
        await admin.close()


async def _create(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> None:
    topic = NewTopic(EVENTS, settings.partitions, settings.copies, topic_configs=configuration(settings))
    answer = await admin.create_topics([topic])
    for _, code, *words in answer.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            said = next((word for word in words if word), error.__name__)
            if error.retriable:
                raise KafkaAway(f"the topic {EVENTS} cannot be made now: {said}")
            raise TopicMismatch(
                f"the topic {EVENTS} cannot be made: {said} Set TACT_KAFKA_COPIES to what the cluster can keep."
            )


async def _check(admin: AIOKafkaAdminClient, settings: KafkaSettings) -> None:
    described: list[Any] = []
    while (
        not described or described[0]["error_code"]
    ):  # made a moment ago, it may not be known everywhere yet
        await asyncio.sleep(0.05 if described else 0)
        described = await admin.describe_topics([EVENTS])
    parts = described[0]["partitions"]
    if len(parts) != settings.partitions:
        raise TopicMismatch(
            f"the topic {EVENTS} has {len(parts)} partitions, TACT_KAFKA_PARTITIONS says {settings.partitions}: set it "
            f"to {len(parts)}; the number is fixed once the topic is made"
        )
    copies = min(len(part["replicas"]) for part in parts)
    if copies < settings.copies:
        raise TopicMismatch(
            f"the topic {EVENTS} is kept in {copies} copies, TACT_KAFKA_COPIES says {settings.copies}: reassign its "
            "partitions to more brokers (kafka-reassign-partitions), or lower the setting"
        )
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, EVENTS)])
    found = {entry[0]: entry[1] for resource in answer.resources for entry in resource[4]}
    for name, value in configuration(settings).items():
        if found.get(name) != value:
            raise TopicMismatch(
                f"the topic {EVENTS} has {name}={found.get(name)} and should have {value}: change it "
                f"(kafka-configs --alter --topic {EVENTS} --add-config {name}={value})"
                + (", or set TACT_KAFKA_RETENTION" if name == "retention.ms" else "")
            )
