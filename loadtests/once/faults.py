"""What goes wrong while events are folded. When a fault is over, every process runs again.

- kill: a worker is killed and started again at once; lose: it comes back after its partitions went to others.
- freeze: a worker stands still for longer than its session, its partitions move, and it wakes with work in hand.
- join: one more worker comes, and goes in order or killed, so that partitions move twice.
- broker, store: killed and started again on their data.
- backup: no worker runs, and the watermarks are set back, as by a hand that restores an older backup of them.
- reset: no worker runs, and the offsets of the group and the watermarks are set to the beginning.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Final

from loadtests.fleet import Fleet, Process
from loadtests.once import hands

SESSION_S: Final = 6.0
"""After so long without a word the partitions of a worker go to others."""


class Faults:
    """The faults of one run on the processes of a fleet; use it from the main thread."""

    def __init__(self, fleet: Fleet, workers: Sequence[Process], spare: Process, rng: Random) -> None:
        """`workers` run already; `spare`, the one that joins and leaves, does not."""
        self.done: Counter[str] = Counter()
        self.ended: list[str] = []
        """Names of workers that ended by themselves, each time that one did."""
        self._fleet = fleet
        self.workers = workers
        self._spare = spare
        self._rng = rng
        self._kinds: Mapping[str, Callable[[], None]] = {
            "kill": self._kill,
            "lose": self._lose,
            "freeze": self._freeze,
            "join": self._join,
            "broker": self._broker,
            "store": self._store,
            "backup": self._backup,
            "reset": self._reset,
        }

    def plan(self) -> Iterator[str]:
        """Choose faults without end: each kind as often as any other, give or take one."""
        while True:
            yield from self._rng.sample(list(self._kinds), len(self._kinds))

    def pause(self) -> None:
        """Let the workers work for a while."""
        time.sleep(self._rng.uniform(1, 5))

    def happen(self, kind: str) -> None:
        """Let one happen."""
        self.mend()
        self._kinds[kind]()
        self.done[kind] += 1

    def mend(self) -> None:
        """Start what ended by itself again, as a supervisor does."""
        for worker in self.workers:
            if not worker.alive:
                self.ended.append(worker.name)
                worker.start()

    def stop_all(self) -> None:
        """Kill every worker."""
        for worker in self.workers:
            worker.kill()

    def start_all(self) -> None:
        """Start every worker."""
        for worker in self.workers:
            worker.start()

    def _kill(self) -> None:
        worker = self._rng.choice(self.workers)
        worker.kill()
        worker.start()

    def _lose(self) -> None:
        worker = self._rng.choice(self.workers)
        worker.kill()
        time.sleep(SESSION_S + self._rng.uniform(1, 4))
        worker.start()

    def _freeze(self) -> None:
        worker = self._rng.choice(self.workers)
        worker.freeze()
        time.sleep(SESSION_S + self._rng.uniform(1, 6))
        worker.thaw()

    def _join(self) -> None:
        self._spare.start()
        time.sleep(self._rng.uniform(4, 8))
        if self._rng.random() < 0.5:
            self._spare.stop()
        else:
            self._spare.kill()

    def _broker(self) -> None:
        self._fleet.cluster.node(1).kill()
        time.sleep(self._rng.uniform(0, 3))
        self._fleet.cluster.restart()

    def _store(self) -> None:
        self._fleet.store.kill()
        time.sleep(self._rng.uniform(0, 3))
        self._fleet.store.start()

    def _backup(self) -> None:
        self.stop_all()
        asyncio.run(hands.set_back(self._fleet.store_url, self._rng.random()))
        self.start_all()

    def _reset(self) -> None:
        self.stop_all()
        asyncio.run(hands.set_group_back(self._fleet.cluster.bootstrap))
        asyncio.run(hands.set_back(self._fleet.store_url, 0))
        self.start_all()
