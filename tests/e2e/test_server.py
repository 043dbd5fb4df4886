"""The embedded Valkey: one a folder, nothing acknowledged lost, nothing left running."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from api.running.supervisor import StopRequested
from api.running.valkey import DataFolderInUse, ServerFailure, ValkeyServer
from engine.store.connection import StoreAddress, StoreConnection, StoreUnavailable
from tests.conftest import eventually, is_gone

_PARENT = """
import sys, signal
from pathlib import Path
from api.running.valkey import ValkeyServer
server = ValkeyServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
signal.pause()
"""


def ask(server: ValkeyServer, *command: bytes | str | int) -> object:
    async def call() -> object:
        connection = StoreConnection(StoreAddress(path=str(server.socket_path)))
        await connection.open()
        try:
            return await connection.call(*command)
        finally:
            await connection.close()

    return asyncio.run(call())


def the_log_of_commands(folder: Path) -> Path:
    return next((folder / "appendonlydir").glob("*.incr.aof"))


def test_a_second_server_on_the_same_folder_is_refused_and_told_the_way_out(own_server: ValkeyServer) -> None:
    own_server.start()
    with pytest.raises(DataFolderInUse) as refusal:
        ValkeyServer(own_server.folder).start(lock_wait_s=0)
    for needed in (str(own_server.folder), str(own_server.pid), "--data"):
        assert needed in str(refusal.value)
    assert own_server.ping()


def test_the_folder_is_locked_as_long_as_the_server_lives_even_if_its_parent_forgot_it(
    own_server: ValkeyServer,
) -> None:
    own_server.start()
    pid = own_server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(DataFolderInUse):
        ValkeyServer(own_server.folder).start(lock_wait_s=0)
    own_server.kill()
    successor = ValkeyServer(own_server.folder)
    successor.start(lock_wait_s=0)
    successor.stop()


def test_only_this_user_can_reach_the_store_and_only_over_its_socket(own_server: ValkeyServer) -> None:
    own_server.start()
    assert stat.S_IMODE(own_server.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(own_server.socket_path.stat().st_mode) == 0o700
    assert ask(own_server, "CONFIG", "GET", "port") == [b"port", b"0"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("save", ""),
        ("maxmemory-policy", "noeviction"),
        ("aof-load-truncated", "yes"),
        ("hash-max-listpack-value", "4096"),
        ("hash-max-listpack-entries", "128"),
        ("enable-debug-command", "no"),
    ],
)
def test_the_settings_that_the_promises_rest_on_are_in_force(
    valkey_server: ValkeyServer, setting: str, value: str
) -> None:
    assert ask(valkey_server, "CONFIG", "GET", setting) == [setting.encode(), value.encode()]


def test_kill_9_of_the_parent_leaves_no_server_and_frees_the_folder(data_folder: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(data_folder)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    server_pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert is_gone(server_pid)
    successor = ValkeyServer(data_folder)
    successor.start()
    successor.stop()


def test_what_was_acknowledged_survives_kill_9_of_the_server(own_server: ValkeyServer) -> None:
    own_server.start()
    acknowledged: list[int] = []

    async def write_until_it_dies() -> None:
        connection = StoreConnection(StoreAddress(path=str(own_server.socket_path)))
        await connection.open()

        async def writer(first: int) -> None:
            number = first
            while True:
                await connection.call("RPUSH", "log", number)
                acknowledged.append(number)
                number += 16
                if len(acknowledged) == 500:
                    own_server.kill()

        results = await asyncio.gather(*(writer(first) for first in range(16)), return_exceptions=True)
        assert {type(result) for result in results} == {StoreUnavailable}
        await connection.close()

    asyncio.run(write_until_it_dies())
    own_server.start()
    kept = ask(own_server, "LRANGE", "log", 0, -1)
    assert isinstance(kept, list)
    assert len(acknowledged) >= 500
    assert set(acknowledged) <= {int(number) for number in kept}


def test_a_torn_tail_is_cut_off_and_the_rest_is_there(own_server: ValkeyServer) -> None:
    own_server.start()
    ask(own_server, "SET", "whole", 1)
    ask(own_server, "SET", "torn", 1)
    own_server.kill()
    commands = the_log_of_commands(own_server.folder)
    commands.write_bytes(commands.read_bytes()[:-3])
    own_server.start()
    assert ask(own_server, "KEYS", "*") == [b"whole"]


def test_damaged_data_is_refused_with_a_command_that_repairs_it(own_server: ValkeyServer) -> None:
    own_server.start()
    ask(own_server, "SET", "before", 1)
    own_server.stop()
    commands = the_log_of_commands(own_server.folder)
    commands.write_bytes(commands.read_bytes() + b"damage")
    with pytest.raises(ServerFailure, match="backup") as refusal:
        own_server.start()
    assert not own_server.alive()
    sentence = str(refusal.value)
    repair = sentence[sentence.index("(exec") : sentence.index(" Its last words")]
    subprocess.run(["/bin/bash", "-c", repair], input=b"y\n", check=True, capture_output=True)
    own_server.start()
    assert ask(own_server, "GET", "before") == b"1"


def test_a_folder_that_cannot_be_one_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ServerFailure, match=r"cannot be used: .*file.* Choose another one with --data\."):
        ValkeyServer(tmp_path / "file").start()


def test_a_path_too_long_for_a_socket_gets_a_short_private_one(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path / ("x" * 110))
    server.start()
    try:
        assert server.ping()
        assert len(os.fsencode(server.socket_path)) <= 107
        assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o700
    finally:
        server.stop()
        server.socket_path.parent.rmdir()


def test_a_socket_folder_that_others_can_enter_is_not_trusted(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path / ("x" * 110))
    server.socket_path.parent.mkdir()
    server.socket_path.parent.chmod(0o777)
    try:
        with pytest.raises(ServerFailure, match="private folder"):
            server.start()
    finally:
        server.socket_path.parent.rmdir()


def test_a_signal_to_stop_ends_a_start_that_is_under_way(own_server: ValkeyServer) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        with pytest.raises(StopRequested):
            own_server.start()
        assert not own_server.alive()
    finally:
        signal.sigtimedwait({signal.SIGTERM}, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_stop_ends_a_server_that_does_not_listen_to_reason(own_server: ValkeyServer) -> None:
    own_server.start()
    pid = own_server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    own_server.stop(timeout_s=0.1)
    eventually(lambda: own_server.poll() == -signal.SIGKILL)
