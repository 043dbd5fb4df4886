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

import uvloop

import engine.folding
import engine.intake
from engine.adapters.packs import pack
from engine.adapters.server import ValkeyServer
from engine.intake import Intake, Record
from engine.kafka_worker import BATCH_BYTES
from engine.plan import compile_plan
from engine.runtime import open_engine
from features.event import encode_event
from loadtests import shop
from loadtests.throughput import PACKED, made
from policies.loader import load_files

PARTS = {
    "decoding packs": (engine.intake, ("decode_events",)),
    "decoding customers (facts, features, ids seen)": (
        engine.folding,
        ("held_from", "state_of", "decode_seen"),
    ),
    "folding": (engine.folding, ("apply",)),
    "encoding customers": (engine.folding, ("encode_state", "encode_seen", "next_version")),
}


class Clocks:
    """Seconds spent in each part."""

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
            began = time.thread_time()
            try:
                return function(*args, **more)
            finally:
                self.spent[name] += time.thread_time() - began

        return timed


def batches(events: int, first: int) -> list[list[Record]]:
    """Return the records of so many events, in batches as large as a worker's."""
    rnd, now = random.Random(first), time.time_ns() // 1_000_000
    found: list[list[Record]] = [[]]
    size = 0
    for offset in range(events // PACKED):
        blobs = [encode_event(made(first + offset * PACKED + number, rnd, now)) for number in range(PACKED)]
        record = Record("parts", 0, first + offset, now, pack(blobs))
        if size >= BATCH_BYTES:
            found.append([])
            size = 0
        found[-1].append(record)
        size += len(record.value)
    return found


async def fold(engine: Any, waiting: Sequence[list[Record]]) -> float:
    """Fold all batches; returns the CPU seconds of this process."""
    intake, began = Intake(engine.folding, engine.journal), time.process_time()
    for records in waiting:
        entries, _ = await intake.entries(records)
        await engine.folding.fold(entries)
    return time.process_time() - began


async def measure(events: int) -> None:
    """Fold a history, then measure."""
    with tempfile.TemporaryDirectory() as scratch:
        server = ValkeyServer(Path(scratch))
        server.start()
        try:
            engine = await open_engine(f"unix://{server.socket_path}")
            await engine.plans.activate(compile_plan(load_files(shop.files(100)).policy))
            await fold(engine, batches(events, 0))
            clocks = Clocks()
            clocks.install()
            total = await fold(engine, batches(events, 10_000_000))
            await engine.close()
        finally:
            server.stop()
    spent = {**clocks.spent, "the store's client, the loop, the rest": total - sum(clocks.spent.values())}
    print("| part | µs an event |\n|---|---|")
    for name, seconds in spent.items():
        print(f"| {name} | {seconds / events * 1e6:.1f} |")
    print(f"| **all** | **{total / events * 1e6:.1f}** |")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    asked = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(asked.events))


if __name__ == "__main__":
    main()
