"""One run: a world is sent to a fleet while faults happen to it, then everybody is compared."""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

from api.running.kafka.node import QUICK_SESSIONS
from loadtests import fleet
from loadtests.fleet import Fleet, Process
from loadtests.once import hands, shop
from loadtests.once.faults import Faults
from loadtests.once.judge import Verdict, judge
from loadtests.once.sender import Sender
from loadtests.once.world import World

STALLED_S: Final = 90.0
TOLD_S: Final = 5.0


def worker(tact: Fleet, number: int, *, careless: bool, named: bool = True) -> Process:
    """Make a feature worker, not started.

    A careless one pays no heed to positions. Where one without a name comes and goes, partitions move at once.
    """
    name = f"features-{number}"
    log = tact.folder / f"{name}.log"
    log.touch()
    environment = {**tact.environment, "TACT_WORKER": name if named else ""}
    module = "loadtests.once.careless" if careless else "api.main"
    return Process(name, ["worker", "features"], environment, log, module)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


class Run:
    """One run on a fleet that has no workers yet."""

    def __init__(
        self, tact: Fleet, policies: Path, seed: int, *, workers: int = 3, careless: bool = False
    ) -> None:
        """Start the workers."""
        self.tact = tact
        self.policies = policies
        self.seed = seed
        self.began = time.monotonic()
        made = [worker(tact, number, careless=careless) for number in range(1, workers + 1)]
        spare = worker(tact, workers + 1, careless=careless, named=False)
        tact.workers += [*made, spare]
        self.faults = Faults(tact, made, spare, Random(seed))
        self.faults.start_all()
        self.world: World | None = None
        self.sender: Sender | None = None

    def start(self, events: int, customers: int, *, pace: int) -> Sender:
        """Begin to send a world, `pace` events a second."""
        world = World(
            events,
            customers,
            self.seed,
            secret=asyncio.run(hands.secret(self.tact.store_url)),
            partitions=hands.PARTITIONS,
            now=time.time_ns() // 1_000_000,
        )
        sender = Sender(
            world.sendings(), events, pace=pace, bootstrap=self.tact.cluster.bootstrap, urls=self.tact.urls
        )
        sender.start()
        self.world, self.sender = world, sender
        return sender

    def hurt(self, kind: str) -> None:
        """Let a fault happen."""
        assert self.sender is not None
        began = time.monotonic()
        self.faults.happen(kind)
        took = time.monotonic() - began
        say(f"{self._at()} {kind}, {took:.1f} s; {self.sender.reached} events sent")

    def settle(self) -> None:
        """Wait until all is folded, with a supervisor at hand; RuntimeError when nothing moves for long."""
        told = 0.0

        def meanwhile(left: int) -> None:
            nonlocal told
            self.faults.mend()
            if time.monotonic() - told > TOLD_S:
                told = time.monotonic()
                say(f"{self._at()} {left} records are left to fold")

        asyncio.run(
            hands.wait_until_folded(
                self.tact.store_url, self.tact.cluster.bootstrap, stalled_s=STALLED_S, meanwhile=meanwhile
            )
        )

    def replay_carelessly(self) -> None:
        """Take workers that pay no heed to positions, and let them begin at the beginning."""
        self.faults.stop_all()
        asyncio.run(hands.set_back(self.tact.store_url, 0))
        for number, _ in enumerate(self.faults.workers, 1):
            self.tact.workers.append(worker(self.tact, number, careless=True))
        self.faults.workers = self.tact.workers[-len(self.faults.workers) :]
        self.faults.start_all()

    def judge(self) -> Verdict:
        """Compare everybody."""
        assert self.world is not None
        assert self.sender is not None
        return asyncio.run(
            judge(
                store_url=self.tact.store_url,
                bootstrap=self.tact.cluster.bootstrap,
                policies=self.policies,
                alias_ids=self.world.alias_ids(),
                sent=self.sender.sent,
            )
        )

    def summary(self, verdict: Verdict) -> str:
        """Say what was sent, what went wrong and what was found."""
        assert self.sender is not None
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.done.items())) or "none"
        return (
            f"{verdict.events} events in {verdict.records} records, {self.sender.calls} requests to the API\n"
            f"{verdict.doubles} events lie in the topic again: {self.sender.records_again} records on purpose, "
            f"{self.sender.sent_anew} sendings that were not acknowledged at first\n"
            f"faults: {faults}; workers that ended by themselves: {len(self.faults.ended)}\n"
            f"{verdict.people} people compared, {verdict.merged} of them several customers at first\n"
            f"{len(verdict.differences)} differences, {verdict.missing} events missing, "
            f"{verdict.quarantined} in the quarantine"
        )

    def _at(self) -> str:
        return f"{time.monotonic() - self.began:5.0f} s"


@contextmanager
def running(folder: Path, apis: int = 2) -> Iterator[tuple[Fleet, Path]]:
    """Run a fleet with APIs and no workers yet, and give it and its policy set."""
    policies = shop.write(folder / "policies")
    settings = {"TACT_KAFKA_PARTITIONS": str(hands.PARTITIONS)}
    with fleet.running(
        folder, policies, apis=apis, workers=1, settings=settings, kafka_settings=QUICK_SESSIONS
    ) as tact:
        tact.workers.pop().kill()  # the APIs were not ready without one
        yield tact, policies
