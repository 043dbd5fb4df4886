"""A small JSON request on a hot route: read whole, answered whole, without a scope, messages or events.

What holds, and why:
- To its connection it is what uvicorn's cycle is: the same attributes say how far it has come, so deadlines,
  pipelining, the drain and a lost client are handled by the same lines for both.
- Its task is among the server's tasks until it is answered: the drain waits for it, and admission counts it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    from api.call import Reply

Headers = Mapping[bytes, bytes]
Answer = Callable[[Headers, bytes], Awaitable["Reply"]]
"""Takes the headers and the whole body; never raises what is not a bug."""
Find = Callable[[bytes, bytes], Answer | None]
"""Takes method and target (path and query, as sent); gives a hot route's answer, else None."""

log = logging.getLogger("tact.api")

_LENGTH_DIGITS: Final = 5
"""Bodies of 100,000 bytes and more are read as they come."""


def is_small_json(headers: Headers) -> bool:
    """Tell whether the body is plain JSON, by its media type, and of a length that is known and small."""
    return (
        headers.get(b"content-type", b"application/json") == b"application/json"
        and len(headers.get(b"content-length", b"0")) <= _LENGTH_DIGITS
        and b"transfer-encoding" not in headers
        and b"content-encoding" not in headers
    )


class _Silent:
    """An event that nobody waits for."""

    def set(self) -> None:
        """Do nothing."""


class Whole:
    """One request of a connection, from its complete head to its answer."""

    __slots__ = (
        "_answer",
        "_headers",
        "_protocol",
        "_task",
        "body",
        "disconnected",
        "keep_alive",
        "more_body",
        "response_complete",
        "scope",
    )
    message_event: Final = _Silent()
    response_started: Final = False  # what is sent is sent at once

    def __init__(self, protocol: "HttpToolsProtocol", answer: Answer, headers: Headers) -> None:
        """Take the connection and who answers; the body is added as it comes."""
        self._protocol = protocol
        self._answer = answer
        self._headers = headers
        self.scope = protocol.scope
        self.body = b""
        self.more_body = True
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False

    def start(self) -> None:
        """Work on it from the loop's next turn on."""
        protocol = self._protocol
        self._task = protocol.loop.create_task(self._run())
        protocol.tasks.add(self._task)

    async def _run(self) -> None:
        protocol = self._protocol
        try:
            status, body, headers, media = await self._answer(self._headers, self.body)
            if protocol.flow.write_paused:
                await protocol.flow.drain()
            self.answer(status, body, headers, media)
        except Exception:
            log.exception("a bug left a request without an answer")
            protocol.transport.close()
        finally:
            protocol.tasks.discard(self._task)

    def answer(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]], media: bytes) -> None:
        """Send the whole answer, unless the client is gone."""
        protocol = self._protocol
        if self.disconnected:
            return
        more = b"".join([name + b": " + value + b"\r\n" for name, value in headers]) if headers else b""
        if not self.keep_alive:
            more += b"connection: close\r\n"
        self.response_complete = True
        protocol.transport.write(
            b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b"
            % (STATUS_LINE[status], media, len(body), more, body)
        )
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()
