"""The HTTP server: slow, huge and malformed requests end in time; everything else is served and drained.

The server runs in a process of its own on a socket that the test has bound. Its application echoes the body
and knows three other paths: `/lines` answers each NDJSON line as it comes, `/early` answers without reading,
`/slow` answers when the file named by its query exists. `/v1` in front makes a path count as load. All is tried
twice, with `/echo` and `/slow` answered through ASGI's messages, and as hot routes are.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.app import App
from api.http.server import BindFailure, PortInUse, bind
from tests.conftest import eventually

_SERVER = """
import asyncio, pathlib, socket, sys
from api.http.server import Limits, serve

async def answer(send, body):
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})

async def slow(gate):
    pathlib.Path(gate + ".begun").touch()
    while not pathlib.Path(gate).exists():
        await asyncio.sleep(0.005)

def find(method, target):
    path, _, query = target.decode("latin-1").removeprefix("/v1").partition("?")
    async def answer(headers, body):
        if path == "/slow":
            await slow(query)
            return 200, b"slow", (), b"text/plain"
        return 200, method + b" " + body, (), b"text/plain"
    return answer if hot and path in ("/echo", "/slow") else None

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path, query = scope["path"].removeprefix("/v1"), scope["query_string"].decode()
    if path == "/early":
        return await answer(send, b"early")
    if path == "/slow":
        await slow(query)
        return await answer(send, b"slow")
    if path == "/lines":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        if path == "/lines":
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        body += message["body"]
    if path == "/lines":
        return await send({"type": "http.response.body", "body": b""})
    await answer(send, scope["method"].encode() + b" " + body)

number, limits, drains, hot = (eval(argument) for argument in sys.argv[1:])
serve(app, [socket.socket(fileno=number)], find=find, limits=Limits(**limits), **drains)
"""

_POST = b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%b"
_STREAM = (
    b"POST /lines HTTP/1.1\r\nHost: t\r\n"
    b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Served:
    """A server process and the address that it serves."""

    def __init__(
        self, limits: dict[str, float], drains: dict[str, float], *, hot: bool, workers: int = 1
    ) -> None:
        with bind("127.0.0.1", 0) as listener:
            self.address = listener.getsockname()
            number = listener.fileno()
            self.processes = [
                subprocess.Popen(
                    [sys.executable, "-c", _SERVER, str(number), repr(limits), repr(drains), str(hot)],
                    pass_fds=[number],
                    stderr=subprocess.PIPE,
                )
                for _ in range(workers)
            ]

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def ask(self, *pieces: bytes) -> bytes:
        """Send the pieces and read until the server closes."""
        with self.connect() as client:
            for piece in pieces:
                client.sendall(piece)
            return everything(client)

    def end(self, sign: signal.Signals) -> list[tuple[int, bytes]]:
        """Signal all, wait for all: exit status and stderr of each."""
        for process in self.processes:
            process.send_signal(sign)
        said = [process.communicate(timeout=30)[1] for process in self.processes]
        return [(process.returncode, err) for process, err in zip(self.processes, said, strict=True)]


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def until(client: socket.socket, end: bytes) -> bytes:
    """What comes up to and including `end`."""
    received = b""
    while not received.endswith(end):
        piece = client.recv(65536)
        assert piece, f"closed after {received!r}"
        received += piece
    return received


def problem(answer: bytes) -> tuple[int, str]:
    """Status and type of a problem answer, checked to be one."""
    head, body = answer.split(b"\r\n\r\n", 1)
    status = int(head.split()[1])
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    said = json.loads(body)
    assert said["status"] == status
    assert said["detail"].endswith(".")
    return status, said["type"]


Serve = Callable[..., Served]


@pytest.fixture(params=[False, True], ids=["messages", "hot"], scope="module")
def hot(request: pytest.FixtureRequest) -> bool:
    """Whether small requests are answered past ASGI."""
    return bool(request.param)


@pytest.fixture
def serve(hot: bool) -> Iterator[Serve]:
    started: list[Served] = []

    def start(*, drain_s: float = 10, notice_s: float = 0, workers: int = 1, **limits: float) -> Served:
        drains = {"drain_s": drain_s, "notice_s": notice_s}
        started.append(Served(limits, drains, hot=hot, workers=workers))
        return started[-1]

    yield start
    for served in started:
        for process in served.processes:
            process.kill()
            process.communicate(timeout=30)


@pytest.fixture(scope="module")
def served(hot: bool) -> Iterator[Served]:
    """A server with the ordinary limits, which must have nothing to complain of in the end."""
    served = Served({}, {}, hot=hot)
    yield served
    assert served.end(signal.SIGTERM) == [(0, b"")]


def test_headers_that_do_not_come_to_an_end_are_answered_408(serve: Serve) -> None:
    served = serve(header_s=0.2)
    assert problem(served.ask(b"GET / HTTP/1.1\r\nHost: t\r\nX-Slow: ")) == (
        408,
        "urn:tact:problem:request-timeout",
    )


def test_a_drip_of_header_bytes_wins_no_time(serve: Serve) -> None:
    served = serve(header_s=0.3)
    with served.connect() as client:
        client.settimeout(0.02)
        answer = b""
        client.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(1000):
            client.sendall(b"X-%d: y\r\n" % number)
            try:
                answer = client.recv(65536)
            except TimeoutError:
                continue
            break
    assert problem(answer) == (408, "urn:tact:problem:request-timeout")


@pytest.mark.parametrize("opening", [b"", b"\r\n\r\n"])
def test_a_connection_that_asks_nothing_is_closed(serve: Serve, opening: bytes) -> None:
    served = serve(header_s=0.2)
    assert served.ask(opening) == b""


def test_blank_lines_do_not_keep_an_idle_connection_for_ever(serve: Serve) -> None:
    served = serve(header_s=0.2)
    with served.connect() as client:
        client.sendall(_POST % (0, b""))
        until(client, b"POST ")
        client.sendall(b"\r\n")
        assert everything(client) == b""


def test_a_connection_serves_request_after_request_and_is_closed_once_idle(serve: Serve) -> None:
    served = serve(idle_s=0.3)
    with served.connect() as client:
        for _ in range(3):
            client.sendall(_POST % (0, b""))
            until(client, b"POST ")
        assert everything(client) == b""


def test_a_body_that_does_not_come_is_answered_408_even_if_it_drips(serve: Serve) -> None:
    served = serve(body_s=0.3)
    assert problem(served.ask(_POST % (10, b"abc"))) == (408, "urn:tact:problem:request-timeout")
    with served.connect() as client:
        client.settimeout(0.02)
        answer = b""
        client.sendall(_POST % (10_000, b""))
        for _ in range(1000):
            client.sendall(b"x")
            try:
                answer = client.recv(65536)
            except TimeoutError:
                continue
            break
    assert problem(answer) == (408, "urn:tact:problem:request-timeout")


def test_a_body_in_pieces_within_the_time_is_served_and_the_next_request_too(serve: Serve) -> None:
    served = serve(header_s=5, body_s=5)
    with served.connect() as client:
        for _ in range(2):
            for byte in _POST % (3, b"abc"):
                client.sendall(bytes([byte]))
            assert until(client, b"POST abc").startswith(b"HTTP/1.1 200")


def test_a_stream_may_take_longer_than_the_deadline_as_long_as_it_never_pauses(serve: Serve) -> None:
    served = serve(body_s=0.25)
    with served.connect() as client:
        client.sendall(_STREAM)
        until(client, b"\r\n\r\n")
        client.settimeout(0.1)
        for number in range(6):
            line = b"line %d\n" % number
            client.sendall(b"%x\r\n%b\r\n" % (len(line), line))
            until(client, line + b"\r\n")
            with pytest.raises(TimeoutError):  # nothing more comes: a tenth of a second has passed
                client.recv(1)
        client.settimeout(30)
        client.sendall(b"0\r\n\r\n")
        until(client, b"0\r\n\r\n")


def test_a_stream_that_pauses_too_long_is_closed_without_its_end(serve: Serve) -> None:
    served = serve(body_s=0.2)
    answer = served.ask(_STREAM, b"4\r\none\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"one\n" in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_a_body_that_nobody_reads_must_end_too(serve: Serve) -> None:
    served = serve(body_s=0.2)
    with served.connect() as client:
        client.sendall(_STREAM.replace(b"/lines", b"/early"))
        until(client, b"early")
        client.settimeout(0.05)
        closed = False
        for _ in range(200):
            try:
                client.sendall(b"1\r\nx\r\n")
                closed = client.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                closed = True
            if closed:
                break
    assert closed


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"not http at all\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT t:1 HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: t\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 3_000_000, 431),
    ],
)
def test_what_is_malformed_or_too_large_is_a_problem_answer(
    served: Served, request_: bytes, status: int
) -> None:
    assert problem(served.ask(request_))[0] == status


def test_large_bodies_do_not_count_as_headers(served: Served) -> None:
    body = b"b" * 100_000
    with served.connect() as client:
        client.sendall(_POST % (len(body), body) + _POST % (3, b"abc"))
        until(client, b"POST abc")


def test_malformed_bytes_behind_a_request_do_not_spoil_its_answer(served: Served, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with served.connect() as client:
        client.sendall(b"GET /slow?%b HTTP/1.1\r\nHost: t\r\n\r\n" % os.fsencode(gate))
        eventually(Path(f"{gate}.begun").exists)
        client.sendall(b"garbage\r\n\r\n")
        gate.touch()
        answer = everything(client)
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"slow")


@pytest.mark.parametrize("cut", [0, 40, 75, 200])
def test_a_wish_for_another_protocol_is_ignored_and_the_body_kept(served: Served, cut: int) -> None:
    request = (
        b"POST /echo HTTP/1.1\r\nHost: t\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nContent-Length: 3\r\n\r\nabc"
    )
    with served.connect() as client:
        client.sendall(request[:cut])
        client.sendall(request[cut:] + _POST % (3, b"def"))
        answers = until(client, b"POST def")
    assert answers.count(b"POST abc") == 1
    assert answers.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(
    "request_",
    [
        _POST.replace(b"1.1", b"1.0") % (3, b"abc"),
        _POST.replace(b"Host", b"Connection: close\r\nHost") % (3, b"abc"),
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
    ],
    ids=["HTTP/1.0", "connection: close", "chunked"],
)
def test_a_request_that_is_the_last_one_or_comes_in_chunks_is_answered_as_well(
    served: Served, request_: bytes
) -> None:
    answer = served.ask(request_)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert answer.endswith(b"POST abc")


def test_a_client_that_waits_to_be_told_so_sends_its_body_then(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        until(client, b"POST abc")


def slow(gate: Path, path: bytes = b"/slow") -> bytes:
    return b"GET %b?%b HTTP/1.1\r\nHost: t\r\n\r\n" % (path, os.fsencode(gate))


def test_requests_sent_together_are_answered_in_order(served: Served, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with served.connect() as client:
        client.sendall(_POST % (1, b"a") + slow(gate) + _POST % (2, b"b"))
        eventually(Path(f"{gate}.begun").exists)
        gate.touch()
        answers = until(client, b"slow")
        client.sendall(b"b" + _POST % (1, b"c") + _POST % (1, b"d"))
        answers += until(client, b"POST d")
    places = [answers.index(part) for part in (b"POST a", b"slow", b"POST bb", b"POST c", b"POST d")]
    assert places == sorted(places)


def test_a_client_that_leaves_while_it_waits_disturbs_nobody(served: Served, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with served.connect() as client:
        client.sendall(slow(gate))
        eventually(Path(f"{gate}.begun").exists)
    gate.touch()
    with served.connect() as client:
        client.sendall(_POST % (1, b"a"))
        until(client, b"POST a")


def test_what_waits_behind_another_answer_is_admitted_or_refused_when_it_comes(
    serve: Serve, tmp_path: Path
) -> None:
    served = serve(at_once_max=2)
    first, second = tmp_path / "first", tmp_path / "second"
    with served.connect() as one, served.connect() as two:
        one.sendall(slow(first, b"/v1/slow"))
        eventually(Path(f"{first}.begun").exists)
        two.sendall(slow(second, b"/v1/slow") + _POST.replace(b"/echo", b"/v1/echo") % (1, b"a"))
        eventually(Path(f"{second}.begun").exists)
        first.touch()
        until(one, b"slow")
        second.touch()
        answers = until(two, b"}")
        assert answers.count(b"slow") == 1
        assert b"HTTP/1.1 503 Service Unavailable" in answers
        two.sendall(_POST.replace(b"/echo", b"/v1/echo") % (1, b"b"))
        until(two, b"POST b")


def test_refusals_that_nobody_reads_are_not_piled_up(serve: Serve, tmp_path: Path) -> None:
    served = serve(at_once_max=1)
    gate = tmp_path / "gate"
    with served.connect() as one, served.connect() as deaf:
        one.sendall(slow(gate, b"/v1/slow"))
        eventually(Path(f"{gate}.begun").exists)
        deaf.settimeout(1)  # for each piece: the next one does not go out once the server has stopped reading
        requests = _POST.replace(b"/echo", b"/v1/echo") % (1, b"a") * 1000
        with pytest.raises((TimeoutError, ConnectionError)):
            deque(map(deaf.sendall, [requests] * 400), maxlen=0)


def test_a_signal_finishes_what_is_under_way_and_ends_well(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    gate = tmp_path / "gate"
    with served.connect() as client, served.connect() as idle:
        idle.sendall(_POST % (0, b""))
        until(idle, b"POST ")
        client.sendall(b"GET /slow?%b HTTP/1.1\r\nHost: t\r\n\r\n" % os.fsencode(gate))
        eventually(Path(f"{gate}.begun").exists)
        served.processes[0].send_signal(signal.SIGINT)
        assert everything(idle) == b""
        gate.touch()
        answer = everything(client)
    assert answer.endswith(b"slow")
    assert b"connection: close" in answer
    assert served.end(signal.SIGINT) == [(0, b"")]


def test_after_a_signal_each_answer_is_the_last_of_its_connection_until_a_second_signal(
    serve: Serve, tmp_path: Path
) -> None:
    served = serve(notice_s=60)
    gate = tmp_path / "gate"
    with served.connect() as kept, served.connect() as waiting:
        kept.sendall(_POST % (1, b"a"))
        until(kept, b"POST a")
        waiting.sendall(slow(gate))
        eventually(Path(f"{gate}.begun").exists)
        served.processes[0].send_signal(signal.SIGTERM)
        eventually(lambda: b"connection: close" in asked_once(served))
        kept.sendall(_POST % (1, b"b"))
        last = everything(kept)
        waiting.sendall(_POST % (1, b"d") + _POST % (1, b"e"))
        gate.touch()
        answers = everything(waiting)
    assert (last[-6:], b"connection: close" in last) == (b"POST b", True)
    assert [answers.count(part) for part in (b"slow", b"POST d", b"POST e", b"connection: close")] == [1] * 4
    assert served.end(signal.SIGTERM) == [(0, b"")]


def asked_once(served: Served) -> bytes:
    """The head and body of one answer on a connection of its own."""
    with served.connect() as client:
        client.sendall(_POST % (1, b"c"))
        return until(client, b"POST c")


def test_the_time_of_notice_ends_by_itself(serve: Serve) -> None:
    served = serve(notice_s=0.2)
    asked_once(served)
    assert served.end(signal.SIGTERM) == [(0, b"")]


def test_what_does_not_finish_is_cut_off_after_the_drain(serve: Serve, tmp_path: Path) -> None:
    served = serve(drain_s=0.2)
    gate = tmp_path / "gate"
    with served.connect() as client:
        client.sendall(b"GET /slow?%b HTTP/1.1\r\nHost: t\r\n\r\n" % os.fsencode(gate))
        eventually(Path(f"{gate}.begun").exists)
        assert [status for status, _ in served.end(signal.SIGTERM)] == [0]


def test_workers_share_one_socket_and_the_last_one_keeps_serving(serve: Serve) -> None:
    served = serve(workers=2)
    first, second = served.processes
    assert served.ask(_POST.replace(b"Host", b"Connection: close\r\nHost") % (1, b"a")).endswith(b"POST a")
    first.terminate()
    first.wait(30)
    for _ in range(5):
        assert served.ask(_POST.replace(b"Host", b"Connection: close\r\nHost") % (1, b"b")).endswith(
            b"POST b"
        )
    assert second.poll() is None


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"Port {port} on 127\.0\.0\.1 is in use .*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_refused_with_the_way_out(host: str) -> None:
    with pytest.raises(BindFailure, match=r"--host 127\.0\.0\.1"):
        bind(host, 0)


@pytest.mark.parametrize(
    ("target", "hot"),
    [
        (b"/v1/decide", True),
        (b"/v1/contacts/8fJq%2F_x-1/confirm", True),
        (b"/v1/decide?x=1", False),
        (b"/v1/contacts/a?b=/confirm", False),
        (b"/v1/contacts/a#/confirm", False),
        (b"/v1/contacts/\xff/confirm", False),
        (b"/v1/contacts//confirm", False),
        (b"/v1/contacts/a/b/confirm", False),
        (b"http://t/v1/decide", False),
        (b"/v1/contacts/a/forget", False),
    ],
)
def test_only_a_plain_target_is_taken_past_asgi(target: bytes, hot: bool) -> None:
    assert (App(object).hot(b"POST", target) is not None) == hot
