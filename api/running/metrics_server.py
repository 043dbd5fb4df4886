"""`GET /metrics` of a process that serves nothing else: the library's own small server, on loopback, in a thread."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY, start_http_server

from api.metrics import Page, Source


class BindFailure(Exception):  # the sentence is what matters
    """The port cannot be listened on; the message says why and the way out."""


@contextmanager
def serving(port: int, *sources: Source) -> Iterator[None]:
    """Serve what the sources yield beside the metrics of the process, on 127.0.0.1, for the length of a block.

    BindFailure when somebody else has the port.
    """
    page = Page(*sources)
    REGISTRY.register(page)
    try:
        try:
            server, thread = start_http_server(port, "127.0.0.1")
        except OSError as fault:
            raise BindFailure(
                f"TACT_METRICS_PORT is {port}, and 127.0.0.1:{port} cannot be listened on ({fault.strerror}): each "
                "process that serves /metrics needs a port of its own"
            ) from fault
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
    finally:
        REGISTRY.unregister(page)
