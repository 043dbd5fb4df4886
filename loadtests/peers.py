"""Contact checks beside two libraries that do the same, in one run: `python -m loadtests.peers`.

proactive-gate decides and takes one contact at a time, on Tact's own Valkey and so as durably (`appendfsync always`);
cue-notify checks and records in memory, so it promises less and is given the lead. Each runs in an environment of
its own under `--peers FOLDER` (made at the first run), in short rounds between Tact's.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtests import shop
from loadtests.client import drive, request
from loadtests.server import Running, running

CUSTOMERS = 20_000
CLIENTS = 16
ROWS = 10_000
TIMES = 4
"""Messages that each customer of a bulk round comes to have; the same for both sides, as history costs both."""
console = Console(stderr=True, highlight=False)

_PROACTIVE_GATE = """
import asyncio, itertools, random, sys, time
from datetime import datetime, timezone
import redis.asyncio as redis
from proactive_gate import AsyncGate, Candidate, EvaluateInput, RedisStore, UserState, default_checks

async def main(socket, seconds, clients, customers):
    store = RedisStore(redis.Redis(unix_socket_path=socket, max_connections=clients))
    gate = AsyncGate(default_checks(daily_limit=5000), store)
    number, taken, end = itertools.count(), 0, time.perf_counter() + seconds
    async def client():
        nonlocal taken
        while time.perf_counter() < end:
            user = UserState.from_dict({
                "id": f"u{random.randrange(customers)}", "consent": True, "timezone": "Europe/London",
                "createdAt": "2020-01-01T00:00:00Z",
            })
            one = Candidate(id=f"c{time.time_ns()}-{next(number)}", type="offer", priority="normal", surfaces=("push",))
            asked = EvaluateInput(user, one, datetime.now(timezone.utc))
            decision = await gate.evaluate(asked)
            if not decision.allowed:
                raise SystemExit(f"refused: {decision.rejected_by} {decision.reason}")
            taken += await gate.commit(decision, asked)
    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    print(taken / (time.perf_counter() - started))

asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
"""
_CUE_NOTIFY = """
import sys, time
from cue_notify.embedded import Gate

people, times = int(sys.argv[1]), int(sys.argv[2])
caps = {"promotion": [("P1D", 5000), ("P7D", 20000)]}
with Gate(quiet_hours=None, caps=caps) as gate:
    started = time.perf_counter()
    for row in range(people * times):
        decision = gate.check(f"c{row % people}", category="promotion")
        gate.sent(decision)
    print(people * times / (time.perf_counter() - started))
"""


def environment(folder: Path, python: str, name: str, wanted: str) -> Path:
    """Return the interpreter of a peer's own environment, made with the package in it where there is none."""
    found = folder / name / "bin" / "python"
    if not found.exists():
        console.print(f"installing {wanted}")
        subprocess.run([python, "-m", "venv", str(folder / name)], check=True)
        subprocess.run([found, "-m", "pip", "install", "--quiet", wanted], check=True)
    return found


def peer(python: Path, program: str, *arguments: object) -> float:
    """Run a peer's program and return the rate that it prints."""
    done = subprocess.run(
        [python, "-c", program, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def one_by_one(tact: Running, seconds: float) -> float:
    """Return checks a second that take a contact, one customer a call."""

    def make(number: int) -> bytes:
        body = {
            "channel": "email",
            "category": "promotion",
            "customer_ids": [f"c-{number * 7919 % CUSTOMERS}"],
        }
        return request("POST", "/v1/contacts/check", json.dumps(body).encode())

    done = drive(tact.port, make, CLIENTS, seconds=seconds)
    if done.failures:
        raise SystemExit(f"{done.failures} checks failed")
    return done.per_second


def in_bulk(tact: Running, calls: int, connections: int, fresh: Iterator[int]) -> float:
    """Return rows a second of bulk checks that take contacts, of customers who are new and asked about TIMES."""
    groups = [next(fresh) for _ in range(calls // TIMES)]

    def make(number: int) -> bytes:
        group = groups[number % len(groups)]
        ids = [f"c-{group}-{customer}" for customer in range(ROWS)]
        body = {"channel": "email", "category": "promotion", "customer_ids": ids}
        return request("POST", "/v1/contacts/check", json.dumps(body).encode())

    done = drive(tact.port, make, connections, count=calls)
    if done.failures:
        raise SystemExit(f"{done.failures} bulk checks failed")
    return calls * ROWS / done.seconds


def rounds(sides: dict[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Run the sides in turn, `count` times."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(count):
        for name, run in sides.items():
            found[name].append(run())
        console.print(f"round {number + 1} of {count}", end="\r")
    console.print()
    return found


def measure(folder: Path, python312: str, seconds: float, count: int) -> dict[str, Any]:
    """Compare; returns medians, and the median of the rounds' ratios."""
    fresh = itertools.count()
    gate = environment(folder, sys.executable, "proactive-gate", "proactive-gate[redis]==0.9.0")
    cue = environment(folder, python312, "cue-notify", "cue-notify==0.6.0")
    with tempfile.TemporaryDirectory(prefix="tact-") as scratch:
        policies = shop.write(Path(scratch) / "policies", 100)
        data = Path(scratch) / "data"
        with running("--policies", str(policies), data=data) as tact:
            one_by_one(tact, 1.0)
            found = rounds(
                {
                    "one_by_one": partial(one_by_one, tact, seconds),
                    "proactive_gate": lambda: peer(
                        gate, _PROACTIVE_GATE, next(data.rglob("*.sock")), seconds, CLIENTS, CUSTOMERS
                    ),
                    "bulk": partial(in_bulk, tact, 2 * TIMES, 2, fresh),
                    "cue_notify": lambda: peer(cue, _CUE_NOTIFY, ROWS // TIMES, TIMES),
                },
                count,
            )
        with running("--policies", str(policies), "--workers", "2", data=Path(scratch) / "two") as tact:
            in_bulk(tact, TIMES, 2, fresh)
            found["bulk_two_processes"] = [in_bulk(tact, 4 * TIMES, 4, fresh) for _ in range(count)]
    medians: dict[str, Any] = {name: statistics.median(part) for name, part in found.items()}
    pairs = zip(found["one_by_one"], found["proactive_gate"], strict=True)
    medians["one_by_one_ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
    pairs = zip(found["bulk"], found["cue_notify"], strict=True)
    medians["bulk_ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
    return medians


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "tact-peers")
    parser.add_argument("--python312", default="python3.12", help="an interpreter for cue-notify")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    started = time.perf_counter()
    print(json.dumps(measure(asked.peers, asked.python312, asked.seconds, asked.rounds), indent=2))
    console.print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
