"""Fixtures shared by all suites: one real store a session, a connection to it emptied for each test, Kafka's jars."""

import asyncio
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from api.running.kafka.cluster import record_classes
from api.running.kafka.jars import Kafka, find
from api.running.supervisor import ProcessFailure
from api.running.valkey import ValkeyServer
from engine.store.connection import StoreAddress, StoreConnection


def eventually(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Return as soon as the condition holds; fail the test when it does not within the time."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "the condition never came to hold"
        time.sleep(0.005)


async def eventually_in_loop(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Do the same while the event loop runs on."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # the conditions are other processes' states
            await asyncio.sleep(0.005)


def is_gone(pid: int, within_s: float = 10.0) -> bool:
    """Wait for a process, ours or not, to be gone; tell whether it is."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watch], [], [], within_s)[0])
    finally:
        os.close(watch)


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """A data folder that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
def own_server(data_folder: Path) -> Iterator[ValkeyServer]:
    """A server of the test's own, not started, which it may kill; nothing of it is left afterwards."""
    server = ValkeyServer(data_folder)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """The session's server. Do not stop it; `own_server` is there for that."""
    server = ValkeyServer(tmp_path_factory.mktemp("store"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop of the production kind: `runner.run(coroutine)`, as often as needed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture
def store(valkey_server: ValkeyServer, runner: asyncio.Runner) -> Iterator[StoreConnection]:
    """An open connection to the session's store, emptied; it lives in the loop of `runner`."""
    connection = StoreConnection(StoreAddress(path=str(valkey_server.socket_path)))

    async def prepare() -> None:
        await connection.open()
        await connection.call("FLUSHALL")

    runner.run(prepare())
    yield connection
    runner.run(connection.close())


@pytest.fixture(scope="session")
def kafka() -> Kafka:
    """Kafka's programs, fetched if they never were; skips where there is no JDK or Maven."""
    try:
        found = find()
    except ProcessFailure as missing:  # also where the jars cannot be fetched: nothing here is about that
        pytest.skip(str(missing))
    record_classes(found)
    return found
