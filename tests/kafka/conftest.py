"""A real Kafka for tests: one broker a session, and clusters of a test's own that it may kill.

KAFKA_BOOTSTRAP names a broker that already runs; then nothing is started here, and what would kill it is skipped.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from api.running.kafka.cluster import Cluster, broker
from api.running.kafka.jars import Kafka


@pytest.fixture(scope="session")
def bootstrap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the session's broker. Do not stop it; `own_kafka` is there for that."""
    if "KAFKA_BOOTSTRAP" not in os.environ:
        request.getfixturevalue("kafka")
    with broker(tmp_path_factory.mktemp("kafka")) as address:
        yield address


@pytest.fixture
def own_kafka(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster of the test's own, `own_kafka(size, settings)`; nothing of it is left afterwards."""
    if "KAFKA_BOOTSTRAP" in os.environ:
        pytest.skip("KAFKA_BOOTSTRAP names a broker that is not ours to kill; unset it to start one here")
    programs: Kafka = request.getfixturevalue("kafka")
    started: list[Cluster] = []

    def start(size: int, settings: Mapping[str, str]) -> Cluster:
        cluster = Cluster(programs, tmp_path / f"kafka-{len(started)}", size, settings=settings)
        started.append(cluster)
        cluster.start()
        return cluster

    yield start
    for cluster in started:
        cluster.kill()
