"""A steady load of decisions and events on several APIs, and what each was answered.

Requests leave on time whether or not earlier answers came. Every event has an id. One that was answered 202 is owed:
it counts, once. Everything else is sent again later under the same id until it is accepted, so at the end there is
nothing left to guess: each customer's count equals the customer's events that were sent. Some that were accepted come
again as well, as from a client that lost the answer.
"""

import asyncio
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import aiohttp
import numpy as np
import uvloop

TICK_S: Final = 0.005
PATIENCE_S: Final = 20.0
AGAIN_S: Final = 1.0
"""Pause between two tries to send what was refused, as Retry-After asks."""
AGAIN_MAX: Final = 100
"""Events that are sent again in one request."""
DOUBTED: Final = 0.05
"""Share of the accepted events that are sent again all the same."""
BROKEN: Final = 0
"""Stands for the status of a request that got no answer."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rates:
    """What is sent."""

    events: float = 100.0
    """Events a second."""
    decisions: float = 50.0
    """Decisions a second."""
    pack: int = 1
    """Events in one request."""
    customers: int = 400


class Answer(NamedTuple):
    """One answer, and how long it took."""

    asked_at: float
    """On the monotonic clock (s)."""
    ms: float
    status: int
    retry_after: bool
    said: str
    """The reason of a decision, the type of a problem."""


class Steady:
    """The load; it runs on a thread of its own between `start` and `finish`."""

    def __init__(self, urls: Sequence[str], rates: Rates, seed: int = 1, name: str = "steady") -> None:
        """Not started; `name` begins the names of its customers and events."""
        self.urls = list(urls)
        """Where it is sent to, in turn; it may be replaced at any time."""
        self.rates = rates
        self.name = name
        self.decided: list[Answer] = []
        self.sent: list[Answer] = []
        """Answers to events that were sent for the first time."""
        self.sent_again: list[Answer] = []
        self.owed: Counter[str] = Counter()
        """Customer to events that were answered 202."""
        self.refused: list[str] = []
        """Complaints of events that should be valid."""
        self._accepted: set[str] = set()
        self._waiting: deque[Json] = deque()
        self._rnd = random.Random(seed)
        self._number = 0
        self._open: set[asyncio.Task[None]] = set()
        self._ending = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def waiting(self) -> int:
        """Events that are to be sent again."""
        return len(self._waiting)

    @property
    def made(self) -> int:
        """Events made so far."""
        return self._number

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self, within_s: float = 60.0) -> None:
        """Send nothing new, and return when every event is accepted; RuntimeError when that takes too long."""
        self._ending.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            raise RuntimeError(f"{self.waiting} events were not accepted within {within_s:.0f} s")
        if self._fault is not None:
            raise RuntimeError("the load broke down") from self._fault

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._load())
        except BaseException as fault:  # noqa: BLE001  # raised again by `finish`
            self._fault = fault

    async def _load(self) -> None:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            again = asyncio.create_task(self._again(session))
            began = time.monotonic()
            calls = decisions = 0
            while not self._ending.is_set():
                passed = time.monotonic() - began
                while calls * self.rates.pack < passed * self.rates.events:
                    self._spawn(self._send(session, [self._event() for _ in range(self.rates.pack)]))
                    calls += 1
                while decisions < passed * self.rates.decisions:
                    self._spawn(self._decide(session))
                    decisions += 1
                await asyncio.sleep(TICK_S)
            while self._open:
                await asyncio.wait(self._open)
            await again

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    def _event(self) -> Json:
        self._number += 1
        return {
            "event_id": f"{self.name}-{self._number}",
            "type": "page_view",
            "customer_id": self._customer(),
            "properties": {"category": "boots", "session_id": f"s{self._number % 7}"},
        }

    def _customer(self) -> str:
        return f"{self.name}-{self._rnd.randrange(self.rates.customers)}"

    def _url(self) -> str:
        return self._rnd.choice(self.urls)

    async def _send(self, session: aiohttp.ClientSession, events: list[Json]) -> None:
        answer, said = await _ask(
            session, f"{self._url()}/v1/events", events if len(events) > 1 else events[0]
        )
        self.sent.append(answer)
        self._account(answer, said, events)

    def _account(self, answer: Answer, said: Json, events: Iterable[Json]) -> None:
        if answer.status == 202 and not said["rejected"]:
            new = [event for event in events if event["event_id"] not in self._accepted]
            self._accepted.update(event["event_id"] for event in new)
            self.owed.update(event["customer_id"] for event in new)
            self._waiting.extend(event for event in new if self._rnd.random() < DOUBTED)
        elif answer.status in {503, BROKEN}:
            self._waiting.extend(events)
        else:
            self.refused.append(f"events were answered {answer.status}: {said}")

    async def _again(self, session: aiohttp.ClientSession) -> None:
        """Send what waits again, until nothing is left when the load has ended."""
        while self._waiting or self._open or not self._ending.is_set():
            events = [self._waiting.popleft() for _ in range(min(AGAIN_MAX, len(self._waiting)))]
            if not events:
                await asyncio.sleep(TICK_S)
                continue
            answer, said = await _ask(session, f"{self._url()}/v1/events", events)
            self.sent_again.append(answer)
            self._account(answer, said, events)
            await asyncio.sleep(TICK_S if answer.status == 202 else AGAIN_S)

    async def _decide(self, session: aiohttp.ClientSession) -> None:
        body = {"customer_id": self._customer(), "placement": "hero"}
        answer, said = await _ask(session, f"{self._url()}/v1/decide", body)
        self.decided.append(answer._replace(said=str(said.get("reason") or said.get("type", ""))))


async def _ask(session: aiohttp.ClientSession, url: str, body: Any) -> tuple[Answer, Json]:
    asked_at = time.monotonic()
    try:
        async with session.post(url, json=body) as reply:
            status, retry_after = reply.status, "retry-after" in reply.headers
            said = await reply.json(content_type=None)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        status, retry_after, said = BROKEN, False, {"type": repr(error)}
    ms = (time.monotonic() - asked_at) * 1000
    return Answer(asked_at, ms, status, retry_after, str(said.get("type", ""))), said


def between(answers: Iterable[Answer], begin: float, end: float) -> list[Answer]:
    """Return the answers to what was asked from `begin` to `end` (monotonic, s)."""
    return [answer for answer in answers if begin <= answer.asked_at < end]


def summary(answers: Sequence[Answer]) -> Json:
    """Return how many there are of each status, and how long they took."""
    times = [answer.ms for answer in answers]
    return {
        "statuses": {str(status): n for status, n in sorted(Counter(a.status for a in answers).items())},
        "p50_ms": round(float(np.percentile(times, 50)), 1) if times else None,
        "p99_ms": round(float(np.percentile(times, 99)), 1) if times else None,
        "slowest_ms": round(max(times), 1) if times else None,
    }


def not_decided(answers: Iterable[Answer], *, storeless: bool = False) -> list[str]:
    """Return what was wrong with decisions: failures, refusals, and, unless `storeless`, silence without a store."""
    return [
        f"a decision was answered {answer.status} {answer.said} after {answer.ms:.0f} ms"
        for answer in answers
        if answer.status != 200 or (answer.said == "state_unavailable" and not storeless)
    ]


def neither_accepted_nor_refused(answers: Iterable[Answer], within_ms: float) -> list[str]:
    """Return what was wrong with the answers to events: neither 202 nor 503 with Retry-After, or too late."""
    return [
        f"events were answered {answer.status} {answer.said} after {answer.ms:.0f} ms"
        for answer in answers
        if not (answer.status == 202 or (answer.status == 503 and answer.retry_after))
        or answer.ms > within_ms
    ]


def compared(owed: Mapping[str, int], counted: Mapping[str, int]) -> tuple[int, int]:
    """Return how many events that were acknowledged are missing, and how many counts are too many."""
    lost = sum(max(0, number - counted.get(who, 0)) for who, number in owed.items())
    doubled = sum(max(0, number - owed.get(who, 0)) for who, number in counted.items())
    return lost, doubled
