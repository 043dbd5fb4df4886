"""An engine whose store goes by a clock that a test sets: everything else of the path is what runs in production.

`TIME` is the one thing that is replaced, in the batch prologue and in both scripts, by a key of the store.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files

import pytest

import engine.store.store
from engine.runtime import Engine
from engine.store.connection import StoreAddress, StoreConnection
from engine.store.store import POLICY

CLOCK = "test:clock"
_READ = (
    "(function() local at = tonumber(redis.call('GET', 'test:clock')) "
    "return {tostring(math.floor(at / 1000)), tostring(at % 1000 * 1000)} end)()"
)
_PROLOGUE = (("EVAL", "return " + _READ, 0), ("GET", POLICY))


async def open_engine_with_clock(url: str) -> Engine:
    """Open an engine as `open_engine` does, with the scripts' `TIME` replaced."""
    connection = StoreConnection(StoreAddress.parse(url), prologue=_PROLOGUE, within_s=10.0)
    await connection.open()
    engine = Engine(connection, b"s" * 32)
    for name in ("_commit", "_fold"):
        file = name.removeprefix("_")
        text = files("engine.store").joinpath("scripts", f"{file}.lua").read_text()
        assert text.count("redis.call('TIME')") == 1
        script = connection.script(f"{file} by the test's clock", text.replace("redis.call('TIME')", _READ))
        setattr(engine.store, name, script)
    return engine


@contextmanager
def clock_of_the_test() -> Iterator[None]:
    """Let `Store.clock` go by the test's clock as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.store.store, "PROLOGUE", _PROLOGUE)
        yield
