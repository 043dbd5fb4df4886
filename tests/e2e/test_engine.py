"""The engine on a real store: all or nothing, once, and never one too many.

Several engines stand for several processes: each has a connection and queues of its own, and they share the
store alone.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import count, permutations
from random import Random
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from api.running.valkey import ValkeyServer
from engine.errors import Busy, Conflict, Invalid, NotFound
from engine.identities.linking import Linking
from engine.judging.answer import Json
from engine.judging.ids import make_uid, split_id
from engine.judging.ledger import find
from engine.judging.plan import compile_plan
from engine.judging.quotas import Quota, QuotaOp
from engine.runtime import Engine, open_engine
from engine.services.activation import NoPolicy, Plans
from engine.services.checking import Row
from engine.services.customers import version_bytes
from engine.services.idempotency import idempotency
from engine.services.requests import ContactRequest, DecideRequest
from engine.services.sending import item_of
from engine.store.store import POLICY, Commit, Store, as_bytes, as_int, as_list
from engine.workers.features import CHECKPOINT, STREAM, Worker
from engine.workers.folding import Entry
from features.codec import decode_state, encode_facts
from features.event import Event, format_time
from features.facts import Facts, Item
from features.fold import apply
from policies.loader import load_files
from tests.contract.shop import zone_at_noon

DAY_MS = 86_400_000
FILES = {
    # At noon, so that no calendar day ends while the tests run.
    "policy.yaml": f"policy: e2e\ntimezone: {zone_at_noon(datetime.now(UTC))}\ncurrency: GBP\n"
    "keep: {contacts: 60d, events: 60d, decisions: 30d}\n",
    "channels.yaml": """
channels:
  web:   {kind: inbound}
  email: {kind: outbound, consent: marketing_email}
  sms:   {kind: outbound}
  push:  {kind: outbound}
  call:  {kind: outbound, capacity: {max: 5, per: day}}
placements:
  home: {channel: web, slots: 1}
  text: {channel: sms, slots: 1}
  pop:  {channel: push, slots: 1}
  desk: {channel: call, slots: 1}
""",
    "offers.yaml": """
categories:
  promotion: {}
  service: {}
offers:
  - {id: boots, category: promotion, placements: [home, text, desk], value: 5}
  - {id: treat, category: service, placements: [pop], value: 5, budget: {max: 10.00, cost_per_accept: 3.00}}
""",
    "contact_policy.yaml": """
caps:
  - {name: sms-once,   max: 1, per: 24h, when: {channel: sms}}
  - {name: email-once, max: 1, per: 24h, when: {channel: email}}
  - {name: web-once,   max: 1, per: 24h, when: {channel: web}}
suppressions:
  - {name: sore, after: {event: complaint}, for: 30d, when: {category: promotion}}
""",
    "features.yaml": """
features:
  views_7d: {count: [page_view], within: 7d}
  spend:    {sum: amount, of: [purchase], within: 30d}
  seen:     {last: category, of: [page_view]}
  likes:    {top: category, of: [page_view], half_life: 14d, keep: 3}
  sessions: {distinct: session, of: [page_view], within: 30d}
""",
    "profile.yaml": "profile:\n  tier: {type: string, default: basic}\n",
}
OTHER = FILES | {"policy.yaml": FILES["policy.yaml"].replace("e2e", "other")}
PROMOTION = Item(None, "promotion")


class World:
    """One store and as many engines as a test asks for; `run` runs coroutines on their loop."""

    def __init__(self, server: ValkeyServer, runner: asyncio.Runner) -> None:
        self.run = runner.run
        self.url = f"unix://{server.socket_path}"
        self.engines: list[Engine] = []
        self.journal: dict[bytes, list[Any]] = {}
        self._numbers = count()
        self.one = self.open()
        self.activate(FILES)

    def open(self) -> Engine:
        engine = self.run(open_engine(self.url))
        self.engines.append(engine)
        return engine

    def activate(self, files: dict[str, str], engine: Engine | None = None) -> str:
        plan = compile_plan(load_files(files).policy)
        self.run((engine or self.one).plans.activate(plan))
        return plan.policy.version

    def together(self, *work: Any) -> list[Any]:
        async def gathered() -> list[Any]:
            return list(await asyncio.gather(*work))

        return self.run(gathered())

    def pass_a_millisecond(self) -> bool:
        """Wait for the store's next millisecond: what is made in one has no order."""
        first = self.run(self.one.store.clock())[0]
        while self.run(self.one.store.clock())[0] == first:
            pass
        return True

    def call(self, *command: Any) -> Any:
        async def called() -> Any:
            return await self.one.connection.call(*command)

        return self.run(called())

    def now(self) -> int:
        return self.run(self.one.store.clock())[0]

    def check(
        self, customer_id: str, channel: str = "email", *, take: bool = True, engine: Engine | None = None
    ) -> Json:
        return self.run(checked(engine or self.one, customer_id, channel, take=take))

    def decide(self, customer_id: str, placement: str = "home", engine: Engine | None = None) -> Json:
        return self.run(decided(engine or self.one, customer_id, placement))

    def event(self, customer_id: str, type_: str, *, ago_ms: int = 0, **more: Any) -> Event:
        now = self.now()
        fields = {"event_id": f"e-{next(self._numbers)}", **more}
        return Event(type=type_, customer_id=customer_id, occurred_at=now - ago_ms, received_at=now, **fields)

    def append(self, *events: Event) -> None:
        """Append to the journal; what it holds is noted, so that it can be read again from the beginning."""
        self.run(self.one.journal.append(events))
        for entry in as_list(self.call("XRANGE", STREAM, "-", "+")):
            entry_id, fields = as_list(entry)
            self.journal[as_bytes(entry_id) or b""] = as_list(fields)

    def fold(self, worker: Worker | None = None) -> int:
        """Fold all that waits; returns how many events there were."""
        worker, total = worker or self.one.worker, 0
        while (progress := self.run(worker.step())).last and (progress.events or progress.quarantined):
            total += progress.events
        return total

    def replay(self) -> int:
        """Fold the journal from its beginning, as a worker does that died before it moved its checkpoint."""
        self.call("DEL", CHECKPOINT, STREAM)
        for entry_id, fields in sorted(
            self.journal.items(), key=lambda entry: [int(part) for part in entry[0].split(b"-")]
        ):
            self.call("XADD", STREAM, entry_id, *fields)
        self.one.worker.last = "0-0"
        return self.fold()

    def customer(self, customer_id: str) -> Json:
        return self.run(self.one.people.read(customer_id))

    def feature(self, customer_id: str, name: str = "views_7d") -> object:
        return self.customer(customer_id)["features"][name]["value"]

    def facts(self, customer_id: str) -> Facts:
        return self.run(self.one.customers.load(customer_id)).facts

    def everything(self) -> dict[bytes, bytes]:
        """All keys of the store with all that they hold."""
        keys = sorted(as_bytes(key) or b"" for key in as_list(self.call("KEYS", "*")))
        return {key: as_bytes(self.call("DUMP", key)) or b"" for key in keys}

    def raw(self, customer_id: str) -> list[Any]:
        return as_list(self.call("HGETALL", f"{{{self.one.customers.tag(customer_id)}}}"))


async def checked(
    engine: Engine, customer_id: str, channel: str, *, take: bool = True, times: int = 1
) -> Json:
    rows = [Row(number, customer_id, channel, PROMOTION, None) for number in range(times)]
    return (await engine.checking.check(rows, take=take))[0]


async def decided(engine: Engine, customer_id: str, placement: str) -> Json:
    answer = await engine.deciding.decide(DecideRequest(customer_id=customer_id, placement=placement))
    found: Json = orjson.loads(answer.body)
    return found


@pytest.fixture
def world(
    store: object, valkey_server: ValkeyServer, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """An engine on an empty store. A busy machine must not turn a decision into a late one here."""
    monkeypatch.setattr("engine.services.deciding.WITHIN_S", 30.0)
    world = World(valkey_server, runner)
    yield world
    for engine in world.engines:
        runner.run(engine.close())


# ---------------------------------------------------------------------- the commit script

TAG = "t" * 16


def full_commit(world: World, **changed: Any) -> Commit:
    """A commit that writes everything that a commit can: facts, a decision, an answer, and two quotas."""
    now = world.now()
    quotas = (
        QuotaOp(Quota("budget:boots", 3, 6, "total"), "hold", "m-1", now + 60_000),
        QuotaOp(Quota("capacity:call", 1, 2, "2026-11-21"), "take", "m-1"),
    )
    fields: dict[str, Any] = {
        "tag": TAG,
        "facts_version": bytes(8),
        "policy_version": (as_bytes(world.call("GET", POLICY)) or b"").decode(),
        "deadline": now + 60_000,
        "facts": encode_facts(Facts(customer_id="c1", version=1)),
        "uid": make_uid(now, bytes),
        "record": b"record",
        "record_until": now + DAY_MS,
        "idempotency_key": "i:key",
        "answer": b"answer",
        "answer_ttl_ms": 60_000,
        "quotas": quotas,
    }
    return Commit(**fields | changed)


def test_a_commit_whose_conditions_all_hold_writes_all_of_it(world: World) -> None:
    before = world.everything()
    assert world.run(world.one.store.commit(full_commit(world))).code == "done"
    written = {key.decode().split(":d:")[0] for key in world.everything().keys() - before.keys()}
    assert written == {f"{{{TAG}}}", "i:key", "q:budget:boots:h", "q:capacity:call:s"}
    assert world.call("HGET", "q:capacity:call:s", "2026-11-21") == b"1"
    assert world.call("ZCARD", "q:budget:boots:h") == 1
    assert world.call("GET", "i:key") == b"answer"
    assert len(as_list(world.call("KEYS", f"{{{TAG}}}:d:*"))) == 1


def spend(world: World, quota: str) -> None:
    if quota == "budget":
        world.call("ZADD", "q:budget:boots:h", world.now() + 60_000, "other")
        world.call("HSET", "q:budget:boots:s", "total", 1)
    else:
        world.call("HSET", "q:capacity:call:s", "2026-11-21", 2)


@pytest.mark.parametrize(
    ("condition", "changed", "code"),
    [
        ("the facts are those that were judged", {"facts_version": (1).to_bytes(8, "big")}, "stale"),
        ("the policy is still the active one", {"policy_version": "sha256:old"}, "policy"),
        ("the yes still holds", {"deadline": 1}, "late"),
        ("the key has no answer yet", {}, "answered"),
        ("the budget suffices", {}, "quota"),
        ("the capacity suffices", {}, "quota"),
    ],
)
def test_a_commit_of_which_one_condition_fails_writes_nothing(
    world: World, condition: str, changed: dict[str, Any], code: str
) -> None:
    if "answer" in condition:
        world.call("SET", "i:key", "first answer")
    if code == "quota":
        spend(world, "budget" if "budget" in condition else "capacity")
    before = world.everything()
    done = world.run(world.one.store.commit(full_commit(world, **changed)))
    assert done.code == code
    assert world.everything() == before
    if code == "quota":
        assert done.quota == (0 if "budget" in condition else 1)
    if code == "answered":
        assert done.answer == b"first answer"


def test_a_commit_on_facts_that_have_changed_brings_the_fresh_ones(world: World) -> None:
    fresh = encode_facts(Facts(customer_id="c1", version=7))
    world.call("HSET", f"{{{TAG}}}", "f", fresh)
    done = world.run(world.one.store.commit(full_commit(world)))
    assert (done.code, done.facts) == ("stale", fresh)
    assert world.run(world.one.store.commit(full_commit(world, facts_version=fresh[:8]))).code == "done"


def test_two_takings_of_one_quota_in_one_commit_are_added_up(world: World) -> None:
    quota = Quota("capacity:call", 1, 2, "2026-11-21")
    takings = tuple(QuotaOp(quota, "hold", f"m-{n}", world.now() + 60_000) for n in range(3))
    before = world.everything()
    assert world.run(world.one.store.commit(full_commit(world, quotas=takings))).code == "quota"
    assert world.everything() == before
    assert world.run(world.one.store.commit(full_commit(world, quotas=takings[:2]))).code == "done"


def test_a_hold_ends_by_itself_and_frees_its_room(world: World) -> None:
    quota = Quota("capacity:call", 1, 1, "2026-11-21")
    world.call("ZADD", "q:capacity:call:h", world.now(), "ended")
    hold = (QuotaOp(quota, "hold", "m-1", world.now() + 60_000),)
    assert world.run(world.one.store.commit(full_commit(world, quotas=hold))).code == "done"
    assert world.call("ZRANGE", "q:capacity:call:h", 0, -1) == [b"m-1"]


# ---------------------------------------------------------------------- never one too many


def test_fifty_checks_at_once_never_break_a_cap_of_one(world: World) -> None:
    engines = [world.one, *(world.open() for _ in range(4))]
    results = world.together(*(checked(engines[n % 5], "c1", "sms") for n in range(50)))
    assert sum(result["allowed"] for result in results) == 1
    assert {stop["rule"] for result in results if not result["allowed"] for stop in result["reasons"]} == {
        "sms-once"
    }
    assert len(world.facts("c1").contacts) == 1


@pytest.mark.parametrize("placement", ["text", "home"])
def test_fifty_decisions_at_once_never_break_a_cap_of_one(world: World, placement: str) -> None:
    engines = [world.one, *(world.open() for _ in range(4))]
    answers = world.together(*(decided(engines[n % 5], "c1", placement) for n in range(50)))
    assert sum(answer["action"] == "offer" for answer in answers) == 1
    assert {answer["reason"] for answer in answers} == {None, "contact_policy"}
    assert len(world.facts("c1").contacts) == 1


def test_checks_decisions_and_reports_at_once_leave_at_most_one_of_ours(world: World) -> None:
    engines = [world.one, *(world.open() for _ in range(4))]
    work: list[Any] = []
    for number in range(24):
        engine = engines[number % 5]
        work += [checked(engine, "c1", "sms"), decided(engine, "c1", "text")]
    results = world.together(*work)
    assert sum(result.get("allowed") is True or result.get("action") == "offer" for result in results) == 1


def test_rows_of_one_customer_in_one_call_count_one_after_the_other(world: World) -> None:
    rows = [Row(number, "c1", "sms", PROMOTION, None) for number in range(3)]
    for take in (False, True):
        results = world.run(world.one.checking.check(rows, take=take))
        assert [result["allowed"] for result in results] == [True, False, False]
    assert len(world.facts("c1").contacts) == 1


def test_rows_of_one_customer_share_what_is_left_of_a_capacity(world: World) -> None:
    for number in range(4):
        assert world.check(f"other-{number}", "call")["allowed"]
    rows = [Row(number, "c1", "call", PROMOTION, None) for number in range(3)]
    results = world.run(world.one.checking.check(rows, take=True))
    assert [result["allowed"] for result in results] == [True, False, False]
    assert as_int(world.call("ZCARD", "q:capacity:call:h")) == 5


def test_a_capacity_is_never_oversold(world: World) -> None:
    engines = [world.one, *(world.open() for _ in range(4))]
    results = world.together(*(checked(engines[n % 5], f"c{n}", "call") for n in range(50)))
    allowed = [result for result in results if result["allowed"]]
    assert len(allowed) == 5
    assert {stop["rule"] for result in results if not result["allowed"] for stop in result["reasons"]} == {
        "capacity"
    }
    confirmed = world.together(*(engines[1].contacts.confirm(one["reservation_id"]) for one in allowed))
    assert len(confirmed) == 5
    assert world.decide("c99", "desk")["reason"] == "capacity"


def test_a_budget_is_never_oversold(world: World) -> None:
    engines = [world.one, *(world.open() for _ in range(4))]
    answers = world.together(*(decided(engines[n % 5], f"c{n}", "pop") for n in range(50)))
    assert sum(answer["action"] == "offer" for answer in answers) == 3
    assert {answer["reason"] for answer in answers} == {None, "budget"}


def test_what_was_released_may_be_taken_again(world: World) -> None:
    taken = [world.check(f"c{n}", "call") for n in range(5)]
    assert not world.check("c9", "call")["allowed"]
    world.run(world.one.contacts.release(taken[0]["reservation_id"]))
    assert world.check("c9", "call")["allowed"]
    assert not world.check("c10", "call")["allowed"]


def test_an_accept_spends_its_budget_once(world: World) -> None:
    answer = world.decide("c1", "pop")
    accept = world.event("c1", "accept", decision_id=answer["decision_id"])
    world.append(accept, accept)
    world.fold()
    assert world.call("HGETALL", "q:budget:treat:s") == [b"total", b"3000000"]
    assert world.call("ZCARD", "q:budget:treat:h") == 0
    world.replay()
    assert world.call("HGETALL", "q:budget:treat:s") == [b"total", b"3000000"]


# ---------------------------------------------------------------------- reserve, confirm, release


def test_a_contact_has_exactly_one_end(world: World) -> None:
    reserved = world.check("c1", "sms")["reservation_id"]
    contacts = world.one.contacts
    first = world.run(contacts.confirm(reserved))
    assert first.answer == {"reservation_id": reserved, "state": "confirmed", "contact_id": reserved}
    assert world.run(contacts.confirm(reserved)) == first
    with pytest.raises(Conflict):
        world.run(contacts.release(reserved))
    other = world.check("c2", "sms")["reservation_id"]
    assert world.run(contacts.release(other)) == world.run(contacts.release(other))
    with pytest.raises(Conflict) as refused:
        world.run(contacts.confirm(other))
    assert refused.value.state == "released"
    with pytest.raises(NotFound):
        world.run(contacts.confirm("x" * 28))


def test_confirms_and_releases_at_once_leave_one_end(world: World) -> None:
    engines = [world.one, *(world.open() for _ in range(4))]
    for number in range(5):
        reserved = world.check(f"c{number}", "sms")["reservation_id"]

        async def ended(engine: Engine, release: bool, reserved: str = reserved) -> str:
            try:
                if release:
                    return str((await engine.contacts.release(reserved))["state"])
                return str((await engine.contacts.confirm(reserved)).answer["state"])
            except Conflict as refused:
                return refused.state

        ends = world.together(*(ended(engines[n % 5], n % 2 == 0) for n in range(10)))
        assert len(set(ends)) == 1


def expire(world: World, customer_id: str) -> None:
    """Let a customer's reservations have expired a minute ago: their facts as they lie in the store."""
    facts = world.facts(customer_id)
    past = world.now() - 60_000
    ended = tuple(replace(one, at=past - 1, expires_at=past) for one in facts.contacts)
    tag = world.one.customers.tag(customer_id)
    blob = encode_facts(replace(facts, contacts=ended, version=facts.version + 1))
    world.run(world.one.store.commit(Commit(tag=tag, facts_version=version_bytes(facts), facts=blob)))


def test_a_late_confirm_is_judged_as_a_new_reservation(world: World) -> None:
    late = world.check("c1", "sms")["reservation_id"]
    expire(world, "c1")
    taken = world.check("c1", "sms")["reservation_id"]
    with pytest.raises(Conflict) as refused:
        world.run(world.one.contacts.confirm(late))
    assert [stop["rule"] for stop in refused.value.reasons] == ["sms-once"]  # type: ignore[attr-defined]
    world.run(world.one.contacts.release(taken))
    assert world.run(world.one.contacts.confirm(late)).answer["state"] == "confirmed"


def test_a_contact_from_outside_counts_once_and_says_what_it_broke(world: World) -> None:
    assert world.check("c1", "sms")["allowed"]
    request = ContactRequest(customer_id="c1", channel="sms", category="promotion", contact_id="theirs")
    first = world.run(world.one.contacts.record(request))
    assert (first.contact_id, first.rules) == ("theirs", ("sms-once",))
    assert world.run(world.one.contacts.record(request)) == first
    assert len(world.facts("c1").contacts) == 2


def test_a_report_of_long_ago_meets_the_contacts_of_its_own_time(world: World) -> None:
    reports = []
    for days in (20, 20):
        at = format_time(world.now() - days * DAY_MS)
        request = ContactRequest(customer_id="c1", channel="sms", category="promotion", occurred_at=at)
        reports.append(world.run(world.one.contacts.record(request)).rules)
    assert reports == [(), ("sms-once",)]


def test_a_retry_with_its_key_gets_the_first_answer_and_reserves_once(world: World) -> None:
    request = DecideRequest(customer_id="c1", placement="text")
    used = idempotency("decide", "caller", "k-1", b"body")
    engines = [world.one, world.open(), world.open()]
    answers = world.together(*(engines[n % 3].deciding.decide(request, used) for n in range(12)))
    assert len({answer.body for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert len(world.facts("c1").contacts) == 1


def test_an_impression_confirms_the_reservation_of_its_decision(world: World) -> None:
    answer = world.decide("c1", "home")
    assert answer["reservation"] is not None
    world.append(world.event("c1", "impression", decision_id=answer["decision_id"]))
    world.fold()
    assert [contact["state"] for contact in world.customer("c1")["contacts"]] == ["confirmed"]
    read = world.run(world.one.records.read(answer["decision_id"]))
    assert read["reservation"]["state"] == "confirmed"
    assert [outcome["type"] for outcome in read["outcomes"]] == ["impression"]


def test_an_impression_that_comes_after_a_merge_confirms_all_the_same(world: World) -> None:
    world.run(world.one.people.link("old", "cookie", "abc"))
    answer = world.decide("old", "home")
    world.run(world.one.people.link("new", "cookie", "abc"))
    world.append(world.event("old", "impression", decision_id=answer["decision_id"]))
    world.fold()
    assert [contact["state"] for contact in world.customer("new")["contacts"]] == ["confirmed"]


def test_time_never_runs_back_for_a_customer(world: World) -> None:
    facts = Facts(customer_id="c1", version=1, high_water=world.now() + 3_600_000)
    world.call("HSET", f"{{{world.one.customers.tag('c1')}}}", "f", encode_facts(facts))
    held = world.run(world.one.customers.load("c1"))
    assert held.now == facts.high_water


# ---------------------------------------------------------------------- events


def test_an_event_is_folded_once_however_often_the_journal_is_read(world: World) -> None:
    world.append(*(world.event("c1", "page_view", properties={"category": "boots"}) for _ in range(3)))
    world.append(world.event("c1", "complaint"))
    assert world.fold() == 4
    before = world.raw("c1")
    assert world.replay() == 4
    assert world.raw("c1") == before
    assert world.feature("c1") == 3
    assert len(world.facts("c1").marks) == 1


def test_one_event_id_counts_once_whoever_delivers_it_again(world: World) -> None:
    event = world.event("c1", "page_view")
    world.append(event, event)
    world.fold()
    world.append(event)
    world.fold()
    assert world.feature("c1") == 1


def mixed_events(world: World, customer_id: str) -> list[Event]:
    def one(number: int, type_: str, ago_ms: int, **properties: Any) -> Event:
        return world.event(
            customer_id, type_, ago_ms=ago_ms, event_id=f"mixed-{number}", properties=properties
        )

    return [
        one(1, "page_view", 5000, category="boots", session="s1"),
        one(2, "page_view", 4000, category="coats", session="s2"),
        one(3, "consent_changed", 3000, marketing_email="denied"),
        one(4, "consent_changed", 6000, marketing_email="granted"),
        one(5, "case_closed", 2000, case_id="k"),
        one(6, "case_opened", 7000, case_id="k"),
        one(7, "profile_updated", 1500, tier="gold"),
        one(8, "complaint", 1000),
    ]


def test_any_order_of_events_leads_to_the_same_customer(world: World) -> None:
    events = mixed_events(world, "")
    orders = list(permutations(events, 8))
    states = []
    for number, order in enumerate(Random(5).sample(orders, 8)):
        customer_id = f"c{number}"
        for start in range(0, 8, 3):
            world.append(*(with_customer(event, customer_id) for event in order[start : start + 3]))
            world.fold()
        facts = world.facts(customer_id)
        blob = world.run(world.one.customers.load(customer_id)).state
        assert blob is not None
        state, _ = decode_state(blob)
        states.append((facts.consent, facts.profile, facts.marks, facts.cases, facts.answers, state))
    assert states == [states[0]] * 8
    assert (states[0][0]["marketing_email"].value, world.facts("c0").open_cases()) == ("denied", 0)


def with_customer(event: Event, customer_id: str) -> Event:
    return replace(event, customer_id=customer_id)


def test_an_event_waiting_while_its_customer_is_merged_reaches_the_survivor_once(world: World) -> None:
    world.run(world.one.people.link("old", "cookie", "abc"))
    world.append(world.event("old", "page_view"))
    world.run(world.one.people.link("new", "cookie", "abc"))
    world.fold()
    assert world.feature("new") == world.feature("old") == 1
    world.replay()
    assert world.feature("new") == 1


def test_an_event_folded_before_the_merge_is_not_folded_again_after_it(world: World) -> None:
    world.run(world.one.people.link("old", "cookie", "abc"))
    world.append(world.event("old", "page_view"), world.event("new", "page_view"))
    world.fold()
    world.run(world.one.people.link("new", "cookie", "abc"))
    assert world.feature("new") == 2
    world.replay()
    assert world.feature("new") == 2


@pytest.mark.parametrize(("survivor", "merged"), [("one", "two"), ("two", "one")])
@pytest.mark.parametrize("whose", ["one", "two"])
def test_an_event_under_way_while_two_customers_merge_reaches_the_survivor_once(
    world: World, monkeypatch: pytest.MonkeyPatch, survivor: str, merged: str, whose: str
) -> None:
    world.run(world.one.people.link(merged, "cookie", "abc"))
    world.append(world.event(survivor, "page_view"), world.event(merged, "page_view"))
    world.fold()
    world.append(world.event(whose, "page_view"))
    other, save, merges = world.open(), Store.save_many, iter([1])

    async def save_after_a_merge(self: Store, *args: Any) -> Any:
        if self is world.one.store and next(merges, None):
            await other.people.link(survivor, "cookie", "abc")
        return await save(self, *args)

    monkeypatch.setattr(Store, "save_many", save_after_a_merge)
    world.fold()
    assert next(merges, None) is None
    assert world.feature(survivor) == world.feature(merged) == 3
    world.replay()
    assert world.feature(survivor) == 3


def test_a_merge_that_is_made_again_takes_the_features_in_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(world.one.people.link("old", "cookie", "abc"))
    world.append(*(world.event("old", "page_view") for _ in range(5)), world.event("new", "page_view"))
    world.fold()
    other, leave, races = world.open(), Linking._leave_pointer, iter([1])
    event = world.event("old", "page_view")

    async def leave_after_a_fold(self: Linking, *args: Any) -> Any:
        if next(races, None):
            await other.folding.fold([Entry("another worker's", (1, 0), event)])
        return await leave(self, *args)

    monkeypatch.setattr(Linking, "_leave_pointer", leave_after_a_fold)
    world.run(world.one.people.link("new", "cookie", "abc"))
    assert next(races, None) is None
    assert world.feature("new") == 7


class Gone(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("again", ["link", "event"])
@pytest.mark.parametrize("calls", [0, 1], ids=["before the survivor has them", "before they are deleted"])
def test_features_that_a_crash_left_with_the_pointer_are_moved_once(
    world: World, monkeypatch: pytest.MonkeyPatch, again: str, calls: int
) -> None:
    world.run(world.one.people.link("old", "cookie", "abc"))
    world.append(*(world.event("old", "page_view") for _ in range(5)), world.event("new", "page_view"))
    world.fold()
    connection = world.one.connection
    call = connection.call

    async def ends(*_: Any) -> None:
        raise Gone

    def ends_at_deletion(*command: Any, **more: Any) -> Any:
        return ends() if command[0] == "HDEL" else call(*command, **more)

    with monkeypatch.context() as patch:
        if calls:
            patch.setattr(connection, "call", ends_at_deletion)
        else:
            patch.setattr(Linking, "take_over", ends)
        with pytest.raises(Gone):
            world.run(world.one.people.link("new", "cookie", "abc"))
    if again == "link":
        world.run(world.one.people.link("new", "cookie", "abc"))
    else:
        world.append(world.event("old", "page_view"))
        world.fold()
    views = 6 if again == "link" else 7
    assert world.feature("new") == world.feature("old") == views
    world.run(world.one.people.link("new", "cookie", "abc"))
    assert world.feature("new") == views
    left = world.call("HMGET", "{" + world.one.customers.tag("old") + "}", "p", "e")
    assert left == [None, None]


def test_features_reach_the_last_of_a_chain_of_merges_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, alias in (("a", "x"), ("b", "y")):
        world.run(world.one.people.link(name, "cookie", alias))
        world.append(world.event(name, "page_view"))
    world.append(world.event("c", "page_view"))
    world.fold()

    async def ends(*_: Any) -> None:
        raise Gone

    for into, alias in (("b", "x"), ("c", "y")):
        with monkeypatch.context() as patch:
            patch.setattr(Linking, "take_over", ends)
            with pytest.raises(Gone):
                world.run(world.one.people.link(into, "cookie", alias))
    world.append(world.event("a", "page_view"), world.event("b", "page_view"))
    world.fold()
    assert world.feature("a") == world.feature("b") == world.feature("c") == 5


def test_an_event_that_comes_twice_in_a_batch_counts_once_even_when_its_id_is_forgotten(world: World) -> None:
    now = world.now()
    late = Event("late", "page_view", "c1", now - DAY_MS, now - 90 * DAY_MS)
    entries = [
        Entry("t:1", (1, 0), Event("first", "page_view", "c1", now, now)),
        Entry("t:1", (2, 0), late),
        Entry("t:1", (2, 0), late),
    ]
    world.run(world.one.folding.fold(entries))
    assert world.feature("c1") == 2
    world.run(world.one.folding.fold(entries))
    assert world.feature("c1") == 2


def test_what_cannot_be_applied_is_in_the_quarantine_before_the_rest_is_saved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ends(*_: Any) -> None:
        raise Gone

    world.append(world.event("c1", "page_view", ago_ms=61 * DAY_MS), world.event("c1", "page_view"))
    with monkeypatch.context() as patch:
        patch.setattr(Store, "save_many", ends)
        with pytest.raises(Gone):
            world.fold()
    assert len(world.run(world.one.journal.quarantined(10))) == 1
    world.fold()
    assert world.feature("c1") == 1


def test_an_event_that_is_too_old_goes_to_the_quarantine_and_changes_nothing(world: World) -> None:
    world.append(world.event("c1", "page_view", ago_ms=61 * DAY_MS), world.event("c1", "page_view"))
    world.fold()
    entries = world.run(world.one.journal.quarantined(10))
    assert [(len(entry.events), "older than keep.events" in entry.reason) for entry in entries] == [(1, True)]
    assert world.feature("c1") == 1


def test_what_cannot_be_read_waits_in_the_quarantine_and_the_rest_goes_on(world: World) -> None:
    world.call("XADD", STREAM, "*", "b", b"\xff no events")
    world.append(world.event("c1", "page_view"))
    world.fold()
    assert [entry.events for entry in world.run(world.one.journal.quarantined(10))] == [[]]
    assert world.feature("c1") == 1
    assert world.run(world.one.journal.requeue(10)) == (0, 1)


def test_what_is_sent_again_from_the_quarantine_is_judged_anew(world: World) -> None:
    world.append(world.event("c1", "page_view", ago_ms=61 * DAY_MS))
    world.fold()
    longer = FILES["policy.yaml"].replace("events: 60d", "events: 90d")
    world.activate(FILES | {"policy.yaml": longer})
    assert world.run(world.one.journal.requeue(10)) == (1, 0)
    world.fold()
    assert world.run(world.one.journal.quarantined(10)) == []
    assert world.customer("c1")["as_of"] is not None


def test_a_consent_event_holds_for_the_next_check_before_it_is_folded(world: World) -> None:
    world.append(world.event("c1", "consent_changed", properties={"marketing_email": "granted"}))
    reserved = world.check("c1", "email")
    assert reserved["allowed"]
    world.append(world.event("c1", "consent_changed", properties={"marketing_email": "denied"}))
    refused = world.check("c1", "email", take=False)
    assert "consent" in {stop["rule"] for stop in refused["reasons"]}
    assert refused["eligible_at"] is None
    with pytest.raises(Conflict) as stopped:
        world.run(world.one.contacts.confirm(reserved["reservation_id"]))
    assert [stop["rule"] for stop in stopped.value.reasons] == ["consent"]  # type: ignore[attr-defined]
    before = world.facts("c1").consent
    world.fold()
    assert world.facts("c1").consent == before


def test_an_unsubscribe_by_a_channel_denies_its_purpose_at_once(world: World) -> None:
    world.run(world.one.people.put_consent("c1", {"marketing_email": "granted"}))
    world.append(world.event("c1", "unsubscribe", channel="email"))
    assert not world.check("c1", "email")["allowed"]


def test_identities_of_an_event_link_to_its_customer(world: World) -> None:
    world.append(
        *world.run(world.one.journal.resolve([world.event("", "page_view", identities={"cookie": "x"})]))
    )
    world.fold()
    world.append(world.event("c1", "page_view", identities={"cookie": "x"}))
    world.fold()
    assert world.run(world.one.customers.resolve({"cookie": "x"})) == "c1"
    assert world.feature("c1") == 2


# ---------------------------------------------------------------------- policies


def test_an_activation_and_a_rollback_are_seen_by_another_process_at_once(world: World) -> None:
    other = world.open()
    first = world.decide("c1", "home", other)["policy_version"]
    second = world.activate(OTHER)
    assert first != second
    assert world.decide("c2", "home", other)["policy_version"] == second
    reserved = world.check("c3", "sms", engine=other)["reservation_id"]
    assert world.run(world.one.plans.rollback())[:2] == (first, second)
    assert world.run(other.contacts.confirm(reserved)).policy_version == first
    assert world.decide("c4", "home", other)["policy_version"] == first
    versions = [entry.policy_version for entry in world.run(other.plans.history())]
    assert versions == [first, second, first]


def test_what_a_process_knows_of_the_policy_is_checked_against_the_store(world: World) -> None:
    other = world.open()
    first = world.run(other.checking.active()).policy.version
    second = world.activate(OTHER)
    assert world.run(other.checking.plan()).policy.version == first
    assert world.run(other.checking.active()).policy.version == second


def test_a_decision_under_way_during_an_activation_is_made_by_the_new_policy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, switched = Store.commit, iter([1])
    plan = compile_plan(load_files(OTHER).policy)
    other = world.open()

    async def commit_after_an_activation(self: Store, *args: Any) -> Any:
        if next(switched, None):
            await other.plans.activate(plan)
        return await commit(self, *args)

    monkeypatch.setattr(Store, "commit", commit_after_an_activation)
    assert world.decide("c1", "text")["policy_version"] == plan.policy.version
    assert len(world.facts("c1").contacts) == 1


def test_activating_what_is_active_changes_nothing(world: World) -> None:
    before = world.everything()
    version = world.activate(FILES)
    assert world.everything() == before
    fresh = Plans(world.one.store)
    assert world.run(fresh.get(version)).policy.version == version
    with pytest.raises(NotFound):
        world.run(world.one.plans.rollback())
    with pytest.raises(NotFound):
        world.run(world.one.plans.get("sha256:never"))


# ---------------------------------------------------------------------- people


def test_caps_hold_over_the_union_of_merged_customers(world: World) -> None:
    world.run(world.one.people.link("old", "cookie", "abc"))
    reserved = world.check("old", "sms")["reservation_id"]
    world.run(world.one.people.link("new", "cookie", "abc"))
    assert not world.check("new", "sms")["allowed"]
    assert not world.check("old", "sms")["allowed"]
    assert world.run(world.one.contacts.confirm(reserved)).answer["state"] == "confirmed"
    assert world.customer("old")["customer_id"] == "new"


@pytest.mark.parametrize("ids", [("old", "new"), ("new", "old")])
def test_two_ids_of_one_person_in_a_call_are_counted_in_their_order(
    world: World, ids: tuple[str, str]
) -> None:
    world.run(world.one.people.link("old", "cookie", "abc"))
    world.run(world.one.people.link("new", "cookie", "abc"))
    rows = [Row(number, customer_id, "sms", PROMOTION, None) for number, customer_id in enumerate(ids)]
    answers = world.run(world.one.checking.check(rows, take=True))
    assert [(answer["customer_id"], answer["allowed"]) for answer in answers] == [
        (ids[0], True),
        (ids[1], False),
    ]


def test_an_unlink_frees_no_slot_on_either_side(world: World) -> None:
    world.run(world.one.people.link("c1", "cookie", "abc"))
    assert world.check("c1", "sms")["allowed"]
    world.run(world.one.people.unlink("c1", "cookie", "abc"))
    apart = world.run(world.one.customers.resolve({"cookie": "abc"}))
    assert apart != "c1"
    assert not world.check("c1", "sms")["allowed"]
    assert not world.check(apart, "sms")["allowed"]


def leaks(world: World, *secrets: bytes) -> list[tuple[bytes, bytes]]:
    """Every key that holds one of these texts, in its name or anywhere in its value."""
    found = []
    for raw in as_list(world.call("KEYS", "*")):
        key = as_bytes(raw) or b""
        kind = world.call("TYPE", key)
        read: dict[Any, Sequence[Any]] = {
            "hash": ("HGETALL", key),
            "string": ("GET", key),
            "list": ("LRANGE", key, 0, -1),
            "zset": ("ZRANGE", key, 0, -1),
            "stream": ("XRANGE", key, "-", "+"),
        }
        text = kind.decode() if isinstance(kind, bytes) else str(kind)
        value = repr(world.call(*read[text])).encode()
        found += [(key, secret) for secret in secrets if secret in key or secret in value]
    return found


def test_an_erased_customer_leaves_no_id_and_no_alias_behind(world: World) -> None:
    people = world.one.people
    world.run(people.link("old-PERSON", "cookie", "ALIAS-1"))
    world.run(people.link("PERSON-1", "loyalty_card", "ALIAS-2"))
    world.run(people.link("PERSON-1", "cookie", "ALIAS-1"))
    world.run(people.put_profile("PERSON-1", {"tier": "gold", "timezone": "Europe/London"}))
    world.run(people.put_consent("PERSON-1", {"marketing_email": "granted"}))
    world.append(world.event("PERSON-1", "page_view"), world.event("old-PERSON", "purchase"))
    world.fold()
    world.decide("PERSON-1", "text")
    world.check("PERSON-1", "email")
    world.append(
        world.event("PERSON-1", "page_view", ago_ms=61 * DAY_MS),
        world.event("c2", "page_view", ago_ms=61 * DAY_MS),
    )
    world.fold()
    assert leaks(world, b"PERSON", b"ALIAS")
    assert world.run(people.erase("PERSON-1"))["receipt"]
    assert leaks(world, b"PERSON", b"ALIAS") == []
    assert len(world.run(world.one.journal.quarantined(10))) == 1


def test_events_accepted_before_the_erasure_do_not_bring_the_person_back(world: World) -> None:
    world.append(world.event("PERSON-1", "page_view"))
    world.fold()
    world.append(world.event("PERSON-1", "page_view"), world.event("c2", "page_view"))
    world.run(world.one.people.erase("PERSON-1"))
    world.replay()
    assert leaks(world, b"PERSON") == []
    with pytest.raises(NotFound):
        world.customer("PERSON-1")
    assert world.feature("c2") == 1


def test_an_erased_person_is_not_contacted_until_a_consent_is_granted_anew(world: World) -> None:
    world.run(world.one.people.put_consent("c1", {"marketing_email": "granted"}))
    world.run(world.one.people.erase("c1"))
    with pytest.raises(NotFound):
        world.customer("c1")
    refused = world.check("c1", "sms")
    assert [stop["rule"] for stop in refused["reasons"]] == ["erased"]
    assert world.decide("c1", "text")["reason"] == "suppressed"
    world.run(world.one.people.put_consent("c1", {"marketing_email": "granted"}))
    assert world.check("c1", "email")["allowed"]
    assert world.check("c1", "sms")["allowed"]


def test_decisions_are_read_back_newest_first_as_they_were_made(world: World) -> None:
    answers = [world.decide("c1", "home") for _ in range(3) if world.pass_a_millisecond()]
    read = world.run(world.one.records.latest("c1", 2))["decisions"]
    assert [one["decision_id"] for one in read] == [answer["decision_id"] for answer in answers[:0:-1]]
    assert [one["reason"] for one in read] == ["contact_policy", "contact_policy"]
    place = split_id(answers[0]["decision_id"])
    assert place is not None
    assert find(world.facts("c1"), place[1]) is not None
    with pytest.raises(NotFound):
        world.run(world.one.records.read("x" * 28))


# ---------------------------------------------------------------------- what is refused, and what is told


def test_many_confirms_answer_one_by_one(world: World) -> None:
    good, released, late = (world.check(f"c{n}", "sms")["reservation_id"] for n in range(3))
    world.run(world.one.contacts.release(released))
    expire(world, "c2")
    assert world.check("c2", "sms")["allowed"]
    results = world.run(world.one.contacts.confirm_many([good, "x" * 28, released, late, good]))
    assert [result["state"] for result in results] == [
        "confirmed",
        "unknown",
        "released",
        "refused",
        "confirmed",
    ]
    assert [stop["rule"] for stop in results[3]["reasons"]] == ["sms-once"]


def report(**changed: Any) -> ContactRequest:
    return ContactRequest(**{"customer_id": "c1", "channel": "sms", "category": "promotion", **changed})


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"channel": "pigeon"}, "/channel"),
        ({"category": "gossip"}, "/category"),
        ({"offer": "nothing"}, "/offer"),
        ({"offer": "treat"}, "/category"),
        ({"occurred_at": "yesterday"}, "/occurred_at"),
        ({"occurred_at": "2100-01-01T00:00:00Z"}, "/occurred_at"),
        ({"occurred_at": "2020-01-01T00:00:00Z"}, "/occurred_at"),
    ],
)
def test_a_report_that_cannot_be_is_refused_and_changes_nothing(
    world: World, changed: dict[str, Any], pointer: str
) -> None:
    before = world.everything()
    with pytest.raises(Invalid) as refused:
        world.run(world.one.contacts.record(report(**changed)))
    assert refused.value.pointer == pointer
    assert world.everything() == before


@pytest.mark.parametrize(
    ("category", "offer", "item"),
    [("service", None, Item(None, "service")), (None, "boots", Item("boots", "promotion"))],
)
def test_the_category_of_a_check_may_come_from_its_offer(
    world: World, category: str | None, offer: str | None, item: Item
) -> None:
    assert item_of(world.run(world.one.checking.active()), category, offer) == item


@pytest.mark.parametrize("offer", [None, "nothing"])
def test_a_check_must_be_about_something(world: World, offer: str | None) -> None:
    with pytest.raises(Invalid):
        item_of(world.run(world.one.checking.active()), None, offer)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"tier": 5}, "/tier"),
        ({"tier": ["gold"]}, "/tier"),
        ({"unknown/field": "x"}, "/unknown~1field"),
        ({"timezone": "Europe/Nowhere"}, "/timezone"),
        ({"timezone": 7}, "/timezone"),
    ],
)
def test_a_profile_takes_what_it_declares(world: World, fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        world.run(world.one.people.put_profile("c1", fields))
    assert refused.value.pointer == pointer


def test_null_gives_a_profile_field_its_default_again(world: World) -> None:
    people = world.one.people
    view = world.run(people.put_profile("c1", {"tier": "gold", "timezone": "Asia/Tokyo"}))
    assert (view["profile"], view["timezone"]) == ({"tier": "gold"}, "Asia/Tokyo")
    view = world.run(people.put_profile("c1", {"tier": None, "timezone": None}))
    assert (view["profile"], view["timezone"]) == ({"tier": "basic"}, None)


def test_values_of_each_declared_type_are_taken_as_they_are(world: World) -> None:
    fields = "profile:\n  vip: {type: bool}\n  many: {type: list}\n  size: {type: number}\n"
    world.activate(FILES | {"profile.yaml": fields})
    given = {"vip": True, "many": ["a", "b"], "size": 2}
    view = world.run(world.one.people.put_profile("c1", given))
    assert {name: list(v) if isinstance(v, tuple) else v for name, v in view["profile"].items()} == given
    for wrong in ({"vip": 1}, {"many": ["a", 1]}, {"size": True}):
        with pytest.raises(Invalid):
            world.run(world.one.people.put_profile("c1", wrong))


def test_who_is_unknown_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        world.customer("nobody")
    with pytest.raises(NotFound):
        world.run(world.one.people.unlink("nobody", "cookie", "abc"))
    with pytest.raises(Invalid):
        world.run(world.one.people.link("c1", "customer_id", "c2"))


def test_an_alias_linked_twice_changes_nothing_for_its_customer(world: World) -> None:
    world.run(world.one.people.link("c1", "cookie", "abc"))
    assert world.check("c1", "sms")["allowed"]
    view = world.run(world.one.people.link("c1", "cookie", "abc"))
    assert view["aliases"] == [{"kind": "cookie", "value": "abc"}]
    assert len(view["contacts"]) == 1


def test_a_customer_is_found_under_every_id_of_a_chain_of_merges(world: World) -> None:
    people = world.one.people
    for number in range(4):
        world.run(people.link(f"c{number}", "cookie", f"k{number}"))
        if number:
            world.run(people.link(f"c{number}", "cookie", f"k{number - 1}"))
    assert {world.customer(f"c{number}")["customer_id"] for number in range(4)} == {"c3"}
    found = world.run(world.one.customers.resolve({"cookie": "k0"}))
    assert world.customer(found)["customer_id"] == "c3"


def test_merges_that_go_in_a_circle_are_told_and_not_followed_for_ever(world: World) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        facts = Facts(customer_id=one, version=1, moved_to=other)
        world.call("HSET", f"{{{world.one.customers.tag(one)}}}", "f", encode_facts(facts))
    with pytest.raises(Busy):
        world.customer("a")


def test_raw_facts_of_all_customers_are_there_for_an_audit(world: World) -> None:
    world.check("c1", "sms")
    world.append(world.event("c2", "complaint", offer="boots"))
    world.fold()

    async def audited() -> list[Json]:
        return [facts async for some in world.one.people.all_facts() for facts in some]

    found = {facts["customer"]: facts for facts in world.run(audited())}
    assert set(found) == {world.one.customers.tag("c1"), world.one.customers.tag("c2")}
    assert len(found[world.one.customers.tag("c1")]["contacts"]) == 1
    assert found[world.one.customers.tag("c2")]["events"][0]["offers"] == ["boots"]


def test_an_identity_stands_in_for_its_customer(world: World) -> None:
    request = DecideRequest(identities={"cookie": "abc"}, placement="home")
    answer = orjson.loads(world.run(world.one.deciding.decide(request)).body)
    assert answer["customer_id"].startswith("anon-")
    again = world.run(world.one.records.latest(answer["customer_id"], 5))["decisions"]
    assert [one["decision_id"] for one in again] == [answer["decision_id"]]


def test_a_preview_reserves_counts_and_logs_nothing(world: World) -> None:
    before = world.everything()
    request = DecideRequest(customer_id="c1", placement="text", preview=True, explain=True)
    answer = orjson.loads(world.run(world.one.deciding.decide(request)).body)
    assert (answer["action"], answer["reservation"]) == ("offer", None)
    assert [step["verdict"] for step in answer["trace"]] == ["chosen"]
    assert world.everything() == before


def test_a_placement_that_is_not_there_is_refused(world: World) -> None:
    with pytest.raises(Invalid) as refused:
        world.decide("c1", "nowhere")
    assert refused.value.pointer == "/placement"


def test_a_key_with_another_body_is_refused(world: World) -> None:
    request = DecideRequest(customer_id="c1", placement="text")
    world.run(world.one.deciding.decide(request, idempotency("decide", "caller", "k", b"one")))
    again = world.run(world.one.deciding.decide(request, idempotency("decide", "caller", "k", b"one")))
    assert again.replayed
    with pytest.raises(Invalid):
        world.run(world.one.deciding.decide(request, idempotency("decide", "caller", "k", b"two")))


def test_a_request_that_gives_up_waiting_lets_the_next_one_through(world: World) -> None:
    customers = world.one.customers

    async def given_up() -> str:
        async def waiting() -> None:
            async with customers.lane("tag"):
                pass

        async with customers.lane("tag"):
            first, second = asyncio.create_task(waiting()), asyncio.create_task(waiting())
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        await second
        async with asyncio.timeout(5):
            async with customers.lane("tag"):
                return "through"

    assert world.run(given_up()) == "through"


def test_without_a_policy_nothing_is_decided(world: World) -> None:
    world.call("DEL", POLICY)
    fresh = world.open()
    with pytest.raises(NoPolicy):
        world.decide("c1", "home", fresh)


def test_a_policy_no_longer_knowing_a_channel_refuses_its_confirms_and_takes_its_releases(
    world: World,
) -> None:
    one, two = world.check("c1", "sms")["reservation_id"], world.check("c2", "sms")["reservation_id"]
    channels = (
        FILES["channels.yaml"]
        .replace("  sms:   {kind: outbound}\n", "")
        .replace("  text: {channel: sms, slots: 1}\n", "  text: {channel: push, slots: 1}\n")
    )
    rules = "caps:\n  - {name: any, max: 1, per: 24h}\n"
    world.activate(FILES | {"channels.yaml": channels, "contact_policy.yaml": rules})
    with pytest.raises(Conflict):
        world.run(world.one.contacts.confirm(one))
    assert world.run(world.one.contacts.release(two))["state"] == "released"


def test_a_feature_added_to_a_live_policy_says_from_when_on_it_is_whole(world: World) -> None:
    world.append(world.event("c1", "page_view"))
    world.fold()
    features = FILES["features.yaml"] + "  clicks: {count: [click], within: 7d}\n"
    world.activate(FILES | {"features.yaml": features})
    world.append(world.event("c1", "click"))
    world.fold()
    view = world.customer("c1")["features"]
    assert (view["views_7d"]["value"], view["clicks"]["value"]) == (1, 1)
    assert "whole from" in view["clicks"]["definition"]
    assert "whole from" not in view["views_7d"]["definition"]


# ---------------------------------------------------------------------- the worker, when things go wrong


def test_an_event_that_cannot_be_applied_is_set_aside_and_the_rest_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(catalogue: Any, customer: Any, event: Event, **more: Any) -> Any:
        if event.event_id == "bad":
            raise ZeroDivisionError("no")
        return apply(catalogue, customer, event, **more)

    monkeypatch.setattr("engine.workers.folding.apply", failing)
    world.append(
        world.event("c1", "page_view"),
        world.event("c1", "page_view", event_id="bad"),
        world.event("c1", "page_view"),
    )
    world.fold()
    assert world.feature("c1") == 2
    [entry] = world.run(world.one.journal.quarantined(10))
    assert entry.reason == "could not be applied: ZeroDivisionError: no"
    assert [event.event_id for event in entry.events] == ["bad"]


def test_a_damaged_customer_holds_up_no_other_and_the_events_wait_in_the_quarantine(world: World) -> None:
    world.append(world.event("whole", "page_view"), world.event("damaged", "page_view"))
    world.fold()
    key = "{" + world.one.customers.tag("damaged") + "}"
    good = as_bytes(world.call("HGET", key, "p"))
    assert good is not None
    world.call("HSET", key, "p", good[:-1] + bytes([good[-1] ^ 1]))
    world.append(world.event("damaged", "page_view"), world.event("whole", "page_view"))
    world.fold()
    assert world.feature("whole") == 2
    [entry] = world.run(world.one.journal.quarantined(10))
    assert "are damaged" in entry.reason
    world.call("HSET", key, "p", good)
    assert world.run(world.one.journal.requeue(10)) == (1, 0)
    world.fold()
    assert world.feature("damaged") == 2


def test_a_link_that_cannot_be_made_is_set_aside_and_the_event_counts(world: World) -> None:
    world.append(world.event("c1", "page_view", identities={"customer_id": "c2"}))
    world.fold()
    [entry] = world.run(world.one.journal.quarantined(10))
    assert entry.reason.startswith("could not be linked")
    assert world.feature("c1") == 1


def test_a_worker_folds_until_it_is_told_to_stop(world: World) -> None:
    async def folded() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(world.one.worker.run(stop))
        now, _ = await world.one.store.clock()
        await world.one.journal.append([Event("e-1", "page_view", "c1", now, now)])

        async def waiting() -> None:
            while (await world.one.connection.call("GET", CHECKPOINT)) is None:
                pass

        await asyncio.wait_for(waiting(), 10)
        stop.set()
        await asyncio.wait_for(running, 10)

    world.run(folded())
    assert world.feature("c1") == 1
    assert world.call("XLEN", STREAM) == 0


def test_an_impression_after_the_reservation_ended_counts_and_says_what_it_broke(world: World) -> None:
    answer = world.decide("c1", "home")
    expire(world, "c1")
    second = world.decide("c1", "home")
    assert second["reservation"] is not None
    for one in (second, answer):
        world.append(world.event("c1", "impression", decision_id=one["decision_id"]))
        world.fold()
    contacts = world.facts("c1").contacts
    assert [contact.state for contact in contacts] == ["confirmed", "confirmed"]
    assert [contact.overrun for contact in contacts if contact.uid == answer["decision_id"][16:]] == [
        ("web-once",)
    ]


def test_an_impression_spends_the_capacity_of_its_channel(world: World) -> None:
    channels = FILES["channels.yaml"].replace(
        "web:   {kind: inbound}", "web:   {kind: inbound, capacity: {max: 2, per: day}}"
    )
    world.activate(FILES | {"channels.yaml": channels})
    answer = world.decide("c1", "home")
    assert world.call("ZCARD", "q:capacity:web:h") == 1
    world.append(world.event("c1", "impression", decision_id=answer["decision_id"]))
    world.fold()
    assert world.call("ZCARD", "q:capacity:web:h") == 0
    assert as_list(world.call("HGETALL", "q:capacity:web:s"))[1] == b"1"


def test_a_fold_that_meets_another_policy_is_done_again_by_that_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, switched = Store.save_many, iter([1])
    plan = compile_plan(load_files(OTHER).policy)
    other = world.open()

    async def save_after_an_activation(self: Store, *args: Any) -> Any:
        if next(switched, None):
            await other.plans.activate(plan)
        return await save(self, *args)

    monkeypatch.setattr(Store, "save_many", save_after_an_activation)
    world.append(world.event("c1", "page_view"))
    world.fold()
    assert world.feature("c1") == 1


def test_a_bulk_check_made_again_finds_the_reservations_that_it_made(world: World) -> None:
    rows = [Row(number, f"c{number}", "sms", PROMOTION, None) for number in range(3)]
    first = world.run(world.one.checking.check(rows, take=True, seed=b"key"))
    again = world.run(world.open().checking.check(rows, take=True, seed=b"key"))
    assert again == first
    assert all(result["allowed"] for result in first)
    other = [rows[0]._replace(channel="push"), *rows[1:]]
    told = world.run(world.one.checking.check(other, take=True, seed=b"key"))
    assert "another row" in told[0]["error"]
    assert told[1:] == first[1:]


def test_a_late_confirm_finds_the_capacity_taken(world: World) -> None:
    late = world.check("c0", "call")["reservation_id"]
    expire(world, "c0")
    world.call("DEL", "q:capacity:call:h")
    for number in range(1, 6):
        assert world.check(f"c{number}", "call")["allowed"]
    with pytest.raises(Conflict) as refused:
        world.run(world.one.contacts.confirm(late))
    assert [stop["rule"] for stop in refused.value.reasons] == ["capacity"]  # type: ignore[attr-defined]


def test_a_confirm_that_comes_to_the_store_after_its_end_finds_the_capacity_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was judged in time; meanwhile its place was free, and somebody else has it."""
    rows = [Row(0, "c0", "call", PROMOTION, 300)]
    (late,) = world.run(world.one.checking.check(rows, take=True))
    for number in range(1, 5):
        assert world.check(f"c{number}", "call")["allowed"]
    other, commit = world.open(), world.one.store.commit

    async def held_up(*args: Any) -> Any:
        monkeypatch.undo()
        while not (await checked(other, "c5", "call"))["allowed"]:
            pass
        return await commit(*args)

    monkeypatch.setattr(world.one.store, "commit", held_up)
    with pytest.raises(Conflict):
        world.run(world.one.contacts.confirm(late["reservation_id"]))
    assert as_int(world.call("ZCARD", "q:capacity:call:h")) == 5
    assert not as_list(world.call("HVALS", "q:capacity:call:s"))


def test_bulk_checks_of_the_same_people_at_once_take_each_of_them_once(world: World) -> None:
    rows = [Row(number, f"c{number % 300}", "sms", PROMOTION, None) for number in range(600)]
    other = world.open()
    asked = [engine.checking.check(rows, take=True) for engine in (world.one, world.one, other)]
    taken = [row["customer_id"] for answer in world.together(*asked) for row in answer if row["allowed"]]
    assert sorted(taken) == sorted(f"c{number}" for number in range(300))


def test_a_bulk_check_that_is_overtaken_judges_its_rows_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(number, f"c{number}", "sms", PROMOTION, None) for number in range(100)]
    other = world.open()
    commit_many = other.store.commit_many
    first: list[Json] = []

    async def overtaken(commits: Any) -> Any:
        first.extend(await world.one.checking.check(rows, take=True))
        return await commit_many(commits)

    monkeypatch.setattr(other.store, "commit_many", overtaken)
    second = world.run(other.checking.check(rows, take=True))
    assert all(row["allowed"] for row in first)
    assert [row["reasons"][0]["rule"] for row in second] == ["sms-once"] * 100
