"""What torturers share: a cheap connection, what was said over it, and a verdict in one line.

A connection is a blocking socket with one request under way, so that a client costs a fraction of what it asks
for. Times are milliseconds of this machine's clock, which the store reads as well; a request's own interval is
widened by one, so that rounding never hides the moment at which it was judged.
"""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

ANSWER_S = 20.0
_BUFFER = 1 << 18


class Said(NamedTuple):
    """One request and its answer; status 0 where none came."""

    sent: int
    answered: int
    op: str
    asked: Any
    status: int
    body: Any


class Wire:
    """One keep-alive connection; opened anew when it was lost."""

    def __init__(self, port: int) -> None:
        """Talk to a loopback port."""
        self.port = port
        self._socket: socket.socket | None = None
        self._sent = 0

    def send(self, method: str, path: str, body: Any = None, key: str = "") -> None:
        """Send a request; a failure shows when its answer is read."""
        data = b"" if body is None else orjson.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\nhost: tact\r\ncontent-length: {len(data)}\r\n"
        if data:
            head += "content-type: application/json\r\n"
        if key:
            head += f"idempotency-key: {key}\r\n"
        self._sent = time.time_ns() // 1_000_000 - 1
        try:
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self.port), ANSWER_S)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(head.encode() + b"\r\n" + data)
        except OSError:
            self.close()

    def receive(self, op: str = "", asked: Any = None) -> Said:
        """Read the answer to what was sent."""
        status, body = 0, None
        if self._socket is not None:
            try:
                status, body = self._read(self._socket)
            except (OSError, ValueError):
                self.close()
        return Said(self._sent, time.time_ns() // 1_000_000 + 1, op, asked, status, body)

    def ask(self, method: str, path: str, body: Any = None, key: str = "") -> Said:
        """Send and read."""
        self.send(method, path, body, key)
        return self.receive(path, body)

    def close(self) -> None:
        """Drop the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @staticmethod
    def _read(link: socket.socket) -> tuple[int, Any]:
        data = link.recv(_BUFFER)
        while (head := data.find(b"\r\n\r\n")) < 0:
            data += _more(link)
        at = data.lower().find(b"content-length:", 0, head)
        if at < 0:
            raise ValueError("an answer without a length")
        length = int(data[at + 15 : data.find(b"\r\n", at)])
        while len(data) < head + 4 + length:
            data += _more(link)
        return int(data[9:12]), orjson.loads(data[head + 4 :]) if length else None


def _more(link: socket.socket) -> bytes:
    piece = link.recv(_BUFFER)
    if not piece:
        raise ConnectionResetError("closed in the middle of an answer")
    return piece


@lru_cache(maxsize=4096)
def ms(moment: str) -> int:
    """Return the milliseconds of an RFC 3339 time."""
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


@dataclass(slots=True)
class Verdict:
    """What a suite found: every broken promise by its kind, and the figures of the run."""

    suite: str
    seed: int
    broken: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def expect(self, *kinds: str) -> None:
        """Name promises that the suite looks at, so that their zeros are shown."""
        for kind in kinds:
            self.broken.setdefault(kind, [])

    def breach(self, kind: str, sentence: str) -> None:
        """Note one broken promise."""
        self.broken.setdefault(kind, []).append(sentence)

    @property
    def kept(self) -> bool:
        """Whether nothing was broken."""
        return not any(self.broken.values())

    def line(self) -> str:
        """Return the whole verdict in one line."""
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in self.broken.items())
        figures = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        return f"{self.suite}: {'KEPT' if self.kept else 'BROKEN'} (seed {self.seed}): {counts}; {figures}"

    def examples(self, most: int = 5) -> list[str]:
        """Return a few sentences of each kind."""
        return [f"{kind}: {sentence}" for kind, found in self.broken.items() for sentence in found[:most]]


Progress = Callable[[str], None]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share (0 to 1) of the values lies; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0
