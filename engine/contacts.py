"""Contacts as a service: what a sender asks before it sends, and what it reports after.

Reserve, then confirm, release or expire: exactly one end (G4). A confirm is the sending, so it judges consent,
suppressions and quiet hours again; after expiry it judges everything, as a new reservation would.
"""

import asyncio
import os
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from engine.activation import Plans
from engine.adapters.store import Commit
from engine.answer import Json, refusal, when
from engine.customers import Customers, Held, next_version, state_of, version_bytes
from engine.deciding import MAX_JUDGEMENTS, STALE_MS
from engine.errors import Busy, Conflict, Invalid, NotFound, TactError
from engine.governor import FAR, NextFree, Refusal, Standing
from engine.ids import RandomPool, derived_uid, make_uid, public_id, split_id, stored_uid
from engine.ledger import confirm, external_uid, find, pruned, record, release, reserve
from engine.overrun import broken_rules
from engine.plan import Plan, condition_values
from engine.quotas import (
    Quota,
    QuotaOp,
    capacity_quota,
    confirmed,
    holds,
    message_quotas,
    next_day,
    released,
    room_left,
)
from engine.requests import ContactRequest
from features.event import parse_time
from features.facts import Contact, Item
from policies.model import Channel

_AT_ONCE: Final = 256
"""Customers of one bulk call that are judged side by side."""
AHEAD_MS: Final = 300_000
"""How far ahead of the server a reported time may lie (ms)."""


class Row(NamedTuple):
    """One question of a check: whether this customer may be contacted."""

    number: int
    customer_id: str
    channel: str
    item: Item
    ttl_ms: int | None


class Recorded(NamedTuple):
    """A contact that happened elsewhere, as it was counted."""

    contact_id: str
    rules: tuple[str, ...]


class Confirmed(NamedTuple):
    """A confirm's answer and the policy that judged it."""

    answer: Json
    policy_version: str


class Contacts:
    """Checks, reserves, confirms, releases and records contacts."""

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

    # ------------------------------------------------------------------ check and reserve

    async def check(self, rows: Sequence[Row], *, take: bool, seed: bytes = b"") -> list[Json]:
        """Judge the rows; with `take`, each yes is a reservation. Results in the order of the rows.

        Rows of one customer are judged one after the other, each counting the ones before it. `seed` makes a
        retry find the reservations that it already made.
        """
        by_customer: dict[str, list[Row]] = {}
        for row in rows:
            by_customer.setdefault(row.customer_id, []).append(row)
        results: dict[int, Json] = {}
        groups = list(by_customer.items())
        for start in range(0, len(groups), _AT_ONCE):
            part = groups[start : start + _AT_ONCE]
            done = await asyncio.gather(
                *(self._check_customer(id_, asked, take, seed) for id_, asked in part)
            )
            for answers in done:
                results.update(answers)
        return [results[row.number] for row in rows]

    async def _check_customer(
        self, customer_id: str, rows: Sequence[Row], take: bool, seed: bytes
    ) -> dict[int, Json]:
        async with self.customers.lane(self.customers.tag(customer_id)):
            plan = await self.plan()
            clock = time.time_ns() // 1_000_000
            asked = {q.name: q for row in rows for q in message_quotas(plan, row.channel, [row.item], clock)}
            quotas = tuple(asked.values())
            held = await self.customers.load(customer_id, quotas=quotas, quota_time=str(clock))
            room = room_left(quotas, held.quotas)
            for _ in range(MAX_JUDGEMENTS):
                plan = await self.plans.get(held.policy_version)
                answers, commit, changes = self._judge_rows(plan, held, rows, room, take, seed)
                if commit is None:
                    return answers
                done = await self.store.commit(commit)
                if done.code == "done":
                    return answers
                if done.code == "quota":
                    name = changes[done.quota].quota.name
                    room[name] = sum(change.quota.name == name for change in changes[: done.quota])
                held = await self.customers.again(held, done)
        raise Busy("too many requests change this customer at once: try again")

    def _judge_rows(
        self, plan: Plan, held: Held, rows: Sequence[Row], room: Mapping[str, int], take: bool, seed: bytes
    ) -> tuple[dict[int, Json], Commit | None, tuple[QuotaOp, ...]]:
        values = self._values(plan, held)
        facts, answers, until = held.facts, {}, FAR
        changes: list[QuotaOp] = []
        left = dict(room)
        for row in rows:
            channel = checked_item(plan, row.channel, row.item)
            uid = derived_uid(seed, row.number) if seed else make_uid(held.now, self._random)
            before = find(facts, uid) if seed else None
            if before is not None:
                same = before.channel == row.channel and before.items == (row.item,)
                answers[row.number] = _allowed(held, row, before if take else None) if same else _another(row)
                continue
            standing = Standing(plan.rules, facts, values, held.now)
            spent = [name for name, places in left.items() if places <= 0]
            refusals, extra = _quota_refusals(plan, row, spent, held.now)
            refusals = [*standing.refusals(channel, row.item), *refusals]
            if refusals:
                at = standing.eligible_at(channel, row.item, extra=extra)
                answers[row.number] = {
                    "customer_id": row.customer_id,
                    "allowed": False,
                    "reasons": [refusal(stop) for stop in refusals],
                    "eligible_at": when(at),
                }
                continue
            if not plan.rules.counts_contacts(channel.name):
                answers[row.number] = _allowed(held, row, None)
                continue
            ttl = row.ttl_ms if row.ttl_ms is not None else channel.reservation_ttl_ms
            facts = reserve(facts, uid, channel.name, (row.item,), held.now, ttl)
            held_now = holds(plan, channel.name, (row.item,), held.now, held.tag + uid, held.now + ttl)
            changes += held_now
            left |= {op.quota.name: left.get(op.quota.name, FAR) - 1 for op in held_now}
            until = min(until, standing.yes_until(channel, (row.item,)))
            made = find(facts, uid)
            answers[row.number] = _allowed(held, row, made if take else None)
        if not take or facts is held.facts:
            return answers, None, ()
        return answers, self._write(plan, held, facts, tuple(changes), until), tuple(changes)

    # ------------------------------------------------------------------ confirm and release

    async def confirm(self, reservation_id: str) -> Confirmed:
        """Confirm a reservation: the moment of the sending. Raises NotFound or Conflict with the reasons."""
        tag, uid = self._place(reservation_id)
        async with self.customers.lane(tag):
            held = await self.customers.load_tag(tag)
            for _ in range(MAX_JUDGEMENTS):
                plan = await self.plans.get(held.policy_version)
                contact = self._reservation(held, tag, uid, reservation_id)
                answer = {
                    "reservation_id": reservation_id,
                    "state": "confirmed",
                    "contact_id": reservation_id,
                }
                if contact.state == "confirmed":
                    return Confirmed(answer, plan.policy.version)
                if contact.state == "released":
                    raise Conflict(
                        "the reservation was released: reserve again before sending", state="released"
                    )
                commit = self._judge_confirm(plan, held, contact, reservation_id)
                done = await self.store.commit(commit)
                if done.code == "done":
                    return Confirmed(answer, plan.policy.version)
                if done.code == "quota":
                    raise _late_refusal(*_no_room(plan, commit.quotas[done.quota].quota, held.now))
                held = await self.customers.again(held, done)
        raise Busy("too many requests change this customer at once: try again")

    def _judge_confirm(self, plan: Plan, held: Held, contact: Contact, member: str) -> Commit:
        """Judge the sending; `member` is the name under which quotas hold it, older than any merge."""
        late = not contact.live(held.now)
        channel = plan.policy.channels.get(contact.channel)
        if channel is None:
            raise Conflict(
                f"the active policy has no channel '{contact.channel}' any more: release the reservation"
            )
        standing = Standing(plan.rules, held.facts, self._values(plan, held), held.now, excluding=contact.uid)
        stops = [
            stop for item in contact.items for stop in standing.refusals(channel, item, sending_only=not late)
        ]
        if stops:
            moments = [standing.eligible_at(channel, item) for item in contact.items]
            at = None if None in moments else max(moment for moment in moments if moment is not None)
            raise _late_refusal(list(dict.fromkeys(stops)), at)
        changes = confirmed(plan, channel.name, contact.items, held.now, member, late=late)
        until = standing.yes_until(channel, contact.items)
        return self._write(plan, held, confirm(held.facts, contact, held.now), changes, until)

    async def release(self, reservation_id: str) -> Json:
        """Give a reservation back. Raises NotFound, or Conflict after a confirm."""
        tag, uid = self._place(reservation_id)
        async with self.customers.lane(tag):
            held = await self.customers.load_tag(tag)
            for _ in range(MAX_JUDGEMENTS):
                plan = await self.plans.get(held.policy_version)
                contact = self._reservation(held, tag, uid, reservation_id)
                answer = {"reservation_id": reservation_id, "state": "released"}
                if contact.state == "released":
                    return answer
                if contact.state == "confirmed":
                    raise Conflict(
                        "the reservation was confirmed: the message counts as sent", state="confirmed"
                    )
                changes = released(plan, contact.channel, contact.items, held.now, reservation_id)
                facts = release(held.facts, contact, held.now)
                done = await self.store.commit(self._write(plan, held, facts, changes, FAR))
                if done.code == "done":
                    return answer
                held = await self.customers.again(held, done)
        raise Busy("too many requests change this customer at once: try again")

    async def confirm_many(self, reservation_ids: Sequence[str]) -> list[Json]:
        """Confirm many: one result per id, in order, failures in their place."""
        results: list[Json] = []
        for start in range(0, len(reservation_ids), _AT_ONCE):
            part = reservation_ids[start : start + _AT_ONCE]
            results += await asyncio.gather(*(self._confirm_one(reservation_id) for reservation_id in part))
        return results

    async def _confirm_one(self, reservation_id: str) -> Json:
        try:
            return (await self.confirm(reservation_id)).answer
        except NotFound as error:
            return {
                "reservation_id": reservation_id,
                "state": "unknown",
                "detail": error.detail,
                "reasons": [],
            }
        except Conflict as error:
            state = error.state or "refused"
            return {
                "reservation_id": reservation_id,
                "state": state,
                "detail": error.detail,
                "reasons": error.reasons or [],
            }

    # ------------------------------------------------------------------ record

    async def record(self, request: ContactRequest) -> Recorded:
        """Count a contact that happened elsewhere, and say which rules it broke."""
        async with self.customers.lane(self.customers.tag(request.customer_id)):
            held = await self.customers.load(request.customer_id)
            for _ in range(MAX_JUDGEMENTS):
                plan = await self.plans.get(held.policy_version)
                item = Item(request.offer, request.category)
                channel = checked_item(plan, request.channel, item)
                at = _contact_time(request, held.now, plan.policy.keep.contacts_ms)
                uid = (
                    external_uid(request.contact_id)
                    if request.contact_id
                    else make_uid(held.now, self._random)
                )
                known = find(held.facts, uid)
                if known is not None:
                    return Recorded(public_id(held.tag, uid), known.overrun)
                standing = Standing(plan.rules, held.facts, self._values(plan, held), held.now)
                rules = broken_rules(standing, channel, item, at)
                facts = record(held.facts, Contact(uid, at, channel.name, (item,), "confirmed", 0, rules))
                quota = capacity_quota(plan, channel.name, at)
                changes = (QuotaOp(quota, "settle", held.tag + uid),) if quota is not None else ()
                done = await self.store.commit(self._write(plan, held, facts, changes, FAR))
                if done.code == "done":
                    return Recorded(public_id(held.tag, uid), rules)
                held = await self.customers.again(held, done)
        raise Busy("too many requests change this customer at once: try again")

    # ------------------------------------------------------------------ shared

    def _values(self, plan: Plan, held: Held) -> dict[str, Any]:
        state = state_of(self.plans.catalogues, plan.catalogue, held.state)
        return condition_values(plan, held.facts, state, {}, held.now)

    def _write(self, plan: Plan, held: Held, facts: Any, changes: tuple[QuotaOp, ...], until: int) -> Commit:
        keep = plan.policy.keep
        return Commit(
            tag=held.tag,
            facts_version=version_bytes(held.facts),
            policy_version=plan.policy.version,
            deadline=min(until, held.now + STALE_MS),
            facts=next_version(pruned(facts, held.now, keep.contacts_ms, keep.events_ms), held.now),
            quotas=changes,
        )

    @staticmethod
    def _place(reservation_id: str) -> tuple[str, str]:
        place = split_id(reservation_id)
        if place is None:
            raise NotFound(f"there is no reservation '{reservation_id}'")
        return place

    @staticmethod
    def _reservation(held: Held, tag: str, uid: str, reservation_id: str) -> Contact:
        contact = find(held.facts, stored_uid(tag, uid, held.tag))
        if contact is None:
            raise NotFound(f"there is no reservation '{reservation_id}': long-ended ones are forgotten")
        return contact


def checked_item(plan: Plan, channel: str, item: Item) -> Channel:
    """Return the channel of a message about `item`; raises Invalid for what the policy does not know."""
    policy = plan.policy
    known = policy.channels.get(channel)
    if known is None:
        raise Invalid(
            f"there is no channel '{channel}': the policy has {', '.join(policy.channels)}",
            pointer="/channel",
        )
    if item.category not in policy.categories:
        raise Invalid(
            f"there is no category '{item.category}': the policy has {', '.join(policy.categories)}",
            pointer="/category",
        )
    if item.offer is not None:
        offer = policy.offers.get(item.offer)
        if offer is None:
            raise Invalid(f"there is no offer '{item.offer}' in the active policy", pointer="/offer")
        if offer.category != item.category:
            raise Invalid(
                f"offer '{item.offer}' is of category '{offer.category}', not '{item.category}': leave category out",
                pointer="/category",
            )
    return known


def item_of(plan: Plan, category: str | None, offer: str | None) -> Item:
    """Return the item of a check, its category taken from the offer where it was left out."""
    if category is not None:
        return Item(offer, category)
    if offer is None:
        raise Invalid("name a category, an offer, or both", pointer="/category")
    known = plan.policy.offers.get(offer)
    if known is None:
        raise Invalid(f"there is no offer '{offer}' in the active policy", pointer="/offer")
    return Item(offer, known.category)


def _allowed(held: Held, row: Row, made: Contact | None) -> Json:
    answer: Json = {"customer_id": row.customer_id, "allowed": True}
    if made is not None:
        answer |= {"reservation_id": public_id(held.tag, made.uid), "expires_at": when(made.expires_at)}
    return answer


def _another(row: Row) -> Json:
    detail = "this Idempotency-Key was used with another row in this place: take a new key"
    return {"customer_id": row.customer_id, "error": detail}


def _quota_refusals(
    plan: Plan, row: Row, spent: Collection[str], now: int
) -> tuple[list[Refusal], list[NextFree]]:
    refusals: list[Refusal] = []
    extra: list[NextFree] = []
    for quota in message_quotas(plan, row.channel, (row.item,), now):
        if quota.name in spent:
            stops, free = _no_room(plan, quota, now)
            refusals += stops
            extra.append(lambda at, free=free: None if free is None else max(at, free))  # type: ignore[misc]
    return refusals, extra


def _no_room(plan: Plan, quota: Quota, now: int) -> tuple[list[Refusal], int | None]:
    """Return the refusal of a quota that is used up, and the moment (ms) at which it has room again, if any."""
    free = None if quota.period == "total" else next_day(plan, now)
    rule = quota.name.partition(":")[0]
    return [Refusal(rule, rule, free)], free


def _late_refusal(stops: Sequence[Refusal], eligible_at: int | None) -> Conflict:
    names = ", ".join(dict.fromkeys(stop.rule for stop in stops))
    return Conflict(
        f"the message may not be sent now: {names}",
        reasons=[refusal(stop) for stop in stops],
        eligible_at=when(eligible_at),
    )


def _contact_time(request: ContactRequest, now: int, keep_ms: int) -> int:
    if request.occurred_at is None:
        return now
    try:
        at = parse_time(request.occurred_at)
    except ValueError as error:
        raise Invalid(str(error), pointer="/occurred_at") from None
    if at > now + AHEAD_MS:
        raise Invalid(
            "occurred_at lies more than 5 minutes ahead: check the sender's clock", pointer="/occurred_at"
        )
    if at <= now - keep_ms:
        raise Invalid(
            "occurred_at is older than contacts are kept (keep.contacts): leave it out",
            pointer="/occurred_at",
        )
    return at


__all__ = ["Contacts", "Recorded", "Row", "TactError", "checked_item", "item_of"]
