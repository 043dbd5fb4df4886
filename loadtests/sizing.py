"""What a number of customers takes: `python -m loadtests.sizing` prints the table of docs/operating.md.

With `--measure` it first measures what one event and one decision cost each part, on a Kafka, a store, an API and a
worker of its own; then the table is of these costs. All of it is arithmetic: one function, which a test holds the page
to.
"""

import argparse
import asyncio
import json
import math
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

from engine.judging.decision import DECODER, ENCODER, stub
from engine.runtime import open_engine
from engine.store.connection import StoreConnection
from engine.store.store import as_bytes, as_int, as_list
from loadtests.client import drive, request
from loadtests.fleet import Fleet, running, wait_for

RETAIL = Path(__file__).resolve().parents[1] / "policies" / "retail"
CUSTOMERS = 3_000
FILE = "2026-11-28/part-000123.parquet"  # as long as the name of a file of the decision log
DAY_S = 86_400
FULL = 0.7  # of a core: what is more queues


class Costs(NamedTuple):
    """What one thing costs, as measured on 28 November 2026; events that come alone, which is the dearest."""

    customer_bytes: int = 1_039
    """In the store, 20 features and ten contacts (`make bench`)."""
    decision_bytes: int = 370
    """In the store, of a closed decision: its stub, and the key of its day."""
    event_log_bytes: int = 420
    """Appended to the store's file."""
    decision_log_bytes: int = 800
    event_kafka_bytes: int = 155
    event_us: tuple[int, int, int] = (150, 160, 50)
    """CPU of the API, the feature worker and the store."""
    decision_us: tuple[int, int, int] = (210, 0, 65)


class Habits(NamedTuple):
    """What customers do, and how long it is kept."""

    events_a_day: float = 2.0
    decisions_a_day: float = 0.2
    peak: float = 10.0
    """The busiest second over the average one."""
    keep_decisions_days: int = 90
    retention_days: int = 7
    copies: int = 3


def needs(customers: int, costs: Costs, habits: Habits) -> dict[str, str]:
    """Return what so many customers take, by what it is called."""
    events_a_day, decisions_a_day = customers * habits.events_a_day, customers * habits.decisions_a_day
    events, decisions = (number * habits.peak / DAY_S for number in (events_a_day, decisions_a_day))
    api, worker, store = (
        (events * event + decisions * decision) / 1e6
        for event, decision in zip(costs.event_us, costs.decision_us, strict=True)
    )
    kept = habits.decisions_a_day * habits.keep_decisions_days * costs.decision_bytes
    held = customers * (costs.customer_bytes + kept)
    written = events_a_day * costs.event_log_bytes + decisions_a_day * costs.decision_log_bytes
    in_kafka = events_a_day * costs.event_kafka_bytes * habits.retention_days * habits.copies
    workers = math.ceil(worker / FULL)
    return {
        "events/s, average and peak": f"{_short(events / habits.peak)}, {_short(events)}",
        "decisions/s, average and peak": f"{_short(decisions / habits.peak)}, {_short(decisions)}",
        "memory of the store: customers": _size(customers * costs.customer_bytes),
        "and closed decisions": _size(customers * kept),
        "the store's disk, three times its memory": _size(3 * held),
        "written to it a day": _size(written),
        "the store's core at the peak": f"{store:.0%}",
        "API processes, one of them to spare": str(math.ceil(api / FULL) + 1),
        "feature workers, one of them to spare": str(workers + 1),
        "partitions": str(max(16, 2 ** math.ceil(math.log2(4 * (workers + 1))))),
        "Kafka's disk, all copies": _size(in_kafka),
    }


def table(costs: Costs, habits: Habits = Habits()) -> str:  # noqa: B008  # a frozen value
    """Return the table for 1, 10 and 100 million customers."""
    columns = [needs(millions * 1_000_000, costs, habits) for millions in (1, 10, 100)]
    lines = ["| customers | 1 million | 10 million | 100 million |", "|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(column[name] for column in columns)} |" for name in columns[0]]
    return "\n".join(lines)


def _short(number: float) -> str:
    return f"{float(f'{number:.2g}'):,.0f}" if number >= 10 else f"{number:.2g}"


def _size(size: float) -> str:
    return f"{_short(size / 1e12)} TB" if size >= 1e12 else f"{_short(size / 1e9)} GB"


def measure(fleet: Fleet) -> tuple[Costs, Costs]:
    """Return the costs where events come alone, and where they come by the hundred."""
    rnd = random.Random(1)
    files = fleet.folder / "store/appendonlydir"
    topics = fleet.folder / "kafka"

    def one() -> dict[str, object]:
        kind = rnd.choice(("page_view", "page_view", "click", "add_to_cart", "purchase"))
        properties = {"category": "boots", "amount": 12.5}
        return {
            "event_id": f"{rnd.getrandbits(128):032x}",
            "type": kind,
            "customer_id": f"c-{rnd.randrange(CUSTOMERS)}",
            "channel": "web",
            "properties": properties,
        }

    def events(number: int) -> bytes:
        return request("POST", "/v1/events", json.dumps([one() for _ in range(number)]).encode())

    def decide(number: int) -> bytes:
        asked = {"customer_id": f"c-{number % CUSTOMERS}", "placement": "home_hero"}
        return request("POST", "/v1/decide", json.dumps(asked).encode())

    def cost(
        make: Callable[[int], bytes], requests: int, things: int
    ) -> tuple[tuple[int, int, int], int, int]:
        began = _cpu_s(fleet), _held(files, "*.aof"), _held(topics, "tact.events-*/*.log")
        port = int(fleet.urls[0].rpartition(":")[2])
        assert drive(port, make, connections=16, count=requests).failures == 0
        wait_for(lambda: _still(fleet), 60)
        api, worker, store = (
            round((now - before) / things * 1e6) for now, before in zip(_cpu_s(fleet), began[0], strict=True)
        )
        logged = (_held(files, "*.aof") - began[1]) // things
        return (api, worker, store), logged, (_held(topics, "tact.events-*/*.log") - began[2]) // things

    cost(lambda _: events(100), 50, 5_000)  # every customer is known, and everything is warm
    packed_us, packed_log, packed_kafka = cost(lambda _: events(100), 200, 20_000)
    event_us, event_log, event_kafka = cost(lambda _: events(1), 8_000, 8_000)
    decision_us, decision_log, _ = cost(decide, 8_000, 8_000)
    alone = Costs(
        decision_bytes=asyncio.run(_decision_bytes(fleet.store_url)),
        event_log_bytes=event_log,
        decision_log_bytes=decision_log,
        event_kafka_bytes=event_kafka,
        event_us=event_us,
        decision_us=decision_us,
    )
    packed = alone._replace(event_log_bytes=packed_log, event_kafka_bytes=packed_kafka, event_us=packed_us)
    return alone, packed


def _held(folder: Path, names: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(names))


def _cpu_s(fleet: Fleet) -> tuple[float, float, float]:
    """Return the CPU time so far of the API, the worker and the store."""

    def one(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    assert fleet.store.pid is not None
    return one(fleet.apis[0].pid), one(fleet.workers[0].pid), one(fleet.store.pid)


def _still(fleet: Fleet) -> bool:
    """Say whether nobody has anything to do any more."""
    before = _cpu_s(fleet)
    time.sleep(1)
    return sum(_cpu_s(fleet)) - sum(before) < 0.05


async def _decision_bytes(store_url: str) -> int:
    """Return the bytes of a decision's stub, with its share of the day's key, one decision a day."""
    engine = await open_engine(store_url)
    try:
        sizes = [size async for size in _stub_sizes(engine.connection)]
    finally:
        await engine.close()
    return round(sum(sizes) / len(sizes))


async def _stub_sizes(connection: StoreConnection) -> AsyncIterator[float]:
    cursor = "0"
    while True:
        at, keys = as_list(await connection.call("SCAN", cursor, "MATCH", "*:d:*", "COUNT", 1000))
        for key in (as_bytes(one) or b"" for one in as_list(keys)):
            used = as_int(await connection.call("MEMORY", "USAGE", key.decode()))
            values = as_list(await connection.call("HGETALL", key.decode()))
            blobs = [as_bytes(value) or b"" for value in values[1::2]]
            left = [len(ENCODER.encode(stub(DECODER.decode(blob), FILE))) for blob in blobs]
            yield used - sum(map(len, blobs)) + sum(left) / len(left)
        cursor = (as_bytes(at) or b"0").decode()
        if cursor == "0":
            return


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure the costs first, about a minute")
    costs = Costs()
    if parser.parse_args().measure:
        with (
            tempfile.TemporaryDirectory(prefix="tact-sizing-") as folder,
            running(Path(folder), RETAIL, settings={"TACT_LOG": "warning"}) as fleet,
        ):
            costs, packed = measure(fleet)
        print(f"alone: {costs}\nby the hundred: {packed}")
    print(table(costs))


if __name__ == "__main__":
    main()
