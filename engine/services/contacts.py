"""Contacts as a service: what a sender asks before it sends, and what it reports after.

Reserve, then confirm, release or expire: exactly one end (G4). A confirm is the sending, so it judges consent,
suppressions and quiet hours again; after expiry it judges everything, as a new reservation would.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from engine.errors import Busy, Conflict, Invalid, NotFound
from engine.judging.answer import Json, refusal, when
from engine.judging.governor import FAR, Refusal, Standing
from engine.judging.ids import RandomPool, make_uid, public_id, split_id, stored_uid
from engine.judging.ledger import confirm, external_uid, find, pruned, record, release
from engine.judging.overrun import broken_rules
from engine.judging.plan import Plan
from engine.judging.quotas import (
    QuotaOp,
    capacity_quota,
    confirmed,
    released,
)
from engine.judging.trail import CONFIRMED, RELEASED, step
from engine.services.activation import Plans
from engine.services.customers import Customers, Held, next_version
from engine.services.deciding import MAX_JUDGEMENTS
from engine.services.requests import ContactRequest
from engine.services.sending import checked_item, commit_of, no_room, seen
from engine.store.store import Commit
from features.event import parse_time
from features.facts import Contact, Facts, Item

_AT_ONCE: Final = 256
"""Customers of one bulk call that are judged side by side."""
AHEAD_MS: Final = 300_000
"""How far ahead of the server a reported time may lie (ms)."""


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

    # ------------------------------------------------------------------ confirm and release

    async def confirm(self, reservation_id: str) -> Confirmed:
        """Confirm a reservation: the moment of the sending. Raises NotFound or Conflict with the reasons."""
        tag, uid = self._place(reservation_id)
        async with self.customers.lane(tag):
            held = await self.customers.load_tag(tag)
            for judgement in range(1, MAX_JUDGEMENTS + 1):
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
                    self.customers.measures.judgements[judgement] += 1
                    return Confirmed(answer, plan.policy.version)
                if done.code == "quota":
                    raise self._refused(*no_room(plan, commit.quotas[done.quota].quota, held.now))
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
        standing = Standing(
            plan.rules, held.facts, seen(self.plans, plan, held), held.now, excluding=contact.uid
        )
        stops = [
            stop for item in contact.items for stop in standing.refusals(channel, item, sending_only=not late)
        ]
        if stops:
            moments = [standing.eligible_at(channel, item) for item in contact.items]
            at = None if None in moments else max(moment for moment in moments if moment is not None)
            raise self._refused(list(dict.fromkeys(stops)), at)
        changes = confirmed(plan, channel.name, contact.items, held.now, member, late=late)
        until = standing.yes_until(channel, contact.items)
        if not late:
            until = min(until, contact.expires_at)  # from then on its place may be somebody else's
        return self._write(
            plan,
            held,
            confirm(held.facts, contact, held.now),
            changes,
            until,
            _step(CONFIRMED, contact, member),
        )

    async def release(self, reservation_id: str) -> Json:
        """Give a reservation back. Raises NotFound, or Conflict after a confirm."""
        tag, uid = self._place(reservation_id)
        async with self.customers.lane(tag):
            held = await self.customers.load_tag(tag)
            for judgement in range(1, MAX_JUDGEMENTS + 1):
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
                gone = _step(RELEASED, contact, reservation_id)
                done = await self.store.commit(self._write(plan, held, facts, changes, FAR, gone))
                if done.code == "done":
                    self.customers.measures.judgements[judgement] += 1
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
            for judgement in range(1, MAX_JUDGEMENTS + 1):
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
                standing = Standing(plan.rules, held.facts, seen(self.plans, plan, held), held.now)
                rules = broken_rules(standing, channel, item, at)
                facts = record(held.facts, Contact(uid, at, channel.name, (item,), "confirmed", 0, rules))
                quota = capacity_quota(plan, channel.name, at)
                changes = (QuotaOp(quota, "settle", held.tag + uid),) if quota is not None else ()
                done = await self.store.commit(self._write(plan, held, facts, changes, FAR))
                if done.code == "done":
                    self.customers.measures.judgements[judgement] += 1
                    self.customers.measures.overruns.update(rules)
                    return Recorded(public_id(held.tag, uid), rules)
                held = await self.customers.again(held, done)
        raise Busy("too many requests change this customer at once: try again")

    # ------------------------------------------------------------------ shared

    def _write(
        self,
        plan: Plan,
        held: Held,
        facts: Facts,
        changes: tuple[QuotaOp, ...],
        until: int,
        step: bytes = b"",
    ) -> Commit:
        keep = plan.policy.keep
        blob = next_version(pruned(facts, held.now, keep.contacts_ms, keep.events_ms), held.now)
        return commit_of(plan, held, blob, changes, until, step)

    def _refused(self, stops: Sequence[Refusal], eligible_at: int | None) -> Conflict:
        names = list(dict.fromkeys(stop.rule for stop in stops))
        self.customers.measures.refused("confirm", names)
        return Conflict(
            f"the message may not be sent now: {', '.join(names)}",
            reasons=[refusal(stop) for stop in stops],
            eligible_at=when(eligible_at),
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


def _step(kind: str, contact: Contact, reservation_id: str) -> bytes:
    """Return the step of the trail of an end; none where no offer was made, so that no decision can lie behind it."""
    place = split_id(reservation_id)
    offered = any(item.offer is not None for item in contact.items)
    return step(kind, *place) if place is not None and offered else b""


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
