"""One connection to the store, shared by everything in a process: calls coalesce, and none waits for ever.

What holds, and why:
- Commands queued during one turn of the event loop are written in a few pieces: under load the cost
  of a system call here, and of an fsync there, is shared by many requests.
- Each call has a deadline and the queue is bounded. While the store is away, calls fail at once and the
  connection is made again by itself. `maybe_applied` of the error tells whether the command may have run.
- The prologue (say: the store's time and the active policy) is read once in front of each batch of loads, on
  the same connection, so it is never older than the requests that use it.
- Scripts are loaded before anything else is sent on a new connection, so EVALSHA finds them.

How calls and replies are matched is in `link`.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Awaitable, Sequence
from typing import Any

from engine.measures import StoreMeasures
from engine.store.address import StoreAddress
from engine.store.link import (
    Argument,
    Command,
    Link,
    Reply,
    Shape,
    StoreOverloaded,
    StoreReplyError,
    StoreUnavailable,
)

__all__ = [
    "Argument",
    "Command",
    "Reply",
    "StoreAddress",
    "StoreConnection",
    "StoreOverloaded",
    "StoreReplyError",
    "StoreUnavailable",
]

_FIRST_PAUSE_S = 0.02
_LAST_PAUSE_S = 0.5


class StoreConnection:
    """A coalescing client on one connection; use it from one event loop.

    In seconds: `within_s` is the default deadline of a call, `dial_s` that of connecting, `stall_s` how long
    after a missed deadline a silent connection is given up. `max_pending` bounds the commands in flight.
    """

    def __init__(
        self,
        address: StoreAddress,
        *,
        prologue: Sequence[Command] = (),
        within_s: float = 1.0,
        dial_s: float = 2.0,
        stall_s: float = 5.0,
        max_pending: int = 20_000,
    ) -> None:
        self.address = address
        self.measures = StoreMeasures()
        self._prologue = tuple(prologue)
        self._within_s = within_s
        self._dial_s = dial_s
        self._stall_s = stall_s
        self._max_pending = max_pending
        self._scripts: dict[str, str] = {}
        self._link: Link | None = None
        self._away = f"The store at {address} is not connected yet."
        self._redialling: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def connected(self) -> bool:
        """Tell whether calls are sent now (not whether they are answered)."""
        return self._link is not None

    async def open(self) -> None:
        """Connect, log in and load the scripts.

        StoreUnavailable when the store is away, StoreReplyError when it refuses the login or a script; in the
        background the connection is then tried again until `close`, so a server may start without its store.
        """
        try:
            await self._dial()
        except (StoreUnavailable, StoreReplyError) as fault:
            self._redial(str(fault))
            raise

    async def close(self) -> None:
        """Break the connection; what is in flight fails with StoreUnavailable."""
        self._closed = True
        if self._redialling is not None:
            self._redialling.cancel()
            await asyncio.wait([self._redialling])
        link = self._link
        if link is not None:
            link.abort()
            await link.lost

    def script(self, name: str, text: str) -> bytes:
        """Register a Lua script and return what EVALSHA calls it by; it is loaded on every new connection.

        RuntimeError when another text was registered under the same name.
        """
        if self._scripts.setdefault(name, text) != text:
            raise RuntimeError(f"two scripts are called {name!r}")
        if self._link is not None:
            self._link.submit((("SCRIPT", "LOAD", text),), Shape.NOTHING, self._within_s)
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()

    def call(self, *command: Argument, within_s: float | None = None) -> Awaitable[Reply]:
        """Send one command; its reply, within `within_s` seconds.

        StoreUnavailable (StoreOverloaded too) or StoreReplyError, raised where the answer is awaited.
        """
        return self._submit((command,), Shape.ONE, within_s)

    def pipeline(
        self, commands: Sequence[Command], *, within_s: float | None = None
    ) -> Awaitable[list[Reply]]:
        """Send several commands; all replies in order, or the first error. Not a transaction."""
        return self._submit(commands, Shape.ALL, within_s)

    def load(
        self, commands: Sequence[Command], *, within_s: float | None = None
    ) -> Awaitable[tuple[list[Reply], list[Reply]]]:
        """Send several commands behind their batch's prologue: (its replies, theirs), or the first error.

        The prologue's list is shared by all loads of the batch: read it, never change it.
        """
        return self._submit(commands, Shape.LOAD, within_s)

    def _submit(
        self, commands: Sequence[Command], shape: Shape, within_s: float | None
    ) -> "asyncio.Future[Any]":
        link = self._link
        if link is None:
            self.measures.failures["away"] += 1
            failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            failed.set_exception(StoreUnavailable(self._away, maybe_applied=False))
            return failed
        return link.submit(commands, shape, self._within_s if within_s is None else within_s)

    async def _dial(self) -> None:
        """Make a link, greet the store on it and put it to use; StoreUnavailable, StoreReplyError."""
        link = Link(
            str(self.address),
            prologue=self._prologue,
            max_pending=self._max_pending,
            stall_s=self._stall_s,
            on_lost=self._on_lost,
            on_refusal=self._on_refusal,
            measures=self.measures,
        )
        try:
            async with asyncio.timeout(self._dial_s):
                await self._connect(link)
                loaded = -1
                while loaded != len(self._scripts):  # one may be registered while we wait
                    loaded = len(self._scripts)
                    await link.submit(self._greeting(), Shape.ALL, self._dial_s)
        except (OSError, TimeoutError) as fault:
            link.abort()
            raise StoreUnavailable(
                f"The store at {self.address} cannot be reached ({str(fault) or 'no answer'}). "
                "Check that it runs and that the address is right.",
                maybe_applied=False,
            ) from fault
        except BaseException:
            link.abort()
            raise
        self._link = link

    async def _connect(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        address = self.address
        if address.path is not None:
            await loop.create_unix_connection(lambda: link, address.path)
        else:
            tls = ssl.create_default_context() if address.tls else None
            await loop.create_connection(lambda: link, address.host, address.port, ssl=tls)

    def _greeting(self) -> list[Command]:
        """Everything that must come before the first call; PING last, which a loading store refuses."""
        greeting: list[Command] = []
        if self.address.password is not None:
            user = (self.address.username,) if self.address.username else ()
            greeting.append(("AUTH", *user, self.address.password))
        if self.address.database:
            greeting.append(("SELECT", self.address.database))
        greeting.extend(("SCRIPT", "LOAD", text) for text in self._scripts.values())
        greeting.append(("PING",))
        return greeting

    def _on_lost(self, link: Link, reason: str) -> None:
        if link is self._link:
            self._link = None
            self._redial(reason)

    def _on_refusal(self, link: Link, code: str) -> None:
        if link is not self._link:
            return
        if code == "NOSCRIPT":  # somebody ran SCRIPT FLUSH: the retry will find them
            for text in self._scripts.values():
                link.submit((("SCRIPT", "LOAD", text),), Shape.NOTHING, self._within_s)
        elif code == "READONLY":  # demoted by a failover: the address may lead to the new primary now
            link.abort()

    def _redial(self, reason: str) -> None:
        self._away = reason
        if not self._closed and (self._redialling is None or self._redialling.done()):
            self._redialling = asyncio.get_running_loop().create_task(self._redial_until_connected())

    async def _redial_until_connected(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while self._link is None:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LAST_PAUSE_S)
            self.measures.redials += 1
            try:
                await self._dial()
            except (StoreUnavailable, StoreReplyError) as fault:
                self._away = str(fault)
