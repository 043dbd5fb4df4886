"""What one feature worker folds from Kafka, beside a Faust agent that does nothing: `python -m loadtests.throughput`.

In one run, on one broker and one store: the no-op agent over plain records, the worker over the same records, then
packed ones, with one worker and with two. Rates are of the steady part: from a tenth of the records to the last.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from engine.judging.plan import compile_plan
from engine.kafka.journal import DONE
from engine.kafka.packs import pack
from engine.kafka.settings import KafkaSettings
from engine.kafka.topics import EVENTS, ensure, partition_of
from engine.runtime import Engine, open_engine
from engine.store.store import as_bytes, as_list
from features.event import Event, encode_event
from loadtests import shop
from loadtests.fleet import Fleet, running
from policies.loader import load_files

PARTITIONS = 16
CUSTOMERS = 5_000
PACKED = 50
FILLING = 500
_TYPES = ("page_view", "purchase", "email_open", "email_delivered", "store_scan")


def made(number: int, rnd: random.Random, now: int) -> Event:
    """Make an event that feeds the 20 features of the shop."""
    return Event(
        event_id=f"e-{number}",
        type=rnd.choice(_TYPES),
        customer_id=f"customer-{rnd.randrange(CUSTOMERS)}",
        occurred_at=now - rnd.randrange(86_400_000),
        received_at=now,
        properties={"category": "boots", "amount": 3.5, "session_id": f"s{number % 97}"},
    )


async def fill(engine: Engine, bootstrap: str, events: int, packed: int, first: int) -> int:
    """Write events to the topic, `packed` in a record, each in its customer's partition; returns the records."""
    rnd, now = random.Random(first), time.time_ns() // 1_000_000
    waiting: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5, max_batch_size=1 << 19)
    await producer.start()
    records, sent = 0, []
    try:
        for number in range(events):
            event = made(first + number, rnd, now)
            partition = partition_of(engine.customers.tag(event.customer_id), PARTITIONS)
            waiting[partition].append(encode_event(event))
            if len(waiting[partition]) == packed:
                sent.append(await producer.send(EVENTS, pack(waiting[partition]), partition=partition))
                waiting[partition] = []
                records += 1
        for partition, blobs in enumerate(waiting):
            if blobs:
                sent.append(await producer.send(EVENTS, pack(blobs), partition=partition))
                records += 1
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return records


async def folded(engine: Engine) -> int:
    """Return how many records are folded, by the watermarks."""
    fields = as_list(await engine.connection.call("HGETALL", DONE))
    return sum(int((as_bytes(value) or b":0").partition(b":")[2]) for value in fields[1::2])


def cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU time of processes."""
    total = 0
    for pid in pids:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(parts[11]) + int(parts[12])
    return total / 100


async def drain(
    engine: Engine, fleet: Fleet, before: int, records: int, events: int, workers: int
) -> dict[str, float]:
    """Start workers and measure until they have folded `records` beyond the `before` first ones."""
    while len(fleet.workers) < workers:
        fleet.add_worker(TACT_KAFKA_PARTITIONS=str(PARTITIONS), TACT_LOG="warning")
    for worker in fleet.workers:
        if not worker.alive:
            worker.start()
    begun: tuple[float, float, int] | None = None
    pids = [worker.pid for worker in fleet.workers]
    while True:
        await asyncio.sleep(0.05)
        done = await folded(engine) - before
        if begun is None and done > records // 10:
            begun = (time.perf_counter(), cpu_s(pids), done)
        if done >= records:
            break
        if not all(worker.alive for worker in fleet.workers):
            raise RuntimeError(fleet.logs())
    assert begun is not None
    share = (records - begun[2]) / records
    took, cpu = time.perf_counter() - begun[0], cpu_s(pids) - begun[1]
    for worker in fleet.workers:
        worker.stop()
    return {"events_per_second": events * share / took, "cpu_us": cpu / (events * share) * 1e6}


async def measure(folder: Path, plain: int, packed: int, both: bool) -> dict[str, Any]:
    """Run all of it."""
    found: dict[str, Any] = {}
    with running(folder, folder, apis=0, workers=0) as fleet:
        settings = KafkaSettings((fleet.cluster.bootstrap,), PARTITIONS, 1, 7 * 86_400_000)
        engine = await open_engine(fleet.store_url)
        try:
            await engine.plans.activate(compile_plan(load_files(shop.files(100)).policy))
            await ensure(settings, lambda: asyncio.sleep(0))
            records = await fill(engine, fleet.cluster.bootstrap, plain, 1, 0)
            command = [
                sys.executable,
                "-m",
                "loadtests.noop_agent",
                fleet.cluster.bootstrap,
                EVENTS,
                str(records),
            ]
            found["noop"] = json.loads(
                (
                    await asyncio.to_thread(
                        subprocess.run, command, capture_output=True, check=True, text=True
                    )
                ).stdout
            )
            print("no-op", found["noop"], file=sys.stderr)
            found["plain"] = await drain(engine, fleet, 0, records, plain, 1)
            print("plain", found["plain"], file=sys.stderr)
            for workers in (1, 2) if both else (1,):
                before = await folded(engine)
                records = await fill(engine, fleet.cluster.bootstrap, packed, PACKED, 10_000_000 * workers)
                found[f"packed_{workers}"] = await drain(engine, fleet, before, records, packed, workers)
                print("packed", workers, found[f"packed_{workers}"], file=sys.stderr)
        finally:
            await engine.close()
    floor = found["noop"]["per_second"]
    found["plain_ratio"] = found["plain"]["events_per_second"] / floor
    found["packed_ratio"] = found["packed_1"]["events_per_second"] / floor
    return found


def main() -> None:
    """Run it; exit code 1 below .7 of the no-op agent, one event a record, or below 4 times of it, packed.

    The second has not been reached: docs/performance.md says what was, and why.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", type=int, default=40_000, help="events, one a record")
    parser.add_argument("--packed", type=int, default=300_000, help=f"events, {PACKED} a record")
    parser.add_argument("--one", action="store_true", help="with one worker only")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tact-throughput-") as folder:
        found = asyncio.run(measure(Path(folder), asked.plain, asked.packed, not asked.one))
    print(json.dumps(found, indent=2))
    raise SystemExit(found["plain_ratio"] < 0.7 or found["packed_ratio"] < 4)


if __name__ == "__main__":
    main()
