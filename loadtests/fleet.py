"""A distributed Tact as plain processes for tests and measurements: Kafka, store, APIs and workers, each to be hurt.

Every process is a child of ours on loopback, with a log of its own in the fleet's folder; nothing is left at the end.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from api.remote import ask
from api.running.kafka.cluster import Cluster, record_classes
from api.running.kafka.jars import find
from api.running.kafka.node import free_ports
from api.running.processes import answers
from api.running.valkey import ValkeyServer

READY_S = 30.0
END_S = 15.0
_POLL_S = 0.02


class Process:
    """One process of Tact that can be killed, frozen and started again."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        log: Path,
        module: str = "api.main",
    ) -> None:
        """Not started; `module` is what is run, where that is another than Tact's own."""
        self.name = name
        self.log = log
        self._command = [sys.executable, "-m", module, *arguments]
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the latest start."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Say whether it runs (or is frozen)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; returns at once."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=output
            )

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        """End it with SIGTERM; returns its exit status."""
        return self._signal(signal.SIGTERM)

    def wait(self, within_s: float = END_S) -> int:
        """Wait until it has ended by itself; returns its exit status."""
        assert self._process is not None
        return self._process.wait(within_s)

    def memory(self) -> int:
        """Return its resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def freeze(self) -> None:
        """Stop it where it is, with all that it holds."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, as if nothing had happened."""
        os.kill(self.pid, signal.SIGCONT)

    def _signal(self, one: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self.alive:
            self._process.send_signal(one)
            if one is not signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"{self.name} did not end within {END_S} s: see {self.log}") from None


class Fleet:
    """All of it; see `running`."""

    def __init__(
        self, folder: Path, store: ValkeyServer, cluster: Cluster, settings: Mapping[str, str]
    ) -> None:
        """Take the parts that run already; `settings` are TACT_ variables for every process."""
        self.folder = folder
        self.store = store
        self.store_url = f"unix://{store.socket_path}"
        self.cluster = cluster
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TACT_")},
            "TACT_STORE": self.store_url,
            "TACT_KAFKA": cluster.bootstrap,
            "TACT_DATA": str(folder / "data"),
            "TACT_LOG": "info",
            "PYTHONUNBUFFERED": "1",
            **settings,
        }
        self.apis: list[Process] = []
        self.urls: list[str] = []
        self.workers: list[Process] = []
        self.others: list[Process] = []

    def add_api(self, policies: Path, module: str = "api.main") -> None:
        """Start one more API process."""
        (port,) = free_ports(1)
        more = {"TACT_PORT": str(port), "TACT_POLICIES": str(policies)}
        self.urls.append(f"http://127.0.0.1:{port}")
        self.apis.append(self._start(f"api-{len(self.apis) + 1}", ["api"], more, module))

    def add_worker(self, **more: str) -> Process:
        """Start one more feature worker, under a name of its own."""
        name = f"features-{len(self.workers) + 1}"
        self.workers.append(self._start(name, ["worker", "features"], {"TACT_WORKER": name, **more}))
        return self.workers[-1]

    def add_follower(self, part: str) -> None:
        """Start the learner or the archive."""
        self.others.append(self._start(part, ["worker", part], {}))

    def ask(self, method: str, path: str, body: Any = None, *, api: int = 0) -> Any:
        """Return the JSON answer of a call to one of the APIs."""
        return ask(self.urls[api], method, path, body)

    def wait_ready(self) -> None:
        """Wait until all APIs are ready and a worker beats; RuntimeError with a log when they are not."""
        wait_for(lambda: all(answers(url) for url in self.urls), READY_S, self.logs)

    def logs(self) -> str:
        """Return the end of every log."""
        parts = [*self.apis, *self.workers, *self.others]
        return "\n".join(f"--- {part.name}\n{part.log.read_text(errors='replace')[-2000:]}" for part in parts)

    def stop(self) -> None:
        """End everything of Tact; the store and Kafka are their owner's."""
        for part in [*self.apis, *self.workers, *self.others]:
            with suppress(ProcessLookupError):
                if part.alive:
                    part.kill()

    def _start(
        self, name: str, arguments: list[str], more: Mapping[str, str], module: str = "api.main"
    ) -> Process:
        process = Process(name, arguments, {**self.environment, **more}, self.folder / f"{name}.log", module)
        process.start()
        return process


def wait_for(true: Callable[[], bool], within_s: float, say: Callable[[], str] = str) -> float:
    """Wait until something is true; returns the seconds that took, RuntimeError with what `say` says otherwise."""
    started = time.monotonic()
    while not true():
        if time.monotonic() - started > within_s:
            raise RuntimeError(f"not within {within_s} s: {say()}")
        time.sleep(_POLL_S)
    return time.monotonic() - started


@contextmanager
def running(
    folder: Path,
    policies: Path,
    *,
    apis: int = 1,
    workers: int = 1,
    followers: bool = False,
    nodes: int = 1,
    settings: Mapping[str, str] | None = None,
    kafka_settings: Mapping[str, str] | None = None,
) -> Iterator[Fleet]:
    """Run a fleet for the length of a block, ready when it begins."""
    programs = find()
    record_classes(programs)
    cluster = Cluster(programs, folder / "kafka", nodes, settings=kafka_settings or {})
    store = ValkeyServer(folder / "store")
    fleet = Fleet(folder, store, cluster, settings or {})
    try:
        cluster.start()
        store.start()
        for _ in range(apis):
            fleet.add_api(policies)
        for _ in range(workers):
            fleet.add_worker()
        if followers:
            fleet.add_follower("learner")
            fleet.add_follower("archive")
        fleet.wait_ready()
        yield fleet
    finally:
        fleet.stop()
        cluster.kill()
        store.stop()
