"""A kill at each of the first hundred fdatasync calls of the store: what was acknowledged before it is there.

strace attaches to the store under load and kills it as it enters its N-th fdatasync, for N from 1 on: the moment
after a write and before its sync, and the one between two. An acknowledgement needs a sync, so a store that
answers on and on without one has broken its promise already.
"""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from loadtests.crash import Crashes, NotBackError
from loadtests.torture.kill import KINDS, said, take
from loadtests.torture.wire import Progress, Verdict

PATIENCE_S: Final = 15.0
RECOVERY_S: Final = 5.0


def run(count: int, seed: int, folder: Path, environment: Mapping[str, str], progress: Progress) -> Verdict:
    """Kill the store at its first, second, … `count`-th fdatasync, each after a fresh start of it."""
    strace = shutil.which("strace")
    if strace is None:
        raise RuntimeError("this suite needs strace: install it (apt install strace), or leave `sync` out")
    verdict = Verdict("sync", seed)
    verdict.expect(*KINDS, "unsynced answers")
    crashes = Crashes(folder, seed, workers=2, environment=environment)
    crashes.longest_s = 0.4
    try:
        for number in range(1, count + 1):
            kill = _Kill(crashes, strace, number, verdict)
            crashes.under(kill.at_sync)
            if number % 5 == 0 or number == count:
                progress(said(crashes, number, count))
            if verdict.broken["unsynced answers"]:
                break
        crashes.check_all()
    except NotBackError:
        progress("it did not come back: the run ends here")
    finally:
        with suppress(Exception):
            crashes.stop()
    take(crashes, verdict, RECOVERY_S)
    return verdict


class _Kill:
    """One kill of the store at one of its syncs."""

    def __init__(self, crashes: Crashes, strace: str, number: int, verdict: Verdict) -> None:
        self.crashes = crashes
        self.strace = strace
        self.number = number
        self.verdict = verdict

    async def at_sync(self) -> None:
        """Attach, wait until the store has died of its sync, and until another has taken its place."""
        tact = self.crashes.tact
        pid = tact.pids("valkey")[0]
        process = subprocess.Popen(  # noqa: ASYNC220  # it only attaches; it is not waited for here
            [
                self.strace,
                "-f",
                "-e",
                "trace=fdatasync",
                "-e",
                f"inject=fdatasync:signal=KILL:when={self.number}",
                "-o",
                "/dev/null",
                "-p",
                str(pid),
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            begun, answered = time.perf_counter(), self.crashes.load.answered
            while pid in tact.pids("valkey") and time.perf_counter() - begun < PATIENCE_S:  # noqa: ASYNC110  # another process's state
                await asyncio.sleep(0.005)
            died = time.perf_counter()
            if pid in tact.pids("valkey"):
                self.verdict.breach(
                    "unsynced answers",
                    f"{self.crashes.load.answered - answered} answers came without {self.number} syncs",
                )
                return
        finally:
            process.kill()  # politely it may wait for a thread that is gone
            process.wait()
        await self.crashes.recovered(died, lambda: bool(tact.pids("valkey")))
