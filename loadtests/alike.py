"""The rewards data through the distributed Tact and the embedded one: both must know the same of everybody.

`python -m loadtests.alike --data FOLDER` starts what `make run-distributed` starts (Kafka, the store, two feature
workers, learner, archive, two APIs) and, afterwards, `tact up`; replays the same lines with the same times into both,
half through each API; and compares feature state and contacts of every customer, as they lie in the stores. Then
every customer is decided for through both APIs at once, twice, and `tact audit` recomputes all caps.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace

from api.running.kafka.node import free_ports
from api.running.processes import answers
from engine.runtime import Engine, open_engine
from engine.store.store import as_bytes, as_list
from features.codec import decode_facts, decode_state
from features.event import format_time, parse_time
from loadtests import rewards
from loadtests.fleet import wait_for
from loadtests.once.hands import wait_until_folded
from loadtests.rewards import Senders, command, convert, policy_files, write_lines
from loadtests.server import running

START_S = 60.0
AT_ONCE = 500

Known = dict[str, tuple[Any, Any]]
"""Customer id to feature values and contacts."""


class Distributed:
    """What `make run-distributed` has started."""

    def __init__(self, folder: Path) -> None:
        """Choose ports; not started."""
        names: tuple[str, ...] = (
            "STORE_PORT",
            "KAFKA_PORT",
            "KAFKA_CONTROLLER_PORT",
            "API_1_PORT",
            "API_2_PORT",
        )
        metrics = ("FEATURES_1", "FEATURES_2", "LEARNER", "ARCHIVE")
        names += tuple(f"{name}_METRICS_PORT" for name in metrics)
        ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
        self.urls = [f"http://127.0.0.1:{ports[name]}" for name in ("API_1_PORT", "API_2_PORT")]
        self.store = f"redis://127.0.0.1:{ports['STORE_PORT']}"
        self.kafka = f"127.0.0.1:{ports['KAFKA_PORT']}"
        self._command = [sys.executable, "-m", "api.running.distributed", "--data", str(folder)]
        self._environment = {**os.environ, **ports}

    @contextmanager
    def run(self) -> Iterator[None]:
        """Run it for the length of a block."""
        process = subprocess.Popen(self._command, env=self._environment, stdout=sys.stderr)
        try:
            wait_for(lambda: all(map(answers, self.urls)) or process.poll() is not None, START_S)
            if process.poll() is not None:
                raise RuntimeError("what `make run-distributed` starts ended by itself")
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


async def known(engine: Engine, customers: Sequence[str]) -> Known:
    """Return what the store holds of customers: feature values and contacts."""
    found: Known = {}
    for start in range(0, len(customers), AT_ONCE):
        names = customers[start : start + AT_ONCE]
        tags = [engine.customers.tag(name) for name in names]
        replies = await engine.connection.pipeline([("HMGET", f"{{{tag}}}", "f", "p") for tag in tags])
        for name, reply in zip(names, replies, strict=True):
            facts, state = (as_bytes(blob) for blob in as_list(reply))
            # What a contact overran is judged when it is recorded, so it depends on what had come before it.
            contacts = [
                replace(contact, overrun=())
                for contact in (decode_facts(facts).contacts if facts is not None else ())
            ]
            found[name] = (decode_state(state)[0] if state is not None else None, contacts)
    return found


async def distributed(
    parts: Distributed, folder: Path, halves: Sequence[Path], customers: list[str]
) -> Known:
    """Replay the halves at the same time, one through each API, and return what is known then."""
    command("policy", "activate", str(folder), "--url", parts.urls[0])
    started = time.perf_counter()
    replays = [
        asyncio.to_thread(command, "replay", str(half), "--url", url, "--keep-times")
        for half, url in zip(halves, parts.urls, strict=True)
    ]
    print(f"distributed: replay: {json.dumps(await asyncio.gather(*replays))}", flush=True)
    engine = await open_engine(parts.store)
    try:
        answered = time.perf_counter()
        await wait_until_folded(parts.store, parts.kafka, stalled_s=30)
        print(
            f"distributed: folded {time.perf_counter() - answered:.2f} s after the last answer, "
            f"{time.perf_counter() - started:.1f} s in all",
            flush=True,
        )
        return await known(engine, customers)
    finally:
        await engine.close()


async def embedded(url: str, customers: Sequence[str]) -> Known:
    """Return what an embedded store knows."""
    engine = await open_engine(url)
    try:
        return await known(engine, customers)
    finally:
        await engine.close()


def main() -> None:
    """Run it; exit code 1 where the two differ, an answer is wrong or a cap was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the rewards data")
    parser.add_argument("--lines", type=int, default=None, help="so many lines only")
    asked = parser.parse_args()
    portfolio, lines = convert(asked.data)
    newest = max(parse_time(line["occurred_at"]) for line in lines)
    shift = time.time_ns() // 1_000_000 - newest
    lines = lines[: asked.lines]
    customers = sorted({line["customer_id"] for line in lines})
    with tempfile.TemporaryDirectory(prefix="tact-alike-") as scratch:
        folder = Path(scratch) / "policies"
        folder.mkdir()
        for name, text in policy_files(portfolio).items():
            (folder / name).write_text(text)
        moved = [
            {**line, "occurred_at": format_time(parse_time(line["occurred_at"]) + shift)} for line in lines
        ]
        halves = [Path(scratch) / f"half-{number}.ndjson.gz" for number in (0, 1)]
        for number, half in enumerate(halves):
            write_lines(half, moved[number::2])
        parts = Distributed(Path(scratch) / "distributed")
        with parts.run():
            one = asyncio.run(distributed(parts, folder, halves, customers))
            senders = [Senders(SimpleNamespace(url=url), lines, shift) for url in parts.urls]  # type: ignore[arg-type]
            asyncio.run(_ask_all(senders, customers))
            wrong = [text for sender in senders for text in sender.wrong]
            print(
                f"{len(customers)} customers asked twice, half by each API: {len(wrong)} wrong second answers"
            )
            found = command("audit", "--url", parts.urls[1])
            print(
                f"audit: {len(found['breaches'])} breaches, {found['overruns']} recorded overruns, "
                f"{found['contacts']} contacts"
            )
        with running("--policies", str(folder), data=Path(scratch) / "embedded") as tact:
            for half in halves:
                print(
                    f"embedded: replay: {json.dumps(command('replay', str(half), '--url', tact.url, '--keep-times'))}"
                )
            rewards.wait_until_folded(tact)
            socket = next((Path(scratch) / "embedded").rglob("*.sock"))
            two = asyncio.run(embedded(f"unix://{socket}", customers))
    differ = [f"{who}: {one[who]}, embedded {two[who]}" for who in customers if one[who] != two[who]]
    fed = sum(state is not None for state, _ in one.values())
    print(f"{len(customers)} customers, {fed} with features: {len(differ)} differences")
    for text in [*differ[:5], *wrong[:5]]:
        print("  wrong:", text)
    sys.exit(1 if differ or wrong or found["breaches"] or not fed else 0)


async def _ask_all(senders: Sequence[Senders], customers: list[str]) -> None:
    await asyncio.gather(
        *(sender.run(customers[number :: len(senders)]) for number, sender in enumerate(senders))
    )


if __name__ == "__main__":
    main()
