"""The feature worker: journal in, folded customers out, each event once.

One batch at a time: read, group by customer, load them in one pipeline, fold, save each by one script that
writes state, facts, ids seen and position together (G12), then move the checkpoint. A crash anywhere replays
the batch, and positions and ids make the replay change nothing. A save that lost a race against a decision is
folded again on the fresh facts. What cannot be applied goes to the quarantine before the checkpoint moves; if
that cannot be written either, the worker stops (G14).
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from engine.activation import NoPolicy, Plans
from engine.adapters.connection import Reply, StoreUnavailable
from engine.adapters.store import Loaded, Save, as_bytes, as_list, decisions_key, store_time
from engine.customers import Customers, Held, held_from, next_version, state_of, version_bytes
from engine.decision import DECODER
from engine.errors import TactError
from engine.governor import Standing
from engine.ids import made_at, public_id, split_id, stored_uid
from engine.ledger import find, pruned
from engine.overrun import broken_rules
from engine.people import People
from engine.plan import Plan
from engine.quarantine import QUARANTINE
from engine.quotas import QuotaOp, budget_quota, capacity_quota
from engine.trail import OUTCOME, Outcome, amount_of, encode_outcome, step
from features.codec import decode_seen, encode_seen, encode_state
from features.event import Event, decode_events
from features.facts import Facts
from features.fold import apply
from features.state import Customer, Seen, event_hash

STREAM: Final = "tact:events"
CHECKPOINT: Final = "tact:events:done"
PACKED_MAX: Final = 1024
"""Events that one journal entry holds at most; a position is (ms, sequence * PACKED_MAX + index)."""
BATCH: Final = 200
"""Journal entries read at once; each holds the events of one request."""
BEAT: Final = "tact:worker:beat"
"""Written once a second while the worker follows the journal; gone a few seconds after it stopped."""
BEAT_MS: Final = 5_000
_OUTCOMES: Final = frozenset(
    {
        "impression",
        "click",
        "accept",
        "reject",
        "purchase",
        "store_purchase",
        "email_open",
        "email_click",
        "unsubscribe",
        "complaint",
    }
)

log = logging.getLogger("tact.worker")


class Entry(NamedTuple):
    """One event and where it stands in the journal."""

    position: tuple[int, int]
    event: Event


class Progress(NamedTuple):
    """What a batch came to."""

    events: int
    quarantined: int
    last: str


class Worker:
    """Folds the embedded journal."""

    def __init__(self, customers: Customers, plans: Plans) -> None:
        """Take the loader of customers and the compiled policies; the worker is the only writer of features."""
        self.customers = customers
        self.plans = plans
        self.store = customers.store
        self.people = People(customers, plans)
        self.last = "0-0"

    async def run(self, stop: asyncio.Event) -> None:
        """Fold until `stop` is set; a store that is away is waited for."""
        loaded, away, beaten = False, False, 0.0
        while not stop.is_set():
            try:
                if not loaded:
                    self.last = (
                        (as_bytes(await self.store.connection.call("GET", CHECKPOINT))) or b"0-0"
                    ).decode()
                    loaded = True
                if time.monotonic() - beaten >= 1:
                    await self.store.connection.call("SET", BEAT, 1, "PX", BEAT_MS)
                    beaten = time.monotonic()
                await self.step(block_ms=500)
                away = False
            except NoPolicy:
                await asyncio.sleep(0.1)
            except StoreUnavailable as error:
                if not away:
                    log.warning("the store does not answer, waiting: %s", error)
                loaded, away = False, True
                await asyncio.sleep(0.1)

    async def step(self, block_ms: int = 0) -> Progress:
        """Fold one batch; waits up to `block_ms` for the first entry."""
        command: list[str | int] = ["XREAD", "COUNT", BATCH]
        if block_ms:
            command += ["BLOCK", block_ms]
        reply = await self.store.connection.call(
            *command, "STREAMS", STREAM, self.last, within_s=block_ms / 1000 + 5
        )
        streams = as_list(reply)
        if not streams:
            return Progress(0, 0, self.last)
        entries, quarantined, last = await self._decode(as_list(as_list(streams[0])[1]))
        _, version = await self.store.clock()
        plan = await self.plans.get(version)
        for waiting in _rounds(entries):
            quarantined += await self._fold_round(plan, waiting)
        await self.store.connection.pipeline(
            [("SET", CHECKPOINT, last), ("XTRIM", STREAM, "MINID", _following(last))]
        )
        self.last = last
        return Progress(len(entries), quarantined, last)

    async def _decode(self, raw: Sequence[Reply]) -> tuple[list[Entry], int, str]:
        entries: list[Entry] = []
        quarantined, last = 0, self.last
        for row in raw:
            pair = as_list(row)
            last = (as_bytes(pair[0]) or b"").decode()
            milliseconds, _, sequence = last.partition("-")
            blob = as_bytes(as_list(pair[1])[1]) or b""
            try:
                events = decode_events(blob)
            except ValueError as error:
                await self._quarantine(blob, f"the journal entry cannot be read: {error}")
                quarantined += 1
                continue
            entries.extend(
                Entry((int(milliseconds), int(sequence) * PACKED_MAX + index), event)
                for index, event in enumerate(events)
            )
        return entries, quarantined, last

    # ------------------------------------------------------------------ one customer

    async def _fold_round(self, plan: Plan, entries: Sequence[Entry]) -> int:
        """Fold entries of which each customer has a run; returns how many went to the quarantine."""
        quarantined = 0
        for entry in entries:
            event = entry.event
            if event.identities:
                for kind, value in sorted(event.identities.items()):
                    try:
                        await self.people.link(event.customer_id, kind, value)
                    except TactError as error:
                        await self._quarantine(
                            msgspec.msgpack.encode([event]), f"could not be linked: {error.detail}"
                        )
                        quarantined += 1
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(entry.event.customer_id, []).append(entry)
        tags = {customer_id: self.customers.tag(customer_id) for customer_id in groups}
        prologue, replies = await self.store.connection.load(
            [("HMGET", f"{{{tags[customer_id]}}}", "f", "p", "e") for customer_id in groups]
        )
        now = store_time(prologue[0])
        version = (as_bytes(prologue[1]) or b"").decode()
        named = await self._named(entries)
        jobs = []
        for customer_id, reply in zip(groups, replies, strict=True):
            loaded = [as_bytes(value) for value in as_list(reply)]
            jobs.append(
                self._fold_customer(plan, customer_id, groups[customer_id], loaded, now, version, named)
            )
        for count in await asyncio.gather(*jobs):
            quarantined += count
        return quarantined

    async def _named(self, entries: Sequence[Entry]) -> dict[str, tuple[str, ...]]:
        """Return the offers of each decision that an event names."""
        places = {}
        for entry in entries:
            decision_id = entry.event.decision_id
            place = split_id(decision_id) if decision_id is not None else None
            if decision_id is not None and place is not None:
                places[decision_id] = place
        if not places:
            return {}
        found = {}
        records = await self.store.records(list(places.values()))
        for decision_id, blob in zip(places, records, strict=True):
            if blob is not None:
                found[decision_id] = tuple(pick.offer for pick in DECODER.decode(blob).chosen)
        return found

    async def _fold_customer(
        self,
        plan: Plan,
        customer_id: str,
        entries: Sequence[Entry],
        loaded: Sequence[bytes | None],
        now: int,
        version: str,
        named: dict[str, tuple[str, ...]],
    ) -> int:
        tag, moved = self.customers.tag(customer_id), False
        facts_blob, state_blob, seen_blob = loaded
        while True:
            held = held_from(tag, customer_id, Loaded(now, version, facts_blob, state_blob, None, ()))
            if held.facts.moved_to:
                tag, customer_id, moved = self.customers.tag(held.facts.moved_to), held.facts.moved_to, True
            else:
                save, broken = self._folded(plan, held, seen_blob, entries, named, moved=moved)
                done = await self.store.save(save) if save is not None else None
                if done is None or done.code == "done":
                    for event, reason in broken:
                        await self._quarantine(msgspec.msgpack.encode([event]), reason)
                    return len(broken)
                if done.code == "policy":
                    plan = await self.plans.get((await self.store.clock())[1])
            reply = as_list(await self.store.connection.call("HMGET", f"{{{tag}}}", "f", "p", "e"))
            facts_blob, state_blob, seen_blob = (as_bytes(value) for value in reply)

    def _folded(
        self,
        plan: Plan,
        held: Held,
        seen_blob: bytes | None,
        entries: Sequence[Entry],
        named: dict[str, tuple[str, ...]],
        *,
        moved: bool,
    ) -> tuple[Save | None, list[tuple[Event, str]]]:
        """Fold the entries into one customer; what cannot be applied comes back with its reason.

        The customer's position speaks for the entries of its own id alone: those that come by a merged id
        (`moved`) are told apart by their event ids and leave the position where it is.
        """
        seen = decode_seen(seen_blob) if seen_blob is not None else Seen()
        before = Customer(held.facts, state_of(self.plans.catalogues, plan.catalogue, held.state), seen)
        customer, broken = before, []
        outcomes: list[tuple[str, str, bytes, bytes]] = []
        settled: list[QuotaOp] = []
        keep = plan.policy.keep
        for entry in entries:
            event = entry.event
            if not moved and entry.position <= seen.positions.get(STREAM, (0, 0)):
                continue
            if event.received_at <= held.facts.erased_at:
                continue  # accepted before the person asked to be forgotten
            if event.occurred_at <= event.received_at - keep.events_ms:
                broken.append(
                    (event, "older than keep.events: raise it, or send the event with a later time")
                )
                continue
            offers = (event.offer,) if event.offer is not None else named.get(event.decision_id or "", ())
            try:
                after = apply(
                    plan.catalogue,
                    customer,
                    event,
                    named=offers,
                    mark_types=plan.mark_types,
                    keep_ms=keep.events_ms,
                    question_fields=plan.question_fields,
                    channel_purposes=plan.channel_purposes,
                )
            except Exception as error:  # noqa: BLE001  # one bad event must not stop the journal
                broken.append((event, f"could not be applied: {type(error).__name__}: {error}"))
                continue
            if after is customer:
                continue
            customer = after
            outcome, changes, facts = self._outcome(plan, held, customer.facts, event, offers)
            outcomes += outcome
            settled += changes
            if facts is not customer.facts:
                customer = replace(customer, facts=facts)
        if customer is before:
            return None, broken
        position = max(entry.position for entry in entries)
        facts = customer.facts
        changed = facts is not before.facts
        first = held.state is None and held.facts.version == 0
        save = Save(
            tag=held.tag,
            facts_version=version_bytes(held.facts),
            state_version=held.state[:8] if held.state is not None else bytes(8),
            policy_version=plan.policy.version,
            facts=next_version(pruned(facts, held.now, keep.contacts_ms, keep.events_ms), held.now)
            if changed or first
            else b"",
            state=encode_state(customer.state, _counter(held.state) + 1),
            seen=encode_seen(customer.seen if moved else customer.seen.at(STREAM, position)),
            outcomes=tuple(outcomes),
            settled=tuple(settled),
        )
        return save, broken

    def _outcome(
        self, plan: Plan, held: Held, facts: Facts, event: Event, offers: tuple[str, ...]
    ) -> tuple[list[tuple[str, str, bytes, bytes]], list[QuotaOp], Facts]:
        """Join an event to the decision that it names: outcome, spent budget, a reservation that was seen."""
        place = split_id(event.decision_id) if event.decision_id is not None else None
        if place is None or event.type not in _OUTCOMES:
            return [], [], facts
        tag, uid = place
        outcome = encode_outcome(
            Outcome(event.type, event.occurred_at, event.offer, amount_of(event.properties))
        )
        field = f"o{uid}{event_hash(event.event_id).hex()}"
        outcomes = [(decisions_key(tag, made_at(uid)), field, outcome, step(OUTCOME, tag, uid, outcome))]
        settled = []
        if event.type == "accept":
            for offer in offers:
                quota = budget_quota(plan, offer, held.now)
                if quota is not None:
                    settled.append(QuotaOp(quota, "settle", tag + uid))
        contact = find(facts, stored_uid(tag, uid, held.tag)) if event.type == "impression" else None
        if contact is not None and contact.state == "reserved" and plan.rules.is_inbound(contact.channel):
            # It was seen, so it happened, whatever became of the reservation meanwhile.
            rules: tuple[str, ...] = ()
            channel = plan.policy.channels[contact.channel]
            if not contact.live(held.now):
                standing = Standing(plan.rules, facts, {}, held.now, excluding=contact.uid)
                rules = tuple(
                    dict.fromkeys(
                        r
                        for item in contact.items
                        for r in broken_rules(standing, channel, item, event.occurred_at)
                    )
                )
            done = replace(contact, at=event.occurred_at, state="confirmed", expires_at=0, overrun=rules)
            others = [other for other in facts.contacts if other.uid != contact.uid]
            facts = replace(facts, contacts=tuple(sorted([*others, done], key=lambda c: (c.at, c.uid))))
            capacity = capacity_quota(plan, contact.channel, held.now)
            if capacity is not None:
                settled.append(QuotaOp(capacity, "settle", public_id(tag, uid)))
        return outcomes, settled, facts

    async def _quarantine(self, events: bytes, reason: str) -> None:
        await self.store.connection.call("XADD", QUARANTINE, "*", "b", events, "r", reason)
        log.warning("quarantined an entry of the journal: %s", reason)


def _rounds(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Split before and after each event that links identities: a merge must not meet a fold of its own batch."""
    rounds: list[list[Entry]] = [[]]
    for entry in entries:
        if entry.event.identities and rounds[-1]:
            rounds.append([])
        rounds[-1].append(entry)
        if entry.event.identities:
            rounds.append([])
    return [waiting for waiting in rounds if waiting]


def _following(entry_id: str) -> str:
    """Return the id after this one: what was folded is not kept, or an erased person would stay in the journal."""
    milliseconds, _, sequence = entry_id.partition("-")
    return f"{milliseconds}-{int(sequence) + 1}"


def _counter(state: bytes | None) -> int:
    return int.from_bytes(state[:8], "big") if state is not None else 0
