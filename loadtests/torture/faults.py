"""The store in trouble: a full disk, a full memory, a stop of many seconds, broken connections.

While it lasts, what needs the store is refused (503, or silence); afterwards everything is back by itself, and
every promise that was made before, meanwhile or since is kept exactly. `--count` is how many seconds each lasts.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from api.running.valkey import ValkeyServer
from loadtests.crash import Crashes, NotBackError, kill
from loadtests.promises import usable
from loadtests.random_load import Link
from loadtests.torture.kill import KINDS, take
from loadtests.torture.wire import Progress, Verdict

DISK: Final = "512m"
"""More than the log grows to in a run: what fills the disk must be the filler alone."""
ROOM_MIN: Final = 0.2
RECOVERY_S: Final = 10.0
"""The store is tried again every 2 s at most; the rest is a busy machine."""


class Trouble:
    """The faults, on one data folder of a size that can be filled."""

    def __init__(self, crashes: Crashes, seconds: float, verdict: Verdict) -> None:
        """Each fault lasts `seconds`."""
        self.crashes = crashes
        self.seconds = seconds
        self.verdict = verdict
        self.socket_path = ValkeyServer(crashes.data).socket_path

    async def disk_full(self) -> None:
        """Fill the disk, kill the store while it is full, and make room again."""
        filler = self.crashes.data / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        with suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(64))
        await self._refused("disk full", steadily=False)
        await asyncio.sleep(self.seconds)
        await asyncio.to_thread(kill, self.crashes.tact.pids("valkey"))
        await asyncio.sleep(0.5)
        filler.unlink()
        await self.crashes.recovered(time.perf_counter())

    async def out_of_memory(self) -> None:
        """Leave the store no memory, and give it back."""
        self._tell("CONFIG SET maxmemory 1")
        try:
            await self._refused("out of memory")
        finally:
            self._tell("CONFIG SET maxmemory 0")
        await self.crashes.recovered(time.perf_counter())

    async def stopped(self) -> None:
        """Stop the store as a machine that hangs does."""
        pid = self.crashes.tact.pids("valkey")[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            await self._refused("stopped")
        finally:
            os.kill(pid, signal.SIGCONT)
        await self.crashes.recovered(time.perf_counter())

    async def resets(self) -> None:
        """Break every connection to the store, again and again."""
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            self._tell("CLIENT KILL TYPE normal SKIPME yes")
            await asyncio.sleep(self.crashes.rnd.uniform(0.01, 0.2))
        await self.crashes.recovered(time.perf_counter())

    async def _refused(self, what: str, *, steadily: bool = True) -> None:
        """Ask until the fault's time is over: after a moment of grace no answer may promise anything.

        Where not `steadily`, the first refusal is enough: a full disk may take one more small write.
        """
        link = Link(self.crashes.tact.port)
        begun = time.perf_counter()
        refusals = 0
        number = 0
        while time.perf_counter() - begun < self.seconds or (
            not refusals and time.perf_counter() - begun < 20
        ):
            number += 1
            customer = f"{what.replace(' ', '-')}-{number}"
            body = {"customer_id": customer, "placement": "letter", "preview": False}
            asked = time.perf_counter()
            answer = await link.ask("POST", "/v1/decide", body)
            took = time.perf_counter() - asked
            if answer is not None and answer.status == 200 and not usable(answer):
                refusals += 1
                if took > 1.0:
                    self.verdict.breach("slow silences", f"{what}: a decide took {took:.2f} s")
            elif answer is None or answer.status >= 500:
                refusals += 1
            elif steadily and time.perf_counter() - begun > 1.0:
                self.verdict.breach("false acknowledgements", f"{what}: {answer}")
            else:
                self.crashes.spare += 1  # it may have reserved: nobody keeps its id
            if refusals and not steadily:
                break
            await asyncio.sleep(0.05)
        if not refusals:
            self.verdict.breach("false acknowledgements", f"{what}: nothing was refused")
        link.close()

    def _tell(self, command: str) -> None:
        """Say something to the store over its socket; RuntimeError when it says no."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            link.connect(str(self.socket_path))
            link.sendall(command.encode() + b"\r\n")
            reply = link.recv(256)
        if reply.startswith(b"-"):
            raise RuntimeError(f"{command}: {reply.decode()}")


def run(count: int, seed: int, folder: Path, environment: Mapping[str, str], progress: Progress) -> Verdict:
    """Let each fault happen once for `count` seconds."""
    verdict = Verdict("faults", seed)
    verdict.expect(*KINDS, "false acknowledgements", "slow silences")
    data = folder / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(data)], check=True)  # noqa: S607  # mount lies in different places
    try:
        crashes = Crashes(folder, seed, workers=2, environment=environment, data=data)
        try:
            trouble = Trouble(crashes, float(count), verdict)
            faults: dict[str, Callable[[], Awaitable[None]]] = {
                "connections reset": trouble.resets,
                "out of memory": trouble.out_of_memory,
                "stopped": trouble.stopped,
                "disk full": trouble.disk_full,
            }
            for name, fault in faults.items():
                crashes.under(fault)
                room = shutil.disk_usage(data)
                if room.free < ROOM_MIN * room.total:
                    raise RuntimeError(f"the log itself fills the disk of {DISK}: make it larger")
                progress(
                    f"{name}: back after {crashes.recovery_s[-1]:.2f} s, {len(crashes.complaints())} broken"
                )
            crashes.check_all()
        except NotBackError:
            progress("it did not come back: the run ends here")
        finally:
            with suppress(Exception):
                crashes.stop()
        take(crashes, verdict, RECOVERY_S)
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)  # noqa: S607  # as above
    return verdict
