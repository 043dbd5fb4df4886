"""Budgets and capacity: limited quantities shared by all customers, never oversold (G9).

A budget is money for one offer in integer micro-units: a decision holds the cost of one accept until the offer
is accepted (then it is spent), released, or its time has run out. A capacity is contacts of one channel by
calendar day of the policy's zone: live reservations hold, confirmed contacts are spent.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from engine.judging.plan import PlacementPlan, Plan
from features.facts import Item
from policies.calendar import local_date, window


class Quota(msgspec.Struct, frozen=True):
    """A limited quantity: how to take from it or give back. Amounts are integers (micro-units or contacts)."""

    name: str
    amount: int
    limit: int
    period: str

    @property
    def keys(self) -> tuple[str, str]:
        """The holds and the spending of this quota."""
        return f"q:{self.name}:h", f"q:{self.name}:s"

    def reads(self, now: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the commands that count live holds after `now` and read the period's spending."""
        holds, spent = self.keys
        return ("ZCOUNT", holds, "(" + now, "+inf"), ("HGET", spent, self.period)


class QuotaOp(msgspec.Struct, frozen=True):
    """One change of a quota inside a commit."""

    quota: Quota
    op: Literal["hold", "extend", "take", "settle", "drop"]
    member: str
    until: int = 0


def policy_day(plan: Plan, now: int) -> str:
    """Return the calendar date of the policy's (first) zone."""
    return local_date(plan.policy.timezones[0], now).isoformat()


def next_day(plan: Plan, now: int) -> int:
    """Return the start (ms) of the next calendar day of the policy's (first) zone."""
    return window(plan.policy.timezones[0], "day", 0, now)[1]


def budget_quota(plan: Plan, offer: str, now: int) -> Quota | None:
    """Return the quota of an offer's budget, or None where it has none."""
    known = plan.policy.offers.get(offer)
    if known is None or known.budget is None:
        return None
    period = "total" if known.budget.per == "total" else policy_day(plan, now)
    return Quota(f"budget:{offer}", known.budget.cost_per_accept_micro, known.budget.max_micro, period)


def capacity_quota(plan: Plan, channel: str, now: int) -> Quota | None:
    """Return the quota of a channel's capacity, or None where it has none."""
    known = plan.policy.channels.get(channel)
    if known is None or known.capacity is None:
        return None
    return Quota(f"capacity:{channel}", 1, known.capacity.max, policy_day(plan, now))


def placement_quotas(plan: Plan, placement: PlacementPlan, now: int) -> tuple[Quota, ...]:
    """Return the quotas that the candidates of a placement draw on."""
    offers = [placement.offers[place].id for place in placement.budgeted]
    found = [
        *(budget_quota(plan, offer, now) for offer in offers),
        capacity_quota(plan, placement.channel.name, now),
    ]
    return tuple(quota for quota in found if quota is not None)


def message_quotas(plan: Plan, channel: str, items: Sequence[Item], now: int) -> tuple[Quota, ...]:
    """Return the quotas that one message draws on: the budgets of its offers, the capacity of its channel."""
    if not plan.limited:
        return ()
    found = [
        *(budget_quota(plan, item.offer, now) for item in items if item.offer is not None),
        capacity_quota(plan, channel, now),
    ]
    return tuple(quota for quota in found if quota is not None)


def used_up(quotas: Sequence[Quota], counts: Sequence[int]) -> frozenset[str]:
    """Return the names of the quotas that cannot take one more; `counts` alternate live holds and spending."""
    pairs = zip(quotas, counts[::2], counts[1::2], strict=True)
    return frozenset(q.name for q, live, spent in pairs if live * q.amount + spent + q.amount > q.limit)


def room_left(quotas: Sequence[Quota], counts: Sequence[int]) -> dict[str, int]:
    """Return how many more each quota can take, by name; `counts` as in `used_up`. A free one has no entry."""
    pairs = zip(quotas, counts[::2], counts[1::2], strict=True)
    return {q.name: (q.limit - spent) // q.amount - live for q, live, spent in pairs if q.amount}


def holds(
    plan: Plan, channel: str, items: Sequence[Item], now: int, member: str, expires_at: int
) -> tuple[QuotaOp, ...]:
    """Return what a decision or a reservation holds; `expires_at` (ms) is 0 where nothing is reserved.

    What is shown without a reservation holds its budget for as long as an accept may come.
    """
    until = expires_at or now + plan.policy.attribution.accept_ms
    return tuple(
        QuotaOp(quota, "hold", member, until)
        for quota in message_quotas(plan, channel, items, now)
        if expires_at or quota.name.startswith("budget:")
    )


def confirmed(
    plan: Plan, channel: str, items: Sequence[Item], now: int, member: str, *, late: bool
) -> tuple[QuotaOp, ...]:
    """Return what a confirm changes: capacity is spent, budgets wait for the accept; a late one asks again."""
    until = now + plan.policy.attribution.accept_ms
    found = []
    for quota in message_quotas(plan, channel, items, now):
        if quota.name.startswith("budget:"):
            found.append(QuotaOp(quota, "hold" if late else "extend", member, until))
        else:
            found.append(QuotaOp(quota, "take" if late else "settle", member))
    return tuple(found)


def released(plan: Plan, channel: str, items: Sequence[Item], now: int, member: str) -> tuple[QuotaOp, ...]:
    """Return what a release gives back."""
    return tuple(QuotaOp(quota, "drop", member) for quota in message_quotas(plan, channel, items, now))
