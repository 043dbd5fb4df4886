"""Parts of a distributed Tact go away under load: a worker, the broker, the store. What was promised is judged.

    python -m loadtests.kafka_outage --away 60

Two APIs and two feature workers get a steady load of decisions and of events with ids. A worker is killed for good,
killed and started again, frozen; the broker is killed and stays away; an API and a worker are ended and started while
the broker is killed, and while it is frozen; the store is frozen, then killed. Decisions go on throughout (without a
store: silence), events are answered 202 or 503 with Retry-After in time, and at the end each customer's count equals
the customer's acknowledged events. Exit 1 when anything of that is broken.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from api.running.kafka.node import QUICK_SESSIONS
from loadtests import fleet, shop
from loadtests.findings import Findings
from loadtests.fleet import Fleet, Process
from loadtests.probes import Probes
from loadtests.steady import Rates, Steady, between, summary

LOST_S: Final = 10.0
"""Within so long the partitions of a killed worker go on elsewhere."""
RESTARTED_S: Final = 3.0
"""Within so long they go on in the same worker, started again."""
NOTICED_S: Final = 5.0
"""Within so long /readyz says that events are refused."""
FROZEN_S: Final = 12.0
GROWTH_BYTES: Final = 100_000_000
"""An API may grow by so much while the broker is away: what waits is bounded by 64 MB."""
PATIENCE_S: Final = 60.0


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


class Outage:
    """The faults, on a fleet under load."""

    def __init__(self, tact: Fleet, load: Steady) -> None:
        """Take what runs; the load may begin later."""
        self.tact = tact
        self.load = load
        self.probes = Probes(tact)
        self.found = Findings()
        self._storeless: list[tuple[float, float]] = []
        """From when to when (monotonic, s) the store was away."""

    # ------------------------------------------------------------------ workers

    def worker_lost(self) -> None:
        """Kill one for good, and wait until every partition is folded by the other."""
        victim = self.tact.workers[1]
        victim.kill()
        self.found.within("worker_lost_s", LOST_S, self.probes.visible(PATIENCE_S))
        victim.start()
        self._settled()

    def worker_restarted(self) -> None:
        """Kill one and start it again under its name."""
        victim = self.tact.workers[1]
        victim.kill()
        began = time.monotonic()
        victim.start()
        self.found.within("worker_restarted_s", RESTARTED_S, self.probes.visible(PATIENCE_S, since=began))
        self._settled()

    def worker_frozen(self) -> None:
        """Freeze one for longer than its session; it wakes when its partitions have gone to the other."""
        victim = self.tact.workers[1]
        victim.freeze()
        began = time.monotonic()
        self.found.within("worker_frozen_s", LOST_S, self.probes.visible(PATIENCE_S))
        time.sleep(max(0.0, began + FROZEN_S - time.monotonic()))
        victim.thaw()
        self.found.figures["worker_thawed_s"] = round(self.probes.visible(PATIENCE_S), 2)
        self._settled()

    # ------------------------------------------------------------------ the broker

    def broker_away(self, away_s: float) -> None:
        """Kill the broker, look at the APIs while it is away, start it again."""
        memory = [api.memory() for api in self.tact.apis]
        peak = list(memory)
        gone = time.monotonic()
        self.tact.cluster.node(1).kill()
        while time.monotonic() < gone + away_s:
            if time.monotonic() > gone + NOTICED_S:
                self._degraded()
            peak = [max(most, api.memory()) for most, api in zip(peak, self.tact.apis, strict=True)]
            time.sleep(0.5)
        self.tact.cluster.restart()
        ready = time.monotonic()
        visible_s = self.probes.visible(PATIENCE_S, since=ready)
        self._caught_up()
        caught_up_s = time.monotonic() - ready
        answers = [*self.load.sent, *self.load.sent_again]
        first = min(
            a.asked_at + a.ms / 1000
            for a in between(answers, gone + 1, ready + PATIENCE_S)
            if a.status == 202
        )
        before = between(self.load.decided, gone - 10, gone)
        meanwhile = between(self.load.decided, gone, ready)
        growth = max(most - least for most, least in zip(peak, memory, strict=True))
        self.found.figures["broker_away"] = {
            "seconds": round(ready - gone, 1),
            "decisions_before": summary(before),
            "decisions_meanwhile": summary(meanwhile),
            "events_meanwhile": summary(between(self.load.sent, gone, ready)),
            "first_202_after_return_s": round(first - ready, 2),
            "visible_after_return_s": round(visible_s, 2),
            "all_accepted_after_return_s": round(caught_up_s, 2),
            "api_memory_mb": round(max(memory) / 1e6),
            "api_memory_growth_mb": round(growth / 1e6),
        }
        if growth > GROWTH_BYTES:
            self.found.complaints.append(f"an API grew by {growth / 1e6:.0f} MB while the broker was away")
        self._settled()

    def ended_and_started(
        self, name: str, away: Callable[[], None], after_s: float, back: Callable[[], None]
    ) -> None:
        """End a worker and an API when the broker has been away for `after_s`, start both, let it come back."""
        worker, api = self.tact.workers[1], self.tact.apis[1]
        figures: dict[str, Any] = {}
        self.found.figures[name] = figures
        away()
        time.sleep(after_s)
        self.load.urls = self.tact.urls[:1]
        time.sleep(0.2)  # what was just sent to the other has arrived
        figures["worker_ended_s"] = self._ended(worker)
        figures["api_ended_s"] = self._ended(api)
        worker.start()
        api.start()
        started_s = fleet.wait_for(lambda: self.probes.health(1)[0] == "degraded", PATIENCE_S, self.tact.logs)
        began = time.monotonic()
        beside = Steady(self.tact.urls[1:], Rates(events=20, decisions=20, customers=20), name=name)
        beside.start()
        time.sleep(NOTICED_S)
        meanwhile = summary(between(beside.sent, began, time.monotonic()))
        if set(meanwhile["statuses"]) != {"503"}:
            self.found.complaints.append(f"an API without its broker answered events {meanwhile['statuses']}")
        if not worker.alive:
            self.found.complaints.append("a worker that was started without the broker did not wait for it")
        back()
        ready = time.monotonic()
        figures["api_started_s"] = round(started_s, 2)
        figures["visible_after_return_s"] = round(self.probes.visible(PATIENCE_S, api=1, since=ready), 2)
        beside.finish()
        self.found.answered(beside)
        self.found.compare(beside, self.probes, PATIENCE_S)
        self.load.urls = list(self.tact.urls)
        self._settled()

    def without_broker(self) -> None:
        """End and start both while the broker is killed."""
        self.ended_and_started(
            "broker_killed", self.tact.cluster.node(1).kill, 1.0, lambda: self.tact.cluster.restart(1)
        )

    def with_silent_broker(self) -> None:
        """End and start both while the broker is frozen: connections stand, and nothing is answered."""
        pid = self.tact.cluster.node(1).pid
        assert pid is not None
        self.ended_and_started(
            "broker_frozen",
            lambda: os.kill(pid, signal.SIGSTOP),
            20.0,  # by then everything has been tried again
            lambda: os.kill(pid, signal.SIGCONT),
        )

    # ------------------------------------------------------------------ the store

    def store_away(self) -> None:
        """Freeze the store for some seconds, then kill it and start it again; workers go on by themselves."""
        pids = [worker.pid for worker in self.tact.workers]
        pid = self.tact.store.pid
        assert pid is not None

        def frozen() -> None:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(8.0)
            os.kill(pid, signal.SIGCONT)

        def killed() -> None:
            self.tact.store.kill()
            time.sleep(2.0)
            self.tact.store.start()

        for name, fault in (("store_frozen", frozen), ("store_killed", killed)):
            began = time.monotonic()
            fault()
            back = time.monotonic()
            self.found.figures[f"{name}_visible_after_return_s"] = round(
                self.probes.visible(PATIENCE_S, since=back), 2
            )
            self._storeless.append(
                (began - 0.5, time.monotonic())
            )  # what was asked just before waits with it
            self.found.figures[f"{name}_events"] = summary(between(self.load.sent, began, back))
            self.found.figures[f"{name}_decisions"] = summary(between(self.load.decided, began, back))
            self._settled()
        if [worker.pid for worker in self.tact.workers if worker.alive] != pids:
            self.found.complaints.append("a worker ended because the store was away")

    # ------------------------------------------------------------------ the end

    def judge(self) -> None:
        """Let the load end, and hold everything to what was promised."""
        self.load.finish(PATIENCE_S)
        self.found.compare(self.load, self.probes, PATIENCE_S)
        self.found.answered(self.load, self._storeless)

    def _degraded(self) -> None:
        """Hold /readyz of every API to what it says without a broker: 200, degraded, events unwell."""
        for number in range(len(self.tact.apis)):
            status, events = self.probes.health(number)
            if status != "degraded" or events == "ok":
                self.found.complaints.append(
                    f"without its broker an API says {status!r}, and {events!r} of events"
                )

    def _ended(self, process: Process) -> float:
        """End a process; returns the seconds that took."""
        began = time.monotonic()
        try:
            status = process.stop()
        except RuntimeError as late:
            self.found.complaints.append(str(late))
        else:
            if status != 0:
                self.found.complaints.append(f"{process.name} ended with status {status}")
        return round(time.monotonic() - began, 2)

    def _settled(self) -> None:
        """Wait until everything is as it was."""
        self._caught_up()
        self.probes.shared_by(len(self.tact.workers), PATIENCE_S)
        self.probes.visible(PATIENCE_S)
        fleet.wait_for(
            lambda: all(self.probes.health(api)[0] == "ready" for api in range(len(self.tact.apis))),
            PATIENCE_S,
            self.tact.logs,
        )

    def _caught_up(self) -> None:
        fleet.wait_for(lambda: self.load.waiting == 0, PATIENCE_S, self.tact.logs)


def measure(away_s: float, rates: Rates) -> Findings:
    """Run all faults."""
    with tempfile.TemporaryDirectory(prefix="tact-outage-") as folder:
        policies = shop.write(Path(folder) / "policies", 20)
        with fleet.running(
            Path(folder),
            policies,
            apis=2,
            workers=2,
            settings={"TACT_LOG": "warning"},
            kafka_settings=QUICK_SESSIONS,
        ) as tact:
            load = Steady(tact.urls, rates)
            outage = Outage(tact, load)
            outage.probes.shared_by(2, PATIENCE_S)
            load.start()
            time.sleep(10.0)  # what comes before the first fault is compared with what comes later
            faults: list[tuple[str, Callable[[], None]]] = [
                ("a worker is lost", outage.worker_lost),
                ("a worker is killed and started again", outage.worker_restarted),
                ("a worker is frozen", outage.worker_frozen),
                (f"the broker is away for {away_s:.0f} s", lambda: outage.broker_away(away_s)),
                ("a worker and an API end and start without the broker", outage.without_broker),
                ("the same while the broker is frozen", outage.with_silent_broker),
                ("the store is frozen, then killed", outage.store_away),
                ("everything is compared", outage.judge),
            ]
            for sentence, fault in faults:
                say(f"{time.strftime('%H:%M:%S')} {sentence}")
                fault()
            return outage.found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--away", type=float, default=60.0, help="seconds for which the broker is away")
    parser.add_argument("--events", type=float, default=100.0, help="events a second")
    parser.add_argument("--decisions", type=float, default=50.0, help="decisions a second")
    asked = parser.parse_args()
    found = measure(asked.away, Rates(asked.events, asked.decisions))
    print(json.dumps(found.result(), indent=2))
    sys.exit(1 if found.complaints else 0)


if __name__ == "__main__":
    main()
