"""Decisions as a service: prefetch, decide, commit, and answer when the store cannot.

Two round trips a decision. Between the load and the commit there is no await and no I/O; a commit that finds
changed facts writes nothing, and the fresh facts are judged again (G2). When the store is away, outbound stays
silent and inbound answers the placement's fallback, within the deadline, counting nothing (G17).
"""

import os
import time
from typing import Any, Final, NamedTuple

import orjson

from engine.errors import Busy, Invalid
from engine.judging.answer import Json, decide_answer, make_record, trace
from engine.judging.decide import decide
from engine.judging.decision import ENCODER, Ask, Decision, Record
from engine.judging.ids import RandomPool, make_uid, public_id
from engine.judging.plan import Plan, condition_values
from engine.judging.quotas import Quota, QuotaOp, holds, placement_quotas, used_up
from engine.judging.trail import MADE, step
from engine.services.activation import Plans
from engine.services.customers import Customers, Held, state_of, version_bytes, with_reservation
from engine.services.idempotency import Idempotency, unpack
from engine.services.models import Models, profile_of
from engine.services.requests import DecideRequest
from engine.store.connection import StoreUnavailable
from engine.store.store import DAY_MS, Commit
from features.facts import Contact, Item
from features.identity import in_share

MERGED: Final = "customer_id"
"""The kind of alias under which a merged customer's old id is kept."""
MAX_JUDGEMENTS: Final = 64
"""How often one request judges again before it gives up: far more than real races need."""
WITHIN_S: Final = 0.22
"""What the store's round trips of one decide may take in all (s): without a store it answers within 250 ms."""
STALE_MS: Final = 2_000
"""A judgement older than this is not committed (ms)."""


class Answer(NamedTuple):
    """A body to send, and whether it is a stored one."""

    body: bytes
    replayed: bool = False


class _Judged(NamedTuple):
    plan: Plan
    held: Held
    ask: Ask
    decision: Decision
    record: Record


class Deciding:
    """Answers `POST /v1/decide`."""

    def __init__(self, customers: Customers, plans: Plans, models: Models) -> None:
        """Take the loader of customers, the compiled policies and the learned models."""
        self.customers = customers
        self.plans = plans
        self.models = models
        self.store = customers.store
        self._random = RandomPool(os.urandom)

    async def decide(self, request: DecideRequest, idempotency: Idempotency | None = None) -> Answer:
        """Decide for one customer at one placement; the body is the answer of `POST /v1/decide`."""
        started = time.perf_counter()
        customers = self.customers
        try:
            customer_id = request.customer_id
            if customer_id is None:
                assert request.identities is not None  # noqa: S101  # the route has checked that one of them is there
                customer_id = await customers.resolve(request.identities)
            tag = customers.tag(customer_id)
            if not customers.take(tag):
                await customers.queue(tag)
            try:
                return await self._decide(request, tag, customer_id, idempotency, started)
            finally:
                customers.leave(tag)
        except StoreUnavailable:
            return Answer(self._without_store(request, started))

    async def _decide(
        self,
        request: DecideRequest,
        tag: str,
        customer_id: str,
        idempotency: Idempotency | None,
        started: float,
    ) -> Answer:
        key = idempotency.key if idempotency is not None else ""
        quotas = self._quotas(request)
        clock = str(time.time_ns() // 1_000_000) if quotas else "0"
        held = await self.customers.load_tag(
            tag, customer_id, idempotency_key=key, quotas=quotas, quota_time=clock, within_s=_left(started)
        )
        if held.answered is not None:
            assert idempotency is not None  # noqa: S101  # only asked for with a key
            return Answer(unpack(held.answered, idempotency), replayed=True)
        uid = make_uid(held.now, self._random)
        spent = used_up(quotas, held.quotas) if quotas else frozenset()
        for judgement in range(1, MAX_JUDGEMENTS + 1):
            plan = self.plans.known(held.policy_version) or await self.plans.get(held.policy_version)
            judged = self._judge(plan, request, held, uid, spent)
            body = self._body(judged, request, started)
            if request.preview:
                return Answer(body)
            commit, changes = self._commit(judged, body, idempotency)
            done = await self.store.commit(commit, _left(started))
            if done.code == "done":
                self._count(judgement, judged.decision)
                return Answer(body)
            if done.code == "answered":
                assert idempotency is not None  # noqa: S101  # only stored with a key
                return Answer(unpack(done.answer, idempotency), replayed=True)
            if done.code == "quota":
                spent = spent | {changes[done.quota].quota.name}
            held = await self.customers.again(held, done)
        raise Busy("too many requests change this customer at once: try again")

    def _count(self, judgement: int, decision: Decision) -> None:
        measures = self.customers.measures
        measures.judgements[judgement] += 1
        measures.decisions[decision.action, decision.reason] += 1
        if decision.blocks:
            measures.refused("decide", {block.rule for block in decision.blocks})

    def _quotas(self, request: DecideRequest) -> tuple[Quota, ...]:
        """Return the quotas of the placement, as far as the current plan knows it."""
        plan = self.plans.current
        placement = plan.placements.get(request.placement) if plan is not None else None
        if plan is None or placement is None or not placement.limited:
            return ()
        return placement_quotas(plan, placement, time.time_ns() // 1_000_000)

    def _judge(
        self, plan: Plan, request: DecideRequest, held: Held, uid: str, spent: frozenset[str]
    ) -> _Judged:
        """Judge the loaded facts: synchronous from here to the commit."""
        placement = plan.placements.get(request.placement)
        if placement is None:
            raise Invalid(
                f"there is no placement '{request.placement}': the policy has {', '.join(sorted(plan.placements))}",
                pointer="/placement",
            )
        state = state_of(self.plans.catalogues, plan.catalogue, held.state)
        values = condition_values(plan, held.facts, state, request.context, held.now)
        groups = plan.policy.groups
        ask = Ask(
            uid=uid,
            placement=request.placement,
            limit=min(request.limit or placement.placement.slots, placement.placement.slots),
            context=request.context,
            exclude=request.exclude,
            control=groups.control > 0 and in_share(held.facts.customer_id, "control", groups.control),
            at_random=groups.random > 0 and in_share(held.facts.customer_id, "random", groups.random),
        )
        budgets, full = spent, False
        if spent:
            budgets = frozenset(name.removeprefix("budget:") for name in spent if name.startswith("budget:"))
            full = f"capacity:{placement.channel.name}" in spent
        served, profile = self.models.current, profile_of(held.facts)
        score = (
            served.scorer(plan, placement, state, profile, request.context, held.now, values)
            if served is not None
            else None
        )
        decision = decide(plan, ask, held.facts, values, held.now, spent=budgets, full=full, score=score)
        reserved = decision.action == "offer" and placement.reserves
        expires_at = held.now + placement.channel.reservation_ttl_ms if reserved else 0
        record = make_record(
            plan,
            ask,
            decision,
            held.facts.customer_id,
            held.now,
            state.as_of,
            expires_at,
            held.state or b"",
            profile,
        )
        return _Judged(plan, held, ask, decision, record)

    def _body(self, judged: _Judged, request: DecideRequest, started: float) -> bytes:
        answer = decide_answer(judged.plan, judged.held.tag, judged.record, judged.decision)
        if request.explain:
            answer["trace"] = trace(judged.plan, judged.record)
        if request.preview:
            answer["reservation"] = None
        answer["took_ms"] = round((time.perf_counter() - started) * 1000, 3)
        return orjson.dumps(answer)

    def _commit(
        self, judged: _Judged, body: bytes, idempotency: Idempotency | None
    ) -> tuple[Commit, tuple[QuotaOp, ...]]:
        plan, held, ask, decision, record = judged
        facts: bytes = b""
        changes: tuple[QuotaOp, ...] = ()
        items = tuple([Item(pick.offer, pick.category) for pick in record.chosen])
        if record.reserved:
            contact = Contact(ask.uid, held.now, record.channel, items, "reserved", record.expires_at)
            facts = with_reservation(held, contact, plan.policy.keep)
        if record.chosen and plan.placements[ask.placement].limited:
            changes = holds(plan, record.channel, items, held.now, held.tag + record.uid, record.expires_at)
        commit = Commit(
            tag=held.tag,
            facts_version=version_bytes(held.facts),
            policy_version=plan.policy.version,
            deadline=min(decision.yes_until, held.now + STALE_MS),
            facts=facts,
            uid=ask.uid,
            record=ENCODER.encode(record),
            record_until=(held.now // DAY_MS + 1) * DAY_MS + plan.policy.keep.decisions_ms,
            idempotency_key=idempotency.key if idempotency is not None else "",
            answer=idempotency.pack(body) if idempotency is not None else b"",
            answer_ttl_ms=idempotency.ttl_ms if idempotency is not None else 0,
            step=step(MADE, held.tag, ask.uid),
            quotas=changes,
        )
        return commit, changes

    def _without_store(self, request: DecideRequest, started: float) -> bytes:
        """Answer without any state: silence, or the placement's fallback on an inbound channel."""
        plan = self.plans.current
        placement = plan.placements.get(request.placement) if plan is not None else None
        if plan is None:
            raise StoreUnavailable("the store does not answer: try again in a moment", maybe_applied=False)
        if placement is None:
            raise Invalid(f"there is no placement '{request.placement}'", pointer="/placement")
        fallback = placement.placement.fallback if placement.channel.kind == "inbound" else None
        action = "none" if fallback is None else "offer"
        if not request.preview:
            self.customers.measures.decisions[action, "state_unavailable"] += 1
        answer: Json = {
            "decision_id": public_id("0" * 16, make_uid(time.time_ns() // 1_000_000, os.urandom)),
            "customer_id": request.customer_id,
            "placement": request.placement,
            "channel": placement.channel.name,
            "action": action,
            "reason": "state_unavailable",
            "offers": [] if fallback is None else [_fallback(plan, fallback)],
            "question": None,
            "reservation": None,
            "suppressed": [],
            "policy_version": plan.policy.version,
            "model_version": plan.snapshot.version,
            "features_as_of": None,
        }
        if request.explain:
            answer["trace"] = []
        answer["took_ms"] = round((time.perf_counter() - started) * 1000, 3)
        return orjson.dumps(answer)


def _left(started: float) -> float:
    """Return what is left of a decide's time for the store (s)."""
    return max(WITHIN_S - (time.perf_counter() - started), 0.01)


def _fallback(plan: Plan, offer: str) -> dict[str, Any]:
    known = plan.policy.offers[offer]
    return {
        "offer": offer,
        "rank": 1,
        "category": known.category,
        "content": known.content,
        "propensity": None,
        "value": known.value,
        "priority": None,
        "selection_probability": None,
    }
