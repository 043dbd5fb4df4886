"""Workers count what they do, and tell it on loopback, on a port of their own each, where a setting says so."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from api.running.kafka.node import free_ports
from engine.judging.trail import TRAIL, written_at
from engine.store.connection import StoreUnavailable
from engine.workers.archive import Archive
from engine.workers.features import STREAM
from engine.workers.learner import Learner
from features.event import Event
from loadtests.server import start as run
from tests.conftest import eventually
from tests.e2e.learning_world import World, shop

__all__ = ["shop"]  # pytest finds the fixture here

Start = Callable[[str, int], "subprocess.Popen[str]"]


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def one(part: str, port: int) -> subprocess.Popen[str]:
        settings = {"TACT_STORE": world.url, "TACT_DATA": str(tmp_path), "TACT_METRICS_PORT": str(port)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "api.main", "worker", part],
                env={**os.environ, **settings},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def page(port: int) -> str:
    """Return what a worker tells, nothing while it does not listen yet."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
            text: str = reply.read().decode()
            return text
    except OSError:
        return ""


def listening(port: int) -> list[str]:
    """Return the addresses on which somebody of this machine listens on a port, as the kernel writes them."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    places = [row[1].split(":") for row in map(str.split, lines) if row[3] == "0A"]
    return [address for address, number in places if int(number, 16) == port]


def test_each_worker_tells_what_it_did(world: World, start: Start) -> None:
    world.decide()
    page_view(world, "e-1")
    ports = dict(zip(("features", "learner", "archive"), free_ports(3), strict=True))
    processes = [start(part, port) for part, port in ports.items()]
    own = {
        "features": "tact_fold_batch_events_count 1.0\n",
        "learner": "tact_trail_steps_total 1.0",
        "archive": "tact_trail_steps_total 1.0",
    }
    for part, said in own.items():
        eventually(lambda port=ports[part], said=said: said in page(port), 60)  # type: ignore[misc]
        text = page(ports[part])
        assert "\ntact_store_round_trips_total" in text
        assert "\nprocess_resident_memory_bytes" in text
        assert listening(ports[part]) == ["0100007F"]
    for process in processes:
        process.terminate()
    assert [(process.communicate(timeout=15)[1], process.returncode) for process in processes] == [
        ("", 0)
    ] * 3


def test_tact_up_gives_its_workers_a_port_each_and_its_apis_no_time_of_notice(tmp_path: Path) -> None:
    # No client is given a port of this range, so those after it are free too, unless some server has one.
    port = free_ports(1)[0]
    tact = run(tmp_path / "data", environment={"TACT_METRICS_PORT": str(port), "TACT_DRAIN_S": "5"})
    try:
        (api,) = tact.pids("api")
        assert b"\0TACT_DRAIN_S=0\0" in Path(f"/proc/{api}/environ").read_bytes()
        for number, said in enumerate(("tact_fold_batch_events", "tact_trail_steps", "tact_trail_steps")):
            eventually(lambda place=port + number, said=said: said in page(place), 60)  # type: ignore[misc]
    finally:
        tact.stop()


def test_a_port_in_use_is_an_error_that_names_the_setting(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("features", port)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert said.startswith(f"tact: TACT_METRICS_PORT is {port}, and 127.0.0.1:{port} cannot be listened on")
    assert said.count("\n") == 1


def page_view(world: World, event_id: str) -> None:
    """Put an event into the journal, for whoever folds it."""
    now = world.run(world.one.store.clock())[0]
    event = Event(type="page_view", customer_id="c1", occurred_at=now, received_at=now, event_id=event_id)
    world.run(world.one.journal.append([event]))


def test_the_feature_worker_knows_how_many_entries_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.workers.features.BATCH", 2)
    for number in range(3):
        page_view(world, f"e-{number}")
    measures, told = world.one.folding.measures, []
    for _ in range(3):
        world.run(world.one.worker.step())
        told.append(dict(measures.lag))
    assert told == [{STREAM: 1}, {STREAM: 0}, {STREAM: 0}]


@pytest.fixture(params=["learner", "archive"])
def follower(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Learner | Archive:
    """A follower that takes in one step at a time."""
    if request.param == "learner":
        monkeypatch.setattr("engine.workers.learner.BATCH", 1)
        return Learner(world.one.customers, world.one.plans)
    monkeypatch.setattr("engine.workers.archive.BATCH", 1)
    return Archive(world.one.customers, world.one.plans, tmp_path)


def test_a_follower_knows_up_to_when_it_has_taken_all_in(world: World, follower: Learner | Archive) -> None:
    world.decide()
    world.run(follower.step())
    assert follower.measures.taken_until_s == written_at(follower.position) / 1000
    before = time.time()
    world.run(follower.step())
    assert follower.measures.taken_until_s >= before
    assert (follower.measures.steps, follower.measures.errors) == (1, {})


def test_a_follower_counts_what_goes_wrong(
    world: World, follower: Learner | Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.call("XADD", TRAIL, "*", "s", "damaged")
    world.run(follower.step())
    stop = asyncio.Event()

    async def away() -> int:
        stop.set()
        raise StoreUnavailable("it is gone", maybe_applied=False)

    monkeypatch.setattr(follower, "step", away)
    world.run(follower.run(stop))
    assert follower.measures.errors == {"step": 1, "store": 1}


def test_the_archive_counts_that_its_folder_is_of_no_use(world: World, tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    archive = Archive(world.one.customers, world.one.plans, tmp_path / "log")
    world.event("accept", world.decide())
    while world.run(archive.step()):
        pass
    world.run(archive.try_flush())
    assert archive.measures.errors == {"folder": 1}
