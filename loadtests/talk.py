"""A client that decides and lets something follow: outcomes a moment later, in batches, at a bounded rate.

Built on the fast client: a few keep-alive connections, one request under way on each. What follows a decision is
told by a function of its answer. What follows is sent again while the server says that it cannot: events and contacts
are idempotent, and an outcome that got lost would bend what the runs find. The learner and the archive get only the
processor that nobody else wants, so the rate is bounded: they must come along.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final, NamedTuple

import orjson

from loadtests.client import Connection, Load, Round, request

EVENTS: Final = "/v1/events"
BATCH: Final = 200
GATHER_S: Final = 0.05
"""How long events wait for others to share a request with."""
GIVE_UP: Final = 200
"""So many failures, and the run ends: nothing is there that would answer."""


class Follow(NamedTuple):
    """What is to be done after an answer."""

    after_s: float
    path: str
    body: Any = None
    """One event where the path is that of events."""


Reply = Callable[[Any], Iterable[Follow]]
"""Tells from the answer of a decide what follows."""


class Talk(Load):
    """Decides at a bounded rate, and what follows; make it inside the event loop."""

    def __init__(
        self, decide: Callable[[int], Any], reply: Reply, decisions: int | None, rate: float
    ) -> None:
        """Ask `decide(n)` for each body, at most `rate` a second; without a number of `decisions` until `stop`."""
        super().__init__(lambda _: b"", decisions, None)
        self.asked = b""
        """The request whose answer is being read."""
        self.answers = 0
        self._decide = decide
        self._reply = reply
        self._gap_s = 1 / rate
        self._decide_at = time.perf_counter()
        self._order = count()
        self._later: list[tuple[float, int, Follow]] = []
        self._events: list[Any] = []
        self._calls: deque[bytes] = deque()
        self._gathered_at = 0.0

    def stop(self) -> None:
        """Decide no more; what follows still happens."""
        self.count = self.number

    async def run(self, port: int, connections: int) -> Round:
        """Talk to a loopback port over so many connections until all is said."""
        started = time.perf_counter()
        self.open = connections
        for _ in range(connections):
            await asyncio.get_running_loop().create_connection(lambda: _Patient(self), "127.0.0.1", port)
        await self.done
        return Round(time.perf_counter() - started, self.latencies, self.failures)

    def wait_s(self) -> float:
        """Return how long there is nothing to ask (s)."""
        now = time.perf_counter()
        self._gather(now)
        due = [self._later[0][0]] if self._later else []
        if self._calls or (self._events and (len(self._events) >= BATCH or now >= self._gathered_at)):
            return 0.0
        if self._events:
            due.append(self._gathered_at)
        if not self._finished():
            due.append(self._decide_at)
        return max(min(due, default=now) - now, 0.0)

    def next_request(self) -> bytes | None:
        """Return what is to be asked next; None when all was said."""
        now = time.perf_counter()
        if self._calls:
            return self._calls.popleft()
        if self._events and (len(self._events) >= BATCH or now >= self._gathered_at):
            batch, self._events = self._events[:BATCH], self._events[BATCH:]
            return request("POST", EVENTS, orjson.dumps(batch))
        if self._finished():
            return None
        self.number += 1
        # Behind by more than a moment, the missed ones are not made up for in a burst.
        self._decide_at = max(self._decide_at + self._gap_s, now - 0.1)
        return request("POST", "/v1/decide", orjson.dumps(self._decide(self.number - 1)))

    def answered(self, sent: float, status: bytes, body: bytes) -> None:
        """Take an answer, and what follows from it."""
        super().answered(sent, status, body)
        decided = self.asked.startswith(b"POST /v1/decide ")
        if not status.startswith(b"2"):
            if self.failures >= GIVE_UP and not self.done.done():
                told = f"{self.failures} answers failed, the last one: {body.decode()[:500]}"
                self.done.set_exception(RuntimeError(told))
            if not decided and status.startswith(b"5"):
                self._calls.append(self.asked)
            return
        if decided:
            self.answers += 1
            now = time.perf_counter()
            for follow in self._reply(orjson.loads(body)):
                heapq.heappush(self._later, (now + follow.after_s, next(self._order), follow))

    def _finished(self) -> bool:
        return self.count is not None and self.number >= self.count

    def _gather(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            follow = heapq.heappop(self._later)[2]
            if follow.path != EVENTS:
                body = b"" if follow.body is None else orjson.dumps(follow.body)
                self._calls.append(request("POST", follow.path, body))
                continue
            if not self._events:
                self._gathered_at = now + GATHER_S
            self._events.append(follow.body)


class _Patient(Connection):
    """A connection that waits while there is nothing to ask."""

    def __init__(self, load: Talk) -> None:
        super().__init__(load)
        self._talk = load
        self._asked = b""

    def send(self) -> None:
        wait = self._talk.wait_s()
        if wait > 0:
            asyncio.get_running_loop().call_later(max(wait, 0.001), self.send)
            return
        following = self._talk.next_request()
        if following is None:
            self.transport.close()
            return
        self._asked = following
        self.sent = time.perf_counter()
        self.transport.write(following)  # type: ignore[attr-defined]  # a stream transport

    def data_received(self, data: bytes) -> None:
        self._talk.asked = self._asked
        super().data_received(data)
