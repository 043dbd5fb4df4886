"""/readyz: 503 where no decision can be made or the process leaves, 200 and degraded where only something waits."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from api.call import Call
from api.handlers import Handlers
from engine.store.connection import StoreUnavailable


class Parts:
    """What /readyz asks, and what it is told."""

    def __init__(self, *, version: str = "v1", beat: int = 1, fault: str = "", away: bool = False) -> None:
        self.version, self.beat, self.fault_, self.away = version, beat, fault, away
        self.asked = 0

    async def clock(self) -> tuple[int, str]:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("it is gone", maybe_applied=False)
        return 0, self.version

    async def call(self, *command: str) -> int:
        return self.beat

    def fault(self) -> str:
        return self.fault_


def said(parts: Parts, *, leaving: bool = False) -> tuple[int, str, dict[str, str]]:
    handlers = Handlers(cast("Any", SimpleNamespace(store=parts, connection=parts, journal=parts)))
    handlers.leaving = leaving
    reply = asyncio.run(handlers.ready(Call.whole({}, b"", {})))
    body = json.loads(reply.body)
    return reply.status, body["status"], body["dependencies"]


WELL = {"store": "ok", "policy": "ok", "worker": "ok", "events": "ok"}
SILENT = "silent: features and suppressing events lag behind"
NO_BROKER = "no broker answers"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (Parts(), (200, "ready", {})),
        (Parts(beat=0), (200, "degraded", {"worker": SILENT})),
        (Parts(fault=NO_BROKER), (200, "degraded", {"events": NO_BROKER})),
        (Parts(version=""), (503, "degraded", {"policy": "none is active"})),
        (
            Parts(away=True),
            (503, "degraded", {"store": "away: it is gone"} | dict.fromkeys(("policy", "worker", "events"), "unknown")),
        ),
    ],
)  # fmt: skip
def test_each_dependency_is_told_and_only_those_that_decisions_need_are_missed(
    parts: Parts, expected: tuple[int, str, dict[str, str]]
) -> None:
    status, word, unwell = expected
    assert said(parts) == (status, word, WELL | unwell)


def test_a_process_that_leaves_says_so_without_asking_anybody() -> None:
    parts = Parts(away=True)
    assert said(parts, leaving=True) == (503, "draining", {})
    assert parts.asked == 0
