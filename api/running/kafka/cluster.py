"""One Kafka node or three on free ports of loopback: started, killed, started again, gone at the end.

Ready means that every node that should run calls all the others alive, so a topic can be made and written to.
Nothing is moved or repaired here: what a killed node costs is for the brokers and their clients to show.
"""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from api.running.kafka.jars import Kafka, find
from api.running.kafka.node import FORMAT_S, HOST, Node, Ports, free_ports
from api.running.supervisor import ProcessFailure, StopRequested, stop_is_pending

READY_S = 60.0  # a node takes 2 s on an idle machine
_END_S = 15.0
_POLL_S = 0.02
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Cluster:
    """`size` nodes in a folder; not started. What is in the folder from an earlier time is used again."""

    def __init__(
        self,
        kafka: Kafka,
        folder: Path,
        size: int = 1,
        *,
        port: int | None = None,
        controller_port: int | None = None,
        settings: Mapping[str, str] = _NOTHING,
    ) -> None:
        """`port` and `controller_port` are those of the first node (free ones when None).

        `settings` override those of `node`.
        """
        found = iter(free_ports(2 * size))
        ports = [Ports(next(found), next(found)) for _ in range(size)]
        ports[0] = Ports(port or ports[0].broker, controller_port or ports[0].controller)
        self.nodes: Sequence[Node] = [
            Node(kafka, folder / f"node-{number}", number, ports, settings) for number in range(1, size + 1)
        ]
        self.bootstrap = ",".join(f"{HOST}:{one.broker}" for one in ports)

    def format(self) -> None:
        """Format the storage of all nodes at once, where that was not done; ProcessFailure when it fails."""
        started = [(node, node.formatting()) for node in self.nodes]
        try:
            for node, process in started:
                if process is not None and process.wait(FORMAT_S) != 0:
                    raise ProcessFailure(
                        f"The storage of {node.name} cannot be formatted:\n{node.last_words()}"
                    )
        except subprocess.TimeoutExpired as fault:
            raise ProcessFailure(f"Formatting took longer than {FORMAT_S:.0f} s.") from fault
        finally:
            for _, process in started:
                if process is not None and process.poll() is None:
                    process.kill()
                    process.wait()

    def start(self) -> float:
        """Format what is new, start all nodes, wait until they are ready; returns the seconds that took.

        ProcessFailure with the log when that fails, and then nothing is left running.
        """
        began = time.monotonic()
        try:
            self.format()
            for node in self.nodes:
                node.start()
            self.wait()
        except BaseException:
            self.kill()
            raise
        return time.monotonic() - began

    def node(self, number: int) -> Node:
        """Return a node by its number, which counts from 1."""
        return self.nodes[number - 1]

    def ready(self) -> bool:
        """Tell whether every running node calls exactly the running ones alive."""
        running = [node for node in self.nodes if node.pid is not None and node.poll() is None]
        alive = {node.number for node in running}
        return bool(running) and all(node.knows() == alive for node in running)

    def wait(self, timeout_s: float = READY_S) -> None:
        """Wait until it is ready; ProcessFailure when it is not in time or a node has ended by itself.

        StopRequested when a blocked SIGINT or SIGTERM arrives meanwhile. From any thread.
        """
        watched = [node for node in self.nodes if node.poll() is None]
        give_up = time.monotonic() + timeout_s
        while not self.ready():
            if stop_is_pending():
                raise StopRequested
            for node in watched:
                if node.poll() is not None:
                    raise ProcessFailure(f"{node.name} ended with status {node.poll()}:\n{node.last_words()}")
            if time.monotonic() > give_up:
                raise ProcessFailure(
                    f"Kafka was not ready within {timeout_s:.0f} s:\n{self.nodes[0].last_words()}"
                )
            time.sleep(_POLL_S)

    def restart(self, number: int = 1) -> None:
        """Start a node that has ended on its data, and wait until all that run see it.

        After a kill that takes the rest of its session (see `node.QUICK_SESSIONS`). From the main thread only.
        """
        self.node(number).start()
        self.wait()

    def kill(self) -> None:
        """End all nodes at once (SIGKILL); their data stays."""
        for node in self.nodes:
            node.kill()

    def stop(self, timeout_s: float = _END_S) -> None:
        """End all nodes in order (SIGTERM), those that are still there after `timeout_s` seconds at once."""
        for node in self.nodes:
            node.terminate()
        give_up = time.monotonic() + timeout_s
        while any(node.poll() is None for node in self.nodes if node.pid) and time.monotonic() < give_up:
            time.sleep(_POLL_S)
        self.kill()

    def memory(self) -> int:
        """Return the resident bytes of all running nodes together."""
        kilobytes = 0
        for node in self.nodes:
            if node.pid is not None and node.poll() is None:
                status = Path(f"/proc/{node.pid}/status").read_text()
                kilobytes += int(status.partition("VmRSS:")[2].split()[0])
        return kilobytes * 1024


def record_classes(kafka: Kafka) -> None:
    """Make the class-data archive, if it is not there: one node is started for it and ended in order, 6 s."""
    if kafka.archive.exists():
        return
    with TemporaryDirectory(prefix="tact-kafka-") as folder:
        cluster = Cluster(kafka, Path(folder))
        new = Path(folder) / "classes.jsa"
        try:
            cluster.format()
            cluster.node(1).start(record=new)
            cluster.wait()
            cluster.stop(READY_S)
        finally:
            cluster.kill()
        if new.exists():  # a Java without class-data sharing makes none, and starts more slowly
            beside = kafka.archive.with_suffix(f".{cluster.node(1).pid}")
            beside.write_bytes(new.read_bytes())
            beside.replace(kafka.archive)


@contextmanager
def running(
    kafka: Kafka, folder: Path, size: int = 1, *, settings: Mapping[str, str] = _NOTHING
) -> Iterator[Cluster]:
    """Run a cluster for the length of a block; at its end the nodes are killed, the folder stays."""
    record_classes(kafka)
    cluster = Cluster(kafka, folder, size, settings=settings)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.kill()


@contextmanager
def broker(folder: Path, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield the address of the broker that KAFKA_BOOTSTRAP names, else of one that runs for the block."""
    if given := environment.get("KAFKA_BOOTSTRAP"):
        yield given
        return
    with running(find(environment), folder) as cluster:
        yield cluster.bootstrap
