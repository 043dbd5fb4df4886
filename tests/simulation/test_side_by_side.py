"""Three tell the same story: the oracle, the pure governor, and the engine on a real store.

A machine draws what happens to a few customers, reservations, confirms, reports, merges, new policies, and a clock
that goes forward and back, and compares what all three say. Hypothesis plays short stories and tells the shortest one
on which they differ; long walks of the same steps meet more at once. TACT_MACHINES says how many of either, TACT_SEED
which.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from random import Random
from typing import Any, ClassVar

import pytest
import uvloop
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

import engine.identities.linking
import engine.identities.unlinking
import engine.judging.governor
import engine.services.checking
import engine.services.contacts
import features.fold
from api.running.valkey import ValkeyServer
from engine.errors import Conflict, NotFound
from engine.judging.governor import Standing
from engine.judging.plan import compile_plan
from engine.judging.rules import Rules
from engine.runtime import Engine
from engine.services.checking import Row
from engine.services.requests import ContactRequest
from features.event import Event, format_time, parse_time
from features.facts import Contact, Dated, Item, Mark
from policies.model import Cap, Field, PolicySet, When
from tests.property.oracle import Situation, Verdict, judge, windows_broken
from tests.property.situations import (
    COMMON_ITEMS,
    DAY_MS,
    EVENTS,
    HOUR_MS,
    ITEMS,
    MINUTE_MS,
    NIGHTS,
    some_now,
    some_past,
    some_policy,
    some_suppression,
)
from tests.simulation.clock import CLOCK, clock_of_the_test, open_engine_with_clock
from tests.simulation.people import Person, changed, without

MACHINES = int(os.environ.get("TACT_MACHINES", "25"))
SEED = int(os.environ.get("TACT_SEED", "0")) or Random().randrange(1, 1 << 32)
STEPS = 50
NAMES = ("ann", "bob", "cid")
COOKIES = ("k1", "k2", "k3")
ENDED_KEPT_MS = 29 * DAY_MS

names = st.sampled_from(NAMES)
channels = st.sampled_from(("email", "email", "sms", "sms", "web"))
items = st.sampled_from((*COMMON_ITEMS, *COMMON_ITEMS, *ITEMS))


def biting_policy(random: Random) -> PolicySet:
    """Draw a policy whose rules often look at what happens here, and which lets many hours of the day be."""
    policy = some_policy(random)
    broad = When(kind=frozenset({"outbound"}))
    rules: list[Any] = [
        replace(one, when=broad) if random.random() < 0.6 else one
        for one in (*policy.caps, *(policy.suppressions or (some_suppression(random, 0),)))
    ]
    return replace(
        policy,
        caps=tuple(one for one in rules if isinstance(one, Cap)),
        suppressions=tuple(one for one in rules if not isinstance(one, Cap)),
        channels={
            name: replace(channel, quiet=None) if random.random() < 0.6 else channel
            for name, channel in policy.channels.items()
        },
        profile={"vip": Field("vip", "bool")},
    )


class Stage:
    """The store and the engine that all stories are played on."""

    def __init__(self, server: ValkeyServer, runner: asyncio.Runner) -> None:
        self.run = runner.run
        self.engine: Engine = self.run(open_engine_with_clock(f"unix://{server.socket_path}"))
        self.stories = count()

    def call(self, *command: Any) -> Any:
        async def called() -> Any:
            return await self.engine.connection.call(*command)

        return self.run(called())


class Story(RuleBasedStateMachine):
    """What happens to three people with three cookies."""

    stage: ClassVar[Stage]
    happened: ClassVar[Counter[str]] = Counter()

    @initialize(drawn=st.integers(0, 1 << 32))
    def begin(self, drawn: int) -> None:
        random = Random(drawn)
        self.random = random
        self.stage.call("FLUSHALL")
        self.stage.engine.worker.last = "0-0"
        story = next(self.stage.stories)
        self.policies = [
            replace(some_policy(random), version=f"sha256:{story}-{n}", profile={"vip": Field("vip", "bool")})
            for n in range(3)
        ]
        self.policy: PolicySet = self.policies[0]
        self.compiled: dict[str, Rules] = {}
        zone = random.choice((*NIGHTS, *self.policy.timezones))
        self.set_clock(some_now(random, zone))
        self.activate(self.policy)
        self.whose = {name: Person() for name in NAMES}
        self.owner: dict[str, str] = {}
        self.home: dict[str, str] = {}
        self.edges: list[int] = []
        self.numbers = count()
        for name in NAMES:
            self.put_consent(name, "granted")

    # ------------------------------------------------------------------ the world outside

    def set_clock(self, at: int) -> None:
        self.clock = at
        self.stage.call("SET", CLOCK, at)

    def activate(self, policy: PolicySet) -> None:
        self.stage.run(self.stage.engine.plans.activate(compile_plan(policy)))
        self.policy = policy

    @rule(step=st.sampled_from((1, 999, MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS, 8 * DAY_MS)))
    def time_passes(self, step: int) -> None:
        self.set_clock(self.clock + step)

    @precondition(lambda self: self.edges)
    @rule(which=st.integers(0, 7), aside=st.sampled_from((-1, 0, 0, 1)))
    def time_comes_to_an_edge(self, which: int, aside: int) -> None:
        ahead = [at for at in self.edges[-8:] if self.clock < at < self.clock + 40 * DAY_MS]
        if ahead:
            self.set_clock(ahead[which % len(ahead)] + aside)

    @rule(step=st.sampled_from((1, HOUR_MS, 3 * DAY_MS)))
    def the_clock_is_set_back(self, step: int) -> None:
        self.set_clock(self.clock - step)

    @rule(number=st.integers(0, 2))
    def another_policy_is_activated(self, number: int) -> None:
        self.activate(self.policies[number])

    # ------------------------------------------------------------------ three answers

    def situation(self, person: Person, channel: str, item: Item) -> Situation:
        vip, zone = person.said("vip"), person.said("timezone")
        return Situation(
            self.policy,
            person.facts(),
            person.now(self.clock),
            self.policy.channels[channel],
            item,
            {one.name: vip if isinstance(vip, bool) else None for one in self.policy.suppressions},
            (zone,) if isinstance(zone, str) else self.policy.timezones,
        )

    def judged(self, situation: Situation, *, sending_only: bool = False) -> Verdict:
        """What the oracle says, once the pure governor has said the same."""
        verdict = judge(situation)
        self.happened.update(f"stopped by {name}" for name in verdict.rules)
        if sending_only:
            caps = {cap.name for cap in self.policy.caps}
            verdict = verdict._replace(rules={n: at for n, at in verdict.rules.items() if n not in caps})
        rules = self.compiled.setdefault(self.policy.version, Rules(self.policy))
        values = {"profile.vip": next(iter(situation.whiles.values()), None)}
        standing = Standing(rules, situation.facts, values, situation.now)
        found = standing.refusals(situation.channel, situation.item, sending_only=sending_only)
        assert {stop.rule: stop.eligible_at for stop in found} == verdict.rules
        assert standing.eligible_at(situation.channel, situation.item) == verdict.eligible_at
        self.edges += [at for at in (*verdict.rules.values(), verdict.eligible_at) if at is not None]
        return verdict

    @staticmethod
    def times(reasons: list[dict[str, Any]]) -> dict[str, int | None]:
        return {stop["rule"]: moment(stop["eligible_at"]) for stop in reasons}

    # ------------------------------------------------------------------ contacts

    @rule(name=names, channel=channels, item=items, ttl=st.sampled_from((1000, 30 * MINUTE_MS, DAY_MS)))
    def reserve(self, name: str, channel: str, item: Item, ttl: int) -> None:
        self.check(name, channel, item, ttl, take=True)

    @rule(name=names, item=items, ttl=st.sampled_from((MINUTE_MS, DAY_MS)))
    def reserve_an_email(self, name: str, item: Item, ttl: int) -> None:
        self.check(name, "email", item, ttl, take=True)

    @rule(name=names, channel=channels, item=items)
    def ask(self, name: str, channel: str, item: Item) -> None:
        self.check(name, channel, item, MINUTE_MS, take=False)

    @precondition(lambda self: self.home)
    @rule(late=st.booleans())
    def confirm_the_latest(self, late: bool) -> None:
        uid = list(self.home)[-1]
        contact = self.whose[self.home[uid]].contacts.get(uid)
        if late and contact is not None and contact.state == "reserved":
            self.set_clock(max(self.clock, contact.expires_at))
        self.end(-1, confirms=True)

    @rule(name=names, item=items, aside=st.sampled_from((-1, 0)))
    def ask_when_it_was_said_to_be_allowed(self, name: str, item: Item, aside: int) -> None:
        at = self.judged(self.situation(self.whose[name], "email", item)).eligible_at
        if at is not None and self.clock < at < self.clock + 40 * DAY_MS:
            self.set_clock(at + aside)
        self.check(name, "email", item, HOUR_MS, take=True)

    def check(self, name: str, channel: str, item: Item, ttl: int, *, take: bool) -> None:
        person = self.whose[name]
        situation = self.situation(person, channel, item)
        verdict = self.judged(situation)
        row = Row(0, name, channel, item, ttl)
        (answer,) = self.stage.run(self.stage.engine.checking.check([row], take=take))
        assert answer["allowed"] is (not verdict.rules)
        self.happened["allowed" if answer["allowed"] else "refused"] += 1
        self.happened["asked with the clock set back"] += person.high_water > self.clock
        if verdict.rules:
            assert self.times(answer["reasons"]) == verdict.rules
            assert moment(answer["eligible_at"]) == verdict.eligible_at
        counts = situation.channel.kind == "outbound" or any(
            channel in cap.when.channel or "inbound" in cap.when.kind for cap in self.policy.caps
        )
        assert ("reservation_id" in answer) is (take and counts and not verdict.rules)
        if "reservation_id" in answer:
            uid, now = answer["reservation_id"], situation.now
            assert moment(answer["expires_at"]) == now + ttl
            person.contacts[uid] = Contact(uid, now, channel, (item,), "reserved", now + ttl)
            person.wrote(now)
            # An id leads to the customer under whose tag it was made: to a survivor, where the one asked for is merged.
            tag = self.stage.engine.customers.tag
            self.home[uid] = next(who for who in self.whose if uid.startswith(tag(who)))
            self.edges.append(now + ttl)

    @precondition(lambda self: self.home)
    @rule(which=st.integers(0, 9), confirms=st.sampled_from((True, True, False)))
    def end(self, which: int, confirms: bool) -> None:
        latest = list(self.home)[-10:]
        uid = latest[which % len(latest)]
        person = self.whose[self.home[uid]]
        contact, now = person.contacts.get(uid), person.now(self.clock)
        contacts = self.stage.engine.contacts
        if contact is not None and max(contact.at, contact.expires_at) < now - ENDED_KEPT_MS:
            return  # long-ended ones are forgotten at some later write
        wanted = "confirmed" if confirms else "released"

        def ended() -> None:
            self.stage.run(contacts.confirm(uid) if confirms else contacts.release(uid))

        if contact is None:
            with pytest.raises(NotFound):
                ended()
        elif contact.state not in {"reserved", wanted}:
            with pytest.raises(Conflict) as refused:
                ended()
            assert refused.value.state == contact.state
            self.happened["another end"] += 1
        elif contact.state == wanted or not confirms:
            ended()
            if contact.state == "reserved":
                person.contacts[uid] = changed(contact, state="released", at=now, expires_at=0)
                person.wrote(now)
                self.happened["released"] += 1
        else:
            self.confirm(person, contact)

    def confirm(self, person: Person, contact: Contact) -> None:
        situation = self.situation(person, contact.channel, contact.items[0])
        situation = situation._replace(facts=without(situation.facts, contact.uid))
        late = situation.now >= contact.expires_at
        verdict = self.judged(situation, sending_only=not late)
        work = self.stage.engine.contacts.confirm(contact.uid)
        if verdict.rules:
            with pytest.raises(Conflict) as refused:
                self.stage.run(work)
            assert self.times(refused.value.reasons) == verdict.rules  # type: ignore[arg-type]
            assert moment(refused.value.eligible_at) == verdict.eligible_at
            self.happened["confirm refused late" if late else "confirm refused in time"] += 1
        else:
            assert self.stage.run(work).answer["state"] == "confirmed"
            confirmed = changed(contact, state="confirmed", at=situation.now, expires_at=0)
            person.contacts[contact.uid] = confirmed
            person.wrote(situation.now)
            self.happened["confirmed late" if late else "confirmed in time"] += 1

    @rule(name=names, channel=channels, item=items, named=st.booleans(), drawn=st.integers(0, 1 << 20))
    def record(self, name: str, channel: str, item: Item, named: bool, drawn: int) -> None:
        person = self.whose[name]
        situation = self.situation(person, channel, item)
        at = some_past(Random(drawn), self.policy, situation.zones[0], situation.now)
        uid = f"x-{drawn % 3}" if named else None
        request = ContactRequest(
            customer_id=name,
            channel=channel,
            category=item.category,
            offer=item.offer,
            occurred_at=format_time(at),
            contact_id=uid,
        )
        recorded = self.stage.run(self.stage.engine.contacts.record(request))
        if uid in person.contacts:
            assert recorded.contact_id == uid
            return
        obeys = self.policy.categories[item.category].obeys_caps
        one_more = Contact("", at, channel, (item,))
        broken = [cap.name for cap in self.policy.caps if obeys and windows_broken(situation, cap, one_more)]
        assert [rule for rule in recorded.rules if rule.startswith("cap")] == broken
        self.happened["overrun" if broken else "recorded"] += 1
        uid = recorded.contact_id
        person.contacts[uid] = Contact(uid, at, channel, (item,))
        person.wrote(situation.now)

    # ------------------------------------------------------------------ what is known

    @rule(name=names, said=st.sampled_from(("granted", "granted", "denied")))
    def put_consent(self, name: str, said: str) -> None:
        person = self.whose[name]
        now, before = person.now(self.clock), person.consent.get("marketing")
        at = max(now, person.erased_at + 1, before.at + 1 if before is not None else 0)
        self.stage.run(self.stage.engine.people.put_consent(name, {"marketing": said}))
        person.consent["marketing"] = Dated(said, at)
        person.erased_at = 0 if said == "granted" else person.erased_at
        person.wrote(now)

    @rule(
        name=names,
        fields=st.one_of(
            st.fixed_dictionaries({"timezone": st.sampled_from((None, *NIGHTS))}),
            st.fixed_dictionaries({"vip": st.sampled_from((True, False, False, None))}),
        ),
    )
    def put_profile(self, name: str, fields: dict[str, Any]) -> None:
        person = self.whose[name]
        now = person.now(self.clock)
        self.stage.run(self.stage.engine.people.put_profile(name, fields))
        person.profile |= {key: Dated(value, now) for key, value in fields.items()}
        person.wrote(now)

    @rule(
        name=names,
        type_=st.sampled_from(EVENTS),
        offer=st.sampled_from((None, "boots", "socks")),
        ago=st.sampled_from((0, 1, HOUR_MS, DAY_MS)),
    )
    def an_event_comes(self, name: str, type_: str, offer: str | None, ago: int) -> None:
        person, number = self.whose[name], next(self.numbers)
        engine, at = self.stage.engine, self.clock - ago
        event = Event(f"e-{number}", type_, name, at, self.clock, offer=offer)
        self.stage.run(engine.journal.append([event]))
        self.stage.run(engine.worker.step())
        if self.clock > person.erased_at:
            person.marks.add(Mark(type_, at, (offer,) if offer is not None else (), number))
            person.wrote(person.now(self.clock))

    # ------------------------------------------------------------------ merge, unlink, erase

    @rule(name=names, cookie=st.sampled_from(COOKIES))
    def link(self, name: str, cookie: str) -> None:
        engine = self.stage.engine
        derived = engine.customers.derived_id("cookie", cookie)
        mine = self.whose[name]
        other = self.whose.setdefault(self.owner.get(cookie, derived), Person())
        now = max(mine.now(self.clock), other.now(self.clock))
        self.stage.run(engine.people.link(name, "cookie", cookie))
        if other is not mine or not self.linked(mine, cookie):
            mine.wrote(now)
        if other is not mine:
            self.whose = {who: mine if person is other else person for who, person in self.whose.items()}
            homes = [uid for uid, home in self.home.items() if self.whose[home] is mine]
            self.happened["merged"] += bool(mine.contacts and other.contacts)
            mine.take_in(other, homes)
        self.owner[cookie] = name

    def linked(self, person: Person, cookie: str) -> bool:
        return cookie in self.owner and self.whose[self.owner[cookie]] is person

    @rule(name=names, cookie=st.sampled_from(COOKIES))
    def unlink(self, name: str, cookie: str) -> None:
        engine, person = self.stage.engine, self.whose[name]
        if not self.linked(person, cookie):
            with pytest.raises(NotFound):
                self.stage.run(engine.people.unlink(name, "cookie", cookie))
            return
        now = person.now(self.clock)
        self.stage.run(engine.people.unlink(name, "cookie", cookie))
        person.wrote(now)
        apart = self.stage.run(engine.customers.resolve({"cookie": cookie}))
        assert apart not in self.whose
        self.owner[cookie] = apart
        self.whose[apart] = person.apart(now)
        live = any(one.state == "reserved" and now < one.expires_at for one in person.contacts.values())
        self.happened["unlinked with a live reservation" if live else "unlinked"] += 1

    @rule(cookie=st.sampled_from(COOKIES), channel=channels, item=items)
    def ask_by_the_cookie(self, cookie: str, channel: str, item: Item) -> None:
        engine = self.stage.engine
        name = self.owner.get(cookie, engine.customers.derived_id("cookie", cookie))
        found = self.stage.run(engine.customers.resolve({"cookie": cookie}))
        self.whose.setdefault(name, Person())
        assert self.whose[found] is self.whose[name]
        self.check(found, channel, item, DAY_MS, take=True)

    @rule(name=names, chance=st.integers(0, 3))
    def erase(self, name: str, chance: int) -> None:
        if chance:
            return
        person = self.whose[name]
        now = person.now(self.clock)
        self.stage.run(self.stage.engine.people.erase(name))
        gone = {who for who, one in self.whose.items() if one is person}
        for who in gone:
            stub = self.whose[who] = Person()
            stub.erased_at, stub.high_water = now, now
        self.owner = {cookie: who for cookie, who in self.owner.items() if who not in gone}


def moment(text: object) -> int | None:
    return parse_time(text) if isinstance(text, str) else None


@pytest.fixture(scope="module")
def stage(valkey_server: ValkeyServer) -> Iterator[Stage]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, clock_of_the_test():
        stage = Stage(valkey_server, runner)
        yield stage
        runner.run(stage.engine.close())


def walk(stage: Stage, number: int, steps: int = 120) -> None:
    """Take so many steps in one story; an AssertionError tells that the three disagree."""
    random = Random(number)
    Story.stage = stage
    story = Story()
    story.begin(drawn=number)
    pick = random.choice

    profiles = [{"timezone": zone} for zone in (None, *NIGHTS)] + [{"vip": True}, {"vip": False}] * 5

    def who() -> str:
        return pick(NAMES)

    def what() -> Item:
        return pick(COMMON_ITEMS)

    turns: list[tuple[int, Callable[[], object]]] = [
        (16, lambda: story.reserve(who(), pick(("email", "sms", "web")), what(), pick((1000, HOUR_MS, DAY_MS)))),
        (8, lambda: story.reserve_an_email(who(), pick(ITEMS), pick((MINUTE_MS, DAY_MS)))),
        (6, lambda: story.ask_when_it_was_said_to_be_allowed(who(), what(), pick((-1, 0)))),
        (5, lambda: story.confirm_the_latest(pick((False, False, True))) if story.home else None),
        (6, lambda: story.end(random.randrange(10), pick((True, True, False))) if story.home else None),
        (4, lambda: story.record(who(), pick(("email", "sms")), what(), pick((True, False)), random.randrange(99))),
        (3, lambda: story.put_consent(who(), pick(("granted", "granted", "granted", "denied")))),
        (2, lambda: story.put_profile(who(), pick(profiles))),
        (2, lambda: story.an_event_comes(who(), pick(EVENTS), pick((None, "boots")), pick((0, HOUR_MS)))),
        (3, lambda: story.link(who(), pick(COOKIES))),
        (3, lambda: story.unlink(who(), pick(COOKIES))),
        (3, lambda: story.ask_by_the_cookie(pick(COOKIES), "email", what())),
        (1, lambda: story.erase(who(), pick((0, 1)))),
        (3, lambda: story.time_passes(pick((1, MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS)))),
        (3, lambda: story.time_comes_to_an_edge(random.randrange(8), pick((-1, 0, 1))) if story.edges else None),
        (2, lambda: story.the_clock_is_set_back(pick((1, HOUR_MS, 3 * DAY_MS)))),
        (2, lambda: story.another_policy_is_activated(random.randrange(3))),
    ]  # fmt: skip
    for turn in random.choices([do for _, do in turns], [weight for weight, _ in turns], k=steps):
        turn()


def walks(stage: Stage, numbers: Iterable[int]) -> None:
    for number in numbers:
        try:
            walk(stage, number)
        except (Exception, pytest.fail.Exception) as error:
            raise AssertionError(f"they part on the walk of seed {number}") from error


def play(stage: Stage, stories: int, number: int) -> None:
    """Play stories drawn from a seed; an AssertionError tells the shortest one on which the three disagree."""

    @seed(number)
    class Played(Story):
        pass

    Played.stage = stage
    run_state_machine_as_test(
        Played,
        settings=settings(
            max_examples=stories,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


EVERYTHING = {
    *("allowed", "refused", "asked with the clock set back", "another end", "released"),
    *("confirmed in time", "confirmed late", "confirm refused in time", "confirm refused late"),
    *("recorded", "overrun", "merged", "unlinked", "unlinked with a live reservation"),
    *(f"stopped by {name}" for name in ("consent", "quiet_hours", "erased", "cap-0", "suppression-0")),
}


def test_oracle_governor_and_engine_agree_in_every_story(stage: Stage) -> None:
    print(f"TACT_SEED={SEED} TACT_MACHINES={MACHINES}")  # noqa: T201  # how to play it again
    play(stage, MACHINES, SEED)


def test_oracle_governor_and_engine_agree_all_the_way(stage: Stage) -> None:
    print(f"TACT_SEED={SEED} TACT_MACHINES={MACHINES}")  # noqa: T201  # how to walk it again
    Story.happened.clear()
    walks(stage, range(SEED, SEED + MACHINES))
    print(dict(sorted(Story.happened.items())))  # noqa: T201  # what was tried
    assert {name for name in EVERYTHING if not Story.happened[name]} == set()


# ---------------------------------------------------------------------- negative controls


def forgets_live_ones(counted: Callable[..., Any]) -> Callable[..., Any]:
    return lambda rules, contacts, *args, **kwargs: counted(
        rules, [one for one in contacts if one.state == "confirmed"], *args, **kwargs
    )


def goes_by_the_clock_alone(held_from: Callable[..., Any]) -> Callable[..., Any]:
    return lambda tag, name, loaded: held_from(tag, name, loaded)._replace(now=loaded.now)


def stands_in_its_own_way(standing: Callable[..., Any]) -> Callable[..., Any]:
    def counting_itself(*args: Any, excluding: str = "") -> Any:
        return standing(*args)

    return counting_itself


def judges_no_more(judge_confirm: Callable[..., Any]) -> Callable[..., Any]:
    def judged(self: Any, plan: Any, held: Any, contact: Contact, member: str) -> Any:
        contact = changed(contact, expires_at=held.now + 1)
        return judge_confirm(self, plan, held, contact, member)

    return judged


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (engine.judging.governor, "counted_times", forgets_live_ones),
        (engine.services.checking, "held_from", goes_by_the_clock_alone),
        (engine.services.contacts, "Standing", stands_in_its_own_way),
        (engine.services.contacts.Contacts, "_judge_confirm", judges_no_more),
        (engine.identities.linking, "united", lambda _: lambda one, two: tuple(one)),
        (engine.identities.unlinking, "presumed", lambda _: lambda contact: contact),
        (engine.identities.unlinking, "_copies", lambda _: lambda held, tag: ()),
        (features.fold, "_denied_first", lambda _: lambda one, two: one if one.at >= two.at else two),
    ],
)
def test_an_engine_without_one_of_its_checks_is_found_out(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, broken: Callable[..., Any]
) -> None:
    monkeypatch.setattr(where, name, broken(getattr(where, name)))
    with pytest.raises(AssertionError, match="they part"):
        walks(stage, range(60))
