"""What the image apache/kafka makes of its environment, and the same node as a plain process under our supervisor.

The image's `kafka.docker.KafkaDockerWrapper`, which is in the published jars, writes each KAFKA_ variable as a
property, but for those that its shell scripts read. A test asks the jars whether `properties_of` does as they do.
"""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from api.running.kafka.cluster import Cluster
from api.running.kafka.jars import Kafka

HEAP: Final = "KAFKA_HEAP_OPTS"
_FOR_SHELL: Final = frozenset(
    {
        HEAP,
        "KAFKA_GC_LOG_OPTS",
        "KAFKA_JMX_HOSTNAME",
        "KAFKA_JMX_OPTS",
        "KAFKA_JVM_PERFORMANCE_OPTS",
        "KAFKA_LOG4J_LOGGERS",
        "KAFKA_LOG4J_OPTS",
        "KAFKA_LOG4J_ROOT_LOGLEVEL",
        "KAFKA_OPTS",
        "KAFKA_TOOLS_LOG4J_LOGLEVEL",
        "KAFKA_VERSION",
    }
)


def properties_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the broker's properties that the image makes of these variables.

    One underscore is a dot, two are an underscore, three are a hyphen.
    """
    return {
        name.removeprefix("KAFKA_").lower().replace("_", ".").replace("...", "-").replace("..", "_"): value
        for name, value in environment.items()
        if name.startswith("KAFKA_") and name not in _FOR_SHELL
    }


def ports_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return the ports of the PLAINTEXT and of the CONTROLLER listener, in this order."""
    listeners = dict(one.split("://") for one in environment["KAFKA_LISTENERS"].split(","))
    plaintext, controller = (int(listeners[name].rpartition(":")[2]) for name in ("PLAINTEXT", "CONTROLLER"))
    return plaintext, controller


class Broker:
    """One node with the settings of the image's environment, its data in a folder of ours; a `Part`."""

    name = "kafka"
    lasting = True
    """Restarted without end, as `restart: unless-stopped` says."""

    def __init__(self, kafka: Kafka, environment: Mapping[str, str], folder: Path) -> None:
        """Take ports and heap from the environment too; nothing is started."""
        settings = properties_of(environment)
        settings.pop("log.dirs", None)  # the node's is in its folder
        broker, controller = ports_of(environment)
        heap = shlex.split(environment.get(HEAP, ""))
        self._cluster = Cluster(
            replace(kafka, jvm=(*kafka.jvm, *heap)),
            folder,
            port=broker,
            controller_port=controller,
            settings=settings,
        )
        self._node = self._cluster.node(1)
        self._was_ready = False

    @property
    def pid(self) -> int | None:
        """Process id of the latest start, None before the first."""
        return self._node.pid

    def start(self) -> None:
        """Start it, the first time until it is ready; ProcessFailure or StopRequested, and then nothing is left."""
        if self._was_ready:
            self._node.start()  # whoever needs it waits by itself
            return
        self._cluster.start()
        self._was_ready = True

    def poll(self) -> int | None:
        """Exit status (negative: the signal that killed it), None while it runs or before the first start."""
        return self._node.poll()

    def terminate(self) -> None:
        """Send SIGTERM; it ends within some seconds."""
        self._node.terminate()

    def kill(self) -> None:
        """Send SIGKILL and wait until it is gone; what was acknowledged stays."""
        self._node.kill()
