"""What one store call costs this process: our coalescing connection beside redis-py's asyncio client.

Run `python -m loadtests.connection_cost`: it starts a store of its own and prints microseconds of CPU time of
the client per call (GET of 500 bytes; and a load of three GETs behind the prologue) with 1, 16 and 64 calls
in flight. CPU time rather than wall time, because the store works beside us; the best of five rounds, because
the machine may be busy.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.asyncio
import uvloop

from api.running.valkey import ValkeyServer
from engine.store.connection import StoreAddress, StoreConnection

_CALLS = 6_400
_ROUNDS = 5
_VALUE = b"x" * 500

Call = Callable[[], Awaitable[object]]


async def cost(call: Call, in_flight: int) -> float:
    """CPU microseconds per call with so many in flight, best of the rounds."""

    async def caller() -> None:
        for _ in range(_CALLS // in_flight):
            await call()

    best = float("inf")
    for _ in range(_ROUNDS):
        before = time.process_time()
        await asyncio.gather(*(caller() for _ in range(in_flight)))
        best = min(best, (time.process_time() - before) / _CALLS * 1e6)
    return best


async def compare(server: ValkeyServer) -> None:
    ours = StoreConnection(
        StoreAddress(path=str(server.socket_path)), prologue=[("TIME",), ("GET", "tact:policy")]
    )
    await ours.open()
    await ours.call("SET", "key", _VALUE)
    theirs = redis.asyncio.Redis(unix_socket_path=str(server.socket_path), max_connections=64)
    assert await theirs.get("key") == await ours.call("GET", "key") == _VALUE
    calls: dict[str, Call] = {
        "StoreConnection.call": lambda: ours.call("GET", "key"),
        "StoreConnection.load of 3": lambda: ours.load([("GET", "key"), ("GET", "key"), ("GET", "key")]),
        "redis-py asyncio": lambda: theirs.get("key"),
    }
    print(f"{'us of CPU per call, in flight:':32}{1:>8}{16:>8}{64:>8}")
    for name, call in calls.items():
        figures = [await cost(call, in_flight) for in_flight in (1, 16, 64)]
        print(f"{name:32}" + "".join(f"{figure:8.1f}" for figure in figures))
    await theirs.aclose()
    await ours.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(Path(folder))
        server.start()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(compare(server))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
