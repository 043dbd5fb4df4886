"""Folding batches of events into customers, whatever journal they come from, each event once.

A batch is one load, one save and nothing in between that waits: load its customers in one pipeline, fold, set
aside what cannot be applied, save each customer by one script that writes state, facts, ids seen and position
together (G12). A crash anywhere replays the batch, and positions and ids make the replay change nothing. A save
that lost a race against a decision is folded again on the fresh facts. What cannot be applied is in the
quarantine before anything else is written; if that fails, nothing of the batch is (G14).
"""

import logging
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from engine.errors import TactError
from engine.judging.decision import DECODER
from engine.judging.ids import split_id
from engine.judging.ledger import pruned
from engine.judging.plan import Plan
from engine.judging.quotas import QuotaOp
from engine.measures import FoldMeasures
from engine.services.activation import Plans
from engine.services.customers import Customers, Held, held_from, next_version, state_of, version_bytes
from engine.services.people import People
from engine.store.quarantine import QUARANTINE
from engine.store.store import Loaded, Save, as_bytes, as_list, store_time
from engine.workers.joining import join_decision
from features.codec import CodecError, decode_seen, encode_seen, encode_state
from features.event import Event, encode_events
from features.fold import apply
from features.state import Customer, Position, Seen

_NOWHERE: Final[Position] = (0, 0)

log = logging.getLogger("tact.worker")


class Entry(NamedTuple):
    """One event and where it stands in its journal."""

    source: str
    """What the position counts in: a stream, or a partition of a topic."""
    position: Position
    event: Event


class Broken(NamedTuple):
    """An event that cannot be applied."""

    event: Event
    kind: str
    """The kind of reason, as it is counted."""
    reason: str
    """For whoever reads the quarantine: what is wrong, and the way out."""


class Folding:
    """Folds entries; the only writer of features."""

    def __init__(self, customers: Customers, plans: Plans) -> None:
        """Take the loader of customers and the compiled policies."""
        self.customers = customers
        self.plans = plans
        self.store = customers.store
        self.people = People(customers, plans)
        self.measures = FoldMeasures()

    async def fold(self, entries: Sequence[Entry]) -> int:
        """Fold a batch; when this returns, all of it is applied or in the quarantine. Returns how many are in that."""
        if not entries:
            return 0
        quarantined = 0
        for waiting in _rounds(entries):
            quarantined += await self._fold_round(waiting)
        self.measures.batches.observe(len(entries))
        return quarantined

    async def quarantine(self, events: bytes, kind: str, reason: str) -> None:
        """Set the bytes of a journal entry aside."""
        await self.store.connection.call("XADD", QUARANTINE, "*", "b", events, "r", reason)
        self.measures.quarantined[kind] += 1
        log.warning("quarantined an entry of the journal: %s", reason)

    async def _fold_round(self, entries: Sequence[Entry]) -> int:
        """Fold entries of which each customer has a run; returns how many went to the quarantine."""
        unlinked = await self._link(entries)
        groups: dict[str, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(entry.event.customer_id, []).append(entry)
        tags = [self.customers.tag(customer_id) for customer_id in groups]
        prologue, replies = await self.store.connection.load(
            [("HMGET", f"{{{tag}}}", "f", "p", "e") for tag in tags]
        )
        now = store_time(prologue[0])
        version = (as_bytes(prologue[1]) or b"").decode()
        plan = await self.plans.get(version)
        named = await self._named(entries)
        saves: list[Save] = []
        saved: list[tuple[str, list[Entry]]] = []
        left: list[tuple[str, list[Entry]]] = []
        broken: list[Broken] = []
        for (customer_id, run), tag, reply in zip(groups.items(), tags, replies, strict=True):
            facts, state, seen = (as_bytes(value) for value in as_list(reply))
            try:
                held = held_from(tag, customer_id, Loaded(now, version, facts, state, None, ()))
                if held.facts.moved_to:
                    left.append((customer_id, run))
                    continue
                save, faults = self._folded(plan, held, seen, run, named, moved=False)
            except CodecError as error:
                broken += _damaged(run, error)
                continue
            broken += faults
            if save is not None:
                saves.append(save)
                saved.append((customer_id, run))
        await self._set_aside(broken)
        for (customer_id, run), done in zip(saved, await self.store.save_many(saves), strict=True):
            if done.code != "done":
                left.append((customer_id, run))
        aside = {_name(fault.event) for fault in broken}
        self.measures.again += len(left)
        for customer_id, run in left:
            again = await self._fold_again(customer_id, run, named, aside)
            broken += again
        self._observe(entries)
        return unlinked + len(broken)

    async def _link(self, entries: Sequence[Entry]) -> int:
        """Link the identities that events bring along; returns how many could not be."""
        unlinked = 0
        for entry in entries:
            event = entry.event
            if not event.identities:
                continue
            for kind, value in sorted(event.identities.items()):
                try:
                    await self.people.link(event.customer_id, kind, value)
                except (TactError, CodecError) as error:
                    reason = f"could not be linked: {error}"
                    await self.quarantine(encode_events([event]), "unlinked", reason)
                    unlinked += 1
        return unlinked

    async def _set_aside(self, broken: Sequence[Broken]) -> None:
        if not broken:
            return
        await self.store.connection.pipeline(
            [
                ("XADD", QUARANTINE, "*", "b", encode_events([fault.event]), "r", fault.reason)
                for fault in broken
            ]
        )
        for fault in broken:
            self.measures.quarantined[fault.kind] += 1
            log.warning("quarantined an event: %s", fault.reason)

    def _observe(self, entries: Sequence[Entry]) -> None:
        """Count how long the events waited to be visible, by this machine's clock."""
        now = time.time_ns() // 1_000_000
        for entry in entries:
            self.measures.visible.observe((now - entry.event.received_at) / 1000)
            self.measures.visible_since_occurred.observe((now - entry.event.occurred_at) / 1000)

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

    async def _fold_again(
        self,
        customer_id: str,
        entries: Sequence[Entry],
        named: dict[str, tuple[str, ...]],
        aside: set[tuple[str, str]],
    ) -> list[Broken]:
        """Fold what met another writer, or another policy, or belongs to somebody who was merged meanwhile.

        Events named in `aside` are in the quarantine already; the others that cannot be applied are returned.
        """
        moved = False
        more: list[Broken] = []
        while True:
            tag = self.customers.tag(customer_id)
            prologue, replies = await self.store.connection.load([("HMGET", f"{{{tag}}}", "f", "p", "e")])
            version = (as_bytes(prologue[1]) or b"").decode()
            facts, state, seen = (as_bytes(value) for value in as_list(replies[0]))
            now = store_time(prologue[0])
            plan = await self.plans.get(version)
            try:
                held = held_from(tag, customer_id, Loaded(now, version, facts, state, None, ()))
                if held.facts.moved_to:
                    if state is not None or seen is not None:
                        await self.people.linking.take_over(customer_id)
                    customer_id, moved = held.facts.moved_to, True
                    continue
                save, broken = self._folded(plan, held, seen, entries, named, moved=moved)
            except CodecError as error:
                save, broken = None, _damaged(entries, error)
            fresh = [fault for fault in broken if _name(fault.event) not in aside]
            await self._set_aside(fresh)
            aside |= {_name(fault.event) for fault in fresh}
            more += fresh
            if save is None or (await self.store.save(save)).code == "done":
                return more

    def _folded(
        self,
        plan: Plan,
        held: Held,
        seen_blob: bytes | None,
        entries: Sequence[Entry],
        named: dict[str, tuple[str, ...]],
        *,
        moved: bool,
    ) -> tuple[Save | None, list[Broken]]:
        """Fold the entries into one customer; what cannot be applied comes back with its reason.

        The customer's positions speak for the entries of its own id alone: those that come by a merged id
        (`moved`) are told apart by their event ids and leave the positions where they are.
        """
        seen = decode_seen(seen_blob) if seen_blob is not None else Seen()
        before = Customer(held.facts, state_of(self.plans.catalogues, plan.catalogue, held.state), seen)
        customer, broken = before, list[Broken]()
        done = dict(seen.positions)
        outcomes: list[tuple[str, str, bytes, bytes]] = []
        settled: list[QuotaOp] = []
        keep = plan.policy.keep
        for entry in entries:
            event = entry.event
            if not moved:
                if entry.position <= done.get(entry.source, _NOWHERE):
                    continue
                done[entry.source] = entry.position
            if event.received_at <= held.facts.erased_at:
                continue  # accepted before the person asked to be forgotten
            if event.occurred_at <= event.received_at - keep.events_ms:
                reason = "older than keep.events: raise it, or send the event with a later time"
                broken.append(Broken(event, "too_old", reason))
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
                reason = f"could not be applied: {type(error).__name__}: {error}"
                broken.append(Broken(event, "not_applied", reason))
                continue
            if after is customer:
                continue
            customer = after
            outcome, changes, facts = join_decision(plan, held, customer.facts, event, offers)
            outcomes += outcome
            settled += changes
            if facts is not customer.facts:
                customer = replace(customer, facts=facts)
        if customer is before:
            return None, broken
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
            seen=encode_seen(replace(customer.seen, positions=done)),
            outcomes=tuple(outcomes),
            settled=tuple(settled),
        )
        return save, broken


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


def _damaged(entries: Sequence[Entry], error: CodecError) -> list[Broken]:
    """Set all of a customer's events aside whose record cannot be read: the others must not wait for it."""
    return [Broken(entry.event, "damaged", str(error)) for entry in entries]


def _name(event: Event) -> tuple[str, str]:
    return event.customer_id, event.event_id


def _counter(state: bytes | None) -> int:
    return int.from_bytes(state[:8], "big") if state is not None else 0
