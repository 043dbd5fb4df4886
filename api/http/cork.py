"""A transport that writes at the end of the loop's turn: what was answered together is sent together.

uvicorn writes the head and the body of an answer apart, and a turn of the loop answers many requests. Each
write to a client that sleeps wakes it up, and on a virtual machine one such wake-up costs as much as half a
decision. Sent back to back, the first write wakes the client and the others find it awake.
"""

import asyncio
from typing import Any, Final

HELD_MAX: Final = 65_536
"""Bytes that are held at most: a stream's pieces go out as they come."""


class Corked:
    """Stands in front of a transport; everything but the writing is the transport's own."""

    __slots__ = ("_held", "_loop", "_size", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Write to `transport`; `loop` is the one that it runs on."""
        self._transport = transport
        self.is_closing = transport.is_closing
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        """Return what the transport has."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold a piece until the turn ends, or until there is much of it."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._size += len(data)
        if self._size > HELD_MAX:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            held, self._held, self._size = self._held, [], 0
            self._transport.write(b"".join(held))

    def write_eof(self) -> None:
        """Write what is held, then close the writing side."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Write what is held, then close."""
        self._flush()
        self._transport.close()
