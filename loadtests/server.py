"""A real Tact on a free port, for measurements and tests: `tact up` as a child, stopped at the end."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from api.remote import ask

START_S = 20.0


class Running:
    """A running Tact."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, seconds: float) -> None:
        """`seconds` is how long it took to be ready."""
        self.process = process
        self.port = port
        self.log = log
        self.seconds = seconds
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON answer of a call."""
        return ask(self.url, method, path, body)

    def pids(self, part: str) -> list[int]:
        """Return the processes of a part below us: `api`, `worker` or `valkey`."""
        pattern = {"api": "api.main api", "worker": "api.main worker", "valkey": "valkey-server"}[part]
        found = []
        for pid in children(self.process.pid):
            with suppress(OSError):  # it has ended since
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                if pattern in command.decode(errors="replace"):
                    found.append(pid)
        return found

    def stop(self) -> int:
        """End it as Ctrl-C does; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def start(data: Path, *options: str, environment: Mapping[str, str] | None = None, port: int = 0) -> Running:
    """Start `tact up` and wait until it is ready; RuntimeError with its log when it is not."""
    log = data.parent / f"{data.name}.log"
    command = [sys.executable, "-m", "api.main", "up", "--data", str(data), "--port", str(port), *options]
    started = time.perf_counter()
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(  # our own command
            command, stdout=output, stderr=output, env={**os.environ, **(environment or {})}
        )
    while time.perf_counter() - started < START_S:
        said = log.read_bytes()[begin:].decode(errors="replace")
        found = re.search(r"ready at http://127\.0\.0\.1:(\d+)", said)
        if found is not None:
            return Running(process, int(found[1]), log, time.perf_counter() - started)
        if process.poll() is not None:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    raise RuntimeError(f"tact up did not become ready:\n{log.read_text(errors='replace')[-3000:]}")


@contextmanager
def running(*options: str, data: Path | None = None) -> Iterator[Running]:
    """Run Tact for the length of a block, in a folder of its own unless told."""
    with tempfile.TemporaryDirectory(prefix="tact-") as folder:
        tact = start(data if data is not None else Path(folder) / "data", *options)
        try:
            yield tact
        finally:
            tact.stop()


def used_memory(tact: Running) -> int:
    """Return the bytes that the embedded store uses, from its own INFO through the metrics of the process."""
    pid = tact.pids("valkey")[0]
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def metrics(tact: Running) -> str:
    """Return what `/metrics` says."""
    with urlopen(f"{tact.url}/metrics") as reply:  # noqa: S310  # our own server
        text: str = reply.read().decode()
        return text
