"""uvicorn (uvloop, httptools) on an inherited socket, hardened by `http_protocol`, with a bounded drain.

One listening socket serves all worker processes: one queue, and while a worker restarts clients wait in it
instead of being refused. No access log and no Server or Date header: they cost time and nobody reads them.
"""

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn._types import ASGI3Application
from uvicorn.config import Config

from api.http_protocol import HardenedProtocol, Limits
from api.overload import Places
from api.whole import Find

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
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way within `drain_s` seconds and return.

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
        runner.run(_Server(config).serve(list(sockets)))


class _Server(uvicorn.Server):
    """uvicorn's server, which ends normally after a signal: a drained stop is no failure and no traceback."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # signal's signature
        self.should_exit = True  # a repeated signal changes nothing: the drain is bounded
