"""Where the CPU time of a feature worker goes, an event: `python -m loadtests.fold_parts`.

Packs as a worker takes them from Kafka are decoded and folded in this process on a real store, with a clock around each
part; the rest is the client of the store, the loop, and what holds the parts together. 20 features, 5,000 customers
with some history, batches as large as the worker's.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import uvloop

from api.running.valkey import ValkeyServer
from engine.judging.plan import compile_plan
from engine.kafka import intake
from engine.kafka.intake import Intake, Record
from engine.kafka.packs import pack
from engine.kafka.worker import BATCH_BYTES
from engine.runtime import open_engine
from engine.workers import folding
from features.event import encode_event
from loadtests import shop
from loadtests.throughput import PACKED, PARTITIONS, made
from policies.loader import load_files

PARTS = {
    "decoding packs": (intake, ("decode_events",)),
    "decoding customers (facts, features, ids seen)": (
        folding,
        ("held_from", "state_of", "decode_seen"),
    ),
    "folding": (folding, ("apply",)),
    "encoding customers": (folding, ("encode_state", "encode_seen", "next_version")),
}


class Clocks:
    """Seconds spent in each part; run it where nothing else takes the processor."""

    def __init__(self) -> None:
        """Begin at nothing; `install` puts a clock around every part."""
        self.spent = dict.fromkeys(PARTS, 0.0)

    def install(self) -> None:
        """Replace the parts by timed ones in the modules that call them."""
        for name, (module, functions) in PARTS.items():
            for function in functions:
                setattr(module, function, self._timed(name, getattr(module, function)))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                self.spent[name] += time.perf_counter() - began

        return timed


def batches(events: int, first: int, *, apart: bool) -> list[list[Record]]:
    """Return the records of so many events in batches as a worker takes them.

    A worker that is behind fetches much of a partition at once, so a customer comes several times in a batch; `apart`
    takes the packs of all partitions in turn, so that most come once.
    """
    rnd, now = random.Random(first), time.time_ns() // 1_000_000
    waiting: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    records: list[Record] = []
    for number in range(events):
        event = made(first + number, rnd, now)
        partition = crc32(event.customer_id.encode()) % PARTITIONS
        waiting[partition].append(encode_event(event))
        if len(waiting[partition]) == PACKED:
            offset = first + number
            records.append(Record(f"parts:{partition}", partition, offset, now, pack(waiting[partition])))
            waiting[partition] = []
    if not apart:
        records.sort(key=lambda record: record.partition)
    found: list[list[Record]] = [[]]
    size = 0
    for record in records:
        if size >= BATCH_BYTES:
            found.append([])
            size = 0
        found[-1].append(record)
        size += len(record.value)
    return found


async def fold(engine: Any, waiting: Sequence[list[Record]]) -> float:
    """Fold all batches; returns the CPU seconds of this process."""
    reading, began = Intake(engine.folding, engine.journal), time.process_time()
    for records in waiting:
        entries, _ = await reading.entries(records)
        await engine.folding.fold(entries)
    return time.process_time() - began


async def measure(events: int) -> None:
    """Fold a history, then measure both ways."""
    with tempfile.TemporaryDirectory() as scratch:
        server = ValkeyServer(Path(scratch))
        server.start()
        try:
            engine = await open_engine(f"unix://{server.socket_path}")
            await engine.plans.activate(compile_plan(load_files(shop.files(100)).policy))
            await fold(engine, batches(events, 0, apart=True))
            clocks = Clocks()
            clocks.install()
            columns = []
            for way, apart in enumerate((False, True), 1):
                clocks.spent = dict.fromkeys(PARTS, 0.0)
                total = await fold(engine, batches(events, 10_000_000 * way, apart=apart))
                rest = total - sum(clocks.spent.values())
                columns.append([*clocks.spent.values(), rest, total])
            await engine.close()
        finally:
            server.stop()
    print("| part | several events of a customer in a batch | mostly one |\n|---|---|---|")
    names = [*PARTS, "the store's client, the loop, the rest", "**all**"]
    for name, one, two in zip(names, *columns, strict=True):
        print(f"| {name} | {one / events * 1e6:.1f} | {two / events * 1e6:.1f} |")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    asked = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(asked.events))


if __name__ == "__main__":
    main()
