"""Where a feature worker begins to read: at the smaller of what is committed and what is folded, of what is there."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from api.running.valkey import ValkeyServer
from engine.kafka.intake import Record
from engine.kafka.journal import DONE, EPOCH
from engine.kafka.watermarks import Watermarks
from engine.runtime import Engine, open_engine
from engine.store.connection import StoreConnection

FIRST, END = {3: 10}, {3: 100}


@pytest.fixture
def engine(store: StoreConnection, valkey_server: ValkeyServer, runner: asyncio.Runner) -> Iterator[Engine]:
    engine = runner.run(open_engine(f"unix://{valkey_server.socket_path}"))
    yield engine
    runner.run(engine.close())


class World:
    """The watermarks of one worker, and the store behind them."""

    def __init__(self, runner: asyncio.Runner, engine: Engine) -> None:
        self.runner = runner
        self.engine = engine
        self.marks = Watermarks(engine.store)

    def call(self, *command: str) -> object:
        return self.runner.run(self._call(*command))

    async def _call(self, *command: str) -> object:
        return await self.engine.connection.call(*command)

    def begin(self, committed: int | None, first: dict[int, int] = FIRST, end: dict[int, int] = END) -> int:
        return self.runner.run(self.marks.begin(dict.fromkeys(end, committed), first, end))[3]


@pytest.fixture
def world(runner: asyncio.Runner, engine: Engine) -> World:
    world = World(runner, engine)
    world.call("SET", EPOCH, "1")
    return world


@pytest.mark.parametrize(
    ("committed", "folded", "start"),
    [
        (40, "1:60", 40),  # Kafka's offsets were set back
        (60, "1:40", 40),  # our watermarks were
        (None, "1:60", 60),  # the group is new to Kafka
        (-1, "1:60", 60),
        (60, None, 60),  # the store knows nothing
        (None, None, 10),
        (60, "0:40", 60),  # of an epoch that is over
        (5, "1:60", 10),  # deleted
        (160, None, 100),  # committed in a topic that is gone
    ],
)
def test_a_partition_begins_at_the_smaller_of_committed_and_folded(
    world: World, committed: int | None, folded: str | None, start: int
) -> None:
    if folded is not None:
        world.call("HSET", DONE, "3", folded)
    assert world.begin(committed) == start


def test_records_deleted_before_they_were_folded_are_told_with_the_way_out(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.call("HSET", DONE, "3", "1:4")
    with caplog.at_level(logging.ERROR, "tact.worker"):
        assert world.begin(4) == 10
    assert caplog.messages == [
        "records 4 to 9 of partition 3 were deleted before they were folded: raise TACT_KAFKA_RETENTION"
    ]


def test_nothing_is_told_of_records_that_were_folded_and_then_deleted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.call("HSET", DONE, "3", "1:60")
    with caplog.at_level(logging.ERROR, "tact.worker"):
        assert world.begin(4) == 10
    assert caplog.messages == []


def test_a_partition_whose_records_were_all_deleted_has_no_lag(world: World) -> None:
    world.call("HSET", DONE, "3", "1:4")
    assert world.begin(4, {3: 50}, {3: 50}) == 50
    assert world.marks.offset(3) == 50


def test_a_watermark_beyond_the_end_begins_an_epoch_in_which_everything_is_read(world: World) -> None:
    world.call("HSET", DONE, "3", "1:60", "5", "1:7")
    before = world.marks.source(3)
    assert world.begin(8, {3: 0, 5: 0}, {3: 12, 5: 20}) == 0
    assert world.call("GET", EPOCH) == b"2"
    assert world.marks.source(3) == "tact.events:3.2" != before


def test_what_was_read_before_is_no_progress_in_a_new_epoch(world: World) -> None:
    world.begin(None)
    old = Record(world.marks.source(3), 3, 80, 0, b"")
    world.call("SET", EPOCH, "2")
    world.begin(None)
    world.marks.passed([old])
    assert world.marks.offset(3) == 10
    world.marks.passed([old._replace(source=world.marks.source(3))])
    assert world.marks.offset(3) == 81


def test_only_watermarks_that_moved_are_written(world: World) -> None:
    world.begin(None, {3: 10, 4: 0}, {3: 100, 4: 100})
    world.runner.run(world.marks.save())
    world.marks.passed([Record(world.marks.source(4), 4, 41, 0, b"")])
    assert world.runner.run(world.marks.save()) == {4: 42}
    assert world.call("HGETALL", DONE) == [b"3", b"1:10", b"4", b"1:42"]
    assert world.runner.run(world.marks.save()) == {}
