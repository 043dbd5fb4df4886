"""More arrives than can be served: one request too many is refused at once, what was accepted is served.

The real Tact gives out two places. A streamed check keeps one for as long as its client likes, so nothing here
depends on how quick anything is.
"""

import re
import socket
from collections.abc import Iterator

import pytest

from api.http.overload import PRESSURE_S, Places
from api.running.settings import Refused, at_once_setting
from loadtests.client import request
from loadtests.server import Running, metrics, start
from tests.contract.client import Answer, Api

ROW = b'{"customer_id": "c%d", "channel": "email", "category": "service"}\n'
ROWS = 200
"""Rows that a stream judges side by side: so many are answered before it ends."""
DECIDE = request("POST", "/v1/decide", b'{"customer_id": "c1", "placement": "home_hero"}')
CONSENT = request("PUT", "/v1/customers/c1/consent", b'{"marketing_email": "granted"}')


@pytest.fixture(scope="module")
def tact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tact = start(tmp_path_factory.mktemp("overload") / "data", environment={"TACT_AT_ONCE": "2"})
    yield tact
    assert tact.stop() == 0


@pytest.fixture
def api(tact: Running) -> Api:
    return Api(tact.port)


class Stream:
    """A streamed check under way: its first rows are answered, its end is not sent yet."""

    def __init__(self, port: int) -> None:
        while not self._begun(port):  # the places of the test before are given back in a moment
            self.client.close()

    def _begun(self, port: int) -> bool:
        self.client = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.client.sendall(
            b"POST /v1/contacts/check?reserve=false HTTP/1.1\r\nhost: t\r\n"
            b"content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        rows = b"".join(ROW % number for number in range(ROWS))
        self.client.sendall(b"%x\r\n%b\r\n" % (len(rows), rows))
        self.said = b""
        while self.said.count(b'"customer_id"') < ROWS and b"503" not in self.said[:20]:
            self.said += self.client.recv(65536)
        return b"503" not in self.said[:20]

    def end(self, more: bytes = b"") -> bytes:
        """End the stream, with `more` right behind it; the answer up to its own end."""
        self.client.sendall(b"0\r\n\r\n" + more)
        while b"\r\n0\r\n\r\n" not in self.said:
            self.said += self.client.recv(65536)
        return self.said


@pytest.fixture
def streams(tact: Running) -> Iterator[list[Stream]]:
    """Both places are taken; they are given back at the end of the test, if not by it."""
    streams = [Stream(tact.port) for _ in range(2)]
    yield streams
    for stream in streams:
        stream.client.close()


def refused(answer: Answer) -> bool:
    if answer.status != 503:
        return False
    assert answer.media == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert answer.json["type"] == "urn:tact:problem:overloaded"
    assert answer.json["title"] == "Tact cannot answer now"
    assert "Retry-After" in answer.json["detail"]
    return True


def statuses(client: socket.socket, count: int, said: bytes = b"") -> list[int]:
    """The statuses of so many answers, in order."""
    while len(found := re.findall(rb"HTTP/1\.1 (\d+) ", said)) < count:
        piece = client.recv(65536)
        assert piece, f"closed after {said!r}"
        said += piece
    return [int(status) for status in found]


def test_one_request_too_many_is_refused_until_a_place_is_free(api: Api, streams: list[Stream]) -> None:
    for method, path, body in [
        ("POST", "/v1/decide", b"not even JSON: nobody looks"),
        ("POST", "/v1/contacts/check", b"{}"),
        ("GET", "/v1/customers/c1", None),
        ("PUT", "/v1/customers/c1/consent", b'{"marketing_email": "granted"}'),
        ("POST", "/v1/decide?explain=1", b"x" * 200_000),
    ]:
        assert refused(api.send(method, path, body)), path
    answer = streams[0].end()
    assert answer.count(b'"allowed"') == ROWS
    assert api.call("POST", "/v1/decide", {"customer_id": "c1", "placement": "home_hero"}).status == 200
    assert streams[1].end().count(b'"allowed"') == ROWS


def test_health_metrics_and_docs_are_answered_under_any_load(
    tact: Running, api: Api, streams: list[Stream]
) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
        assert api.call("GET", path).status == 200, path
    before = float(re.findall(r"^tact_refused_total\S* (\S+)$", metrics(tact), re.MULTILINE)[0])
    assert refused(api.call("GET", "/v1/policies/active"))
    assert refused(api.call("POST", "/v1/decide", {}))
    after = float(re.findall(r"^tact_refused_total\S* (\S+)$", metrics(tact), re.MULTILINE)[0])
    assert after - before == 2


def test_a_refused_connection_stays_open_and_its_answers_stay_in_order(
    tact: Running, streams: list[Stream]
) -> None:
    with socket.create_connection(("127.0.0.1", tact.port), timeout=30) as client:
        client.sendall(DECIDE + request("GET", "/livez") + CONSENT + DECIDE)
        assert statuses(client, 4) == [503, 200, 503, 503]
        for stream in streams:
            stream.end()
        client.sendall(DECIDE)
        assert statuses(client, 1) == [200]


def test_a_line_behind_an_answer_is_refused_in_order_but_for_health(streams: list[Stream]) -> None:
    said = streams[0].end(DECIDE + request("GET", "/livez") + CONSENT)
    assert statuses(streams[0].client, 3, said.partition(b"\r\n0\r\n\r\n")[2]) == [503, 200, 503]


def test_a_refusal_ends_the_connection_of_a_client_that_wants_it_so(api: Api, streams: list[Stream]) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as client:
        client.sendall(DECIDE.replace(b"host:", b"connection: close\r\nhost:"))
        said = b""
        while piece := client.recv(65536):
            said += piece
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"connection: close\r\n" in said


@pytest.mark.parametrize("message", [DECIDE, CONSENT], ids=["hot", "not hot"])
def test_slow_senders_hold_no_place(tact: Running, api: Api, message: bytes) -> None:
    head, body = message.split(b"\r\n\r\n")
    slow = [socket.create_connection(("127.0.0.1", tact.port), timeout=30) for _ in range(3)]
    for client in slow:
        client.sendall(head + b"\r\n\r\n" + body[:5])
    assert api.call("POST", "/v1/decide", {"customer_id": "c1", "placement": "home_hero"}).status == 200
    for client in slow:
        client.sendall(body[5:])
        assert statuses(client, 1) == [200]
        client.close()


def test_a_client_that_goes_away_gives_its_place_back(tact: Running, api: Api) -> None:
    for _ in range(3):
        Stream(tact.port).client.close()
    while refused(reply := api.call("POST", "/v1/decide", {"customer_id": "c1", "placement": "home_hero"})):
        pass
    assert reply.status == 200


def test_all_places_are_given_out_until_one_has_to_be_refused() -> None:
    places = Places(30)
    assert [places.take(taken, 1.0) for taken in range(31)] == [True] * 30 + [False]


def test_under_pressure_a_third_is_given_out_and_all_again_when_the_time_is_over() -> None:
    places = Places(30)
    assert not places.take(30, 1.0)
    assert [places.take(taken, 1.0) for taken in (9, 10, 29)] == [True, False, False]
    assert not places.take(10, 0.999 + PRESSURE_S)
    assert places.take(29, 1.0 + PRESSURE_S)


def test_refusals_under_pressure_do_not_prolong_it() -> None:
    places = Places(30)
    assert not places.take(30, 1.0)
    assert not places.take(10, 5.0)
    assert places.take(10, 1.0 + PRESSURE_S)


def test_so_few_places_that_a_third_would_leave_the_store_idle_are_all_given_out() -> None:
    places = Places(5)
    assert not places.take(5, 1.0)
    assert places.take(4, 1.0)


def test_without_a_limit_any_number_is_worked_on() -> None:
    assert Places(0).take(1_000_000, 1.0)


@pytest.mark.parametrize("text", ["many", "-1", "1.5", "²"])
def test_a_limit_that_is_no_number_is_refused_with_the_way_out(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACT_AT_ONCE", text)
    with pytest.raises(Refused, match=f"TACT_AT_ONCE is '{text}': set it to"):
        at_once_setting()
