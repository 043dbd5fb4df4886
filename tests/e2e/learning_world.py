"""A small shop with one engine, and what follows its trail: for the tests of the learner and of the archive."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from api.running.valkey import ValkeyServer
from engine.judging.answer import Json
from engine.judging.plan import compile_plan
from engine.judging.trail import TRAIL
from engine.runtime import Engine, open_engine
from engine.services.requests import DecideRequest
from engine.store.store import as_list
from engine.workers.learner import Learner
from features.event import Event
from policies.loader import load_files

FILES = {
    "policy.yaml": "policy: learning\ntimezone: UTC\nattribution: {impression: 1h, accept: 7d}\n",
    "channels.yaml": """
channels:
  web:  {kind: inbound}
  shop: {kind: inbound}
  push: {kind: outbound}
placements:
  home: {channel: web, slots: 1}
  till: {channel: shop, slots: 1}
  pop:  {channel: push, slots: 1}
  bare: {channel: web, slots: 1}
""",
    "offers.yaml": """
categories: {promotion: {}}
offers:
  - {id: boots, category: promotion, placements: [home, till], value: 5, prior: 5%, attributes: {line: shoes}}
  - {id: socks, category: promotion, placements: [home, pop], value: 5, prior: 5%, attributes: {line: shoes}}
  - {id: hat,   category: promotion, placements: [home, pop], value: 5, prior: 5%, attributes: {line: hats}}
""",
    "features.yaml": "features:\n  views: {count: [page_view], within: 7d}\n",
    "profile.yaml": "profile:\n  tier: {type: string}\n",
}


class World:
    """One engine, and a learner that can die and come back."""

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self.run = runner.run
        self.url = url
        self.one: Engine = self.run(open_engine(url))
        self.run(self.one.plans.activate(compile_plan(load_files(FILES).policy)))
        self.learner = Learner(self.one.customers, self.one.plans)
        self.number = 0

    def call(self, *command: Any) -> Any:
        async def called() -> Any:
            return await self.one.connection.call(*command)

        return self.run(called())

    def decide(self, customer_id: str = "c1", placement: str = "home", **more: Any) -> Json:
        request = DecideRequest(customer_id=customer_id, placement=placement, **more)
        answer: Json = orjson.loads(self.run(self.one.deciding.decide(request)).body)
        return answer

    def event(self, type_: str, decision: Json | None = None, customer_id: str = "c1", **more: Any) -> None:
        now = self.run(self.one.store.clock())[0]
        self.number += 1
        event = Event(
            type=type_,
            customer_id=customer_id,
            occurred_at=now - more.pop("ago_ms", 0),
            received_at=now,
            event_id=f"e-{self.number}",
            decision_id=decision["decision_id"] if decision else None,
            **more,
        )
        self.run(self.one.journal.append([event]))
        while self.run(self.one.worker.step()).events:
            pass

    def pass_a_millisecond(self) -> None:
        """Wait for the store's next millisecond: what is made in one has no order."""
        first = self.run(self.one.store.clock())[0]
        while self.run(self.one.store.clock())[0] == first:
            pass

    def learn(self, learner: Learner | None = None) -> Learner:
        learner = learner or self.learner
        while self.run(learner.step()):
            pass
        return learner

    def expects(self, offer: str, learner: Learner | None = None, placement: str = "home") -> float:
        """The probability that a customer of whom nothing is known accepts."""
        head = (learner or self.learner).learning.heads["accept"]
        return 1 / (1 + float(np.exp(-head.predict({"placement": placement}, offer)[0])))

    def learned(self, learner: Learner | None = None) -> int:
        heads = (learner or self.learner).learning.heads
        return int(heads["accept"].outcomes.sum()) if heads else 0

    def steps(self) -> int:
        return len(as_list(self.call("XRANGE", TRAIL, "-", "+")))


@pytest.fixture(name="world")
def shop(
    store: object, valkey_server: ValkeyServer, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """The shop on an empty store. A busy machine must not turn a decision into a late one here."""
    monkeypatch.setattr("engine.services.deciding.WITHIN_S", 30.0)
    world = World(f"unix://{valkey_server.socket_path}", runner)
    yield world
    runner.run(world.one.close())
