"""A plain HTTP client for the contract tests: nothing is hidden."""

import gzip
import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

JSON = "application/json"
NDJSON = "application/x-ndjson"

T = TypeVar("T")


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def media(self) -> str:
        """The media type, without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0]

    @property
    def json(self) -> Any:
        """The JSON body."""
        return json.loads(self.raw)

    @property
    def rows(self) -> list[Any]:
        """The values of an NDJSON body."""
        return [json.loads(line) for line in self.raw.splitlines()]


class Api:
    """One running Tact."""

    def __init__(self, port: int) -> None:
        """Talk to the loopback port."""
        self.port = port

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send bytes as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            reply = connection.getresponse()
            return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a JSON body; header names are written with `_`."""
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is None:
            return self.send(method, path, None, said)
        return self.send(method, path, json.dumps(body).encode(), {"content-type": JSON} | said)

    def get(self, path: str) -> Any:
        """Return the JSON of a GET that works."""
        reply = self.call("GET", path)
        assert reply.status == 200, reply
        return reply.json

    def post(self, path: str, body: Any = None, status: int = 200, **headers: str) -> Any:
        """Return the JSON of a POST that answers `status`."""
        reply = self.call("POST", path, body, **headers)
        assert reply.status == status, reply
        return reply.json

    def put(self, path: str, body: Any) -> Any:
        """Return the JSON of a PUT that works."""
        reply = self.call("PUT", path, body)
        assert reply.status == 200, reply
        return reply.json

    def stream(self, path: str, rows: list[Any], *, packed: bool = False, **headers: str) -> Answer:
        """Send rows as NDJSON; bytes among them are sent as they are."""
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        body = b"\n".join(lines)
        said = {"content-type": NDJSON} | {name.replace("_", "-"): value for name, value in headers.items()}
        if packed:
            body, said["content-encoding"] = gzip.compress(body), "gzip"
        return self.send("POST", path, body, said)

    def raw(self, request: bytes) -> Answer:
        """Send a whole request by hand."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as link:
            link.sendall(request)
            reply = http.client.HTTPResponse(link)
            reply.begin()
            return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())

    # ------------------------------------------------------------------ what tests do again and again

    def decide(self, customer_id: str, placement: str, **more: Any) -> Any:
        """Return the answer of a decide that works.

        On a machine that is too busy to reach the store in time it counted nothing, so it is asked again.
        """
        for _ in range(10):
            answer = self.post("/v1/decide", {"customer_id": customer_id, "placement": placement} | more)
            if answer["reason"] != "state_unavailable":
                break
        return answer

    def check(self, channel: str, category: str, *customer_ids: str, **more: Any) -> list[Any]:
        """Return the results of a check that works."""
        body = {"channel": channel, "category": category, "customer_ids": customer_ids} | more
        results: list[Any] = self.post("/v1/contacts/check", body)["results"]
        return results

    def reserve(self, channel: str, category: str, customer_id: str, **more: Any) -> str:
        """Return the reservation that a check makes."""
        (result,) = self.check(channel, category, customer_id, **more)
        assert result["allowed"], result
        made: str = result["reservation_id"]
        return made

    def confirm(self, reservation_id: str) -> Answer:
        """Confirm a reservation."""
        return self.call("POST", f"/v1/contacts/{reservation_id}/confirm")

    def release(self, reservation_id: str) -> Answer:
        """Release a reservation."""
        return self.call("POST", f"/v1/contacts/{reservation_id}/release")

    def event(self, customer_id: str, type_: str, **more: Any) -> None:
        """Report one event."""
        self.post("/v1/events", {"type": type_, "customer_id": customer_id} | more, 202)

    def customer(self, customer_id: str) -> Any:
        """Return a customer that is known."""
        return self.get(customer(customer_id))

    def grant(self, customer_id: str, purpose: str = "marketing_email") -> None:
        """Grant a purpose."""
        self.put(f"{customer(customer_id)}/consent", {purpose: "granted"})


def customer(customer_id: str) -> str:
    """Return the path of a customer."""
    return "/v1/customers/" + quote(customer_id, safe="")


def eventually(read: Callable[[], T], holds: Callable[[T], bool], within_s: float = 10.0) -> T:
    """Read until the condition holds, for the worker folds after the 202."""
    end = time.monotonic() + within_s
    while not holds(value := read()):
        assert time.monotonic() < end, value
        time.sleep(0.01)
    return value


def parse(text: str) -> datetime:
    """Return the moment of a time in an answer."""
    assert text.endswith("Z"), text
    assert "." in text, text
    return datetime.fromisoformat(text)


def rfc(moment: datetime) -> str:
    """Return a time as requests take it, to the millisecond."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"
