"""What every customer should be after all that lies in the topic, and how the store differs from it.

The topic is read from its beginning, and each event counts once, by its id; one without an id is what it is by its
place. Who is one person follows from the identities that events name. Then, for each person:
- the pure fold over an empty customer, in the order of the ids, gives facts and the bytes of the feature state;
- the features are recomputed from the raw events as they read at one moment, without the engine's code.
Contacts, aliases and the moments of writing are no part of it: events do not make them.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from engine.judging.ledger import pruned
from engine.judging.plan import Plan, compile_plan
from engine.kafka.topics import EVENTS
from engine.store.connection import StoreConnection
from engine.store.quarantine import QUARANTINE
from engine.store.store import as_bytes, as_int, as_list
from features.codec import VERSION_BYTES, decode_facts, decode_state, encode_state
from features.event import Event, decode_event, decode_events, encode_event, parse_event
from features.facts import Facts
from features.fold import apply
from features.identity import derived_customer_id, tag
from features.state import Customer
from loadtests.once import hands
from loadtests.recompute import Occurrence, differences
from policies.loader import load_dir

FIELDS: Final = ("consent", "profile", "cases", "answers", "marks", "moved_to", "erased_at")
_AT_ONCE: Final = 200


class Verdict(NamedTuple):
    """What the comparison found."""

    events: int
    """Different ones in the topic."""
    records: int
    doubles: int
    """Events that lie in the topic once more."""
    people: int
    merged: int
    """People who were several customers at first."""
    missing: int
    """Events that were acknowledged and are not in the topic."""
    quarantined: int
    differences: list[str]
    """A sentence for each person whose state is not what it should be."""

    @property
    def right(self) -> bool:
        """Say whether everything is as it should be."""
        return not (self.missing or self.quarantined or self.differences)


class Topic:
    """What lies in the topic, by person."""

    def __init__(self, alias_ids: Mapping[str, str], epoch: int) -> None:
        """`alias_ids` are the customer ids that cookies are known by before they are linked."""
        self.records = 0
        self.numbers: set[int] = set()
        self._cookies = alias_ids
        self._epoch = epoch
        self._parents: dict[str, str] = {}
        self._events: dict[str, list[bytes]] = {}

    def take(self, partition: int, offset: int, at: int, value: bytes) -> None:
        """Take a record in."""
        self.records += 1
        if value[:1] not in (b"{", b"["):
            for event in decode_events(value):
                self._add(event)
            return
        said = json.loads(value)
        for index, one in enumerate(said if isinstance(said, list) else [said]):
            made_id = f"{EVENTS}:{partition}.{self._epoch}@{offset}:{index}"
            self._add(parse_event(one, now=at, made_id=made_id))

    def people(self) -> Iterator[tuple[list[str], list[Event], int]]:
        """Yield each person's names, different events, and how many came more than once."""
        names: dict[str, list[str]] = {}
        for name in self._parents:
            names.setdefault(self._root(name), []).append(name)
        for known in names.values():
            events: dict[str, Event] = {}
            total = 0
            for name in known:
                for blob in self._events.pop(name, ()):
                    event = decode_event(blob)
                    events[event.event_id] = event
                    total += 1
            yield known, [events[event_id] for event_id in sorted(events)], total - len(events)

    def _add(self, event: Event) -> None:
        number = event.properties.get("number")
        self.numbers.add(int(event.event_id[1:]) if number is None else number)
        aliases = [f"{kind}={value}" for kind, value in event.identities.items()]
        cookie = self._cookies.get(event.customer_id)
        name = event.customer_id or aliases[0]
        if cookie is not None:
            name = f"cookie={cookie}"
        self._parents.setdefault(name, name)
        for alias in aliases:
            self._parents.setdefault(alias, alias)
            self._parents[self._root(alias)] = self._root(name)
        self._events.setdefault(name, []).append(encode_event(event))

    def _root(self, name: str) -> str:
        while (parent := self._parents[name]) != name:
            name = parent
        return name


async def read_topic(bootstrap: str, topic: Topic) -> None:
    """Take in every record that is there now."""
    async with hands.consumer(bootstrap) as client:
        end = await client.end_offsets(client.assignment())
        await client.seek_to_beginning()
        waiting = {place for place, offset in end.items() if offset}
        while waiting:
            for place, records in (await client.getmany(timeout_ms=500)).items():
                for record in records:
                    if record.offset < end[place]:
                        topic.take(place.partition, record.offset, record.timestamp, record.value)
            for place in list(waiting):
                if await client.position(place) >= end[place]:
                    waiting.discard(place)


class Judge:
    """Compares people with what the store holds of them."""

    def __init__(self, policies: Path, secret: bytes, connection: StoreConnection) -> None:
        """Read the policy set that is active."""
        self._plan: Plan = compile_plan(load_dir(policies).policy)
        self._secret = secret
        self._store = connection

    async def differences(self, people: Sequence[tuple[list[str], list[Event]]]) -> list[str]:
        """Return a sentence for each of some people whose state is not what their events make."""
        ids = [name for names, _ in people for name in self._ids(names)]
        commands = [("HMGET", f"{{{tag(self._secret, name)}}}", "f", "p") for name in ids]
        replies = iter(await self._store.pipeline(commands))
        wrong = []
        for names, events in people:
            alive = []
            for name in self._ids(names):
                facts, state = (as_bytes(value) for value in as_list(next(replies)))
                known = decode_facts(facts) if facts is not None else None
                if state is not None or (known is not None and not known.moved_to):
                    alive.append((name, known or Facts(customer_id=name), state or b""))
            if len(alive) != 1:
                found = " and ".join(name for name, *_ in alive) or "nobody"
                wrong.append(f"{' = '.join(sorted(names))} should be one customer, and is {found}")
            elif said := self._compared(*alive[0], events):
                wrong.append(f"{alive[0][0]}: {'; '.join(said)}")
        return wrong

    def _ids(self, names: Sequence[str]) -> list[str]:
        """Return the customer ids of names; a card alone is nobody."""
        known = [tuple(name.partition("=")[::2]) for name in names]
        return [
            derived_customer_id(self._secret, kind, value) if kind == "cookie" else kind
            for kind, value in known
            if kind == "cookie" or not value
        ]

    def _compared(self, name: str, facts: Facts, state: bytes, events: Sequence[Event]) -> list[str]:
        """Return what differs, a phrase each."""
        plan, now = self._plan, time.time_ns() // 1_000_000
        keep = plan.policy.keep
        right = Customer(Facts(customer_id=name))
        for event in events:
            right = apply(
                plan.catalogue,
                right,
                event,
                mark_types=plan.mark_types,
                keep_ms=keep.events_ms,
                question_fields=plan.question_fields,
                channel_purposes=plan.channel_purposes,
            )
        wrong = [
            f"{field} is {found!r}, not {wanted!r}"
            for field in FIELDS
            if (found := getattr(pruned(facts, now, keep.contacts_ms, keep.events_ms), field))
            != (wanted := getattr(pruned(right.facts, now, keep.contacts_ms, keep.events_ms), field))
        ]
        if not state:
            return [*wrong, "there are no features"]
        got = plan.catalogue.read(decode_state(state)[0], None, now)
        raw = [
            Occurrence(event.type, event.occurred_at, event.properties, event.event_id) for event in events
        ]
        wrong += differences(plan.policy.features, raw, got, now)
        if state[VERSION_BYTES:] != encode_state(right.state, 0)[VERSION_BYTES:]:
            wrong.append("the bytes of the features are not those of the fold")
        return wrong


async def judge(
    *, store_url: str, bootstrap: str, policies: Path, alias_ids: Mapping[str, str], sent: bytearray
) -> Verdict:
    """Read the topic and compare everybody; `sent` has a 1 for the number of each event that was acknowledged."""
    epoch, _ = await hands.folded(store_url)
    topic = Topic(alias_ids, epoch)
    await read_topic(bootstrap, topic)
    events = again = people = merged = 0
    wrong: list[str] = []
    async with hands.store(store_url) as connection:
        one = Judge(policies, await hands.secret(store_url), connection)
        waiting: list[tuple[list[str], list[Event]]] = []
        for names, own, repeated in topic.people():
            events, again, people = events + len(own), again + repeated, people + 1
            merged += len(names) > 1
            waiting.append((names, own))
            if len(waiting) == _AT_ONCE:
                wrong += await one.differences(waiting)
                waiting = []
        if waiting:
            wrong += await one.differences(waiting)
        quarantined = as_int(await connection.call("XLEN", QUARANTINE))
    missing = sum(sent) - sum(sent[number] for number in topic.numbers)
    return Verdict(events, topic.records, again, people, merged, missing, quarantined, wrong)
