"""Who works on a request of a connection, and whether anybody does: uvicorn's cycle, a `Whole`, or a refusal.

What holds, and why:
- No more than `at_once_max` requests are worked on at a time; the next is answered 503 with `Retry-After` before
  anybody looks at its body. So an accepted request waits for a bounded number of others, however many come.
  There is no queue: one would add its length to every latency, and the sockets are one already. Work on a
  request begins when its body is here (a stream's, and that of a body over 64 KiB, with its head), so slow
  senders hold no place. Only what is under /v1/ counts as load: health and metrics are answered always.
- A small request on a hot route is a `Whole`, which costs half of uvicorn's cycle and can be refused without a
  task. Anything out of the ordinary is uvicorn's: a wish to upgrade or to be told to continue, HTTP/1.0, a
  body that is large, chunked, encoded or not JSON, and whatever waits behind another answer.
- Answers keep the order of their requests. What waits in line behind another answer is admitted or refused when
  it comes and once more when its turn has come; a connection with a line is not read until the line is gone.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from uvicorn._types import ASGI3Application, HTTPScope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.http import overload
from api.http.whole import Find, Whole, is_small_json
from api.problems import PROBLEM

_STREAM = b"application/x-ndjson"
_LOAD = b"/v1/"


class AdmittingProtocol(HttpToolsProtocol):
    """One client's connection, as far as starting and refusing requests goes."""

    cycle: Any  # of the newest request: uvicorn's, or a Whole

    def __init__(
        self,
        places: overload.Places,
        find: Find,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._places = places
        self._find = find
        self._held = False  # the cycle's turn has come, but not all of its body
        # The loop's time of the last answer, while nothing came after it.
        self._idle_since: float | None = None

    def on_message_begin(self) -> None:
        """Take note that a request begins; what only uvicorn's cycle needs is made when there is to be one."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.scope = cast("HTTPScope", {})  # stands for this request in `_phase`
        self._idle_since = None

    def on_headers_complete(self) -> None:
        """See whose the request is."""
        cycle, parser = self.cycle, self.parser
        if cycle is None or cycle.response_complete:
            answer = self._find(parser.get_method(), self.url)
            if (
                answer is not None
                and not self.expect_100_continue
                and parser.should_keep_alive()
                and parser.get_http_version() == "1.1"
                and not parser.should_upgrade()
            ):
                headers = dict(self.headers)
                if len(headers) == len(self.headers) and is_small_json(headers):
                    self.cycle = Whole(self, answer, headers)
                    return
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        """Let uvicorn begin the request whose head is here."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)  # which makes the scope
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        HttpToolsProtocol.on_headers_complete(self)
        if self.pipeline and not self._admitted(self.cycle):
            self.pipeline[0] = (self.cycle, overload.refuse)  # once the answers before it are given

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body; the application has to read what is large as it comes."""
        cycle = self.cycle
        if type(cycle) is Whole:
            cycle.body += body
            return
        HttpToolsProtocol.on_body(self, body)
        if self._held and len(cycle.body) > HIGH_WATER_LIMIT:
            self._start(cycle)

    def on_message_complete(self) -> None:
        """Start what is whole now, or refuse it."""
        cycle = self.cycle
        if type(cycle) is not Whole:
            HttpToolsProtocol.on_message_complete(self)
            if self._held:
                self._start(cycle)
            return
        cycle.more_body = False
        if self._places.take(len(self.tasks), self.loop.time()):
            cycle.start()
            return
        if self.flow.write_paused:
            cycle.keep_alive = False  # this client does not read its answers: no more of them are held for it
        cycle.answer(503, overload.BODY, overload.RETRY, PROBLEM)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start the application once the body is here, or at once where it has to read as the body comes."""
        if app is overload.refuse:
            self._refusal = self.loop.create_task(cycle.run_asgi(app))  # not work: it takes no place
        elif cycle.more_body and not cycle.waiting_for_100_continue and not is_stream(cycle.scope["headers"]):
            self._held = True
            self.flow.resume_reading()  # paused if it waited in line
        else:
            self._start(cycle)

    def _start(self, cycle: RequestResponseCycle) -> None:
        self._held = False
        if self._admitted(cycle):
            super()._start_asgi_task(cycle, self.app)
        else:
            self._start_asgi_task(cycle, overload.refuse)

    def _admitted(self, cycle: RequestResponseCycle) -> bool:
        if not cycle.scope["raw_path"].startswith(_LOAD):
            return True
        return self._places.take(len(self.tasks), self.loop.time())

    def on_response_complete(self) -> None:
        """Start what waits in line, or the time of being idle.

        uvicorn reads on after each answer, however long the line is; we wait until nobody is left in it.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.flow.resume_reading()
        self._idle_since = self.loop.time()


def is_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether the body is NDJSON."""
    for name, value in headers:
        if name == b"content-type":
            return value[: len(_STREAM)].lower() == _STREAM
    return False
