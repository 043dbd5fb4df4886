"""docker-compose.yml runs: here as plain processes, started from the file itself. So do the commands of operating.md.

What the file says is checked in tests/unit/test_compose_file.py.
"""

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.remote import RemoteFailure, ask
from api.running.distributed import COMPOSE, KAFKA, ROOT, port_variables, read_services
from api.running.kafka.image import properties_of
from api.running.kafka.jars import Kafka
from api.running.kafka.node import brokers, free_ports
from api.running.valkey import ValkeyServer
from engine.kafka.journal import DONE
from engine.store.connection import StoreAddress, StoreConnection
from engine.store.store import as_list
from engine.workers.features import CHECKPOINT, STREAM
from loadtests import shop
from loadtests.server import children
from tests.conftest import eventually, is_gone

OPERATING = (ROOT / "docs" / "operating.md").read_text()


class Distributed:
    """`make run-distributed` on free ports."""

    def __init__(self, folder: Path) -> None:
        names = port_variables(COMPOSE.read_text())
        ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
        self.data = folder / "data"
        self.log = folder / "log"
        self.store = f"redis://127.0.0.1:{ports['STORE_PORT']}"
        self.kafka_port = int(ports["KAFKA_PORT"])
        self.kafka = f"127.0.0.1:{self.kafka_port}"
        self.urls = (f"http://127.0.0.1:{ports['API_1_PORT']}", f"http://127.0.0.1:{ports['API_2_PORT']}")
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.running.distributed", "--data", str(self.data)],
                env={**os.environ, **ports},
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )
        self.pids: list[int] = []

    def wait(self) -> None:
        eventually(lambda: "Ctrl-C drains" in self.log.read_text() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log.read_text()
        self.pids = children(self.process.pid)


@pytest.fixture(scope="module")
def distributed(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distributed]:
    one = Distributed(tmp_path_factory.mktemp("distributed"))
    try:
        one.wait()
        yield one
    finally:
        one.process.kill()
        one.process.wait()


def test_kafka_runs_with_the_settings_of_the_file(distributed: Distributed) -> None:
    (written,) = (distributed.data / "kafka").rglob("server.properties")
    settings = dict(line.split("=", 1) for line in written.read_text().splitlines())
    assert brokers(distributed.kafka_port) == {1}
    assert settings["listeners"].startswith(f"PLAINTEXT://127.0.0.1:{distributed.kafka_port},")
    assert Path(settings["log.dirs"]).is_relative_to(distributed.data)
    described = properties_of(read_services(COMPOSE.read_text(), {})[KAFKA].environment)
    of_the_place = {"listeners", "controller.quorum.voters", "log.dirs"}
    assert settings.keys() == described.keys()
    assert {key for key in settings if settings[key] != described[key]} == of_the_place


def test_the_image_reads_its_environment_as_it_is_read_here(kafka: Kafka, tmp_path: Path) -> None:
    environment = {
        **read_services(COMPOSE.read_text(), {})[KAFKA].environment,
        "KAFKA_LOG_DIRS": str(tmp_path / "data"),
        "KAFKA_MADE__UP___NAME": "1",
    }
    folders = {name: tmp_path / name for name in ("default-configs", "mounted-configs", "final-configs")}
    for folder in folders.values():
        folder.mkdir()
    arguments = [word for name, folder in folders.items() for word in (f"--{name}-dir", str(folder))]
    # As the image's own script starts it, in the very jars of the image.
    done = subprocess.run(
        kafka.command("kafka.docker.KafkaDockerWrapper", "setup", *arguments, scratch=tmp_path),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "final-configs" / "server.properties").read_text().strip().splitlines()
    assert dict(line.split("=", 1) for line in written) == properties_of(environment)
    assert "made_up-name=1" in written
    assert environment["CLUSTER_ID"] in (tmp_path / "data" / "meta.properties").read_text()


def decide(url: str, customer: str) -> Any:
    asked = {"customer_id": customer, "placement": "home_hero", "explain": True}
    return ask(url, "POST", "/v1/decide", asked)


def treated(url: str, name: str) -> str:
    """Return a customer who is not in the control group: who is, differs by installation."""
    names = (f"{name}-{number}" for number in range(20))
    return next(one for one in names if decide(url, one)["reason"] != "control_group")


def test_both_apis_decide_by_the_policy_of_the_example(distributed: Distributed) -> None:
    customer = treated(distributed.urls[0], "both")
    answers = [decide(url, customer) for url in distributed.urls]
    assert [answer["action"] for answer in answers] == ["offer", "offer"]
    history = ask(distributed.urls[0], "GET", "/v1/policies/versions")["versions"]
    assert [answer["policy_version"] for answer in answers] == [history[0]["policy_version"]] * 2


def test_an_event_sent_to_one_counts_in_a_decision_of_the_other(distributed: Distributed) -> None:
    first, second = distributed.urls
    customer = treated(second, "runner")

    def running_shoes() -> str:
        trace = decide(second, customer)["trace"]
        return str(next(step["stage"] for step in trace if step["offer"] == "running-shoes"))

    before = running_shoes()
    event = {"type": "page_view", "customer_id": customer, "properties": {"category": "running"}}
    assert ask(first, "POST", "/v1/events", event)["accepted"] == 1
    # A group that has just begun shares its partitions out once more when the second worker comes.
    eventually(lambda: running_shoes() != before, 30)
    assert before == "not_eligible"
    eventually(lambda: watermarks(distributed))  # it came through Kafka


def watermarks(distributed: Distributed) -> list[object]:
    """Return what the store knows of how far Kafka's partitions are folded."""

    async def read() -> list[object]:
        connection = StoreConnection(StoreAddress.parse(distributed.store))
        await connection.open()
        try:
            return list(as_list(await connection.call("HGETALL", DONE)))
        finally:
            await connection.close()

    return asyncio.run(read())


def test_a_policy_activated_at_one_decides_at_the_other_at_once(distributed: Distributed) -> None:
    folder = ROOT / "policies" / "retail"
    files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.yaml")}
    files["policy.yaml"] += "\n# the second version\n"
    activated = ask(distributed.urls[0], "POST", "/v1/policies/activate", {"files": files})
    assert decide(distributed.urls[1], "both")["policy_version"] == activated["policy_version"]
    assert activated["policy_version"] != activated["previous"]


def well(store_url: str, part: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "deploy/health.py", part],
        cwd=ROOT,
        env={**os.environ, "TACT_STORE": store_url, **settings},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("part", ["api", "features", "learner", "archive"])
def test_every_part_is_told_to_be_well(distributed: Distributed, part: str) -> None:
    port = distributed.urls[1].rpartition(":")[2]
    told = well(distributed.store, part, TACT_PORT=port, TACT_KAFKA=distributed.kafka)
    assert told.returncode == 0, told.stderr


def test_a_follower_that_leaves_an_entry_waiting_is_told_to_be_unwell(
    store: StoreConnection, runner: asyncio.Runner, valkey_server: ValkeyServer
) -> None:
    def told() -> tuple[int, str]:
        done = well(f"unix://{valkey_server.socket_path}", "features")
        return done.returncode, done.stderr.strip()

    async def call(*command: str) -> None:
        await store.call(*command)

    runner.run(call("XADD", STREAM, "1-7", "e", "an event of 1970"))
    assert told() == (1, "that is more than 30000 ms")
    runner.run(call("SET", CHECKPOINT, "1-7"))
    assert told() == (0, "")


COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", OPERATING, re.DOTALL)
    for line in block.splitlines()
    if re.search(r"(^|\s)(curl|python deploy|tact (?!api|worker|up))", line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_operating_page_work(distributed: Distributed, tmp_path: Path, line: str) -> None:
    line = (
        line.replace("http://127.0.0.1:8080", distributed.urls[0])
        .replace("http://127.0.0.1:8081", distributed.urls[1])
        .replace("TACT_PORT=8081", f"TACT_PORT={distributed.urls[1].rpartition(':')[2]}")
        .replace("redis://127.0.0.1:6379", distributed.store)
        .replace("127.0.0.1:9092", distributed.kafka)
        .replace("var/distributed", str(distributed.data))
        .replace(" /backup", f" {tmp_path}/backup")
    )
    words = shlex.split(line)
    settings = dict(word.split("=", 1) for word in words if re.match(r"TACT_\w+=", word))
    words = [word for word in words if not re.match(r"TACT_\w+=", word)]
    start = {"tact": [sys.executable, "-m", "api.main"], "python": [sys.executable]}
    words = [*start.get(words[0], [words[0]]), *words[1:]]
    settings.setdefault("TACT_PORT", distributed.urls[0].rpartition(":")[2])
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_copy_of_the_running_store_starts_with_all_that_was_acknowledged(
    distributed: Distributed, tmp_path: Path
) -> None:
    decided = decide(distributed.urls[0], "copied")["decision_id"]
    done = subprocess.run(
        [sys.executable, "deploy/backup.py", distributed.data / "store", tmp_path / "copy"],
        cwd=ROOT,
        env={**os.environ, "TACT_STORE": distributed.store},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    copy = ValkeyServer(tmp_path / "copy")
    copy.start()
    try:
        port = free_ports(1)[0]
        api = subprocess.Popen(
            [sys.executable, "-m", "api.main", "api"],
            env={
                **os.environ,
                "TACT_STORE": f"unix://{copy.socket_path}",
                "TACT_PORT": str(port),
                "TACT_POLICIES": str(shop.write(tmp_path / "others", 10)),
            },
        )
        try:
            eventually(lambda: _reads(f"http://127.0.0.1:{port}", decided), 30)
            # TACT_POLICIES is for a store without a policy: what is active here stays.
            assert active(f"http://127.0.0.1:{port}") == active(distributed.urls[0])
        finally:
            api.terminate()
            api.wait(15)
    finally:
        copy.stop()


def active(url: str) -> str:
    return str(ask(url, "GET", "/v1/policies/active")["policy_version"])


def _reads(url: str, decision_id: str) -> bool:
    try:
        return bool(ask(url, "GET", f"/v1/decisions/{decision_id}")["decision_id"] == decision_id)
    except RemoteFailure:
        return False


def test_a_kafka_that_died_is_started_again_and_takes_events(distributed: Distributed) -> None:
    (java,) = (pid for pid in distributed.pids if b"kafka.Kafka" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(java, signal.SIGKILL)
    assert is_gone(java)
    event = {"type": "page_view", "customer_id": "after-kafka", "event_id": "e1"}

    def accepted() -> bool:
        try:
            return bool(ask(distributed.urls[0], "POST", "/v1/events", event)["accepted"])
        except RemoteFailure:
            return False

    eventually(accepted, 60)
    assert brokers(distributed.kafka_port) == {1}


def test_ctrl_c_ends_everything_and_leaves_nothing_behind(distributed: Distributed) -> None:
    pids = children(distributed.process.pid)
    assert len(pids) == 8
    began = time.monotonic()
    distributed.process.send_signal(signal.SIGINT)
    assert distributed.process.wait(15) == 0
    assert [is_gone(pid, 0) for pid in pids] == [True] * 8
    assert time.monotonic() - began < 15
    assert well(distributed.store, "features").returncode == 1
    assert well(distributed.store, "api", TACT_PORT=distributed.urls[0].rpartition(":")[2]).returncode == 1
