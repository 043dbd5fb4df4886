"""Events at the edge: each validated on its own, the valid ones made durable, the others named with their fault."""

from contextlib import nullcontext
from typing import Any, Final

from api.bodies import LINE_MAX, parse_json
from api.call import Reply, answer, invalid
from api.http.overload import ASIDE
from api.metrics import count_events
from api.problems import Problem
from engine.runtime import Engine
from engine.workers.features import PACKED_MAX
from features.event import Event, EventError, parse_event

ARRAY_MAX: Final = 1_000


class Reader:
    """Takes the events of one request and appends them in packs; `flush` before answering."""

    def __init__(self, engine: Engine) -> None:
        """Take the wired engine."""
        self.engine = engine
        self.accepted = 0
        self.rejected: list[dict[str, Any]] = []
        self._pointers: list[str] = []
        self._number = 0
        self._alone = False
        self._waiting: list[Event] = []
        self._now = 0
        self._declared: dict[str, str] = {}

    async def value(self, value: Any) -> None:
        """Take one event or an array of them."""
        if not isinstance(value, list):
            self._alone = True
            await self._take(value)
            return
        if not 1 <= len(value) <= ARRAY_MAX:
            raise invalid(f"an array holds 1 to {ARRAY_MAX} events: split it, or send NDJSON")
        for one in value:
            await self._take(one)

    async def line(self, line: bytes | None) -> None:
        """Take one line of NDJSON; None stands for one that was too long. Blank lines are passed over."""
        if line is None:
            self._reject(f"the line is over {LINE_MAX // 1024} KB: send a smaller event")
        elif line.strip():
            try:
                value = parse_json(line)
            except Problem as refused:
                self._reject(refused.detail)
                return
            await self._take(value)

    async def _take(self, value: Any) -> None:
        if not self._now:
            self._now, version = await self.engine.store.clock()
            plan = await self.engine.plans.get(version)
            self._declared = {field.name: field.type for field in plan.policy.profile.values()}
        made_id = self.engine.unique()
        try:
            event = parse_event(value, now=self._now, made_id=made_id, declared=self._declared)
        except EventError as error:
            said = f"{error.pointer}: {error.detail}" if error.pointer else error.detail
            self._reject(said, error.pointer)
            return
        self._number += 1
        self._waiting.append(event)
        if len(self._waiting) >= PACKED_MAX:
            await self.flush()

    def _reject(self, detail: str, pointer: str = "") -> None:
        self._pointers.append(pointer if self._alone else f"/{self._number}{pointer}")
        self.rejected.append({"index": self._number, "detail": detail})
        count_events("rejected")
        self._number += 1

    async def flush(self) -> None:
        """Make what is waiting durable."""
        if self._waiting:
            events = await self.engine.journal.resolve(self._waiting)
            with ASIDE if self.engine.journal.elsewhere else nullcontext():
                await self.engine.journal.append(events)
            self.accepted += len(events)
            count_events("accepted", len(events))
            self._waiting = []
            self._now = 0

    def reply(self) -> Reply:
        """Return the answer: 202 where at least one was accepted."""
        if self.accepted:
            return answer({"accepted": self.accepted, "rejected": self.rejected}, 202)
        if not self.rejected:
            raise invalid("there is no event in the body: send at least one")
        refused = zip(self._pointers, self.rejected[:100], strict=False)
        errors = [(pointer, entry["detail"]) for pointer, entry in refused]
        raise Problem(
            422,
            "invalid-event",
            f"no event is valid: {self.rejected[0]['detail']}",
            errors=errors,
            extra={"accepted": 0, "rejected": self.rejected},
        )
