"""`python -m loadtests.overload`: three times as much arrives as can be served; what is accepted stays quick.

For a decide and for a check of one customer: a closed loop finds saturation (the most answers a second, over
numbers of connections) and its p99; an open loop at half of that rate gives the p99 of an ordinary day; then
three times that rate is offered over many connections in an open loop, where requests leave on time whether or
not earlier answers came, and latency counts from the moment at which a request was due. Afterwards a closed loop
asks whether service is back. The negative control is the same without a limit (TACT_AT_ONCE=0): there the ratio
must blow up. The client is this process; what it measures are others.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import uvloop

from loadtests.bench import CUSTOMERS, decide_requests, tact_with
from loadtests.client import Round, drive, request
from loadtests.server import Running, metrics

CLOSED = (1, 4, 16, 32, 64)
"""Numbers of connections among which saturation is looked for; none may exceed the server's limit."""
TICK_S = 0.001
PATIENCE_S = 60.0


class Offered(NamedTuple):
    """What came of a constant rate of requests."""

    sending_s: float
    answering_s: float
    """From the first request to the last answer."""
    sent: int
    accepted_ms: list[float]
    refused_ms: list[float]
    other: int
    """Answers that are neither 200 nor a 503 with Retry-After."""
    broken: int
    """Connections that failed or were closed."""
    unanswered: int

    def p99_ms(self) -> float:
        """Latency (ms) of all but the slowest hundredth of what was accepted."""
        return float(np.percentile(self.accepted_ms, 99)) if self.accepted_ms else float("nan")


class _Line(asyncio.Protocol):
    """One connection; answers come in the order of the requests."""

    def __init__(self, load: "_Open") -> None:
        self.load = load
        self.due: deque[float] = deque()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.send(request("GET", "/livez"), 0.0)

    def send(self, message: bytes, due: float) -> None:
        self.due.append(due)
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data if self.buffer else data
        while (head := data.find(b"\r\n\r\n")) >= 0:
            at = data.find(b"content-length: ", 0, head) + 16
            end = head + 4 + int(data[at : data.find(b"\r", at)])
            if len(data) < end:
                break
            status = data[9:12]
            if status == b"503" and data.find(b"retry-after: ", 0, head) < 0:
                status = b"503 without Retry-After"
            self.load.answered(status, self.due.popleft())
            data = data[end:]
        self.buffer = data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.load.broken += not self.load.over


class _Open:
    """Sends at a constant rate, round robin over the connections."""

    def __init__(self) -> None:
        self.latencies: dict[bytes, list[float]] = {}
        self.answers = 0
        self.broken = 0
        self.over = False

    def answered(self, status: bytes, due: float) -> None:
        self.answers += 1
        self.latencies.setdefault(status, []).append((time.perf_counter() - due) * 1000)

    async def until_answered(self, count: int) -> None:
        """Wait for so many answers, for as long as somebody would."""
        give_up = time.perf_counter() + PATIENCE_S
        while self.answers < count and not self.broken and time.perf_counter() < give_up:  # noqa: ASYNC110  # as the sender
            await asyncio.sleep(TICK_S)

    async def run(
        self, port: int, requests: list[bytes], connections: int, rate: float, seconds: float
    ) -> Offered:
        loop = asyncio.get_running_loop()
        lines = [
            (await loop.create_connection(lambda: _Line(self), "127.0.0.1", port))[1]
            for _ in range(connections)
        ]
        await self.until_answered(connections)  # all are accepted, and nothing else is under way
        self.latencies.clear()
        self.answers, sent, total, started = 0, 0, int(rate * seconds), time.perf_counter()
        while sent < total:
            until = min(total, int((time.perf_counter() - started) * rate) + 1)
            for number in range(sent, until):
                lines[number % connections].send(requests[number % len(requests)], started + number / rate)
            sent = until
            await asyncio.sleep(TICK_S)
        took_s = time.perf_counter() - started
        await self.until_answered(sent)
        answering_s = time.perf_counter() - started
        self.over = True
        for line in lines:
            line.transport.close()
        accepted, refused = self.latencies.pop(b"200", []), self.latencies.pop(b"503", [])
        other = sum(map(len, self.latencies.values()))
        return Offered(took_s, answering_s, sent, accepted, refused, other, self.broken, sent - self.answers)


def offer(
    port: int, make: Callable[[int], bytes], rate: float, seconds: float, connections: int = 512
) -> Offered:
    """Send requests to loopback at `rate` a second; they are made beforehand."""
    requests = [make(number) for number in range(20_000)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Open().run(port, requests, connections, rate, seconds))


def check_requests(seed: int, customers: int = CUSTOMERS) -> Callable[[int], bytes]:
    """Return a maker of checks of one random customer; each takes a reservation."""
    rnd = random.Random(seed)

    def make(_: int) -> bytes:
        body = {
            "channel": "email",
            "category": "promotion",
            "customer_ids": [f"customer-{rnd.randrange(customers)}"],
            "reserve": True,
        }
        return request("POST", "/v1/contacts/check", json.dumps(body).encode())

    return make


def saturation(port: int, make: Callable[[int], bytes], seconds: float) -> tuple[int, Round]:
    """Return the least number of connections with the most answers (all but 5 %), and its round."""
    rounds = {count: drive(port, make, count, seconds=seconds) for count in CLOSED}
    for count, one in rounds.items():
        print(f"  {count:3} connections: {one.per_second:6.0f}/s, p99 {one.percentile(99):6.2f} ms")
        assert one.failures == 0, f"{one.failures} answers failed with {count} connections"
    enough = 0.95 * max(one.per_second for one in rounds.values())
    return next(pair for pair in rounds.items() if pair[1].per_second >= enough)


def measure(name: str, make: Callable[[int], bytes], seconds: float, times: float, rounds: int) -> None:
    """Print what overload does to one kind of request."""
    print(f"{name}, at most {os.environ.get('TACT_AT_ONCE', 'the default')} at once")
    with tact_with(100) as tact:
        drive(tact.port, make, 16, seconds=2)
        connections, full = saturation(tact.port, make, seconds)
        half = offer(tact.port, make, full.per_second / 2, seconds, 64)
        assert len(half.accepted_ms) + len(half.refused_ms) == half.sent, (
            "half of saturation was not all answered"
        )
        print(f"  half of that, open loop: p99 {half.p99_ms():.2f} ms, refused {len(half.refused_ms)}")
        ratios = [overloaded(tact, make, connections, seconds, times) for _ in range(rounds)]
        refusals = next(line for line in metrics(tact).splitlines() if line.startswith("tact_refused_total"))
    print(f"  median ratio {statistics.median(ratios):.2f}; {refusals}", flush=True)


def overloaded(
    tact: Running, make: Callable[[int], bytes], connections: int, seconds: float, times: float
) -> float:
    """Measure saturation, overload and recovery, one right after the other; return the ratio of the p99s."""
    full = drive(tact.port, make, connections, seconds=seconds / 2)
    over = offer(tact.port, make, full.per_second * times, seconds)
    back = drive(tact.port, make, 16, seconds=0.5)
    ratio = over.p99_ms() / full.percentile(99)
    refused_p99 = float(np.percentile(over.refused_ms, 99)) if over.refused_ms else float("nan")
    print(
        f"  {times:g}x ({over.sent / over.sending_s:.0f}/s offered): accepted "
        f"{len(over.accepted_ms) / over.answering_s:.0f}/s, refused {len(over.refused_ms) / over.answering_s:.0f}/s "
        f"(p99 {refused_p99:.1f} ms), other answers {over.other}, "
        f"failed connections {over.broken}, unanswered {over.unanswered}\n"
        f"    p99 of the accepted {over.p99_ms():.1f} ms, at saturation ({connections} connections, "
        f"{full.per_second:.0f}/s) {full.percentile(99):.1f} ms: ratio {ratio:.2f}; right afterwards, "
        f"16 connections: {back.per_second:.0f}/s, p99 {back.percentile(99):.2f} ms, failures {back.failures}",
        flush=True,
    )
    return ratio


def main() -> None:
    """Measure, with the limit and without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each load")
    parser.add_argument("--times", type=float, default=3.0, help="of saturation that is offered")
    parser.add_argument("--rounds", type=int, default=3, help="of saturation and overload; the median counts")
    parser.add_argument("--only", default="decide,check")
    parser.add_argument("--no-control", action="store_true", help="leave the negative control out")
    asked = parser.parse_args()
    makers = {"decide": decide_requests, "check": check_requests}
    for name in asked.only.split(","):
        measure(name, makers[name](7), asked.seconds, asked.times, asked.rounds)
    if not asked.no_control:
        os.environ["TACT_AT_ONCE"] = "0"
        print("negative control, without a limit:")
        measure("decide", decide_requests(7), asked.seconds, asked.times, 1)


if __name__ == "__main__":
    main()
