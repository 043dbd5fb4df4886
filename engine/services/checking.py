"""May these customers be contacted? Checked, and taken where the answer is yes, many at a time.

A wave of customers costs two round trips in all: one loads them, one commits what was taken. A commit that finds
its facts changed writes nothing, and that customer is judged again alone. While one wave is in the store, the next
is being judged.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from engine.errors import Busy
from engine.judging.answer import Json, refusal, when
from engine.judging.governor import FAR, NextFree, Refusal, Standing
from engine.judging.ids import RandomPool, derived_uid, make_uid, public_id
from engine.judging.ledger import find, pruned, record
from engine.judging.plan import Plan
from engine.judging.quotas import Quota, QuotaOp, holds, message_quotas, room_left
from engine.services.activation import Plans
from engine.services.customers import Customers, Held, held_from, next_version, with_reservation
from engine.services.deciding import MAX_JUDGEMENTS
from engine.services.sending import checked_item, commit_of, no_room, seen
from engine.store.store import Commit
from features.facts import Contact, Item

_WAVE: Final = 128
"""Customers that are loaded, judged and committed together."""
_WAVES_AT_ONCE: Final = 4


class Row(NamedTuple):
    """One question of a check: whether this customer may be contacted."""

    number: int
    customer_id: str
    channel: str
    item: Item
    ttl_ms: int | None


Group = tuple[str, Sequence[Row]]
"""A customer id and the rows that ask about it, in their order."""


class _Taken(NamedTuple):
    """What one judgement of a customer's rows takes, if it can be committed."""

    made: Sequence[Contact] = ()
    """The reservations to be written: none where nothing was taken."""
    changes: tuple[QuotaOp, ...] = ()
    until: int = FAR
    """When time alone could turn one of them into a no (ms)."""


class Checking:
    """Checks and reserves."""

    def __init__(self, customers: Customers, plans: Plans) -> None:
        """Take the loader of customers and the compiled policies."""
        self.customers = customers
        self.plans = plans
        self.store = customers.store
        self._random = RandomPool(os.urandom)

    async def plan(self) -> Plan:
        """Return the plan that this process used last, asking the store only where it knows none."""
        current = self.plans.current
        return current if current is not None else await self.active()

    async def active(self) -> Plan:
        """Return the plan that is active in the store at this moment: another process may have switched it."""
        return await self.plans.get((await self.store.clock())[1])

    async def check(self, rows: Sequence[Row], *, take: bool, seed: bytes = b"") -> list[Json]:
        """Judge the rows; with `take`, each yes is a reservation. Results in the order of the rows.

        Rows of one customer are judged one after the other, each counting the ones before it. `seed` makes a
        retry find the reservations that it already made.
        """
        by_customer: dict[str, list[Row]] = {}
        for row in rows:
            by_customer.setdefault(row.customer_id, []).append(row)
        groups = list(by_customer.items())
        results: dict[int, Json] = {}
        under_way = asyncio.Semaphore(_WAVES_AT_ONCE)

        async def wave(part: Sequence[Group]) -> None:
            async with under_way:
                results.update(await self._wave(part, take, seed))

        await asyncio.gather(*(wave(groups[at : at + _WAVE]) for at in range(0, len(groups), _WAVE)))
        answers = [results[row.number] for row in rows]
        self.customers.measures.checked(answers)
        return answers

    async def _wave(self, groups: Sequence[Group], take: bool, seed: bytes) -> dict[int, Json]:
        """Judge customers together; those that another request of this process holds come last."""
        results: dict[int, Json] = {}
        ours: list[tuple[str, Group]] = []
        others: list[tuple[str, Group]] = []
        for group in groups:
            tag = self.customers.tag(group[0])
            (ours if self.customers.take(tag) else others).append((tag, group))
        try:
            await self._together(ours, take, seed, results)
        finally:
            for tag, _ in ours:
                self.customers.leave(tag)

        async def in_turn(tag: str, customer_id: str, rows: Sequence[Row]) -> None:
            async with self.customers.lane(tag):
                await self._alone(customer_id, rows, take, seed, results)

        await asyncio.gather(*(in_turn(tag, *group) for tag, group in others))
        return results

    async def _together(
        self, asked: Sequence[tuple[str, Group]], take: bool, seed: bytes, results: dict[int, Json]
    ) -> None:
        """Load all, judge all, commit all; whoever cannot be finished so is judged again alone."""
        if not asked:
            return
        clock = time.time_ns() // 1_000_000
        plan = await self.plan()
        quotas = _quotas(plan, (row for _, (_, rows) in asked for row in rows), clock)
        loads, counts = await self.store.load_many([tag for tag, _ in asked], quotas, str(clock))
        plan = await self.plans.get(loads[0].policy_version)
        room: Mapping[str, int] = room_left(quotas, counts)
        at_first, doubtful = room, []
        waiting: list[tuple[Held, Sequence[Row], _Taken]] = []
        alone: list[Group] = []
        helds = [held_from(tag, group[0], loaded) for (tag, group), loaded in zip(asked, loads, strict=True)]
        survivors = {held.facts.moved_to for held in helds}
        for (_, (customer_id, rows)), held in zip(asked, helds, strict=True):
            if held.facts.moved_to or customer_id in survivors:
                alone.append((held.facts.moved_to or customer_id, rows))
                continue
            taken = self._judge(plan, held, rows, room, take, seed, results)
            if taken.made:
                waiting.append((held, rows, taken))
                room = _less(room, taken.changes)
            elif room is not at_first:
                doubtful.append((customer_id, rows))
        commits = [_commit(plan, held, taken) for held, _, taken in waiting]
        for (held, rows, _), done in zip(waiting, await self.store.commit_many(commits), strict=True):
            if done.code == "done":
                self.customers.measures.judgements[1] += 1
            else:
                alone.append((held.facts.customer_id, rows))
        if alone:  # what did not take its part of a quota may have kept others from it
            alone += doubtful
        for customer_id, rows in _united(alone):
            await self._alone(customer_id, rows, take, seed, results, judged=1)

    async def _alone(
        self,
        customer_id: str,
        rows: Sequence[Row],
        take: bool,
        seed: bytes,
        results: dict[int, Json],
        judged: int = 0,
    ) -> None:
        """Judge one customer's rows, again as often as the facts change meanwhile; `judged` times they were."""
        plan = await self.plan()
        clock = time.time_ns() // 1_000_000
        quotas = _quotas(plan, rows, clock)
        held = await self.customers.load(customer_id, quotas=quotas, quota_time=str(clock))
        room = room_left(quotas, held.quotas)
        for judgement in range(judged + 1, MAX_JUDGEMENTS + 1):
            plan = await self.plans.get(held.policy_version)
            taken = self._judge(plan, held, rows, room, take, seed, results)
            if not taken.made:
                return
            done = await self.store.commit(_commit(plan, held, taken))
            if done.code == "done":
                self.customers.measures.judgements[judgement] += 1
                return
            if done.code == "quota":
                name = taken.changes[done.quota].quota.name
                room[name] = sum(change.quota.name == name for change in taken.changes[: done.quota])
            held = await self.customers.again(held, done)
        raise Busy("too many requests change this customer at once: try again")

    def _judge(
        self,
        plan: Plan,
        held: Held,
        rows: Sequence[Row],
        room: Mapping[str, int],
        take: bool,
        seed: bytes,
        answers: dict[int, Json],
    ) -> _Taken:
        """Judge a customer's rows; `answers` gets them, good once what was taken is committed."""
        values = seen(self.plans, plan, held)
        facts, until = held.facts, FAR
        changes: tuple[QuotaOp, ...] = ()
        made: list[Contact] = []
        for row in rows:
            channel = checked_item(plan, row.channel, row.item)
            uid = derived_uid(seed, row.number) if seed else make_uid(held.now, self._random)
            before = find(facts, uid) if seed else None
            if before is not None:
                same = before.channel == row.channel and before.items == (row.item,)
                answers[row.number] = _allowed(held, row, before if take else None) if same else _another(row)
                continue
            standing = Standing(plan.rules, facts, values, held.now)
            refusals = standing.refusals(channel, row.item)
            extra: list[NextFree] = []
            if room:
                refusals += _quota_refusals(plan, row, room, held.now, extra)
            if refusals:
                answers[row.number] = {
                    "customer_id": row.customer_id,
                    "allowed": False,
                    "reasons": [refusal(stop) for stop in refusals],
                    "eligible_at": when(standing.eligible_at(channel, row.item, extra=extra)),
                }
                continue
            if not plan.rules.counts_contacts(channel.name):
                answers[row.number] = _allowed(held, row, None)
                continue
            ttl = row.ttl_ms if row.ttl_ms is not None else channel.reservation_ttl_ms
            contact = Contact(uid, held.now, channel.name, (row.item,), "reserved", held.now + ttl)
            if plan.limited:
                drawn = holds(plan, channel.name, (row.item,), held.now, held.tag + uid, held.now + ttl)
                changes += drawn
                room = _less(room, drawn)
            until = min(until, standing.yes_until(channel, (row.item,)))
            made.append(contact)
            if len(rows) > 1:
                facts = record(facts, contact)
            answers[row.number] = _allowed(held, row, contact if take else None)
        return _Taken(made, changes, until) if take else _Taken()


def _united(groups: Iterable[Group]) -> Iterable[Group]:
    """Return one group a customer, its rows in their order, where several ids stand for one."""
    found: dict[str, list[Row]] = {}
    for customer_id, rows in groups:
        found.setdefault(customer_id, []).extend(rows)
    return [(customer_id, sorted(rows)) for customer_id, rows in found.items()]


def _commit(plan: Plan, held: Held, taken: _Taken) -> Commit:
    """Return the commit that writes what was taken."""
    keep = plan.policy.keep
    if len(taken.made) == 1:
        blob = with_reservation(held, taken.made[0], keep)
    else:
        facts = held.facts
        for contact in taken.made:
            facts = record(facts, contact)
        blob = next_version(pruned(facts, held.now, keep.contacts_ms, keep.events_ms), held.now)
    return commit_of(plan, held, blob, taken.changes, taken.until)


def _quotas(plan: Plan, rows: Iterable[Row], now: int) -> tuple[Quota, ...]:
    """Return the quotas that the messages draw on, each once."""
    messages = {(row.channel, row.item) for row in rows}
    found = {q.name: q for channel, item in messages for q in message_quotas(plan, channel, (item,), now)}
    return tuple(found.values())


def _less(room: Mapping[str, int], changes: Sequence[QuotaOp]) -> Mapping[str, int]:
    """Return the room that is left once the changes are made."""
    if not changes:
        return room
    return {**room, **{op.quota.name: room.get(op.quota.name, FAR) - 1 for op in changes}}


def _allowed(held: Held, row: Row, made: Contact | None) -> Json:
    answer: Json = {"customer_id": row.customer_id, "allowed": True}
    if made is not None:
        answer |= {"reservation_id": public_id(held.tag, made.uid), "expires_at": when(made.expires_at)}
    return answer


def _another(row: Row) -> Json:
    detail = "this Idempotency-Key was used with another row in this place: take a new key"
    return {"customer_id": row.customer_id, "error": detail}


def _quota_refusals(
    plan: Plan, row: Row, room: Mapping[str, int], now: int, extra: list[NextFree]
) -> list[Refusal]:
    """Return the quotas that have no room for the message; `extra` takes when each has room again."""
    refusals: list[Refusal] = []
    for quota in message_quotas(plan, row.channel, (row.item,), now):
        if room.get(quota.name, 1) <= 0:
            stops, free = no_room(plan, quota, now)
            refusals += stops
            extra.append(lambda at, free=free: None if free is None else max(at, free))  # type: ignore[misc]
    return refusals
