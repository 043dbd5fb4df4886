"""The connection to the store: one write a turn, each reply to its own call, nothing waits for ever."""

import asyncio
import itertools
import os
import signal
from collections.abc import Sequence
from typing import cast

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.running.valkey import ValkeyServer
from engine.measures import StoreMeasures
from engine.store.address import BadStoreUrl, StoreAddress
from engine.store.connection import (
    Command,
    StoreConnection,
    StoreOverloaded,
    StoreReplyError,
    StoreUnavailable,
)
from engine.store.link import Link, Shape
from tests.conftest import eventually_in_loop


class Wire(asyncio.Transport):
    """Notes what is written instead of sending it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        self.aborted = True


def a_link(prologue: Sequence[Command] = (), max_pending: int = 100) -> tuple[Link, Wire]:
    wire = Wire()
    link = Link(
        "test",
        prologue=prologue,
        max_pending=max_pending,
        stall_s=5,
        on_lost=lambda _link, _reason: None,
        on_refusal=lambda _link, _code: None,
        measures=StoreMeasures(),
    )
    link.connection_made(wire)
    return link, wire


def to(server: ValkeyServer) -> StoreAddress:
    return StoreAddress(path=str(server.socket_path))


def pid_of(server: ValkeyServer) -> int:
    assert server.pid is not None
    return server.pid


def test_the_calls_of_one_turn_are_one_write_with_the_prologue_once_in_front() -> None:
    async def scenario() -> None:
        link, wire = a_link(prologue=[("TIME",), ("GET", "p")])
        plain = link.submit([("PING",)], Shape.ONE, 1)
        first = link.submit([("GET", "a"), ("GET", "b")], Shape.LOAD, 1)
        second = link.submit([("GET", "c")], Shape.LOAD, 1)
        await asyncio.sleep(0)
        (first_write,) = wire.written
        assert first_write == (
            b"*1\r\n$4\r\nTIME\r\n*2\r\n$3\r\nGET\r\n$1\r\np\r\n*1\r\n$4\r\nPING\r\n"
            b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n*2\r\n$3\r\nGET\r\n$1\r\nc\r\n"
        )
        link.data_received(b"*1\r\n:7\r\n$1\r\nv\r\n+PONG\r\n:1\r\n:2\r\n:3\r\n")
        assert await plain == b"PONG"
        assert await first == ([[7], b"v"], [1, 2])
        assert await second == ([[7], b"v"], [3])
        link.submit([("PING",)], Shape.ONE, 1)
        await asyncio.sleep(0)
        assert wire.written[1:] == [b"*1\r\n$4\r\nPING\r\n"]

    asyncio.run(scenario())


@settings(max_examples=150, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from([Shape.ONE, Shape.ALL, Shape.LOAD]), st.integers(1, 4), st.sampled_from("aegc")
        ),
        min_size=1,
        max_size=12,
    ),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
)
def test_every_reply_reaches_its_own_call_however_it_is_cut_up_and_whoever_gave_up(
    calls: list[tuple[Shape, int, str]], cuts: list[int]
) -> None:
    """Fates: answered, errored, given up (cancelled before the reply), closed turn after the call.

    The server answers what was written, in that order: -1 to the prologue, wherever it stands.
    """

    async def scenario() -> None:
        link, wire = a_link(prologue=[("TIME",)])
        futures = []
        failing = {number for number, (_, _, fate) in enumerate(calls) if fate == "e"}
        for number, (shape, wanted, fate) in enumerate(calls):
            count = 1 if shape is Shape.ONE else wanted
            future = link.submit([("ECHO", number)] * count, shape, 60)
            futures.append((future, shape, count, fate, number))
            if fate == "c" or number == len(calls) - 1:
                await asyncio.sleep(0)
        for future, _, _, fate, _ in futures:
            if fate == "g":
                future.cancel()
        asked = hiredis.Reader()
        asked.feed(b"".join(wire.written))
        rest = b""
        while command := asked.gets():
            number = int(command[1]) if command[0] == b"ECHO" else -1
            rest += b"-BAD no\r\n" if number in failing else b":%d\r\n" % number
        for cut in itertools.cycle(cuts):
            if not rest:
                break
            link.data_received(rest[:cut])
            rest = rest[cut:]
        for future, shape, count, fate, number in futures:
            if fate == "g":
                assert future.cancelled()
            elif fate == "e":
                assert isinstance(future.exception(), StoreReplyError)
            elif shape is Shape.ONE:
                assert future.result() == number
            elif shape is Shape.ALL:
                assert future.result() == [number] * count
            else:
                assert future.result() == ([-1], [number] * count)

    asyncio.run(scenario())


def test_more_commands_than_the_queue_holds_are_refused_and_room_comes_back_with_replies() -> None:
    async def scenario() -> None:
        link, _ = a_link(max_pending=2)
        first = link.submit([("PING",), ("PING",)], Shape.ALL, 1)
        with pytest.raises(StoreOverloaded) as refusal:
            await link.submit([("PING",)], Shape.ONE, 1)
        assert refusal.value.maybe_applied is False
        await asyncio.sleep(0)
        link.data_received(b"+PONG\r\n+PONG\r\n")
        await first
        second = link.submit([("PING",)], Shape.ONE, 1)
        await asyncio.sleep(0)
        link.data_received(b"+PONG\r\n")
        assert await second == b"PONG"
        counted = link._measures
        assert (counted.calls, counted.writes, counted.failures) == (2, 2, {"overloaded": 1})

    asyncio.run(scenario())


@pytest.mark.parametrize("noise", [b"?what\r\n", b"+unasked\r\n"])
def test_what_is_not_an_answer_breaks_the_link(noise: bytes) -> None:
    async def scenario() -> None:
        link, wire = a_link()
        link.data_received(noise)
        assert wire.aborted

    asyncio.run(scenario())


def test_a_command_that_cannot_be_sent_leaves_the_others_in_order() -> None:
    async def scenario() -> None:
        link, wire = a_link()
        with pytest.raises(ValueError, match="nothing to send"):
            link.submit([], Shape.ALL, 1)
        with pytest.raises(TypeError):
            link.submit([("SET", "a", cast("str", None))], Shape.ONE, 1)
        future = link.submit([("PING",)], Shape.ONE, 1)
        await asyncio.sleep(0)
        assert wire.written == [b"*1\r\n$4\r\nPING\r\n"]
        link.data_received(b"+PONG\r\n")
        assert await future == b"PONG"

    asyncio.run(scenario())


def test_errors_of_the_store_reach_the_call_that_caused_them(
    store: StoreConnection, runner: asyncio.Runner
) -> None:
    async def scenario() -> None:
        wrong = asyncio.ensure_future(store.call("INCR", "a", "b"))
        good = store.pipeline([("SET", "a", 1), ("GET", "a")])
        with pytest.raises(StoreReplyError) as refusal:
            await wrong
        assert refusal.value.code == "ERR"
        assert await good == [b"OK", b"1"]
        assert store.measures.failures == {"error": 1}

    runner.run(scenario())


def test_a_full_store_counts_as_unavailable_not_as_a_mistake(
    store: StoreConnection, runner: asyncio.Runner
) -> None:
    async def scenario() -> None:
        await store.call("CONFIG", "SET", "maxmemory", 1)
        try:
            with pytest.raises(StoreUnavailable, match="OOM") as refusal:
                await store.call("SET", "a", 1)
        finally:
            await store.call("CONFIG", "SET", "maxmemory", 0)
        assert refusal.value.maybe_applied is False
        assert refusal.value.retry_after_s > 0
        assert store.measures.failures == {"refused": 1}

    runner.run(scenario())


def test_a_frozen_store_fails_calls_in_time_and_late_replies_reach_nobody(
    own_server: ValkeyServer, runner: asyncio.Runner
) -> None:
    own_server.start()

    async def scenario() -> None:
        store = StoreConnection(to(own_server))
        await store.open()
        os.kill(pid_of(own_server), signal.SIGSTOP)
        given_up = await asyncio.gather(
            *(store.call("ECHO", f"late {n}", within_s=0.01 * (1 + n % 3)) for n in range(9)),
            return_exceptions=True,
        )
        assert [getattr(error, "maybe_applied", None) for error in given_up] == [True] * 9
        patient = [asyncio.ensure_future(store.call("ECHO", f"patient {n}", within_s=30)) for n in range(9)]
        await asyncio.sleep(0)
        os.kill(pid_of(own_server), signal.SIGCONT)
        assert await asyncio.gather(*patient) == [f"patient {n}".encode() for n in range(9)]
        assert store.measures.failures == {"late": 9}
        await store.close()

    runner.run(scenario())


def test_a_store_frozen_too_long_is_given_up_and_found_again(
    own_server: ValkeyServer, runner: asyncio.Runner
) -> None:
    own_server.start()

    async def scenario() -> None:
        store = StoreConnection(to(own_server), stall_s=0.05, dial_s=0.05)
        await store.open()
        os.kill(pid_of(own_server), signal.SIGSTOP)
        with pytest.raises(StoreUnavailable):
            await store.call("PING", within_s=0.01)
        await eventually_in_loop(lambda: not store.connected)
        with pytest.raises(StoreUnavailable) as refusal:
            await store.call("PING", within_s=60)
        assert refusal.value.maybe_applied is False
        os.kill(pid_of(own_server), signal.SIGCONT)
        await eventually_in_loop(lambda: store.connected)
        assert await store.call("ECHO", "back") == b"back"
        await store.close()

    runner.run(scenario())


def test_after_a_crash_calls_fail_at_once_until_it_is_back_and_scripts_are_there_again(
    own_server: ValkeyServer, runner: asyncio.Runner
) -> None:
    own_server.start()

    async def scenario() -> None:
        store = StoreConnection(to(own_server))
        early = store.script("early", "return 'early'")
        await store.open()
        late = store.script("late", "return 'late'")
        assert await store.pipeline([("EVALSHA", early, 0), ("EVALSHA", late, 0)]) == [b"early", b"late"]
        in_flight = asyncio.ensure_future(store.call("BLPOP", "nothing", 0))
        await asyncio.sleep(0)
        own_server.kill()
        with pytest.raises(StoreUnavailable) as lost:
            await in_flight
        assert lost.value.maybe_applied is True
        with pytest.raises(StoreUnavailable) as away:
            await store.call("PING", within_s=60)
        assert away.value.maybe_applied is False
        own_server.start()
        await eventually_in_loop(lambda: store.connected)
        assert await store.pipeline([("EVALSHA", early, 0), ("EVALSHA", late, 0)]) == [b"early", b"late"]
        assert store.measures.failures == {"broken": 1, "away": 1}
        assert store.measures.redials > 0
        await store.close()

    runner.run(scenario())


def test_forgotten_scripts_are_loaded_again_for_the_retry(
    store: StoreConnection, runner: asyncio.Runner
) -> None:
    async def scenario() -> None:
        sha = store.script("one", "return 1")
        await store.call("SCRIPT", "FLUSH")
        with pytest.raises(StoreUnavailable, match="NOSCRIPT") as refusal:
            await store.call("EVALSHA", sha, 0)
        assert refusal.value.maybe_applied is False
        assert await store.call("EVALSHA", sha, 0) == 1

    runner.run(scenario())


def test_a_script_registered_while_connecting_is_there_too(
    own_server: ValkeyServer, runner: asyncio.Runner
) -> None:
    own_server.start()

    async def scenario() -> None:
        store = StoreConnection(to(own_server))
        os.kill(pid_of(own_server), signal.SIGSTOP)
        opening = asyncio.ensure_future(store.open())
        for _ in range(100):  # turns enough for the greeting to be on its way
            await asyncio.sleep(0)
        sha = store.script("meanwhile", "return 1")
        os.kill(pid_of(own_server), signal.SIGCONT)
        await opening
        assert await store.call("EVALSHA", sha, 0) == 1
        await store.close()

    runner.run(scenario())


def test_a_demoted_store_is_left_for_whatever_the_address_leads_to_now(
    own_server: ValkeyServer, runner: asyncio.Runner
) -> None:
    own_server.start()

    async def scenario() -> None:
        store = StoreConnection(to(own_server))
        await store.open()
        before = await store.call("CLIENT", "ID")
        await store.call("REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(StoreUnavailable, match="READONLY"):
            await store.call("SET", "a", 1)
        await eventually_in_loop(lambda: not store.connected)
        await eventually_in_loop(lambda: store.connected)
        assert await store.call("CLIENT", "ID") != before
        await store.close()

    runner.run(scenario())


def test_two_scripts_of_one_name_are_a_mistake(store: StoreConnection) -> None:
    store.script("one", "return 1")
    with pytest.raises(RuntimeError, match="'one'"):
        store.script("one", "return 2")


def test_a_store_that_is_not_there_yet_is_connected_when_it_comes(
    own_server: ValkeyServer, runner: asyncio.Runner
) -> None:
    async def scenario() -> None:
        store = StoreConnection(to(own_server))
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.open()
        own_server.start()
        await eventually_in_loop(lambda: store.connected)
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.call("PING")

    runner.run(scenario())


def test_the_login_and_the_database_of_the_url_are_used(
    valkey_server: ValkeyServer, store: StoreConnection, runner: asyncio.Runner
) -> None:
    async def scenario() -> None:
        await store.call("ACL", "SETUSER", "clerk", "on", ">s/cret", "~*", "+@all")
        url = f"unix://clerk:{{}}@{valkey_server.socket_path}?db=3"
        clerk = StoreConnection(StoreAddress.parse(url.format("s%2Fcret")))
        await clerk.open()
        await clerk.call("SET", "here", 1)
        assert await clerk.call("ACL", "WHOAMI") == b"clerk"
        assert await store.call("GET", "here") is None
        await clerk.close()
        stranger = StoreConnection(StoreAddress.parse(url.format("wrong")))
        with pytest.raises(StoreReplyError) as refusal:
            await stranger.open()
        assert refusal.value.code == "WRONGPASS"
        await stranger.close()
        await store.call("ACL", "DELUSER", "clerk")

    runner.run(scenario())


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://store", StoreAddress(host="store")),
        ("valkey://:pw@store:7000/2", StoreAddress(host="store", port=7000, password="pw", database=2)),
        ("rediss://me:a%40b@store", StoreAddress(host="store", tls=True, username="me", password="a@b")),
        ("valkeys://[::1]:1?db=4", StoreAddress(host="::1", port=1, tls=True, database=4)),
        ("unix:///run/v%20k.sock?db=1", StoreAddress(path="/run/v k.sock", database=1)),
    ],
)
def test_urls_are_understood(url: str, address: StoreAddress) -> None:
    assert StoreAddress.parse(url) == address


@pytest.mark.parametrize(
    "url",
    ["", "store:6379", "http://store", "redis://", "redis://store:port", "redis://store/x", "redis://store?ssl=1",
     "unix://run/valkey.sock"],
)  # fmt: skip
def test_what_is_not_a_store_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(BadStoreUrl, match="Write it like redis://"):
        StoreAddress.parse(url)


def test_a_password_is_never_shown() -> None:
    address = StoreAddress.parse("redis://:hush@store/1")
    assert "hush" not in f"{address} {address!r}"


def test_a_turn_that_asks_for_much_is_written_a_few_calls_at_a_time() -> None:
    """The store works on the first while the others are still being made."""

    async def scenario() -> list[int]:
        link, wire = a_link()
        for number in range(9):
            link.submit([("ECHO", number)], Shape.ONE, 60)
        await asyncio.sleep(0)
        return [write.count(b"ECHO") for write in wire.written]

    assert asyncio.run(scenario()) == [4, 4, 1]


def test_while_the_store_is_silent_a_patient_call_gives_up_soon_and_once_it_speaks_waits_again() -> None:
    async def scenario() -> None:
        link, wire = a_link()
        first = link.submit((("GET", "a"),), Shape.ONE, 0.01)
        with pytest.raises(StoreUnavailable):
            await first
        await asyncio.sleep(0.3)  # longer than it is hoped for
        patient = link.submit((("GET", "b"),), Shape.ONE, 3600)
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(patient, 60)
        link.data_received(b"$1\r\nx\r\n")
        again = link.submit((("GET", "c"),), Shape.ONE, 3600)
        await asyncio.sleep(0.5)
        assert not again.done()
        link.data_received(b"$1\r\ny\r\n$1\r\nz\r\n")
        assert await again == b"z"
        assert len(wire.written) == 3

    asyncio.run(scenario())
