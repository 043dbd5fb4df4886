"""Bytes a customer in Valkey, all keys included, and what a large store does to the latency of a decide.

Customers are folded by the engine's own core and written by its own script, 20 features and ten contacts each,
straight into the store of a running Tact: the same bytes that events and confirms would have left there.
"""

import asyncio
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from rich.progress import track

from api.running.valkey import ValkeyServer
from engine.judging.ids import make_uid
from engine.judging.ledger import record
from engine.judging.plan import Plan, compile_plan
from engine.runtime import Engine, open_engine
from engine.services.customers import next_version
from engine.store.store import Save
from features.codec import encode_seen, encode_state
from features.event import Event
from features.facts import Contact, Facts, Item
from features.fold import apply
from features.state import Customer
from loadtests import shop
from loadtests.client import drive, request
from loadtests.server import Running, running
from policies.loader import load_files

DAY_MS = 86_400_000
OFFERS = 100


def made(plan: Plan, number: int, now: int) -> Customer:
    """Return a customer whose events fed all 20 features, with ten contacts of the last 60 days."""
    rnd = random.Random(number)
    who = f"customer-{number}"
    customer = Customer(Facts(customer_id=who))
    kinds = ("page_view", "page_view", "page_view", "purchase", "email_delivered", "email_open", "store_scan")
    for count, kind in enumerate(kinds):
        at = now - rnd.randrange(20 * DAY_MS)
        properties = {
            "category": rnd.choice(("boots", "coats")),
            "amount": rnd.randrange(9000) / 100,
            "session_id": f"{number}-{count}",
        }
        event = Event(f"e{number}-{count}", kind, who, at, now, properties=properties)
        customer = apply(
            plan.catalogue,
            customer,
            event,
            mark_types=plan.mark_types,
            keep_ms=plan.policy.keep.events_ms,
            question_fields={},
            channel_purposes={},
        )
    facts = customer.facts
    for _ in range(10):
        at = now - rnd.randrange(60 * DAY_MS)
        offer = rnd.randrange(OFFERS)
        item = Item(f"offer-{offer}", "service" if offer % 10 == 9 else "promotion")
        facts = record(facts, Contact(make_uid(at, os.urandom), at, "email", (item,)))
    return replace(customer, facts=facts)


async def _fill(engine: Engine, plan: Plan, first: int, last: int) -> None:
    now, _ = await engine.store.clock()
    for start in track(range(first, last, 500), f"up to {last} customers", transient=True):
        saves = []
        for number in range(start, min(start + 500, last)):
            customer = made(plan, number, now)
            saves.append(
                engine.store.save(
                    Save(
                        tag=engine.customers.tag(customer.facts.customer_id),
                        facts_version=bytes(8),
                        state_version=bytes(8),
                        facts=next_version(customer.facts, now),
                        state=encode_state(customer.state, 1),
                        seen=encode_seen(customer.seen.at("tact:events", (now, 0))),
                    )
                )
            )
        done = await asyncio.gather(*saves)
        assert all(one.code == "done" for one in done)


async def _used(engine: Engine) -> int:
    reply = await engine.connection.call("INFO", "memory")
    assert isinstance(reply, bytes)
    values = dict(line.split(":", 1) for line in reply.decode().split("\r\n") if ":" in line)
    return int(values["used_memory_dataset"]) + int(values["used_memory_overhead"])


async def _grow(socket: str, plan: Plan, first: int, last: int) -> int:
    """Add customers and return the bytes that they took, the keys' own overhead included."""
    engine = await open_engine(socket)
    before = await _used(engine)
    await _fill(engine, plan, first, last)
    after = await _used(engine)
    await engine.close()
    return after - before


def measure(customers: int) -> dict[str, Any]:
    """Fill the store up to 1,000 and up to `customers`, and measure at both."""
    plan = compile_plan(load_files(shop.files(OFFERS)).policy)
    said: dict[str, Any] = {"customers": customers}
    with tempfile.TemporaryDirectory() as scratch:
        folder = shop.write(Path(scratch) / "policies", OFFERS)
        data = Path(scratch) / "data"
        with running("--policies", str(folder), data=data) as tact:
            socket = f"unix://{ValkeyServer(data).socket_path}"
            done, taken = 0, 0
            for goal in (1000, customers):
                taken += asyncio.run(_grow(socket, plan, done, goal))
                done = goal
                said[str(goal)] = {"bytes": taken / goal, "p50_ms": latency(tact, goal)}
    said["latency_ratio"] = said[str(customers)]["p50_ms"] / said["1000"]["p50_ms"]
    return said


def latency(tact: Running, customers: int) -> float:
    """Return the median time (ms) of a preview for random customers, one at a time: nothing is written."""
    rnd = random.Random(5)

    def make(_: int) -> bytes:
        body = {
            "customer_id": f"customer-{rnd.randrange(customers)}",
            "placement": "newsletter",
            "preview": True,
        }
        return request("POST", "/v1/decide", json.dumps(body).encode())

    drive(tact.port, make, 1, count=500)
    return drive(tact.port, make, 1, count=3000).percentile(50)


if __name__ == "__main__":
    started = time.perf_counter()
    print(json.dumps(measure(100_000), indent=2), f"{time.perf_counter() - started:.0f} s")
