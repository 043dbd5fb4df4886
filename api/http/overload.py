"""How many requests are worked on at once, and the answer to one too many: 503 at once, and when to come back.

What holds, and why:
- By Little's law the time that a request takes is the number under way over those finished a second, so a bound
  on the number is one on the time. What waits in the sockets is seen once a turn of the loop, and a turn is as
  long as the work that was let in.
- A third of the places is finished as fast as all of them, since the store's calls are shared by then. But
  somebody who keeps as many connections busy as there are places is not overload. So all places are given out
  until a request has to be refused; that is overload, and for some seconds a third is given out: the same
  throughput at a third of the latency. `python -m loadtests.overload` shows it.
- Who waits for somebody other than the store is no load: it costs nothing here, and when Kafka is away requests that
  hold places for seconds would lock out the decisions, which do not need it. Such a wait is `aside`.
- The third ends by the clock and not when refusals end: otherwise long requests that hold so many places would
  lock out all others for as long as they run.
"""

import sys
from typing import Final

from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from api.metrics import count_refusal
from api.problems import PROBLEM, Problem

RETRY: Final = ((b"retry-after", b"1"),)
BODY: Final = Problem(
    503, "overloaded", "more requests came than can be served: send it again after the seconds in Retry-After"
).body()
_HEADERS: Final = [(b"content-type", PROBLEM), (b"content-length", b"%d" % len(BODY)), *RETRY]

PRESSURE_S: Final = 5.0
"""How long a third of the places is given out: all of them once in so long is under a hundredth of the requests."""
_FEW_MIN: Final = 8
"""Fewer than this at once leave the store idle."""


class _Aside:
    """How many requests wait for somebody other than the store; a block of it is such a wait."""

    count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


ASIDE: Final = _Aside()
"""Of this process."""


class Places:
    """The places of one process."""

    def __init__(self, at_once_max: int) -> None:
        """Give out `at_once_max` places; 0: any number."""
        self._all = at_once_max or sys.maxsize
        self._few = max(self._all // 3, min(self._all, _FEW_MIN))
        self._calm_at = 0.0

    def take(self, taken: int, now_s: float) -> bool:
        """Tell whether one more request may begin while so many places are taken; a refusal is counted.

        `now_s` is the loop's time in seconds.
        """
        taken -= ASIDE.count
        if taken < self._few:
            return True
        if now_s >= self._calm_at:
            if taken < self._all:
                return True
            self._calm_at = now_s + PRESSURE_S
        count_refusal()
        return False


async def refuse(_scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Give that answer as an ASGI application would."""
    await send({"type": "http.response.start", "status": 503, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": BODY, "more_body": False})
