"""uvicorn (uvloop, httptools) on an inherited socket, hardened by `http_protocol`, with a notice and a bounded drain.

One listening socket serves all worker processes: one queue, and while a worker restarts clients wait in it
instead of being refused. No access log and no Server or Date header: they cost time and nobody reads them.

Whoever stops gives notice first: for a time it tells balancers that it leaves, while it takes connections and answers
as before, each answer with `Connection: close`, so that nobody is left with a connection that is closed on a request.
Only then does it stop listening, finish what is under way, and end.
"""

import asyncio
import contextlib
import errno
import math
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn._types import ASGI3Application
from uvicorn.config import Config

from api.http.overload import Places
from api.http.protocol import HardenedProtocol, Limits, Shared
from api.http.whole import Find

__all__ = ["BindFailure", "Limits", "PortInUse", "bind", "serve"]


class BindFailure(Exception):  # the sentence is what matters
    """The address cannot be listened on; the message says why and the way out."""


class PortInUse(BindFailure):
    """Another program listens on that port."""


def bind(host: str, port: int, *, backlog: int = 2048) -> socket.socket:
    """Listen on host and port (0: any free one); hand the socket to `serve`, here or in children.

    PortInUse, BindFailure.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as fault:
        raise BindFailure(
            f"{host!r} is not an address of this machine ({fault}). Use --host 127.0.0.1, or 0.0.0.0 for all."
        ) from fault
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # a restart need not wait for TIME_WAIT
        listener.bind(address)
        listener.listen(backlog)  # at once: two sockets may share a port until one of them listens
    except OSError as fault:
        listener.close()
        if fault.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Port {port} on {host} is in use by another program. Choose another with --port, or stop "
                f"it: ss -ltnp 'sport = :{port}' shows it."
            ) from fault
        way_out = (
            "Ports below 1024 need privileges: choose another with --port."
            if fault.errno == errno.EACCES
            else ("Use --host 127.0.0.1, or 0.0.0.0 for all addresses of this machine.")
        )
        raise BindFailure(f"Cannot listen on {host}:{port}: {fault.strerror}. {way_out}") from fault
    return listener


def serve(
    app: ASGI3Application,
    sockets: Sequence[socket.socket],
    *,
    find: Find = lambda _method, _target: None,
    limits: Limits | None = None,
    drain_s: float = 10.0,
    notice_s: float = 0.0,
    on_notice: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way within `drain_s` seconds and return.

    With `notice_s`, the signal calls `on_notice`, and serving goes on for so many seconds or until a second signal.
    `find` gives the answer of a hot route, which is then asked past ASGI where a request is small and ordinary.
    Runs its own event loop, in the main thread. SystemExit(3) when the application's lifespan fails to start.
    """
    limits = limits or Limits()
    config = Config(
        app,
        http=cast("Any", partial(HardenedProtocol, limits, Places(limits.at_once_max), find)),
        interface="asgi3",
        ws="none",
        lifespan="auto",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=cast("int", limits.idle_s),
        timeout_graceful_shutdown=cast("int", drain_s),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Server(config, notice_s, on_notice).serve(list(sockets)))


class _Server(uvicorn.Server):
    """uvicorn's server, which gives notice and ends normally: a drained stop is no failure and no traceback."""

    def __init__(self, config: Config, notice_s: float, on_notice: Callable[[], None]) -> None:
        super().__init__(config)
        self.server_state = self._shared = Shared()
        self._notice_s = notice_s
        self._on_notice = on_notice
        self._signalled = False
        self._leave_at = math.inf

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # signal's signature
        if self._signalled or not self._notice_s:
            self.should_exit = True  # once more changes nothing: the drain is bounded
        self._signalled = True

    async def on_tick(self, counter: int) -> bool:
        """Do what is due ten times a second; tell whether to stop listening."""
        if self._signalled and not self._shared.leaving:
            self._shared.leaving = True
            self._leave_at = time.monotonic() + self._notice_s
            self._on_notice()
        return await super().on_tick(counter) or time.monotonic() >= self._leave_at
