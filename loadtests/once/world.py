"""What happens to the customers of the suite, and in which records it is sent: a function of a seed and a time.

There are three sorts of customers:
- most have a past of 60 days, sent as packs, so that the ids of their older events are forgotten by the end;
- some have events of the last days only, sent as packs, as JSON of foreign producers and through the API;
- some are two at first, and one of their events says that they are one: by a loyalty card that both name, or by a
  cookie under which the second was anonymous. Positions say nothing of what came by the other id, so that only ids
  tell what is new: their events are of the last days too.

Events come again under their id up to a twentieth of the run later, and whole records do. They come in another order
than they happened. Every event names its number, in its id or, where a foreign producer gives none, in a property.
"""

import json
from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from random import Random
from typing import Any, Final, NamedTuple

from engine.kafka.packs import pack
from engine.kafka.topics import partition_of
from features.event import Event, encode_event, format_time
from features.identity import derived_customer_id, tag
from loadtests.once.shop import ANSWERS, CATEGORIES, OFFERS

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
PAST_DAYS: Final = 60
RECENT_DAYS: Final = 8
LATE_MAX_MS: Final = 9 * DAY_MS
AGAIN_EVENT: Final = 0.03
AGAIN_RECORD: Final = 0.02
PACK_MAX: Final = 60
FOREIGN_MAX: Final = 8
CALL_MAX: Final = 20
"""Events of one request to the API."""
NO_ID: Final = 0.2
CALL: Final = -1
"""The partition of what goes to the API."""

_WEIGHTS: Final[Mapping[str, int]] = {
    "page_view": 40,
    "add_to_cart": 5,
    "purchase": 8,
    "store_purchase": 5,
    "store_scan": 3,
    "email_delivered": 12,
    "email_open": 6,
    "complaint": 2,
    "reject": 3,
    "consent_changed": 3,
    "unsubscribe": 1,
    "profile_updated": 4,
    "answer": 3,
    "case_opened": 2,
    "case_closed": 2,
    "x_note": 1,
}


_STRICT: Final = frozenset({"consent_changed", "profile_updated"})
"""Types that have no room for a property of ours."""


class Sending(NamedTuple):
    """One record of the topic, or one request to the API."""

    partition: int
    body: bytes
    numbers: tuple[int, ...]
    """Of the events in it."""
    has_ids: bool = True
    """Whether it is a record that may come again: whoever wrote it gave each event an id."""
    again: bool = False


class Who(NamedTuple):
    """A customer as events name it: by id, or by a cookie alone."""

    customer_id: str
    cookie: str = ""


class World:
    """All events of one run."""

    def __init__(
        self, events: int, customers: int, seed: int, *, secret: bytes, partitions: int, now: int
    ) -> None:
        """`secret` is the installation's, `now` the time at which the past ends (ms)."""
        self.events = events
        self.customers = customers
        self._secret = secret
        self._partitions = partitions
        self._now = now
        self._rng = Random(seed)
        self._links = self._planned()
        self._packs: dict[int, list[tuple[int, bytes]]] = {}
        self._foreign: list[tuple[int, dict[str, Any]]] = []
        self._calls: list[tuple[int, dict[str, Any]]] = []
        self._later: list[tuple[int, int, Sending]] = []
        """What is sent again, by the number of the event that it comes before."""
        self._made = 0

    def alias_ids(self) -> dict[str, str]:
        """Return the ids that cookies are known by before they are linked, and the cookies."""
        cookies = [f"k-{number}" for number in range(7, self.customers, 10)]
        return {derived_customer_id(self._secret, "cookie", cookie): cookie for cookie in cookies}

    def sendings(self) -> Iterator[Sending]:
        """Yield all that is sent, in order; once."""
        for number in range(self.events):
            while self._later and self._later[0][0] <= number:
                yield heappop(self._later)[2]
            for sending in self._sendings(number):
                yield sending
                if sending.has_ids and self._rng.random() < AGAIN_RECORD:
                    self._send_later(number, sending)
        for partition, waiting in self._packs.items():
            yield _packed(partition, waiting)
        for partition, said in ((self._anywhere(), self._foreign), (CALL, self._calls)):
            if said:
                yield _as_array(partition, said)
        for _, _, sending in sorted(self._later):
            yield sending

    def _sendings(self, number: int) -> Iterator[Sending]:
        """Make an event, and yield what is full with it."""
        rng = self._rng
        who, event = self._event(number)
        match self._way(who):
            case "pack":
                partition = partition_of(tag(self._secret, event.customer_id), self._partitions)
                waiting = self._packs.setdefault(partition, [])
                waiting.append((number, encode_event(event)))
                if rng.random() < AGAIN_EVENT:
                    self._send_later(number, _packed(partition, waiting[-1:]))
                if len(waiting) >= rng.randint(1, PACK_MAX):
                    yield _packed(partition, self._packs.pop(partition))
            case "json":
                said = _as_json(who, event)
                if event.type not in _STRICT and rng.random() < NO_ID:
                    del said["event_id"]
                    said["properties"] = {**said["properties"], "number": number}
                self._foreign.append((number, said))
                if len(self._foreign) >= rng.randint(1, FOREIGN_MAX):
                    yield _as_array(self._anywhere(), self._foreign)
                    self._foreign = []
            case _:
                self._calls.append((number, _as_json(who, event)))
                if len(self._calls) == CALL_MAX:
                    yield _as_array(CALL, self._calls)
                    self._calls = []

    def _anywhere(self) -> int:
        """Choose a partition as foreign producers do, who key their records by whatever they like."""
        return self._rng.randrange(self._partitions)

    def _send_later(self, number: int, sending: Sending) -> None:
        self._made += 1
        heappush(self._later, (number + self._lag(), self._made, sending._replace(again=True)))

    def _lag(self) -> int:
        return self._rng.randint(1, max(2, self.events // 20))

    def _planned(self) -> dict[int, tuple[Who, dict[str, str]]]:
        """Choose the events that say that two are one."""
        rng, found = self._rng, dict[int, tuple[Who, dict[str, str]]]()
        places = iter(rng.sample(range(self.events // 10, self.events * 9 // 10), 3 * (self.customers // 10)))
        for ten in range(0, self.customers - 9, 10):
            found[next(places)] = (Who(f"c-{ten + 6}"), {"cookie": f"k-{ten + 7}"})
            card = {"card": f"card-{ten}"}
            found[next(places)] = (Who(f"c-{ten + 8}"), card)
            found[next(places)] = (Who(f"c-{ten + 9}"), card)
        return found

    def _event(self, number: int) -> tuple[Who, Event]:
        rng = self._rng
        planned = self._links.get(number)
        one = rng.randrange(self.customers)
        sort = one % 10
        who = Who(f"c-{one}") if sort != 7 else Who("", f"k-{one}")
        if planned is not None:
            who, sort = planned[0], 6
        type_ = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        days = PAST_DAYS if sort < 4 else RECENT_DAYS
        begin = self._now - days * DAY_MS
        received = begin + days * DAY_MS * number // self.events
        received = min(self._now - 1000, received + rng.randint(-days * HOUR_MS // 3, days * HOUR_MS // 3))
        late = rng.randint(0, HOUR_MS) if rng.random() < 0.8 else rng.randint(0, LATE_MAX_MS)
        occurred = received - late if sort < 4 else max(received - late, self._now - LATE_MAX_MS)
        customer_id = who.customer_id or derived_customer_id(self._secret, "cookie", who.cookie)
        return who, Event(
            event_id=f"e{number}",
            type=type_,
            customer_id=customer_id,
            occurred_at=occurred,
            received_at=received,
            channel="email" if type_ in {"unsubscribe", "email_open", "email_delivered"} else None,
            offer=rng.choice(OFFERS) if type_ == "reject" else None,
            properties=self._properties(type_, number, merging=sort >= 6),
            identities=planned[1] if planned is not None else {},
        )

    def _properties(self, type_: str, number: int, *, merging: bool) -> dict[str, Any]:
        """Make what an event of this type brings along.

        Whoever merges only ever withdraws: a consent given on one side after it was withdrawn on the other holds if it
        comes after the merge, so that the order would matter.
        """
        rng = self._rng
        match type_:
            case "page_view" | "add_to_cart":
                return {"category": rng.choice(CATEGORIES), "session_id": f"s{number // 3}"}
            case "purchase" | "store_purchase":
                return {"amount": rng.randint(1, 20_000) / 100}
            case "consent_changed":
                purpose = rng.choice(("marketing_email", "marketing_call"))
                return {purpose: "denied" if merging else rng.choice(("granted", "denied"))}
            case "profile_updated":
                return rng.choice(
                    (
                        {"tier": rng.choice(("basic", "silver", "gold"))},
                        {"household": rng.randint(1, 6)},
                        {"owned": rng.sample(CATEGORIES, 2)},
                        {"tier": None},
                    )
                )
            case "answer":
                return {"question": "shopping-for", "answer": rng.choice(ANSWERS)}
            case "case_opened" | "case_closed":
                return {"case_id": f"case-{rng.randint(1, 5)}"}
            case _:
                return {}

    def _way(self, who: Who) -> str:
        """Choose how an event is sent; what is 60 days old can only be a pack."""
        sort = int((who.customer_id or who.cookie)[2:]) % 10
        chance = self._rng.random()
        if sort < 4 or chance < 0.6:
            return "pack"
        return "json" if chance < 0.8 else "call"


def _as_json(who: Who, event: Event) -> dict[str, Any]:
    """Write an event as whoever sends JSON does."""
    said: dict[str, Any] = {
        "event_id": event.event_id,
        "type": event.type,
        "occurred_at": format_time(event.occurred_at),
        "properties": event.properties,
    }
    if event.channel is not None:
        said["channel"] = event.channel
    if event.offer is not None:
        said["offer"] = event.offer
    if who.customer_id:
        said["customer_id"] = who.customer_id
    identities = event.identities or ({"cookie": who.cookie} if who.cookie else {})
    return said | ({"identities": identities} if identities else {})


def _packed(partition: int, waiting: list[tuple[int, bytes]]) -> Sending:
    return Sending(partition, pack([blob for _, blob in waiting]), tuple(number for number, _ in waiting))


def _as_array(partition: int, said: list[tuple[int, dict[str, Any]]]) -> Sending:
    """Write events as JSON; a single one for Kafka is no array."""
    values = [one for _, one in said]
    body: Any = values[0] if len(values) == 1 and partition != CALL else values
    has_ids = partition != CALL and all("event_id" in one for one in values)
    return Sending(partition, json.dumps(body).encode(), tuple(number for number, _ in said), has_ids=has_ids)
