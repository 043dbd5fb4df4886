"""Joining an event to the decision that it names: its outcome, a spent budget, a reservation that was seen."""

from typing import Final

from msgspec.structs import replace

from engine.judging.governor import Standing
from engine.judging.ids import made_at, public_id, split_id, stored_uid
from engine.judging.ledger import find
from engine.judging.overrun import broken_rules
from engine.judging.plan import Plan
from engine.judging.quotas import QuotaOp, budget_quota, capacity_quota
from engine.judging.trail import OUTCOME, Outcome, amount_of, encode_outcome, step
from engine.services.customers import Held
from engine.store.store import decisions_key
from features.event import Event
from features.facts import Facts
from features.state import event_hash

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


def join_decision(
    plan: Plan, held: Held, facts: Facts, event: Event, offers: tuple[str, ...]
) -> tuple[list[tuple[str, str, bytes, bytes]], list[QuotaOp], Facts]:
    """Join an event to the decision that it names: outcome, spent budget, a reservation that was seen."""
    place = split_id(event.decision_id) if event.decision_id is not None else None
    if place is None or event.type not in _OUTCOMES:
        return [], [], facts
    tag, uid = place
    outcome = encode_outcome(Outcome(event.type, event.occurred_at, event.offer, amount_of(event.properties)))
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
