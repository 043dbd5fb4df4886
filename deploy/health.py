"""Tell whether a part of Tact is well, as containers and operators ask: `python deploy/health.py PART`, 0 for yes.

The API says so itself, at /readyz. The others follow a stream of the store, or the events in Kafka where TACT_KAFKA
names it, and are well while nothing has waited for them too long: that finds a worker that hangs, is stuck on an entry,
or was never started. How far each has come is read from the store (TACT_STORE), so it does not matter on which machine
this runs. Feature workers that share partitions are well or not together.
"""

import asyncio
import logging
import sys
from typing import Final
from urllib.request import urlopen

from api.running.settings import setting
from engine.kafka.settings import KafkaSettings

LATE_MS: Final = {
    "features": 30_000,
    "learner": 300_000,  # it says how far it is at its checkpoints: every 30 s, less often where models are large
    "archive": 60_000,
}
"""How long an entry may wait for each follower."""
KAFKA_SETTINGS: Final = ("TACT_KAFKA", "TACT_KAFKA_PARTITIONS", "TACT_KAFKA_COPIES", "TACT_KAFKA_RETENTION")
WITHIN_S: Final = 2.5
KAFKA_WITHIN_S: Final = 6.0
"""With the store's, less than the 10 s after which a health check of docker-compose.yml is given up."""


async def waited_ms(address: str, part: str) -> int:
    """Return for how many milliseconds the oldest entry that a follower has not taken in has waited, 0 without any."""
    from engine.judging.trail import ARCHIVED, LEARNED, TRAIL  # noqa: PLC0415  # as above
    from engine.store.connection import StoreAddress, StoreConnection  # noqa: PLC0415  # the API is asked often
    from engine.store.store import as_bytes, as_list, store_time  # noqa: PLC0415  # as above
    from engine.workers.features import CHECKPOINT, STREAM  # noqa: PLC0415  # as above

    followed = {"features": (STREAM, CHECKPOINT), "learner": (TRAIL, LEARNED), "archive": (TRAIL, ARCHIVED)}
    stream, come_to = followed[part]
    connection = StoreConnection(StoreAddress.parse(address), within_s=WITHIN_S)
    await connection.open()
    try:
        position = as_bytes(await connection.call("GET", come_to))
        after = "-" if position is None else f"({position.decode()}"
        entries, clock = await connection.pipeline([("XRANGE", stream, after, "+", "COUNT", 1), ("TIME",)])
    finally:
        await connection.close()
    oldest = as_list(entries)
    if not oldest:
        return 0
    made_at = int((as_bytes(as_list(oldest[0])[0]) or b"").partition(b"-")[0])
    return max(0, store_time(clock) - made_at)


async def waited_in_kafka_ms(address: str, kafka: KafkaSettings) -> int:
    """Return for how many milliseconds the oldest record that is not folded has been in Kafka, 0 without any.

    Watermarks of an older topic of that name (of another epoch, or beyond the end) say nothing of this one.
    KafkaError, TimeoutError.
    """
    from aiokafka import AIOKafkaConsumer, TopicPartition  # noqa: PLC0415  # only where there is Kafka

    from engine.kafka.journal import DONE, EPOCH  # noqa: PLC0415  # as above
    from engine.kafka.topics import EVENTS  # noqa: PLC0415  # as above
    from engine.store.connection import StoreAddress, StoreConnection  # noqa: PLC0415  # the API is asked often
    from engine.store.store import as_bytes, as_list, store_time  # noqa: PLC0415  # as above

    connection = StoreConnection(StoreAddress.parse(address), within_s=WITHIN_S)
    await connection.open()
    try:
        watermarks, epoch, clock = await connection.pipeline([("HGETALL", DONE), ("GET", EPOCH), ("TIME",)])
    finally:
        await connection.close()
    told = [as_bytes(value) or b"" for value in as_list(watermarks)]
    current = (as_bytes(epoch) or b"") + b":"
    folded_to = {
        int(partition): int(watermark.removeprefix(current))
        for partition, watermark in zip(told[::2], told[1::2], strict=True)
        if watermark.startswith(current)
    }
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the one sentence of the fault says it
    every = [TopicPartition(EVENTS, number) for number in range(kafka.partitions)]
    oldest: list[int] = []
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        async with asyncio.timeout(KAFKA_WITHIN_S):
            await consumer.start()
            if EVENTS not in await consumer.topics():
                return 0  # nobody has sent an event yet
            starts, ends = await consumer.beginning_offsets(every), await consumer.end_offsets(every)
            next_at = {part: max(folded_to.get(part.partition, 0), starts[part]) for part in every}
            next_at = {part: at if at <= ends[part] else starts[part] for part, at in next_at.items()}
            behind = [part for part in every if next_at[part] < ends[part]]
            consumer.assign(behind)
            for part in behind:
                consumer.seek(part, next_at[part])
            oldest = [(await consumer.getone(part)).timestamp for part in behind]
    finally:
        await consumer.stop()
    return max(0, store_time(clock) - min(oldest, default=store_time(clock)))


async def _waited_ms(address: str, part: str) -> int:
    if part == "features" and setting("TACT_KAFKA"):
        return await waited_in_kafka_ms(address, KafkaSettings.parse(*map(setting, KAFKA_SETTINGS)))
    return await waited_ms(address, part)


def api_fault() -> str:
    """Return nothing when the API process of this machine is ready, else why it is not."""
    url = f"http://{setting('TACT_HOST')}:{setting('TACT_PORT')}/readyz"
    try:
        with urlopen(url, timeout=WITHIN_S):  # an http URL of our own
            return ""
    except OSError as error:
        return f"{url}: {error}"


def follower_fault(part: str) -> str:
    """Return nothing when the part keeps up, else why it does not."""
    try:
        waited = asyncio.run(_waited_ms(setting("TACT_STORE"), part))
    except Exception as error:  # noqa: BLE001  # whatever it is, nobody can say that all is well
        return f"nobody says how far {part} has come: {str(error) or type(error).__name__}"
    print(f"{part}: the oldest entry that waits has waited {waited} ms")  # noqa: T201  # a command's answer
    return "" if waited <= LATE_MS[part] else f"that is more than {LATE_MS[part]} ms"


def main() -> None:
    """Answer for the part that is named."""
    part = sys.argv[1] if len(sys.argv) == 2 else ""
    if part != "api" and part not in LATE_MS:
        sys.stderr.write(f"usage: python deploy/health.py api|{'|'.join(LATE_MS)}\n")
        sys.exit(2)
    sys.exit((api_fault() if part == "api" else follower_fault(part)) or 0)


if __name__ == "__main__":
    main()
