"""`make bench`: speed and memory, side by side with a floor in one run, as ratios.

Every comparison interleaves its sides in short rounds and takes medians: a noisy machine then disturbs both
alike. `--only` picks parts, `--write FILE` puts the tables between the markers of a document.
"""

import argparse
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from api.remote import RemoteFailure, ask
from loadtests import shop, taught
from loadtests.client import Round, drive, request
from loadtests.memory import measure as measure_memory
from loadtests.server import Running, running
from loadtests.stream import measure as measure_stream
from loadtests.taught import teach

CUSTOMERS = 20_000
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
console = Console(stderr=True, highlight=False)


def decide_requests(seed: int, customers: int = CUSTOMERS, name: str = "customer") -> Callable[[int], bytes]:
    """Return a maker of decide requests for random customers; each takes a reservation."""
    rnd = random.Random(seed)

    def make(_: int) -> bytes:
        body = {
            "customer_id": f"{name}-{rnd.randrange(customers)}",
            "placement": "newsletter",
            "context": {"device": "mobile"},
        }
        return request("POST", "/v1/decide", json.dumps(body).encode())

    return make


@contextmanager
def tact_with(offers: int) -> Iterator[Running]:
    """Run Tact with the benchmark's policy set of so many offers."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = shop.write(Path(scratch) / "policies", offers)
        with running("--policies", str(folder)) as tact:
            yield tact


@contextmanager
def floor() -> Iterator[int]:
    """Run an empty FastAPI route and give its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "loadtests.floor", str(port)])
    try:
        while True:
            try:
                ask(f"http://127.0.0.1:{port}", "GET", "/")
                break
            except RemoteFailure:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def interleave(sides: dict[str, Callable[[], Round]], rounds: int, title: str) -> dict[str, dict[str, float]]:
    """Run the sides in turn, `rounds` times, and return medians of throughput and latency."""
    found: dict[str, list[Round]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, run in sides.items():
            found[name].append(run())
        console.print(f"{title}: round {number + 1} of {rounds}", end="\r")
    console.print()
    failures = {name: sum(one.failures for one in part) for name, part in found.items()}
    if any(failures.values()):
        raise SystemExit(f"{title}: answers failed: {failures}")
    return {
        name: {
            "per_second": statistics.median(one.per_second for one in part),
            "p50_ms": statistics.median(one.percentile(50) for one in part),
            "p99_ms": statistics.median(one.percentile(99) for one in part),
        }
        for name, part in found.items()
    }


def bench_decide(seconds: float, rounds: int) -> dict[str, Any]:
    """Decide among 100 offers beside an empty FastAPI GET, at 16 and 64 connections."""
    said = {}
    with tact_with(100) as tact, floor() as port:
        make, empty = decide_requests(1), request("GET", "/")
        drive(tact.port, make, 16, seconds=2)
        drive(port, lambda _: empty, 16, seconds=1)
        for connections in (16, 64):
            sides: dict[str, Callable[[], Round]] = {
                "tact": partial(drive, tact.port, make, connections, seconds=seconds),
                "fastapi": partial(drive, port, lambda _: empty, connections, seconds=seconds),
            }
            found = interleave(sides, rounds, f"decide, {connections} connections")
            said[str(connections)] = found | {
                "throughput_ratio": found["tact"]["per_second"] / found["fastapi"]["per_second"],
                "p99_ratio": found["tact"]["p99_ms"] / found["fastapi"]["p99_ms"],
            }
    return said


def bench_learned(seconds: float, rounds: int) -> dict[str, Any]:
    """Decide with a learned model: visitors without a history, known customers, and an empty FastAPI GET."""
    empty = request("GET", "/")
    with tact_with(100) as tact, floor() as port:
        teach(tact)
        makers = {
            "visitors": decide_requests(1),
            "known": decide_requests(2, taught.CUSTOMERS, "known"),
        }
        for make in makers.values():
            drive(tact.port, make, 16, seconds=2)
        sides: dict[str, Callable[[], Round]] = {
            name: partial(drive, tact.port, make, 16, seconds=seconds) for name, make in makers.items()
        }
        sides["fastapi"] = partial(drive, port, lambda _: empty, 16, seconds=seconds)
        found: dict[str, Any] = interleave(sides, rounds, "decide with a learned model, 16 connections")
    for name in makers:
        found[name]["throughput_ratio"] = found[name]["per_second"] / found["fastapi"]["per_second"]
        found[name]["p99_ratio"] = found[name]["p99_ms"] / found["fastapi"]["p99_ms"]
    return found


def bench_offers(seconds: float, rounds: int) -> dict[str, Any]:
    """Compare a decision among 10, 100 and 1,000 offers."""
    with tact_with(10) as few, tact_with(100) as some, tact_with(1000) as many:
        tacts = {"10": few, "100": some, "1000": many}
        sides: dict[str, Callable[[], Round]] = {}
        for name, tact in tacts.items():
            drive(tact.port, decide_requests(2), 16, seconds=1.5)
            sides[name] = partial(drive, tact.port, decide_requests(3), 16, seconds=seconds)
        found = interleave(sides, rounds, "decide among 10, 100, 1,000 offers")
    ratio = found["10"]["per_second"] / found["1000"]["per_second"]
    return {**found, "cost_1000_over_10": ratio}


def table(found: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [f"Measured on {datetime.now(UTC):%Y-%m-%d} with `make bench`.\n"]
    if "decide" in found:
        lines += [
            "| decide among 100 offers, reservation taken | Tact /s | empty FastAPI GET /s | ratio | p99 ms | ratio |",
            "|---|---|---|---|---|---|",
        ]
        for connections, part in found["decide"].items():
            tact, other = part["tact"], part["fastapi"]
            lines.append(
                f"| {connections} connections | {tact['per_second']:.0f} | {other['per_second']:.0f} "
                f"| **{part['throughput_ratio']:.2f}** | {tact['p99_ms']:.1f} / {other['p99_ms']:.1f} "
                f"| **{part['p99_ratio']:.2f}** |"
            )
        lines.append("")
    if "learned" in found:
        part = found["learned"]
        lines += [
            "| decide among 100 offers with a learned model, 16 connections | Tact /s | ratio | p99 ms | ratio |",
            "|---|---|---|---|---|",
        ]
        for name, said in (("visitors", "visitors without a history"), ("known", "customers with 20 events")):
            side = part[name]
            lines.append(
                f"| {said} | {side['per_second']:.0f} | **{side['throughput_ratio']:.2f}** "
                f"| {side['p99_ms']:.1f} | **{side['p99_ratio']:.2f}** |"
            )
        lines.append("")
    if "offers" in found:
        part = found["offers"]
        counts = ("10", "100", "1000")
        lines += [
            "| offers | " + " | ".join(counts) + " | cost 1,000 / 10 |",
            "|---|---|---|---|---|",
            "| decides /s | "
            + " | ".join(f"{part[count]['per_second']:.0f}" for count in counts)
            + f" | **{part['cost_1000_over_10']:.2f}** |",
            "",
        ]
    if "stream" in found:
        part = found["stream"]
        noop = f"{part['noop_per_second']:.0f} events/s (ratio {part['worker_ratio']:.3f})"
        visible = f"p50 {part['visible_p50_ms']:.1f}, p99 **{part['visible_p99_ms']:.1f}**"
        lines += [
            "| events | |",
            "|---|---|",
            f"| visible to decisions at {part['rate']}/s, ms | {visible} |",
            f"| worker, folding and saving | {part['worker_per_second']:.0f} events/s |",
            f"| a no-op consumer of the same stream | {noop} |",
            "",
        ]
    if "memory" in found:
        part = found["memory"]
        lines += [
            "| customers | bytes a customer in Valkey | decide p50 ms |",
            "|---|---|---|",
            *(
                f"| {count} | {part[count]['bytes']:.0f} | {part[count]['p50_ms']:.2f} |"
                for count in ("1000", str(part["customers"]))
            ),
            "",
            f"Latency at {part['customers']} customers over 1,000: **{part['latency_ratio']:.2f}**.",
            "",
        ]
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Put the tables between the markers of a document."""
    before, _, rest = path.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="decide,learned,offers,stream,memory")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "decide": lambda: bench_decide(asked.seconds, asked.rounds),
        "learned": lambda: bench_learned(asked.seconds, asked.rounds),
        "offers": lambda: bench_offers(asked.seconds, asked.rounds),
        "stream": measure_stream,
        "memory": lambda: measure_memory(asked.customers),
    }
    found = {name: parts[name]() for name in asked.only.split(",")}
    print(json.dumps(found, indent=2))
    text = table(found)
    print(text)
    if asked.write:
        write(asked.write, text)


if __name__ == "__main__":
    main()
