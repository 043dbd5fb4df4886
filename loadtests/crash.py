"""Kill Tact at random instants under load, start it again, and compare everything with what it acknowledged.

    python -m loadtests.crash --rounds 20 --seed 7

Each round: some clients send events, decide, reserve, confirm, release and record; then `kill -9` of a whole
Tact (or of one part, which the supervisor brings back); then every promise is checked, everything that may have
been applied is sent again, and every promise is checked to be kept exactly. At the end `tact audit` recomputes
all caps. Exit 1 when anything was lost, doubled or breached.
"""

import argparse
import asyncio
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from api.cli.audit import audit
from api.remote import RemoteFailure, lines
from loadtests.promises import Answer, Promises, Verdict, usable
from loadtests.random_load import CAPACITY, FEATURES, POLICY, Link, Load
from loadtests.server import Running, children, start
from policies.loader import load_files

CLIENTS = 8
DAY_MS = 86_400_000
PARTS = ("worker", "api", "valkey", "supervisor")


class NotBackError(Exception):
    """What was there before a fault never came back; the verdict says so, and there is nothing left to torture."""


class Crashes:
    """One data folder that is crashed again and again."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        workers: int = 1,
        *,
        environment: Mapping[str, str] | None = None,
        data: Path | None = None,
    ) -> None:
        """Everything lies in `folder`, the store's state in `data` if that is elsewhere."""
        self.rnd = random.Random(seed)
        self.promises = Promises()
        self.verdict = Verdict()
        self.recovery_s: list[float] = []
        self.answered = 0
        self.resent = 0
        self.breaches = 0
        self.data = data if data is not None else folder / "data"
        self.environment = environment
        self._policies = folder / "policies"
        self._workers = workers
        self._customers = [f"hot-{number}" for number in range(12)]
        self._known = set(self._customers)
        self._round = 0
        self._fences = 0
        self._policies.mkdir()
        for name, text in POLICY.items():
            (self._policies / name).write_text(text)
        self.load = Load(self.promises, [], "", self.rnd)
        self.spare = 0
        """Contacts that others than the load may have made."""
        self.longest_s = 2.0
        """How long a round's load runs at most before the fault (s)."""
        self.tact = self._start()

    def _start(self) -> Running:
        return start(
            self.data,
            "--policies",
            str(self._policies),
            "--workers",
            str(self._workers),
            environment=self.environment,
        )

    def stop(self) -> None:
        """End the server."""
        self.tact.stop()

    def round(self, part: str = "") -> None:
        """Load, kill everything (or one process of a part), recover, check, settle, check."""
        asyncio.run(self._one_round(lambda: self._kill(part)))

    def under(self, fault: Callable[[], Awaitable[None]]) -> None:
        """Load, let a fault happen and pass, check, settle, check: `round` for faults of any kind.

        The fault returns when it is over; it may replace `tact` by another start on the same data.
        """
        asyncio.run(self._one_round(fault))

    async def _one_round(self, fault: Callable[[], Awaitable[None]]) -> None:
        self._round += 1
        customers = self._customers + [f"new-{self._round}-{number}" for number in range(12)]
        self._known.update(customers)
        load = self.load = Load(self.promises, customers, f"r{self._round}", self.rnd)
        stop = asyncio.Event()
        clients = [asyncio.create_task(load.client(self.tact.port, stop)) for _ in range(CLIENTS)]
        await asyncio.sleep(self.rnd.uniform(0.2, self.longest_s))
        try:
            await fault()
        finally:
            stop.set()
            await asyncio.gather(*clients)
        self.answered += load.answered
        await self._check()
        await self._settle()
        await self._check()

    async def _kill(self, part: str) -> None:
        """Kill -9: everything, the supervisor alone (all else must go with it), or one process of a part."""
        if part not in {"", "supervisor"}:
            await self._kill_part(part)
            return
        victims = [*children(self.tact.process.pid), self.tact.process.pid]
        self.rnd.shuffle(victims)
        killed = time.perf_counter()
        if part:
            os.kill(self.tact.process.pid, signal.SIGKILL)
            await asyncio.to_thread(wait_gone, victims)
        else:
            await asyncio.to_thread(kill, victims)
        self.tact.process.wait()
        self.tact = await asyncio.to_thread(self._start)
        self.recovery_s.append(time.perf_counter() - killed)

    async def _kill_part(self, part: str) -> None:
        """Kill one process of a part, and wait until another has taken its place and everything is ready."""
        victim = self.rnd.choice(self.tact.pids(part))
        others = len(self.tact.pids(part))
        killed = time.perf_counter()
        await asyncio.to_thread(kill, [victim])
        await self.recovered(killed, lambda: self._replaced(part, victim, others))

    def _replaced(self, part: str, victim: int, others: int) -> bool:
        pids = self.tact.pids(part)
        return victim not in pids and len(pids) == others

    async def recovered(self, since: float, also: Callable[[], bool] = lambda: True) -> None:
        """Wait until everything is ready (and `also`), and note how long that took `since` (perf_counter, s)."""
        link = Link(self.tact.port)
        while time.perf_counter() - since < 20:
            if also():
                answer = await link.ask("GET", "/readyz")
                if answer is not None and answer.status == 200:
                    break
            await asyncio.sleep(0.02)
        else:
            self.verdict.lost.append("not everything came back within 20 s")
            link.close()
            raise NotBackError
        link.close()
        self.recovery_s.append(time.perf_counter() - since)

    async def _settle(self) -> None:
        """Send everything again that had no answer: by now each has one."""
        link = Link(self.tact.port)
        waiting, self.promises.maybe = self.promises.maybe, []
        self.resent += len(waiting)
        for deed in waiting:
            answer = await link.ask("POST", deed.path, deed.body, deed.key)
            if answer is None or not usable(answer):
                self.promises.maybe.append(deed)
                self.verdict.changed.append(f"{deed.path} has no answer after the restart: {answer}")
            else:
                deed.settle(answer)
        for event in self.rnd.sample(sorted(self.promises.events), min(len(self.promises.events), 20)):
            again = self.promises.sent([self.promises.events[event]])
            answer = await link.ask("POST", again.path, again.body)
            again.settle(answer if answer is not None else Answer(0, None))
        ended = [
            id_ for id_, state in self.promises.contacts.items() if state != "reserved" and len(id_) == 28
        ]
        for contact_id in self.rnd.sample(ended, min(len(ended), 10)):
            again = self.promises.ended(contact_id, self.promises.contacts[contact_id])
            answer = await link.ask("POST", again.path)
            again.settle(answer if answer is not None else Answer(0, None))
        link.close()

    def check_all(self) -> None:
        """Compare everything that is there with everything that was promised, of every round."""
        asyncio.run(self._check(whole=True))

    async def _check(self, *, whole: bool = False) -> None:
        """Compare what is there with what was promised: all contacts, and the features of who was asked lately."""
        link = Link(self.tact.port)
        await self._until_folded(link)
        features = {}
        recent = tuple(f"new-{number}-" for number in (self._round, self._round - 1))
        for customer_id in sorted(self._known):
            if not (whole or customer_id in self._customers or customer_id.startswith(recent)):
                continue
            answer = await link.ask("GET", f"/v1/customers/{customer_id}")
            if answer is not None and answer.status == 200:
                found = answer.body["features"]
                features[customer_id] = {name: found[name]["value"] for name in FEATURES}
        self.verdict.add(self.promises.check_features(features, None if whole else features.keys()))
        self.verdict.add(self.promises.check_contacts(await asyncio.to_thread(self._contacts), self.spare))
        for decision_id in self.promises.decisions[-200:]:
            answer = await link.ask("GET", f"/v1/decisions/{decision_id}")
            if answer is None or answer.status != 200:
                self.verdict.lost.append(f"decision {decision_id} is answered {answer}")
        self.verdict.add(self.promises.verdict)
        self.promises.verdict = Verdict()
        link.close()

    async def _until_folded(self, link: Link) -> None:
        """Wait until everything that was accepted before is folded.

        The journal is folded in order, batch by batch: once an event is visible, one appended after that is in a
        later batch, so when the second fence is visible, the batch of the first one is finished.
        """
        for _ in range(2):
            self._fences += 1
            fence = {"event_id": f"fence-{self._fences}", "type": "page_view", "customer_id": "fence"}
            end = time.perf_counter() + 20
            while (sent := await link.ask("POST", "/v1/events", fence)) is None or sent.status != 202:
                # The process that answers may not have found the store again yet; sent twice it counts once.
                if time.perf_counter() > end:
                    break
                await asyncio.sleep(0.05)
            while time.perf_counter() < end:
                answer = await link.ask("GET", "/v1/customers/fence")
                if (
                    answer is not None
                    and answer.status == 200
                    and answer.body["features"]["views"]["value"] >= self._fences
                ):
                    break
                await asyncio.sleep(0.01)
            else:
                self.verdict.lost.append("the journal was not folded within 20 s")

    def _facts(self) -> list[dict[str, Any]]:
        """Read the raw facts; a process that has not found the store again yet is asked once more."""
        for _ in range(50):
            try:
                return [one for one in lines(self.tact.url, "/v1/facts") if "contacts" in one]
            except RemoteFailure:
                time.sleep(0.2)
        return [one for one in lines(self.tact.url, "/v1/facts") if "contacts" in one]

    def _contacts(self) -> list[tuple[str, str]]:
        """Return every contact in the store and its state; capacity must not have been oversold either."""
        facts = self._facts()
        contacts = [contact for customer in facts for contact in customer["contacts"]]
        calls = Counter(
            c["at"] // DAY_MS for c in contacts if c["channel"] == "call" and c["state"] != "released"
        )
        for count in calls.values():
            if count > CAPACITY:
                self.verdict.doubled.append(f"{count} calls of one day, the capacity is {CAPACITY}")
        self.breaches = len(audit(load_files(POLICY).policy, facts).breaches)
        return [(contact["contact_id"], contact["state"]) for contact in contacts]

    def report(self) -> dict[str, Any]:
        """Return the figures so far."""
        return {
            "rounds": self._round,
            "answered": self.answered,
            "events": len(self.promises.events),
            "contacts": len(self.promises.contacts),
            "decisions": len(self.promises.decisions),
            "resent": self.resent,
            "lost": len(self.verdict.lost),
            "doubled": len(self.verdict.doubled),
            "changed": len(self.verdict.changed),
            "breaches": self.breaches,
            "recovery_s": {
                "worst": round(max(self.recovery_s, default=0.0), 2),
                "median": round(statistics.median(self.recovery_s or [0.0]), 2),
            },
        }

    def complaints(self) -> list[str]:
        """Return a sentence for every promise that was not kept."""
        return [*self.verdict.lost, *self.verdict.doubled, *self.verdict.changed]


def kill(pids: list[int]) -> None:
    """Kill -9, in this order, and return when all are gone."""
    watches = []
    for pid in pids:
        with suppress(ProcessLookupError):  # it died with its parent
            watches.append(os.pidfd_open(pid))
            os.kill(pid, signal.SIGKILL)
    for watch in watches:
        select.select([watch], [], [], 10)
        os.close(watch)


def wait_gone(pids: list[int]) -> None:
    """Return when all of these are gone; RuntimeError when one stays."""
    for pid in pids:
        with suppress(ProcessLookupError):
            watch = os.pidfd_open(pid)
            gone = select.select([watch], [], [], 10)[0]
            os.close(watch)
            if not gone:
                raise RuntimeError(f"process {pid} outlived its supervisor")


def main() -> None:
    """Run the rounds and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--part", choices=PARTS, default="", help="kill only one of these")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tact-crash-") as folder:
        crashes = Crashes(Path(folder), asked.seed)
        try:
            for number in range(asked.rounds):
                crashes.round(asked.part)
                said = crashes.report()
                print(
                    f"round {number + 1}: {said['answered']} answered, {said['resent']} sent again, "
                    f"{said['lost']} lost, {said['doubled']} doubled, {crashes.recovery_s[-1]:.2f} s to recover",
                    file=sys.stderr,
                )
            audited = subprocess.run(
                [sys.executable, "-m", "api.main", "audit", "--url", crashes.tact.url],
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            crashes.stop()
    report = crashes.report() | {"audit_exit": audited.returncode}
    for complaint in crashes.complaints():
        print(complaint, file=sys.stderr)
    if asked.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{report['rounds']} rounds, {report['answered']} answers, {report['events']} events, "
            f"{report['contacts']} contacts, {report['decisions']} decisions: {report['lost']} lost, "
            f"{report['doubled']} doubled, {report['changed']} answers changed; seconds to recover: worst "
            f"{report['recovery_s']['worst']}, median {report['recovery_s']['median']}\n{audited.stdout.strip()}"
        )
    sys.exit(1 if crashes.complaints() or audited.returncode else 0)


if __name__ == "__main__":
    main()
