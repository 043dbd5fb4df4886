"""The hands of the suite on a running Tact: how far events are folded, and turning that back.

Everything here opens its own connections and closes them; an operator's tools would do the same.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from engine.kafka.journal import DONE, EPOCH
from engine.kafka.topics import EVENTS, GROUP
from engine.runtime import INSTALLATION
from engine.store.connection import StoreAddress, StoreConnection
from engine.store.store import as_bytes, as_int, as_list

PARTITIONS: Final = 12
_GROUP_S: Final = 30.0
_POLL_S: Final = 0.2


@asynccontextmanager
async def store(url: str) -> AsyncIterator[StoreConnection]:
    """Connect to the store for the length of a block."""
    connection = StoreConnection(StoreAddress.parse(url), within_s=10.0)
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def consumer(bootstrap: str, group: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
    """Give a consumer of all partitions of the topic, which stands nowhere yet, for the length of a block."""
    client = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4_000_000,
    )
    await client.start()
    try:
        client.assign([TopicPartition(EVENTS, partition) for partition in range(PARTITIONS)])
        yield client
    finally:
        await client.stop()


async def secret(url: str) -> bytes:
    """Return the installation's secret."""
    async with store(url) as connection:
        return as_bytes(await connection.call("GET", INSTALLATION)) or b""


async def folded(url: str) -> tuple[int, dict[int, int]]:
    """Return the topic's epoch, and the watermark of each partition that has one in this epoch."""
    async with store(url) as connection:
        epoch, fields = await connection.pipeline([("GET", EPOCH), ("HGETALL", DONE)])
    flat = [(as_bytes(value) or b"").decode() for value in as_list(fields)]
    marks = {}
    for partition, value in zip(flat[::2], flat[1::2], strict=True):
        in_epoch, _, offset = value.partition(":")
        if int(in_epoch) == as_int(epoch):
            marks[int(partition)] = int(offset)
    return as_int(epoch), marks


async def ends(bootstrap: str) -> dict[int, int]:
    """Return the offset after the last record of each partition."""
    async with consumer(bootstrap) as client:
        found = await client.end_offsets(client.assignment())
    return {place.partition: offset for place, offset in found.items()}


async def set_back(url: str, share: float) -> None:
    """Set every watermark back to this share (0 to 1) of what it was."""
    epoch, marks = await folded(url)
    if marks:
        fields = [
            part
            for partition, offset in marks.items()
            for part in (partition, f"{epoch}:{int(offset * share)}")
        ]
        async with store(url) as connection:
            await connection.call("HSET", DONE, *fields)


async def set_group_back(bootstrap: str) -> None:
    """Commit the first offset of each partition for the group, once Kafka knows that its members are gone."""
    give_up = time.monotonic() + _GROUP_S
    async with consumer(bootstrap, GROUP) as client:
        while True:
            try:
                await client.commit(dict.fromkeys(client.assignment(), 0))
            except KafkaError:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_POLL_S)
            else:
                return


async def wait_until_folded(
    url: str, bootstrap: str, *, stalled_s: float, meanwhile: Callable[[int], object] = lambda _: None
) -> None:
    """Wait until every record is folded, while nothing is sent; `meanwhile` is told over and over how many are left.

    RuntimeError when their number has not moved for `stalled_s` seconds.
    """
    last, moved_at = -1, time.monotonic()
    end = await ends(bootstrap)
    while True:
        _, marks = await folded(url)
        left = sum(max(0, offset - marks.get(partition, 0)) for partition, offset in end.items())
        if not left:
            return
        meanwhile(left)
        now = time.monotonic()
        if left != last:
            last, moved_at = left, now
        elif now - moved_at > stalled_s:
            places = {p: (marks.get(p, 0), offset) for p, offset in end.items() if marks.get(p, 0) < offset}
            raise RuntimeError(
                f"for {stalled_s:.0f} s nothing was folded, while records are left in {places}"
            )
        await asyncio.sleep(_POLL_S)
