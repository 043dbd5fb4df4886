"""One Kafka node (KRaft, broker and controller in one) on one folder, as a plain process.

What holds, and why:
- It dies with us, by the kernel's hand (see `processes.spawn`), and it is a `Part` that the supervisor can keep
  running.
- Everything of it is in its folder: settings, data, log and temporary files. Started again, it finds its data.
- kill -9 is a fair way to stop it: what was acknowledged is in its log, and the page cache is the machine's.
"""

import os
import random
import re
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from api.running.kafka.jars import Kafka
from api.running.supervisor import ProcessFailure, spawn

HOST = "127.0.0.1"
CLUSTER_ID = "dGFjdC1kZXZlbG9wbWVudA"  # any 16 bytes in base64: here "tact-development"
FORMAT_S = 60.0
# A killed node stalls its partitions, and may not come back, for as long as its session: 3 s instead of 9.
QUICK_SESSIONS: Mapping[str, str] = MappingProxyType(
    {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
)
_LOG_MAX = 10_000_000  # bytes; a longer log is begun anew at the next start
_LAST_WORDS = 12  # lines
_WRONG = re.compile(r" (ERROR|FATAL) |^\S*(Exception|Error)\b")  # an exception's name stands on its own line
_PORTS = range(20_000, 30_000)
_METADATA, _METADATA_VERSION = 3, 1


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a node listens on loopback: for clients, and for the other controllers."""

    broker: int
    controller: int


def free_ports(number: int) -> list[int]:
    """Return free TCP ports of loopback, below those that the system gives to clients.

    A port that the system could give away would be lost to any client while its node is down, or taken by a
    connection to itself (a client that tries it again and again gets there).
    """
    found: list[int] = []
    with ExitStack() as held:
        for port in random.sample(_PORTS, len(_PORTS)):
            link = held.enter_context(socket.socket())
            with suppress(OSError):
                link.bind((HOST, port))
                found.append(port)
            if len(found) >= number:
                return found
    raise ProcessFailure(f"There are no {number} free ports between {_PORTS.start} and {_PORTS.stop - 1}.")


def properties(node: int, ports: Sequence[Ports], data: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a node (1, 2, ...) of a cluster with these ports; `more` overrides them."""
    own, copies = ports[node - 1], str(min(len(ports), 3))
    in_sync = "1" if len(ports) == 1 else "2"
    settings = {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "controller.quorum.voters": ",".join(
            f"{number}@{HOST}:{one.controller}" for number, one in enumerate(ports, 1)
        ),
        "listeners": f"PLAINTEXT://{HOST}:{own.broker},CONTROLLER://{HOST}:{own.controller}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        "auto.create.topics.enable": "false",  # a topic that nobody declared is a mistake, not a topic
        "group.initial.rebalance.delay.ms": "0",
        "log.cleaner.dedupe.buffer.size": "8388608",  # the default does not fit into a heap of 256 MB
    }
    if len(ports) > 1:
        settings |= QUICK_SESSIONS
    return {**settings, **more}


class Node:
    """One node; not started."""

    def __init__(
        self, kafka: Kafka, folder: Path, number: int, ports: Sequence[Ports], more: Mapping[str, str]
    ) -> None:
        """Choose its ports among those of all by `number`, which counts from 1."""
        self.name = "Kafka" if len(ports) == 1 else f"Kafka node {number}"
        self.number = number
        self.port = ports[number - 1].broker
        self.folder = folder.absolute()
        self.log = self.folder / "kafka.log"
        self._kafka = kafka
        self._settings = properties(number, ports, self.folder / "data", more)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Process id of the latest start, None before the first."""
        return None if self._process is None else self._process.pid

    def write_settings(self) -> Path:
        """Write its settings; returns the file."""
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        file = self.folder / "server.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in self._settings.items()))
        return file

    def formatting(self) -> subprocess.Popen[bytes] | None:
        """Start to format its storage, None when that was done before."""
        if (self.folder / "data/meta.properties").exists():
            return None
        return self._spawn(
            "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self.write_settings())
        )

    def start(self, record: Path | None = None) -> None:
        """Start it and return at once, its storage being formatted; from the main thread only.

        With `record`, a class-data archive is written there when it ends. ProcessFailure when it cannot run.
        """
        if self.poll() is None and self._process is not None:
            raise ProcessFailure(f"{self.name} runs already, as process {self._process.pid}.")
        self._process = self._spawn("kafka.Kafka", str(self.write_settings()), record=record)

    def poll(self) -> int | None:
        """Exit status (negative: the signal that killed it), None while it runs or before the first start."""
        return None if self._process is None else self._process.poll()

    def terminate(self) -> None:
        """Send SIGTERM; it hands over its partitions and ends within some seconds."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def knows(self) -> frozenset[int]:
        """Return the numbers of the brokers that it calls alive; none when it does not answer within 1 s."""
        return brokers(self.port)

    def last_words(self) -> str:
        """Return what it logged as wrong since its latest start, or its last lines when it named nothing."""
        lines = self.log.read_bytes()[self._log_start :].decode(errors="replace").splitlines()
        wrong = [line for line in lines if _WRONG.search(line)]
        return "\n".join((wrong or lines)[-_LAST_WORDS:])

    def _spawn(self, program: str, *arguments: str, record: Path | None = None) -> subprocess.Popen[bytes]:
        command = self._kafka.command(program, *arguments, scratch=self.folder / "tmp", record=record)
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if os.fstat(output).st_size > _LOG_MAX:
                os.ftruncate(output, 0)
            self._log_start = os.fstat(output).st_size
            return spawn(command, output=output)
        except OSError as fault:
            raise ProcessFailure(f"{self.name} cannot be started: {fault}.") from fault
        finally:
            os.close(output)


def brokers(port: int, timeout_s: float = 1.0) -> frozenset[int]:
    """Ask a broker on loopback which brokers are alive (Metadata, version 1, of no topic); none if it is silent.

    An open port says little: it opens before the node is part of its cluster. Source: "Metadata API" of
    https://kafka.apache.org/protocol.
    """
    client = b"tact"
    head = struct.pack(f">hhih{len(client)}s", _METADATA, _METADATA_VERSION, 1, len(client), client)
    question = head + struct.pack(">i", 0)
    with suppress(OSError, struct.error), socket.create_connection((HOST, port), timeout_s) as link:
        link.settimeout(timeout_s)
        link.sendall(struct.pack(">i", len(question)) + question)
        with link.makefile("rb") as stream:
            (size,) = struct.unpack(">i", stream.read(4))
            answer = stream.read(size)
        _, number = struct.unpack_from(">ii", answer)
        found, at = set(), 8
        for _ in range(number):
            node, host_bytes = struct.unpack_from(">ih", answer, at)
            at += 6 + host_bytes + 4  # id and length, host, port
            (rack_bytes,) = struct.unpack_from(">h", answer, at)
            at += 2 + max(rack_bytes, 0)  # -1 says that there is none
            found.add(node)
        return frozenset(found)
    return frozenset()
