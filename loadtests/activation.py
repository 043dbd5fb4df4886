"""Rules change while it runs: `python -m loadtests.activation`.

Connections keep deciding through several API processes while two policy sets are activated in turn. Every answer
names the version that it was judged by; one that was asked for after an activation had been acknowledged, and still
names the version before, breaks G10. Said as well: how long after the call the first answer by the new rules came,
and the last answer by the old ones.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from rich.console import Console

from loadtests import shop
from loadtests.bench import decide_requests
from loadtests.client import request
from loadtests.server import running

console = Console(stderr=True, highlight=False)


class Answered(NamedTuple):
    """One decision: when it was asked for and answered (s), and by which version."""

    sent: float
    received: float
    version: str


class Activated(NamedTuple):
    """One activation: when it was called and acknowledged (s), and the version."""

    called: float
    acknowledged: float
    version: str


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytes) -> Any:
    writer.write(asked)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = json.loads(await reader.readexactly(length))
    if not head.startswith(b"http/1.1 200"):
        raise SystemExit(f"{head.decode()}{body}")
    return body


async def _decide(port: int, seed: int, until: asyncio.Event) -> list[Answered]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    make, found = decide_requests(seed), []
    while not until.is_set():
        sent = time.perf_counter()
        body = await _exchange(reader, writer, make(0))
        found.append(Answered(sent, time.perf_counter(), body["policy_version"]))
    writer.close()
    return found


async def _activate(port: int, sets: list[dict[str, str]], count: int, pause_s: float) -> list[Activated]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    done = []
    for number in range(count):
        body = json.dumps({"files": sets[number % len(sets)]}).encode()
        called = time.perf_counter()
        said = await _exchange(reader, writer, request("POST", "/v1/policies/activate", body))
        done.append(Activated(called, time.perf_counter(), said["policy_version"]))
        console.print(f"activation {number + 1} of {count}", end="\r")
        await asyncio.sleep(pause_s)
    console.print()
    writer.close()
    return done


async def _run(port: int, connections: int, count: int, pause_s: float) -> dict[str, Any]:
    plain = shop.files(100)
    other = plain | {"policy.yaml": plain["policy.yaml"].replace("alpha: 0.3", "alpha: 0.2")}
    over = asyncio.Event()
    deciding = [asyncio.create_task(_decide(port, seed, over)) for seed in range(connections)]
    done = await _activate(port, [other, plain], count, pause_s)
    over.set()
    return verdict([one for part in await asyncio.gather(*deciding) for one in part], done)


def verdict(answers: list[Answered], activations: list[Activated]) -> dict[str, Any]:
    """Judge what was seen; `old` are answers asked for after an acknowledgement that name another version."""
    answers = sorted(answers)
    old, first_ms, last_ms, call_ms = 0, [], [], []
    for number, one in enumerate(activations):
        ends = activations[number + 1].called if number + 1 < len(activations) else float("inf")
        part = [a for a in answers if a.received >= one.called and a.sent < ends]
        old += sum(
            a.sent >= one.acknowledged and a.received < ends and a.version != one.version for a in part
        )
        new = [a.received for a in part if a.version == one.version]
        before = [a.received for a in part if a.version != one.version and a.received < ends]
        call_ms.append((one.acknowledged - one.called) * 1000)
        first_ms.append((min(new) - one.called) * 1000)
        last_ms.append((max(before, default=one.called) - one.called) * 1000)
    return {
        "decisions": len(answers),
        "activations": len(activations),
        "answers_by_an_old_version": old,
        "acknowledged_ms": round(statistics.median(call_ms), 1),
        "first_answer_by_the_new_ms": round(statistics.median(first_ms), 1),
        "last_answer_by_the_old_ms": {
            "median": round(statistics.median(last_ms), 1),
            "worst": round(max(last_ms), 1),
        },
    }


def measure(folder: Path, processes: int, connections: int, count: int, pause_s: float) -> dict[str, Any]:
    """Start Tact on the policies of a folder, and activate `count` times while `connections` decide."""
    options = ("--policies", str(folder), "--workers", str(processes))
    with running(*options) as tact, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(tact.port, connections, count, pause_s))


def main() -> None:
    """Run it; exit code 1 where an old version was used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--count", type=int, default=30, help="activations")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = shop.write(Path(scratch) / "policies", 100)
        found = measure(folder, asked.processes, asked.connections, asked.count, asked.pause)
    print(json.dumps(found, indent=2))
    if found["answers_by_an_old_version"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
