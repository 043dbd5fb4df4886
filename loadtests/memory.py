"""Bytes a customer in Valkey, all keys included, and what a large store does to the latency of a decide.

Customers are made through the API: events that feed all 20 features of the benchmark's policy set, and ten
recorded contacts each.
"""

import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.progress import track

from api.replay import Replay
from engine.adapters.address import StoreAddress
from engine.adapters.connection import StoreConnection
from features.event import format_time
from loadtests import shop
from loadtests.client import drive, request
from loadtests.server import Running, running

DAY_MS = 86_400_000


def lines(first: int, last: int) -> list[tuple[int, dict[str, Any]]]:
    """Return the events and contacts of customers `first` up to `last`."""
    now = time.time_ns() // 1_000_000
    rnd = random.Random(first)
    found: list[tuple[int, dict[str, Any]]] = []
    for number in range(first, last):
        who = f"customer-{number}"
        for kind, properties in (
            ("page_view", {"category": "boots", "session_id": f"s{number}"}),
            ("purchase", {"amount": 12.5}),
            ("email_delivered", {}),
            ("email_open", {}),
            ("store_scan", {}),
        ):
            at = now - rnd.randrange(20 * DAY_MS)
            found.append(
                (
                    at,
                    {
                        "type": kind,
                        "customer_id": who,
                        "occurred_at": format_time(at),
                        "properties": properties,
                    },
                )
            )
        for _ in range(10):
            at = now - rnd.randrange(60 * DAY_MS)
            offer = rnd.randrange(100)
            found.append(
                (
                    at,
                    {
                        "type": "contact",
                        "customer_id": who,
                        "occurred_at": format_time(at),
                        "channel": "email",
                        "category": "service" if offer % 10 == 9 else "promotion",
                        "offer": f"offer-{offer}",
                    },
                )
            )
    return found


def used(socket: str) -> int:
    """Return what Valkey says that it uses, less what it would use empty."""

    async def ask() -> int:
        connection = StoreConnection(StoreAddress.parse(socket))
        await connection.open()
        reply = await connection.call("INFO", "memory")
        await connection.close()
        assert isinstance(reply, bytes)
        values = dict(line.split(":", 1) for line in reply.decode().split("\r\n") if ":" in line)
        return int(values["used_memory_dataset"])

    return asyncio.run(ask())


def measure(customers: int) -> dict[str, Any]:
    """Fill the store up to 1,000 and up to `customers`, and measure at both."""
    said: dict[str, Any] = {"customers": customers}
    with tempfile.TemporaryDirectory() as scratch:
        folder = shop.write(Path(scratch) / "policies", 100)
        data = Path(scratch) / "data"
        with running("--policies", str(folder), data=data) as tact:
            socket = f"unix://{store_socket(tact)}"
            empty = used(socket)
            done = 0
            for goal in (1000, customers):
                for start in track(range(done, goal, 1000), f"up to {goal} customers", transient=True):
                    asyncio.run(
                        Replay(tact.url, None, lambda _: None).run(lines(start, min(start + 1000, goal)))
                    )
                done = goal
                settle(tact)
                said[str(goal)] = {"bytes": (used(socket) - empty) / goal, "p50_ms": latency(tact, goal)}
    said["latency_ratio"] = said[str(customers)]["p50_ms"] / said["1000"]["p50_ms"]
    return said


def store_socket(tact: Running) -> str:
    """Return the path of the embedded store's socket."""
    pid = tact.pids("valkey")[0]
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return arguments[arguments.index(b"--unixsocket") + 1].decode()


def settle(tact: Running) -> None:
    """Wait until everything that was sent is folded."""
    who = f"marker-{time.time_ns()}"
    tact.ask("POST", "/v1/events", {"type": "x_marker", "customer_id": who})
    while not json.loads(_read(tact, who)).get("customer_id"):
        time.sleep(0.05)


def _read(tact: Running, who: str) -> bytes:
    import http.client  # noqa: PLC0415  # one plain call

    connection = http.client.HTTPConnection("127.0.0.1", tact.port)
    connection.request("GET", f"/v1/customers/{who}")
    body = connection.getresponse().read()
    connection.close()
    return body


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
