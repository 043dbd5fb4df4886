"""One HTTP/1.1 connection: uvicorn's httptools protocol with the deadlines and limits that it lacks.

What holds, and why:
- A client cannot hold a connection by being slow: headers come within `header_s` of the first byte (or of
  connecting), a body within `body_s` of its headers; in an NDJSON stream, which may be any length, no pause
  is longer than `body_s` while the application waits for more. Late is answered 408, or closed where an
  answer has begun.
- Headers and the request line are bounded (431, 414). What is not HTTP gets 400. All of these are
  application/problem+json, and what the client still sends is read and dropped for a moment, because closing
  at once would reset the connection before the client has read the answer.
- `Upgrade` is ignored, as HTTP allows: httptools would throw the body away (Java's client wishes for h2c on
  every request).
- A request that arrives in one piece, as nearly all do, arms no timer. How far one has come is read off uvicorn's
  own state: a scope without a cycle is an incomplete head, a cycle with `more_body` an incomplete body.
"""

import asyncio
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn._types import ASGIReceiveEvent, HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from api.http.admission import AdmittingProtocol, is_stream
from api.http.cork import Corked
from api.http.overload import Places
from api.http.whole import Find
from api.problems import Problem

_LINGER_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines in seconds, sizes in bytes, and `at_once_max` of `overload.Places`."""

    header_s: float = 30.0
    body_s: float = 30.0
    idle_s: float = 75.0
    head_max: int = 32_768
    request_line_max: int = 8_192
    at_once_max: int = 0


class Shared(ServerState):
    """What all connections of a server share."""

    leaving = False
    """Whether each answer is the last one of its connection, so that clients go elsewhere."""


class _Phase(Enum):
    """How far the newest request has been received."""

    NONE = "none has begun"
    HEAD = "its head is incomplete"
    BODY = "its body is incomplete"
    DONE = "it is here"


class _Refused(Exception):  # passes through the parser
    """The request's head breaks a limit."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class HardenedProtocol(AdmittingProtocol):
    """One client's connection, with deadlines and limits."""

    def __init__(
        self,
        limits: Limits,
        places: Places,
        find: Find,
        config: Config,
        server_state: Shared,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(places, find, config, server_state, app_state, _loop)
        self._shared = server_state
        self._limits = limits
        self._line_max = limits.request_line_max
        self._chunk = 0  # bytes of the piece being parsed
        self._head_first = 0  # bytes of the piece in which an incomplete head began
        self._head_seen = 0  # bytes of all pieces of an incomplete head, the first one included
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_of: tuple[_Phase, HTTPScope | None] = (_Phase.NONE, None)
        self._last: Any = None  # whose answer closes the connection, since we are leaving
        self._paced: RequestResponseCycle | None = None  # the stream whose pauses are bounded
        self._over = False  # refused: what still comes is dropped

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Expect a request from now on."""
        super().connection_made(cast("asyncio.Transport", Corked(transport, self.loop)))
        self._arm(_Phase.NONE, self._limits.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave no timer behind."""
        self._disarm()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; look after deadlines only where a request is incomplete."""
        if self._over:
            return
        self._idle_since = None
        self._chunk = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as fault:
            self._refuse_head(fault.__context__)
        else:
            cycle = self.cycle
            if (
                self._deadline is not None
                or cycle is None
                or cycle.more_body
                or cycle.scope is not self.scope
                or (cycle.response_complete and self._idle_since is None)
            ):
                self._watch()

    def on_headers_complete(self) -> None:
        """Check the limits, then go on; _Refused goes through the parser."""
        if self._head_seen + self._chunk > self._line_max:  # else nothing can be too long
            self._check_head()
        AdmittingProtocol.on_headers_complete(self)  # on the ordinary path even super() counts
        if self._shared.leaving:
            if self._last is not None:
                self._last.keep_alive = True  # it is not the last one: this one waits behind it
            self._last = self.cycle
            self._last.keep_alive = False

    def on_response_complete(self) -> None:
        """Watch the time of being idle: one timer a connection, not one an answer."""
        AdmittingProtocol.on_response_complete(self)
        if self._idle_since is not None and self.timeout_keep_alive_task is None:
            self._watch_idle(self._limits.idle_s)

    def _watch_idle(self, after_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(after_s, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close what has been idle for long enough; look again later at what has not."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None or self.transport.is_closing():
            return
        left_s = self._idle_since + self._limits.idle_s - self.loop.time()
        if left_s > 0:
            self._watch_idle(left_s)
        else:
            self.transport.close()

    def _should_upgrade(self) -> bool:
        return True  # uvicorn then leaves the request alone, and data_received begins it anew

    def _phase(self) -> _Phase:
        cycle = self.cycle
        if self.scope is None:
            return _Phase.NONE
        if cycle is None or cycle.scope is not self.scope:
            return _Phase.HEAD
        return _Phase.BODY if cycle.more_body else _Phase.DONE

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        """Arm the deadline that fits what has been received, unless it stands already."""
        phase = self._phase()
        if phase is _Phase.HEAD:
            if not self._stands(phase):
                self._head_first = self._head_seen = self._chunk
            else:
                self._head_seen += self._chunk
            if self._head_seen - self._head_first > self._limits.head_max:
                self._refuse_head(self._head_too_large())
            else:
                self._arm(phase, self._limits.header_s)
            return
        self._head_seen = 0
        if phase is _Phase.BODY:
            self._watch_body()
        elif self._answering() or self._idle_since is not None:
            self._disarm()
        else:  # nothing but blank lines, which the parser skips
            self._arm(phase, self._limits.header_s)

    def _watch_body(self) -> None:
        """Bound the pauses of a stream; the whole of any other body, and of what comes after the answer."""
        cycle: RequestResponseCycle = self.cycle
        if cycle.response_complete or not is_stream(cycle.scope.get("headers", ())):  # a Whole's has none
            self._arm(_Phase.BODY, self._limits.body_s)
            return
        self._disarm()
        if self._paced is cycle:
            return
        self._paced = cycle
        receive = cycle.receive

        async def paced_receive() -> ASGIReceiveEvent:
            if not cycle.more_body:
                return await receive()
            timer = self.loop.call_later(self._limits.body_s, self._give_up_on_body, cycle)
            try:
                return await receive()
            finally:
                timer.cancel()

        cycle.receive = paced_receive  # type: ignore[method-assign]  # the application starts in a later turn

    def _arm(self, phase: _Phase, after_s: float) -> None:
        if self._stands(phase):
            return
        self._disarm()
        self._deadline_of = (phase, self.scope)
        self._deadline = self.loop.call_later(after_s, self._on_deadline)

    def _stands(self, phase: _Phase) -> bool:
        """Tell whether the deadline is that of this phase of the newest request."""
        before, scope = self._deadline_of
        return self._deadline is not None and before is phase and scope is self.scope

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        phase = self._phase()
        if phase is _Phase.BODY:
            if self.pipeline:  # we are not reading it yet, an earlier answer is under way
                self._arm(phase, self._limits.body_s)
            else:
                self._give_up_on_body(self.cycle)
        elif self._answering():
            self.cycle.keep_alive = False  # the answer that is under way is the last one
        elif phase is _Phase.HEAD:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"The headers were not complete within {self._limits.header_s:g} s. Send them at once.",
            )
        else:
            self.transport.close()

    def _give_up_on_body(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True  # whatever the application still sends goes nowhere
        cycle.message_event.set()
        if cycle.response_started:
            self.transport.close()
        else:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT,
                f"The body did not come within {self._limits.body_s:g} s. Send it at once, or as NDJSON.",
            )

    def _check_head(self) -> None:
        """Raise _Refused where the newest head breaks a limit."""
        limits = self._limits
        if len(self.url) > limits.request_line_max:
            raise _Refused(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"The path and query are longer than {limits.request_line_max} bytes. Shorten them.",
            )
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > limits.head_max:
            raise self._head_too_large()

    def _head_too_large(self) -> _Refused:
        return _Refused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"The headers are larger than {self._limits.head_max} bytes. Send fewer or shorter ones.",
        )

    def _refuse_head(self, fault: BaseException | None) -> None:
        """Answer what breaks a limit or is not HTTP, unless that would fall into another answer."""
        cycle = self.cycle
        if self._answering():
            self._over = True
            cycle.keep_alive = False
            if self._phase() is not _Phase.BODY or self.pipeline:
                return  # the answers under way are the last ones
            cycle.disconnected = True  # its own body is malformed: there is nothing more to wait for
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        if isinstance(fault, _Refused):
            self._refuse(fault.status, fault.detail)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "This is not well-formed HTTP/1.1. Check the client.")

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Send a problem, then drop what still comes until the client hangs up or a second has passed."""
        self._over = True
        self._disarm()
        self._unset_keepalive_if_required()
        slug = status.phrase.lower().replace(" ", "-")
        body = Problem(status.value, slug, detail).body()
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (status.value, status.phrase.encode(), len(body), body)
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.close)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its wish for another protocol, then what follows it."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse_head(_Refused(HTTPStatus.BAD_REQUEST, "This is not a proxy: CONNECT is not served."))
            return
        wishes = {b"upgrade", b"http2-settings"}
        head = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = [token.strip() for token in value.split(b",") if token.strip().lower() not in wishes]
                head.append(b"connection: " + b", ".join(kept))
            elif name not in wishes:
                head.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(head) + b"\r\n\r\n" + rest)
