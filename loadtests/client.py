"""A minimal HTTP/1.1 load client: keep-alive connections, one request under way on each, latencies kept.

It costs about a tenth of what it measures, which a general client does not.
"""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import uvloop


class Round(NamedTuple):
    """What one round of load came to."""

    seconds: float
    latencies_ms: list[float]
    failures: int

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies_ms) / self.seconds

    def percentile(self, share: float) -> float:
        """Latency (ms) below which `share` percent of the answers lie."""
        return float(np.percentile(self.latencies_ms, share)) if self.latencies_ms else float("nan")


def request(method: str, path: str, body: bytes = b"", media: str = "application/json") -> bytes:
    """Return the bytes of one request."""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n"
    if body:
        head += f"content-type: {media}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request under way."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.buffer = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Send the next request, or close."""
        following = self.load.next_request()
        if following is None:
            self.transport.close()
            return
        self.sent = time.perf_counter()
        self.transport.write(following)  # type: ignore[attr-defined]  # a stream transport

    def data_received(self, data: bytes) -> None:
        """Take an answer in, and send the next request once it is whole."""
        self.buffer = self.buffer + data if self.buffer else data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.buffer.lower().find(b"content-length:", 0, head)
        length = int(self.buffer[at + 15 : self.buffer.find(b"\r\n", at)])
        if len(self.buffer) < head + 4 + length:
            return
        self.load.answered(self.sent, self.buffer[9:12], self.buffer[head + 4 :])
        self.buffer = b""
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the load."""
        self.load.closed(broken=exc is not None or bool(self.buffer))


class Load:
    """What is sent, over all connections, and what came of it."""

    def __init__(self, make: Callable[[int], bytes], count: int | None, end: float | None) -> None:
        self.make = make
        self.count = count
        self.end = end
        self.number = 0
        self.open = 0
        self.latencies: list[float] = []
        self.failures = 0
        self.bodies: list[bytes] | None = None
        self.done = asyncio.get_running_loop().create_future()

    def next_request(self) -> bytes | None:
        """Return what to send next; None when it is enough."""
        if self.count is not None and self.number >= self.count:
            return None
        if self.end is not None and time.perf_counter() >= self.end:
            return None
        self.number += 1
        return self.make(self.number - 1)

    def answered(self, sent: float, status: bytes, body: bytes) -> None:
        """Note an answer to what was sent at `sent` (s)."""
        self.latencies.append((time.perf_counter() - sent) * 1000)
        if not status.startswith(b"2"):
            self.failures += 1
        if self.bodies is not None:
            self.bodies.append(body)

    def closed(self, *, broken: bool) -> None:
        """Note a connection that has ended."""
        self.failures += broken
        self.open -= 1
        if self.open == 0 and not self.done.done():
            self.done.set_result(None)


async def _drive(
    port: int, make: Callable[[int], bytes], connections: int, seconds: float | None, count: int | None
) -> Round:
    started = time.perf_counter()
    load = Load(make, count, started + seconds if seconds is not None else None)
    load.open = connections
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", port)
    await load.done
    return Round(time.perf_counter() - started, load.latencies, load.failures)


def drive(
    port: int,
    make: Callable[[int], bytes],
    connections: int,
    *,
    seconds: float | None = None,
    count: int | None = None,
) -> Round:
    """Send requests to loopback for some seconds or up to a count; `make(n)` gives the n-th request."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive(port, make, connections, seconds, count))
