"""Two requests at once on one customer: what comes out is what one of the two orders would have brought.

Every pair of steps is started at once by two engines, many times, and the answers and the facts that are left must
be those of the same two steps taken one after the other, in one order or the other, on the same store. TACT_RACES says
how many times.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from itertools import combinations_with_replacement, count
from random import Random
from typing import Any, NamedTuple

import pytest
import uvloop

import engine.store.store
from api.running.valkey import ValkeyServer
from engine.errors import Conflict, NotFound
from engine.judging.plan import compile_plan
from engine.runtime import Engine
from engine.services.checking import Row
from engine.services.customers import Held
from engine.services.requests import ContactRequest
from features.facts import Facts, Item
from policies.loader import load_files
from tests.simulation.clock import CLOCK, clock_of_the_test, open_engine_with_clock

START = 1_795_000_000_000
TTL_MS = 60_000
ROUNDS = int(os.environ.get("TACT_RACES", "6"))
"""Times that each pair is started at once."""
PROMOTION = Item(None, "promotion")
FILES = {
    "policy.yaml": "policy: races\ntimezone: UTC\ncurrency: GBP\n",
    "channels.yaml": "channels:\n  sms: {kind: outbound}\n",
    "offers.yaml": "categories: {promotion: {}}\noffers: []\n",
    "contact_policy.yaml": "caps:\n  - {name: two-a-day, max: 2, per: 24h}\n",
}


class Scene(NamedTuple):
    """A customer with a live reservation and a cookie, and somebody whom the cookie may join."""

    name: str
    other: str
    cookie: str
    reservation: str


class Place:
    """The store, two engines, and scenes to play in."""

    def __init__(self, server: ValkeyServer, runner: asyncio.Runner) -> None:
        self.run = runner.run
        self.engines: list[Engine] = [
            self.run(open_engine_with_clock(f"unix://{server.socket_path}")) for _ in range(2)
        ]
        self.numbers = count()
        self.run(self.begin())

    async def begin(self) -> None:
        await self.engines[0].connection.call("FLUSHALL")
        await self.set_clock(START)
        plan = compile_plan(load_files(FILES).policy)
        for one in self.engines:
            await one.plans.activate(plan)

    async def set_clock(self, at: int) -> None:
        await self.engines[0].connection.call("SET", CLOCK, at)

    async def scene(self) -> Scene:
        one, number = self.engines[0], next(self.numbers)
        await self.set_clock(START)
        name, other, cookie = f"c{number}", f"d{number}", f"k{number}"
        await one.people.link(name, "cookie", cookie)
        reserved = (await reserve(one, name))["reservation_id"]
        taken = (await reserve(one, other))["reservation_id"]
        await one.contacts.confirm(taken)
        return Scene(name, other, cookie, reserved)

    async def left(self, scene: Scene) -> object:
        """What is left of both customers and of the cookie: no times, no ids but those of the scene."""
        one, found = self.engines[0], []
        now = (await one.store.clock())[0]
        for name in (scene.name, scene.other, await one.customers.resolve({"cookie": scene.cookie})):
            held = await one.customers.load(name)
            known = {scene.name: "name", scene.other: "other"}.get(held.facts.customer_id, "stranger")
            found.append((known, bool(held.facts.erased_at), sorted(states(held.facts, now))))
        return found


def states(facts: Facts, now: int) -> list[str]:
    return [
        "expired" if one.state == "reserved" and not one.live(now) else one.state for one in facts.contacts
    ]


async def reserve(one: Engine, name: str) -> Any:
    return (await one.checking.check([Row(0, name, "sms", PROMOTION, TTL_MS)], take=True))[0]


class Outcome(NamedTuple):
    """The answers to the first and the second step, and what is left."""

    first: object
    second: object
    left: object


# ---------------------------------------------------------------------- the steps

Step = Callable[[Place, Engine, Scene], Awaitable[object]]


async def reserves(_: Place, one: Engine, scene: Scene) -> object:
    answer = await reserve(one, scene.name)
    return answer["allowed"], sorted(stop["rule"] for stop in answer.get("reasons", ()))


async def confirms(_: Place, one: Engine, scene: Scene) -> object:
    return (await one.contacts.confirm(scene.reservation)).answer["state"]


async def releases(_: Place, one: Engine, scene: Scene) -> object:
    return (await one.contacts.release(scene.reservation))["state"]


async def expires(place: Place, _: Engine, __: Scene) -> object:
    await place.set_clock(START + TTL_MS)
    return True


async def records(_: Place, one: Engine, scene: Scene) -> object:
    report = ContactRequest(
        customer_id=scene.name, channel="sms", category="promotion", contact_id=f"x-{scene.name}"
    )
    return (await one.contacts.record(report)).rules


async def merges(_: Place, one: Engine, scene: Scene) -> object:
    return bool(await one.people.link(scene.other, "cookie", scene.cookie))


async def unlinks(_: Place, one: Engine, scene: Scene) -> object:
    return bool(await one.people.unlink(scene.name, "cookie", scene.cookie))


async def erases(_: Place, one: Engine, scene: Scene) -> object:
    return bool(await one.people.erase(scene.name))


STEPS: dict[str, Step] = {
    step.__name__: step for step in (reserves, confirms, releases, expires, records, merges, unlinks, erases)
}


async def taken(step: Step, place: Place, one: Engine, scene: Scene) -> object:
    try:
        return await step(place, one, scene)
    except NotFound:
        return "not found"
    except Conflict as conflict:
        # An erasure that comes while a merge is under way erases the union: the merge was first.
        return True if step is merges else ("conflict", conflict.state)


async def in_turn(place: Place, first: str, second: str) -> Outcome:
    scene = await place.scene()
    one = await taken(STEPS[first], place, place.engines[0], scene)
    two = await taken(STEPS[second], place, place.engines[1], scene)
    return Outcome(one, two, await place.left(scene))


async def at_once(place: Place, first: str, second: str, random: Random) -> Outcome:
    scene = await place.scene()

    async def started(name: str, one: Engine) -> object:
        for _ in range(random.randrange(12)):
            await asyncio.sleep(0)
        return await taken(STEPS[name], place, one, scene)

    one, two = await asyncio.gather(started(first, place.engines[0]), started(second, place.engines[1]))
    return Outcome(one, two, await place.left(scene))


async def unexplained(
    place: Place, first: str, second: str, rounds: int
) -> list[tuple[Outcome, list[Outcome]]]:
    """Outcomes of the two at once that neither order brings, each beside what the orders bring."""
    back = await in_turn(place, second, first)
    orders = [await in_turn(place, first, second), back._replace(first=back.second, second=back.first)]
    random = Random(f"{first} {second}")
    found = [await at_once(place, first, second, random) for _ in range(rounds)]
    return [(outcome, orders) for outcome in found if outcome not in orders]


@pytest.fixture(scope="module")
def place(valkey_server: ValkeyServer) -> Iterator[Place]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, clock_of_the_test():
        place = Place(valkey_server, runner)
        yield place
        for one in place.engines:
            runner.run(one.close())


@pytest.mark.parametrize(("first", "second"), list(combinations_with_replacement(STEPS, 2)))
def test_two_at_once_are_what_one_after_the_other_brings(place: Place, first: str, second: str) -> None:
    assert place.run(unexplained(place, first, second, ROUNDS)) == []


# ---------------------------------------------------------------------- negative control


def without_versions() -> Callable[..., Any]:
    """Make a commit that waits for the other one and then writes, whatever the facts have become meanwhile."""
    committed = engine.store.store.Store.commit
    here, one_by_one = 0, asyncio.Lock()

    async def commit_anyway(self: Any, commit: Any, within_s: float | None = None) -> Any:
        nonlocal here
        here += 1
        for _ in range(500):  # there may be no other one
            if here > 1:
                break
            await asyncio.sleep(0)
        async with one_by_one:
            fresh = (await self.load(commit.tag)).facts
            changed = {name: getattr(commit, name) for name in commit.__struct_fields__}
            forced = type(commit)(**changed | {"facts_version": (fresh or bytes(8))[:8]})
            done = await committed(self, forced, within_s)
        here -= 1
        return done

    return commit_anyway


def test_a_store_that_does_not_compare_versions_is_found_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.store.store.Store, "commit", without_versions())
    assert place.run(unexplained(place, "confirms", "releases", 40)) != []


def test_a_customer_is_the_same_for_both_engines(place: Place) -> None:
    async def loaded() -> list[Held]:
        scene = await place.scene()
        return [await one.customers.load(scene.name) for one in place.engines]

    one, two = place.run(loaded())
    assert one.facts == two.facts
    assert one.facts.contacts
