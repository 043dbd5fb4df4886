"""What every judgement about a message shares: which message it is, what conditions see, what is written.

Used by checking (may it be sent?) and by contacts (it was sent); no rule is judged here.
"""

from typing import Any

from engine.errors import Invalid
from engine.judging.governor import Refusal
from engine.judging.plan import Plan, condition_values
from engine.judging.quotas import Quota, QuotaOp, next_day
from engine.services.activation import Plans
from engine.services.customers import Held, state_of, version_bytes
from engine.services.deciding import STALE_MS
from engine.store.store import Commit
from features.facts import Item
from policies.model import Channel


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


def seen(plans: Plans, plan: Plan, held: Held) -> dict[str, Any]:
    """Return what the conditions of rules see of a customer; nothing where no rule has one."""
    if not plan.rules.conditional:
        return {}
    state = state_of(plans.catalogues, plan.catalogue, held.state)
    return condition_values(plan, held.facts, state, {}, held.now)


def commit_of(
    plan: Plan, held: Held, facts: bytes, changes: tuple[QuotaOp, ...], until: int, step: bytes = b""
) -> Commit:
    """Return the commit of encoded facts, good until `until` (ms) and no longer than a judgement may be old."""
    return Commit(
        tag=held.tag,
        facts_version=version_bytes(held.facts),
        policy_version=plan.policy.version,
        deadline=min(until, held.now + STALE_MS),
        facts=facts,
        step=step,
        quotas=changes,
    )


def no_room(plan: Plan, quota: Quota, now: int) -> tuple[list[Refusal], int | None]:
    """Return the refusal of a quota that is used up, and the moment (ms) at which it has room again, if any."""
    free = None if quota.period == "total" else next_day(plan, now)
    rule = quota.name.partition(":")[0]
    return [Refusal(rule, rule, free)], free
