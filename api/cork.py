"""A transport that joins the head of an answer with its body: one system call, one packet, one wake-up.

uvicorn writes the two apart, and on a local connection the second wake-up of the client costs more than the
whole decision. The first write of a turn of the loop waits for the second; alone, it goes at the turn's end.
"""

import asyncio
from typing import Any


class Corked:
    """Stands in front of a transport; everything but the writing is the transport's own."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Write to `transport`; `loop` is the one that it runs on."""
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        """Return what the transport has."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold the first piece for the second."""
        if self._held is None:
            self._held = data
            self._loop.call_soon(self._flush)
        else:
            joined = self._held + data
            self._held = None
            self._transport.write(joined)

    def _flush(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(held)

    def write_eof(self) -> None:
        """Write what is held, then close the writing side."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Write what is held, then close."""
        self._flush()
        self._transport.close()
