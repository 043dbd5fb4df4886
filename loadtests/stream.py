"""From an event's acceptance to its effect on a decision, and what the worker does beside a no-op consumer."""

import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from engine.judging.plan import compile_plan
from engine.runtime import open_engine
from engine.store.address import StoreAddress
from engine.store.connection import StoreConnection
from engine.store.store import as_bytes, as_list
from engine.workers.features import STREAM, Worker
from features.event import Event, decode_events, encode_events
from loadtests import shop
from loadtests.server import Running, running
from policies.loader import load_files

RATE = 500
SECONDS = 10
PROBES = 200
BACKLOG = 20_000
PACK = 50


def measure() -> dict[str, Any]:
    """Measure freshness under a steady load, then the worker's throughput on a backlog."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = shop.write(Path(scratch) / "policies", 100)
        with running("--policies", str(folder)) as tact:
            visible = asyncio.run(_freshness(tact))
    found: dict[str, Any] = {
        "rate": RATE,
        "visible_p50_ms": float(np.percentile(visible, 50)),
        "visible_p99_ms": float(np.percentile(visible, 99)),
    }
    found |= asyncio.run(_throughput())
    found["worker_ratio"] = found["worker_per_second"] / found["noop_per_second"]
    return found


async def _freshness(tact: Running) -> list[float]:
    """Send RATE events/s of everybody, and probe how long one customer's event takes to be decided on."""
    stop = asyncio.Event()
    async with aiohttp.ClientSession() as session:
        load = asyncio.create_task(_load(session, tact, stop))
        waits = []
        for number in range(PROBES):
            who = f"probe-{number}-{time.time_ns()}"
            event = {"type": "page_view", "customer_id": who, "properties": {"category": "boots"}}
            async with session.post(f"{tact.url}/v1/events", json=event) as reply:
                assert reply.status == 202
            started = time.perf_counter()
            while not await _visible(session, tact, who):
                pass
            waits.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(SECONDS / PROBES)
        stop.set()
        await load
    return waits


async def _visible(session: aiohttp.ClientSession, tact: Running, who: str) -> bool:
    body = {"customer_id": who, "placement": "hero", "preview": True}
    async with session.post(f"{tact.url}/v1/decide", json=body) as reply:
        return (await reply.json())["features_as_of"] is not None


async def _load(session: aiohttp.ClientSession, tact: Running, stop: asyncio.Event) -> None:
    """Send packs of ten events so that RATE a second come."""
    rnd = random.Random(3)
    due = time.perf_counter()
    while not stop.is_set():
        pack = [
            {
                "type": rnd.choice(("page_view", "purchase", "email_open", "store_scan")),
                "customer_id": f"customer-{rnd.randrange(5000)}",
                "properties": {"category": "boots", "amount": 3.5, "session_id": "s"},
            }
            for _ in range(10)
        ]
        async with session.post(f"{tact.url}/v1/events", json=pack) as reply:
            assert reply.status == 202
        due += 10 / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


async def _throughput() -> dict[str, float]:
    """Fold a backlog, then read the same backlog doing nothing, on the same store."""
    from api.running.valkey import ValkeyServer  # noqa: PLC0415  # starts a process

    with tempfile.TemporaryDirectory() as scratch:
        server = ValkeyServer(Path(scratch))
        server.start()
        try:
            url = f"unix://{server.socket_path}"
            engine = await open_engine(url)
            await engine.plans.activate(compile_plan(load_files(shop.files(100)).policy))
            await _fill(engine.connection)
            noop = await _noop(url)
            started = time.perf_counter()
            worker: Worker = engine.worker
            done = 0
            while done < BACKLOG:
                done += (await worker.step()).events
            folded = BACKLOG / (time.perf_counter() - started)
            await engine.close()
        finally:
            server.stop()
    return {"worker_per_second": folded, "noop_per_second": noop}


async def _fill(connection: StoreConnection) -> None:
    rnd = random.Random(4)
    now = time.time_ns() // 1_000_000
    for start in range(0, BACKLOG, PACK):
        events = [
            Event(
                event_id=f"e-{start + number}",
                type=rnd.choice(("page_view", "purchase", "email_open", "email_delivered", "store_scan")),
                customer_id=f"customer-{rnd.randrange(5000)}",
                occurred_at=now - rnd.randrange(86_400_000),
                received_at=now,
                properties={"category": "boots", "amount": 3.5, "session_id": f"s{start}"},
            )
            for number in range(PACK)
        ]
        await connection.call("XADD", STREAM, "*", "b", encode_events(events))


async def _noop(url: str) -> float:
    """Read and decode every entry, and do nothing."""
    connection = StoreConnection(StoreAddress.parse(url))
    await connection.open()
    started, last, seen = time.perf_counter(), "0-0", 0
    while seen < BACKLOG:
        reply = as_list(await connection.call("XREAD", "COUNT", 200, "STREAMS", STREAM, last))
        for row in as_list(as_list(reply[0])[1]):
            entry, fields = as_list(row)
            last = (as_bytes(entry) or b"").decode()
            seen += len(decode_events(as_bytes(as_list(fields)[1]) or b""))
    await connection.close()
    return BACKLOG / (time.perf_counter() - started)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
