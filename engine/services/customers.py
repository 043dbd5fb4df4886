"""A customer as one request sees it: found by id or alias, followed through merges, loaded once.

`Lanes` queue the requests of one customer inside this process, so that they do not make each other judge
twice; between processes the commit script's version check does the same work.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from engine.errors import Busy
from engine.judging.ledger import nothing_over, pruned, record
from engine.judging.quotas import Quota
from engine.measures import JudgingMeasures
from engine.store.store import Committed, Loaded, Store
from features.catalogue import Catalogue, migrate
from features.codec import decode_state, encode_appended, encode_facts, open_facts
from features.facts import Contact, Facts
from features.identity import alias_tag, derived_customer_id, tag
from features.packing import PackedFacts
from features.state import FeatureState
from policies.model import Keep

MAX_MOVES = 16
"""Merges that one id may have gone through; a longer chain means a cycle."""


class Held(NamedTuple):
    """One customer, loaded."""

    tag: str
    facts: Facts
    """`customer_id` is the surviving one."""
    state: bytes | None
    now: int
    """The store's time (ms), never before the customer's high-water mark."""
    policy_version: str
    answered: bytes | None = None
    quotas: tuple[int, ...] = ()
    body: PackedFacts | None = None
    """What the facts were unpacked from; None for a customer who is new."""


def version_bytes(facts: Facts) -> bytes:
    """Return the version of the facts as the commit script compares it."""
    return facts.version.to_bytes(8, "big")


def next_version(facts: Facts, now: int, *, first_seen: bool = True) -> bytes:
    """Return the encoded facts as they are to be written after the version that they were read at.

    `first_seen` notes `now` as the moment that the customer became known; a stub stays unknown.
    """
    since = facts.since or (now if first_seen else 0)
    return encode_facts(
        replace(facts, version=facts.version + 1, high_water=max(facts.high_water, now), since=since)
    )


def with_reservation(held: Held, contact: Contact, keep: Keep) -> bytes:
    """Return the encoded facts with one more reservation, made now, as they are to be written next."""
    facts, now = held.facts, held.now
    latest = facts.contacts[-1].at if facts.contacts else 0
    if latest < now and nothing_over(facts, now, keep.contacts_ms, keep.events_ms):
        return encode_appended(held.body, facts, contact, now)
    return next_version(pruned(record(facts, contact), now, keep.contacts_ms, keep.events_ms), now)


def state_of(catalogues: Mapping[int, Catalogue], catalogue: Catalogue, blob: bytes | None) -> FeatureState:
    """Return the feature state for `catalogue`, carried over from the catalogue that it was written under."""
    if blob is None:
        return FeatureState()
    state, _ = decode_state(blob)
    if state.catalogue_id not in (0, catalogue.id):
        old = catalogues.get(state.catalogue_id)
        return FeatureState() if old is None else migrate(state, old, catalogue)
    return state


class Customers:
    """Finds and loads customers."""

    def __init__(self, store: Store, secret: bytes) -> None:
        """`secret` keys the tags: without it nobody can tell whose a key is."""
        self.store = store
        self.secret = secret
        self.measures = JudgingMeasures()
        self._lanes: dict[str, list[asyncio.Future[None]]] = {}

    def tag(self, customer_id: str) -> str:
        """Return the hash tag of a customer id."""
        return tag(self.secret, customer_id)

    def alias_tag(self, kind: str, value: str) -> str:
        """Return the hash of an alias."""
        return alias_tag(self.secret, kind, value)

    def derived_id(self, kind: str, value: str) -> str:
        """Return the customer id of an identity that nobody has seen."""
        return derived_customer_id(self.secret, kind, value)

    async def resolve(self, identities: Mapping[str, str]) -> str:
        """Return whose these identities are: the first known one's owner, else an id derived from the first."""
        pairs = sorted(identities.items())
        owners = await self.store.alias_owners([self.alias_tag(kind, value) for kind, value in pairs])
        known = next((owner for owner in owners if owner is not None), None)
        return known if known is not None else self.derived_id(*pairs[0])

    async def load(
        self,
        customer_id: str,
        *,
        idempotency_key: str = "",
        quotas: Sequence[Quota] = (),
        quota_time: str = "0",
        within_s: float | None = None,
    ) -> Held:
        """Load a customer in one round trip, and one more for each merge that the id went through."""
        return await self.load_tag(
            self.tag(customer_id),
            customer_id,
            idempotency_key=idempotency_key,
            quotas=quotas,
            quota_time=quota_time,
            within_s=within_s,
        )

    async def load_tag(
        self,
        tag_: str,
        customer_id: str = "",
        *,
        idempotency_key: str = "",
        quotas: Sequence[Quota] = (),
        quota_time: str = "0",
        within_s: float | None = None,
    ) -> Held:
        """Load by tag, as the ids of decisions and reservations name it."""
        for _ in range(MAX_MOVES):
            loaded = await self.store.load(
                tag_, idempotency_key=idempotency_key, quotas=quotas, now=quota_time, within_s=within_s
            )
            held = held_from(tag_, customer_id, loaded)
            if not held.facts.moved_to:
                return held
            customer_id = held.facts.moved_to
            tag_ = self.tag(customer_id)
        raise Busy("the customer's merges go in a circle: unlink one of the ids")

    async def again(self, held: Held, done: Committed) -> Held:
        """Return the customer to judge again after a commit that wrote nothing."""
        if done.code == "stale":
            fresh = held_from(
                held.tag,
                held.facts.customer_id,
                Loaded(done.now, held.policy_version, done.facts, done.state, None, ()),
            )
            if not fresh.facts.moved_to:
                return fresh
        return await self.load(held.facts.customer_id)

    def lane(self, tag_: str) -> "_Lane":
        """Return the customer's lane: entering waits until this process has nothing else under way on it."""
        return _Lane(self, tag_)

    def take(self, tag_: str) -> bool:
        """Take the lane if it is free, and say whether it was."""
        if tag_ in self._lanes:
            return False
        self._lanes[tag_] = []
        return True

    async def queue(self, tag_: str) -> None:
        """Wait for a turn in a lane that is taken."""
        waiting = self._lanes[tag_]
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(tag_)
            else:
                waiting.remove(turn)
            raise

    def leave(self, tag_: str) -> None:
        """Hand the lane to the next in the queue."""
        waiting = self._lanes[tag_]
        while waiting:
            turn = waiting.pop(0)
            if not turn.done():
                turn.set_result(None)
                return
        del self._lanes[tag_]


class _Lane:
    """Holds a lane for the length of a block."""

    __slots__ = ("_customers", "_tag")

    def __init__(self, customers: Customers, tag_: str) -> None:
        self._customers = customers
        self._tag = tag_

    async def __aenter__(self) -> None:
        if not self._customers.take(self._tag):
            await self._customers.queue(self._tag)

    async def __aexit__(self, *_: object) -> None:
        self._customers.leave(self._tag)


def held_from(tag_: str, customer_id: str, loaded: Loaded) -> Held:
    """Make the customer of a load; one that nobody has written yet has empty facts."""
    body = None
    if loaded.facts is None:
        facts = Facts(customer_id=customer_id)
    else:
        facts, body = open_facts(loaded.facts)
    if not facts.customer_id:
        facts = replace(facts, customer_id=customer_id)
    return Held(
        tag_,
        facts,
        loaded.state,
        max(loaded.now, facts.high_water),
        loaded.policy_version,
        loaded.answered,
        loaded.quotas,
        body,
    )
