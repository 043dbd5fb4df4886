"""People under the hammer: merged, taken apart and erased while they are contacted, and cut off half way.

Each engine stands for a process: they share the store alone. A crash is an error at the n-th call to the store,
for every n until there are no more calls; then the same request comes again by another engine.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any, NamedTuple

import pytest
import uvloop

import engine.identities.erasing
import engine.identities.linking
from api.running.valkey import ValkeyServer
from engine.errors import Busy, Conflict, NotFound
from engine.judging.ids import public_id
from engine.judging.plan import compile_plan
from engine.runtime import Engine
from engine.services.checking import Row
from engine.store.connection import StoreConnection
from engine.store.store import as_bytes, as_list
from features.facts import Contact, Item
from policies.loader import load_files
from tests.simulation.clock import CLOCK, clock_of_the_test, open_engine_with_clock

START = 1_795_000_000_000
HOUR_MS = 3_600_000
PROMOTION = Item(None, "promotion")
FILES = {
    "policy.yaml": "policy: people\ntimezone: UTC\ncurrency: GBP\n",
    "channels.yaml": "channels:\n  sms: {kind: outbound}\n  push: {kind: outbound, consent: ads}\n",
    "offers.yaml": "categories: {promotion: {}}\noffers: []\n",
    "contact_policy.yaml": "caps:\n  - {name: sms-cap, max: 6, per: 24h, when: {channel: sms}}\n"
    "  - {name: push-once, max: 1, per: 24h, when: {channel: push}}\n",
}


class Town:
    """The store, some engines and what a test needs to know of it."""

    def __init__(self, server: ValkeyServer, runner: asyncio.Runner) -> None:
        self.run = runner.run
        self.engines = [self.run(open_engine_with_clock(f"unix://{server.socket_path}")) for _ in range(4)]
        self.one = self.engines[0]
        self.run(self.begin())

    async def begin(self) -> None:
        await self.one.connection.call("FLUSHALL")
        await self.set_clock(START)
        plan = compile_plan(load_files(FILES).policy)
        for one in self.engines:
            await one.plans.activate(plan)

    async def set_clock(self, at: int) -> None:
        await self.one.connection.call("SET", CLOCK, at)

    async def contacts(self, name: str) -> dict[str, Contact]:
        held = await self.one.customers.load(name)
        found = {public_id(held.tag, one.uid): one for one in held.facts.contacts}
        assert len(found) == len(held.facts.contacts)
        return found

    async def everything(self) -> list[bytes]:
        """Every key with what it holds, as one text each."""
        found = []
        for key in as_list(await self.one.connection.call("KEYS", "*")):
            name = as_bytes(key) or b""
            kind = (
                as_bytes(await self.one.connection.call("TYPE", name))
                or str(await self.one.connection.call("TYPE", name)).encode()
            )
            read: dict[bytes, tuple[Any, ...]] = {
                b"hash": ("HGETALL", name),
                b"string": ("GET", name),
                b"list": ("LRANGE", name, 0, -1),
            }
            found.append(name + repr(await self.one.connection.call(*read[kind])).encode())
        return found


@pytest.fixture
def town(valkey_server: ValkeyServer) -> Iterator[Town]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, clock_of_the_test():
        town = Town(valkey_server, runner)
        yield town
        for one in town.engines:
            runner.run(one.close())


async def reserve(one: Engine, name: str, channel: str = "sms", ttl_ms: int = HOUR_MS) -> Any:
    return (await one.checking.check([Row(0, name, channel, PROMOTION, ttl_ms)], take=True))[0]


async def link(one: Engine, name: str, cookie: str) -> Any:
    return await one.people.link(name, "cookie", cookie)


# ---------------------------------------------------------------------- merging under the hammer


class Hammered(NamedTuple):
    """What was answered: each reservation's last end, and those that were granted after the merge was answered."""

    ends: dict[str, str]
    granted_after: list[str]


async def hammer(town: Town, names: tuple[str, ...], number: int, *, ends: bool) -> Hammered:
    """Reserve by all names with all engines while the second of them is merged into the first."""
    found = Hammered({}, [])
    merged = asyncio.Event()

    async def sender(which: int) -> None:
        random = Random(f"{number} {which}")
        one = town.engines[which % len(town.engines)]
        for _ in range(6):
            after = merged.is_set()
            answer = await reserve(one, random.choice(names))
            if not answer["allowed"]:
                continue
            uid = answer["reservation_id"]
            found.ends[uid] = "reserved"
            if after:
                found.granted_after.append(uid)
            if ends and random.random() < 0.8:
                sent = random.random() < 0.3
                await (one.contacts.confirm(uid) if sent else one.contacts.release(uid))
                found.ends[uid] = "confirmed" if sent else "released"

    async def merger() -> None:
        for _ in range(Random(number).randrange(30)):
            await asyncio.sleep(0)
        await link(town.engines[-1], names[0], f"k-{names[1]}")
        merged.set()

    await link(town.one, names[1], f"k-{names[1]}")
    await asyncio.gather(merger(), *(sender(which) for which in range(12)))
    return found


@pytest.mark.parametrize("ends", [False, True])
def test_a_merge_under_the_hammer_loses_and_doubles_nothing_and_its_caps_hold(town: Town, ends: bool) -> None:
    async def rounds() -> None:
        for number in range(6):
            names = (f"a{number}", f"b{number}")
            found = await hammer(town, names, number, ends=ends)
            contacts = await town.contacts(names[0])
            assert contacts == await town.contacts(names[1])
            assert {uid: one.state for uid, one in contacts.items()} == found.ends
            counting = [one for one in contacts.values() if one.state != "released"]
            assert len(counting) <= 12
            if found.granted_after and not ends:
                assert len(counting) <= 6
            assert (await reserve(town.one, names[1]))["allowed"] is (len(counting) < 6)

    town.run(rounds())


def test_a_merge_that_does_not_look_whether_anything_changed_is_found_out(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def blind(self: Any, gone: Any, survivor: Any) -> bool:
        for _ in range(3):
            fresh = await self.aliases.record(gone.facts.customer_id)
        return await leave_pointer(self, fresh, survivor)

    leave_pointer = engine.identities.linking.Linking._leave_pointer
    monkeypatch.setattr(engine.identities.linking.Linking, "_leave_pointer", blind)

    async def rounds() -> None:
        for number in range(6):
            found = await hammer(town, (f"a{number}", f"b{number}"), number, ends=True)
            contacts = await town.contacts(f"a{number}")
            assert {uid: one.state for uid, one in contacts.items()} == found.ends

    with pytest.raises((AssertionError, NotFound)):
        town.run(rounds())


def test_a_denial_on_either_side_holds_after_a_merge_that_it_races(town: Town) -> None:
    async def rounds() -> None:
        for number in range(10):
            name, other = f"a{number}", f"b{number}"
            await town.one.people.put_consent(name, {"ads": "granted"})
            await town.one.people.put_consent(other, {"ads": "granted"})
            await link(town.one, other, f"k{number}")
            await asyncio.gather(
                link(town.engines[1], name, f"k{number}"),
                town.engines[2].people.put_consent(other, {"ads": "denied"}),
            )
            for who in (name, other):
                assert [stop["rule"] for stop in (await reserve(town.one, who, "push"))["reasons"]] == [
                    "consent"
                ]

    town.run(rounds())


def test_merges_in_every_direction_at_once_end_as_one_customer_with_everything(town: Town) -> None:
    async def rounds() -> None:
        for number in range(6):
            names = [f"{letter}{number}" for letter in "abcd"]
            made = {}
            for name in names:
                await link(town.one, name, f"k-{name}")
                made[(await reserve(town.one, name))["reservation_id"]] = name
            pairs = [(names[at], names[(at + step) % 4]) for at in range(4) for step in (1, 2)]
            await asyncio.gather(
                *(link(town.engines[at % 4], one, f"k-{two}") for at, (one, two) in enumerate(pairs))
            )
            for name in names:
                assert (await town.contacts(name)).keys() == made.keys()
            survivors = {(await town.one.customers.load(name)).facts.customer_id for name in names}
            assert len(survivors) == 1

    town.run(rounds())


def test_one_new_cookie_linked_by_two_at_once_makes_them_one(town: Town) -> None:
    async def rounds() -> None:
        for number in range(10):
            names = (f"a{number}", f"b{number}")
            await asyncio.gather(
                *(link(town.engines[at], name, f"k{number}") for at, name in enumerate(names))
            )
            found = await town.one.customers.resolve({"cookie": f"k{number}"})
            loaded = {(await town.one.customers.load(name)).tag for name in (*names, found)}
            assert len(loaded) == 1

    town.run(rounds())


# ---------------------------------------------------------------------- unlinking


def test_an_unlink_under_the_hammer_copies_all_that_was_answered_before_it(town: Town) -> None:
    async def rounds() -> None:
        for number in range(10):
            name, cookie = f"a{number}", f"k{number}"
            await link(town.one, name, cookie)
            before: list[str] = []
            asked = asyncio.Event()

            async def sender(which: int, name: str, before: list[str], asked: asyncio.Event) -> None:
                answer = await reserve(town.engines[which % 4], name)
                if answer["allowed"] and not asked.is_set():
                    before.append(answer["reservation_id"])

            async def unlinker(name: str, cookie: str, asked: asyncio.Event) -> None:
                for _ in range(Random(name).randrange(30)):
                    await asyncio.sleep(0)
                asked.set()
                await town.engines[3].people.unlink(name, "cookie", cookie)

            senders = (sender(which, name, before, asked) for which in range(8))
            await asyncio.gather(unlinker(name, cookie, asked), *senders)
            apart = await town.one.customers.resolve({"cookie": cookie})
            assert (await town.one.customers.load(apart)).tag != (await town.one.customers.load(name)).tag
            assert set(before) <= (await town.contacts(name)).keys()
            assert set(before) <= (await town.contacts(apart)).keys()

    town.run(rounds())


def test_a_confirm_after_an_unlink_frees_no_slot_on_the_other_side(town: Town) -> None:
    """Sent half an hour after the unlink, it holds the other side for a day from its expiry, and no longer."""

    async def play() -> None:
        await town.one.people.put_consent("c1", {"ads": "granted"})
        await link(town.one, "c1", "k1")
        uid = (await reserve(town.one, "c1", "push"))["reservation_id"]
        await town.one.people.unlink("c1", "cookie", "k1")
        apart = await town.one.customers.resolve({"cookie": "k1"})
        await town.one.people.put_consent(apart, {"ads": "granted"})
        await town.set_clock(START + HOUR_MS // 2)
        await town.one.contacts.confirm(uid)
        free = START + HOUR_MS - 1 + 24 * HOUR_MS
        for at, allowed in ((START + 24 * HOUR_MS, False), (free - 1, False), (free, True)):
            await town.set_clock(at)
            assert (await reserve(town.one, apart, "push"))["allowed"] is allowed

    town.run(play())


def test_what_was_taken_apart_and_linked_again_counts_once(town: Town) -> None:
    async def play() -> None:
        await link(town.one, "c1", "k1")
        uids = {(await reserve(town.one, "c1"))["reservation_id"] for _ in range(2)}
        await town.one.people.unlink("c1", "cookie", "k1")
        await link(town.one, "c1", "k1")
        assert {uid: one.state for uid, one in (await town.contacts("c1")).items()} == dict.fromkeys(
            uids, "reserved"
        )

    town.run(play())


# ---------------------------------------------------------------------- cut off half way


class Crash(Exception):
    """The process died here."""


async def until_it_crashes_no_more(
    town: Town,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[int], Awaitable[None]],
    work: Callable[[Engine, int], Awaitable[object]],
    after: Callable[[int], Awaitable[None]],
) -> int:
    """Die at the n-th call to the store, do the same again with another engine, and look; for every n."""
    submit = StoreConnection._submit
    for number in range(200):
        await prepare(number)
        left, dying = number, town.engines[1]

        def counted(self: StoreConnection, *args: Any) -> Any:
            nonlocal left
            if self is dying.connection:  # noqa: B023  # used within this turn alone
                left -= 1
                if left < 0:
                    raise Crash
            return submit(self, *args)

        monkeypatch.setattr(StoreConnection, "_submit", counted)
        crashed = False
        try:
            await work(dying, number)
        except Crash:
            crashed = True
        monkeypatch.setattr(StoreConnection, "_submit", submit)
        if crashed:
            await work(town.engines[2], number)
        await after(number)
        if not crashed:
            return number
    raise AssertionError("it never came to its end")


def test_a_link_that_died_half_way_is_completed_by_the_next(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[int, set[str]] = {}

    async def prepare(number: int) -> None:
        await link(town.one, f"b{number}", f"k{number}")
        made[number] = {
            (await reserve(town.one, name))["reservation_id"]
            for name in (f"a{number}", f"b{number}", f"b{number}")
        }

    async def after(number: int) -> None:
        for name in (f"a{number}", f"b{number}", await town.one.customers.resolve({"cookie": f"k{number}"})):
            assert (await town.contacts(name)).keys() == made[number]
            assert (await town.one.customers.load(name)).facts.customer_id == f"a{number}"

    deaths = town.run(
        until_it_crashes_no_more(
            town, monkeypatch, prepare, lambda one, number: link(one, f"a{number}", f"k{number}"), after
        )
    )
    assert deaths >= 5


def test_an_unlink_that_died_half_way_is_completed_by_the_next(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[int, set[str]] = {}

    async def prepare(number: int) -> None:
        await link(town.one, f"a{number}", f"k{number}")
        made[number] = {(await reserve(town.one, f"a{number}"))["reservation_id"]}

    async def unlink(one: Engine, number: int) -> None:
        try:
            await one.people.unlink(f"a{number}", "cookie", f"k{number}")
        except NotFound:  # it died when all was done, or nearly
            assert await town.one.customers.resolve({"cookie": f"k{number}"}) != f"a{number}"

    async def after(number: int) -> None:
        apart = await town.one.customers.resolve({"cookie": f"k{number}"})
        held = await town.one.customers.load(f"a{number}")
        assert (await town.one.customers.load(apart)).tag != held.tag
        assert ("cookie", f"k{number}") not in held.facts.aliases
        for name in (f"a{number}", apart):
            assert (await town.contacts(name)).keys() == made[number]

    assert town.run(until_it_crashes_no_more(town, monkeypatch, prepare, unlink, after)) >= 5


def test_an_erasure_that_died_half_way_is_completed_by_the_next(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def prepare(number: int) -> None:
        await link(town.one, f"old-PERSON{number}", f"ALIAS{number}")
        await link(town.one, f"PERSON{number}", f"ALIAS{number}")
        await reserve(town.one, f"old-PERSON{number}")

    async def after(number: int) -> None:
        assert [text for text in await town.everything() if b"PERSON" in text or b"ALIAS" in text] == []
        for name in (f"PERSON{number}", f"old-PERSON{number}"):
            refused = await reserve(town.one, name)
            assert [stop["rule"] for stop in refused["reasons"]] == ["erased"]

    deaths = town.run(
        until_it_crashes_no_more(
            town, monkeypatch, prepare, lambda one, number: one.people.erase(f"PERSON{number}"), after
        )
    )
    assert deaths >= 5


def test_an_erasure_that_forgets_the_merged_ids_is_found_out(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.identities.erasing, "_merged", lambda held: [])

    async def play() -> None:
        await link(town.one, "old-PERSON", "k1")
        await link(town.one, "PERSON", "k1")
        await town.one.people.erase("PERSON")
        assert [text for text in await town.everything() if b"PERSON" in text] == []

    with pytest.raises(AssertionError):
        town.run(play())


def test_an_erasure_under_the_hammer_leaves_only_what_came_after_it(town: Town) -> None:
    async def rounds() -> None:
        for number in range(8):
            name = f"PERSON{number}"
            await link(town.one, name, f"ALIAS{number}")

            async def sender(which: int, name: str) -> None:
                answer = await reserve(town.engines[which % 4], name)
                assert answer["allowed"] or {stop["rule"] for stop in answer["reasons"]} <= {
                    "erased",
                    "sms-cap",
                }

            senders = (sender(which, name) for which in range(8))
            await asyncio.gather(town.engines[3].people.erase(name), *senders)
            assert await town.contacts(name) == {}
            assert [text for text in await town.everything() if b"PERSON" in text or b"ALIAS" in text] == []

    town.run(rounds())


def test_an_erasure_and_a_merge_at_once_leave_nothing_of_the_erased(town: Town) -> None:
    async def rounds() -> None:
        for number in range(12):
            await link(town.one, f"PERSON{number}", f"ALIAS{number}")
            uid = (await reserve(town.one, f"PERSON{number}"))["reservation_id"]
            await asyncio.gather(
                link(town.engines[1], f"other{number}", f"ALIAS{number}"),
                town.engines[2].people.erase(f"PERSON{number}"),
                return_exceptions=True,
            )
            assert uid not in await town.contacts(f"other{number}")
            with pytest.raises((NotFound, Conflict, Busy)):
                await town.one.contacts.confirm(uid)

    town.run(rounds())
