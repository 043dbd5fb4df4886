"""From an outcome to its effect: how long after the 202 of an `accept` the first decide knows it.

    python -m loadtests.learning_latency [--outcomes 120] [--rate 50] [--seed N] [--json]

A whole Tact, some decisions and outcomes in the background. A probe decides, sends one `accept` that names the
decision, and notes when its 202 came. A decide covers the outcome when its `model_version` is not before the outcome's
step of the trail; previews ask for it all the time, and the time counts at the first answer that does. The way is told
in three parts: 202 to the step on the trail (the feature worker), from there to the snapshot (the learner), from there
to the decide (the API process). Exit 1 when p99 is not under 2 s.

The control: one more outcome while the learner is stopped for longer than the bound; it must be found to take longer.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from bisect import bisect_left
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import uvloop
from rich.console import Console

from api.running.valkey import ValkeyServer
from engine.judging.trail import OUTCOME, TRAIL, parse_step
from engine.services.models import MODEL_VERSION
from engine.store.connection import StoreAddress, StoreConnection
from engine.store.store import as_bytes, as_list
from loadtests import shop
from loadtests.learner_crash import find_learner
from loadtests.random_load import Link
from loadtests.server import Running, running
from loadtests.talk import EVENTS, Follow, Talk
from loadtests.trail_copy import Position, position_of

BOUND_S: Final = 2.0
GIVE_UP_S: Final = 30.0
LOOK_S: Final = 0.01
"""How often everything is looked at: what is told is at most so much too long."""
console = Console(stderr=True, highlight=False)


class Seen(NamedTuple):
    """When a version was first seen (perf_counter, s)."""

    at: float
    version: Position


class Watch:
    """Sees steps, snapshots and answers as they come, each with its moment."""

    def __init__(self) -> None:
        self.steps: dict[str, Seen] = {}
        """Outcomes by decision id."""
        self.published: list[Seen] = []
        self.served: list[Seen] = []

    async def trail(self, connection: StoreConnection) -> None:
        """Follow the trail and the published version until cancelled."""
        after = "0-0"
        while True:
            version, reply = await connection.pipeline(
                [("GET", MODEL_VERSION), ("XREAD", "COUNT", 1000, "STREAMS", TRAIL, after)]
            )
            now = time.perf_counter()
            self._saw(self.published, now, position_of(as_bytes(version)))
            for entry in as_list(as_list(as_list(reply)[0])[1]) if reply else []:
                position, fields = as_list(entry)
                after = (as_bytes(position) or b"").decode()
                step = parse_step(as_bytes(as_list(fields)[1]) or b"")
                if step.kind == OUTCOME:
                    self.steps.setdefault(step.tag + step.uid, Seen(now, position_of(after)))
            await asyncio.sleep(LOOK_S)

    async def decides(self, port: int) -> None:
        """Ask for previews until cancelled, and see which model answers."""
        link = Link(port)
        body = {"customer_id": "watch", "placement": "hero", "preview": True}
        while True:
            answer = await link.ask("POST", "/v1/decide", body)
            if answer is not None and answer.status == 200:
                self._saw(self.served, time.perf_counter(), position_of(answer.body["model_version"]))
            await asyncio.sleep(LOOK_S)

    def _saw(self, seen: list[Seen], now: float, version: Position) -> None:
        if not seen or version > seen[-1].version:
            seen.append(Seen(now, version))


def first_with(seen: list[Seen], wanted: Position) -> float | None:
    """Return when a version was first seen that covers the wanted position; None if never."""
    place = bisect_left([one.version for one in seen], wanted)
    return seen[place].at if place < len(seen) else None


class Probe:
    """Sends outcomes one after the other, and knows when the 202 of each came, by decision id."""

    def __init__(self, port: int, watch: Watch) -> None:
        self.watch = watch
        self.told: dict[str, float] = {}
        self._link = Link(port)
        self._number = count()

    async def send(self) -> str:
        """Decide, send an `accept`, and note when it was accepted; returns the decision's id."""
        number = next(self._number)  # an event's id counts once
        who = {"customer_id": f"probe-{number}"}
        made = await self._link.ask("POST", "/v1/decide", {**who, "placement": "hero"})
        assert made is not None
        assert made.status == 200
        decision: str = made.body["decision_id"]
        event = {**who, "event_id": f"probe-{number}", "type": "accept", "decision_id": decision}
        sent = await self._link.ask("POST", EVENTS, event)
        assert sent is not None
        assert sent.status == 202
        self.told[decision] = time.perf_counter()
        return decision

    def waits(self, decision: str) -> float | None:
        """Return how long the outcome took to its first decide (s); None before it came there."""
        step = self.watch.steps.get(decision)
        served = first_with(self.watch.served, step.version) if step is not None else None
        return served - self.told[decision] if served is not None else None

    async def covered(self, decisions: list[str]) -> None:
        """Wait until all of these are served, or for so long that they never will be."""
        end = time.perf_counter() + GIVE_UP_S
        for decision in decisions:
            while self.waits(decision) is None and time.perf_counter() < end:  # noqa: ASYNC110  # two watches see it
                await asyncio.sleep(LOOK_S)


async def _control(probe: Probe, learner: int) -> float:
    """Stop the learner for longer than the bound; returns how long an outcome then is found to take (s)."""
    os.kill(learner, signal.SIGSTOP)
    try:
        decision = await probe.send()
        await asyncio.sleep(BOUND_S + 0.5)
    finally:
        os.kill(learner, signal.SIGCONT)
    await probe.covered([decision])
    return probe.waits(decision) or GIVE_UP_S


async def _measured(
    tact: Running, store: str, seed: int, outcomes: int, rate: float, gap_s: float, *, say: bool
) -> dict[str, Any]:
    rnd = random.Random(seed)
    connection = StoreConnection(StoreAddress.parse(store), within_s=10)
    await connection.open()
    watch = Watch()
    probe = Probe(tact.port, watch)

    def decide(_: int) -> Any:
        return {
            "customer_id": f"c{rnd.randrange(5_000)}",
            "placement": "hero",
            "context": {"device": "mobile"},
        }

    def reply(answer: Any) -> list[Follow]:
        if rnd.random() >= 0.1 or not answer["offers"]:
            return []
        event = {"type": "accept", "customer_id": answer["customer_id"], "decision_id": answer["decision_id"]}
        return [Follow(rnd.uniform(0.1, 5.0), EVENTS, event)]

    talk = Talk(decide, reply, None, rate)
    tasks = [
        asyncio.create_task(one)
        for one in (talk.run(tact.port, 4), watch.trail(connection), watch.decides(tact.port))
    ]
    learner = find_learner(tact)
    assert learner is not None
    try:
        await probe.covered([await probe.send()])  # the priors serve until somebody has said yes
        probe.told.clear()
        for number in range(outcomes):
            await probe.send()
            if say:
                console.print(f"{number + 1} of {outcomes} outcomes", end="\r")
            await asyncio.sleep(rnd.uniform(0.5, 1.5) * gap_s)
        await probe.covered(list(probe.told))
        found = _figures(watch, probe.told)
        found["control_s"] = await _control(probe, learner)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await connection.close()
    return found | {"background": talk.answers}


def _figures(watch: Watch, told: dict[str, float]) -> dict[str, Any]:
    """Return the ways of all outcomes, and their parts, in seconds."""
    whole, parts, never = [], [], 0
    for decision, at in told.items():
        step = watch.steps.get(decision)
        published = first_with(watch.published, step.version) if step else None
        served = first_with(watch.served, step.version) if step else None
        if step is None or published is None or served is None:
            never += 1
            continue
        whole.append(served - at)
        parts.append((step.at - at, published - step.at, served - published))
    shares = np.array(parts or [(np.nan,) * 3])
    names = ("to_trail", "to_snapshot", "to_decide")
    return {
        "outcomes": len(told),
        "never": never,
        **_percentiles(np.array(whole or [np.inf])),
        "parts": {name: _percentiles(shares[:, place]) for place, name in enumerate(names)},
        "models": len(watch.published),
    }


def _percentiles(values: Any) -> dict[str, float]:
    return {
        "p50_s": float(np.percentile(values, 50)),
        "p99_s": float(np.percentile(values, 99)),
        "max_s": float(values.max()),
    }


def measure(
    outcomes: int, seed: int, *, rate: float = 50.0, gap_s: float = 0.4, offers: int = 20, say: bool = True
) -> dict[str, Any]:
    """Run a Tact and send it so many outcomes, about one every `gap_s`."""
    with tempfile.TemporaryDirectory(prefix="tact-latency-") as scratch:
        folder, data = shop.write(Path(scratch) / "policies", offers), Path(scratch) / "data"
        with running("--policies", str(folder), data=data) as tact:
            store = f"unix://{ValkeyServer(data).socket_path}"
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                found = runner.run(_measured(tact, store, seed, outcomes, rate, gap_s, say=say))
    return {"seed": seed, "rate": rate, "offers": offers, "load_average": os.getloadavg()[0], **found}


def main(arguments: list[str] | None = None) -> None:
    """Run, print, and exit 1 when the bound is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--outcomes", type=int, default=120)
    parser.add_argument("--rate", type=float, default=50.0, help="decisions a second in the background")
    parser.add_argument("--offers", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 31)
    console.print(f"seed {seed}")
    found = measure(asked.outcomes, seed, rate=asked.rate, offers=asked.offers)
    if asked.json:
        json.dump(found, sys.stdout, indent=2)
        print()
    console.print(
        f"{found['outcomes']} outcomes, {found['never']} never seen: p50 {found['p50_s']:.2f} s, "
        f"p99 {found['p99_s']:.2f} s, worst {found['max_s']:.2f} s (load average {found['load_average']:.1f})"
    )
    for name, part in found["parts"].items():
        console.print(f"  {name:12} p50 {part['p50_s']:.2f} s, p99 {part['p99_s']:.2f} s")
    console.print(f"  control: with the learner stopped for longer than the bound {found['control_s']:.2f} s")
    said = complaints(found)
    for sentence in said:
        console.print(sentence, style="red")
    sys.exit(1 if said else 0)


def complaints(found: dict[str, Any]) -> list[str]:
    """Return a sentence for everything that is not as it should be."""
    said = []
    if found["never"]:
        said.append(f"{found['never']} outcomes never had an effect")
    if found["p99_s"] >= BOUND_S:
        said.append(f"p99 is {found['p99_s']:.2f} s, the bound is {BOUND_S:g} s")
    if found["control_s"] < BOUND_S:
        said.append("the control, a learner that was stopped, was not found")
    return said


if __name__ == "__main__":
    main()
