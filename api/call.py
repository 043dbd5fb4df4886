"""One HTTP call on bare ASGI: what a handler reads and what it gives back.

The hot routes come here straight from the server and the others through FastAPI; the handlers cannot tell.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson

from api.bodies import JSON_MAX, LINE_MAX, Inflater, parse_json, too_large
from api.problems import Problem
from engine.services.idempotency import Idempotency, idempotency

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"
REPLAYED: Final = ((b"idempotent-replayed", b"true"),)
"""Says that an answer is a stored one."""
_SINGLE: Final = (b"idempotency-key", b"content-type", b"content-encoding")


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    media: bytes = JSON


class Stream(NamedTuple):
    """An answer that comes in pieces."""

    pieces: AsyncIterator[bytes]
    media: bytes = NDJSON


class Disconnected(Exception):  # not an error of ours
    """The caller went away before the request was complete."""


class Call:
    """A request, read lazily."""

    __slots__ = ("_headers", "_query", "_sent", "_whole", "path_ids", "receive")

    def __init__(self, scope: Scope, receive: Receive, path_ids: Mapping[str, str]) -> None:
        """`path_ids` are the still percent-encoded parts of the path by name."""
        self.receive: Receive | None = receive
        self.path_ids = path_ids
        self._sent: Sequence[tuple[bytes, bytes]] = scope["headers"]
        self._query: bytes = scope["query_string"]
        self._headers: Mapping[bytes, bytes] | None = None
        self._whole: bytes | None = None

    @classmethod
    def whole(cls, headers: Mapping[bytes, bytes], body: bytes, path_ids: Mapping[str, str]) -> Self:
        """Make a call without a query whose body is all here and not encoded; each header is there once."""
        call = cls.__new__(cls)
        call.receive = None
        call.path_ids = path_ids
        call._headers = headers  # noqa: SLF001  # its own class
        call._query = b""  # noqa: SLF001  # as above
        call._whole = body  # noqa: SLF001  # as above
        return call

    def header(self, name: bytes) -> bytes:
        """Return a header's value by its lower-case name, or nothing; two of one name are refused."""
        headers = self._headers if self._headers is not None else self._read_headers()
        return headers.get(name, b"")

    def has_header(self, name: bytes) -> bool:
        """Say whether a header is there, if only empty."""
        return name in (self._headers if self._headers is not None else self._read_headers())

    def _read_headers(self) -> Mapping[bytes, bytes]:
        sent = self._sent
        headers = self._headers = dict(sent)
        if len(headers) != len(sent):
            names = [key for key, _ in sent]
            for key in _SINGLE:
                if names.count(key) > 1:
                    raise _invalid(f"the header {key.decode()} is there twice: send it once", "")
        return headers

    def path_id(self, name: str) -> str:
        """Return an id of the path, decoded; raises Problem 422 where it cannot be one."""
        try:
            text = unquote_to_bytes(self.path_ids[name]).decode("utf-8")
        except UnicodeDecodeError:
            raise _invalid(f"the {name} in the path is not UTF-8: percent-encode it", f"/{name}") from None
        return checked_id(text, f"/{name}", f"the {name} in the path")

    def query(self, *allowed: str) -> dict[str, str]:
        """Return the query parameters; an unknown or repeated one is refused."""
        raw = self._query
        if not raw:
            return {}
        try:
            pairs = parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict"
            )
        except ValueError:
            raise _invalid("the query string cannot be read: write name=value, percent-encoded", "") from None
        found: dict[str, str] = {}
        for name, value in pairs:
            if name not in allowed:
                known = ", ".join(allowed) or "none"
                raise _invalid(
                    f"there is no query parameter '{name}' here: the route takes {known}", f"/{name}"
                )
            if name in found:
                raise _invalid(f"the query parameter '{name}' is there twice: send it once", f"/{name}")
            found[name] = value
        return found

    def media(self, *allowed: bytes) -> bytes:
        """Return the body's media type, one of the allowed ones; none counts as JSON."""
        raw = self.header(b"content-type")
        if not raw or raw == JSON:
            return JSON
        media, *parameters = (part.strip().lower() for part in raw.split(b";"))
        charset = next(
            (part[8:].strip(b'"') for part in parameters if part.startswith(b"charset=")), b"utf-8"
        )
        if media not in allowed or charset not in (b"utf-8", b"utf8"):
            names = " or ".join(name.decode() for name in allowed)
            raise Problem(
                415, "unsupported-media-type", f"this route takes {names} in UTF-8: set Content-Type"
            )
        return media

    def idempotency(self, route: str, raw: bytes) -> Idempotency | None:
        """Return the use of the call's Idempotency-Key on a route with a body; None where there is no key."""
        key = self.header(b"idempotency-key")
        if not key:
            if self.has_header(b"idempotency-key"):
                raise _invalid("the Idempotency-Key is empty: send 1 to 255 printable ASCII characters", "")
            return None
        if len(key) > 255 or any(not 32 <= byte < 127 for byte in key):
            raise _invalid("the Idempotency-Key must be 1 to 255 printable ASCII characters", "")
        return idempotency(route, "", key.decode("ascii"), raw)

    async def pieces(self, limit: int) -> AsyncIterator[bytes]:
        """Yield the body as it comes, inflated; over `limit` (bytes) is refused."""
        receive = self.receive
        assert receive is not None  # noqa: S101  # nobody reads a call in pieces that is here whole
        inflater = Inflater(self.header(b"content-encoding").decode("latin-1").strip().lower(), limit)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            piece = message.get("body", b"")
            if piece:
                yield inflater.feed(piece)
            if not message.get("more_body"):
                inflater.end()
                return

    async def body(self, limit: int = JSON_MAX) -> bytes:
        """Return the whole body."""
        whole = self._whole
        if whole is not None:
            if len(whole) > limit:
                raise too_large(limit)
            return whole
        length = self.header(b"content-length")
        if length.isdigit() and int(length) > limit:
            raise too_large(limit)
        return b"".join([piece async for piece in self.pieces(limit)])

    async def json(self, limit: int = JSON_MAX) -> tuple[Any, bytes]:
        """Return the body's value and its bytes; raises Problem for anything that is not plain JSON."""
        self.media(JSON)
        raw = await self.body(limit)
        return parse_json(raw), raw

    async def lines(self) -> AsyncIterator[bytes | None]:
        """Yield the lines of a streamed body; None stands for one over its limit, which is skipped to its end."""
        left, skipping = b"", False
        async for piece in self.pieces(1 << 62):
            left += piece
            *whole, left = left.split(b"\n")
            for line in whole:
                if skipping:
                    skipping = False
                    yield None
                else:
                    yield line if len(line) <= LINE_MAX else None
            if len(left) > LINE_MAX:
                left, skipping = b"", True
        if skipping or len(left) > LINE_MAX:
            yield None
        elif left.strip():
            yield left

    async def no_body(self) -> None:
        """Take a body that says nothing: empty, or an empty object."""
        raw = await self.body(1024 * 1024)
        if raw.strip():
            self.media(JSON)
        if raw.strip() and parse_json(raw) != {}:
            raise _invalid("this route takes no body: leave it empty", "")


def checked_id(text: str, pointer: str, name: str) -> str:
    """Return the text if it can be an id; raises Problem 422."""
    if not 1 <= len(text) <= 128 or not text.strip() or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
        raise _invalid(
            f"{name} must have 1 to 128 characters, not blank, without control characters", pointer
        )
    return text


def _invalid(detail: str, pointer: str) -> Problem:
    return Problem(422, "invalid-request", detail, errors=[(pointer, detail)])


def invalid(detail: str, pointer: str = "") -> Problem:
    """Return the problem of a request that says something that cannot be."""
    return _invalid(detail, pointer)


def answer(value: Any, status: int = 200, *, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    """Return a JSON answer."""
    return Reply(status, orjson.dumps(value), headers)
