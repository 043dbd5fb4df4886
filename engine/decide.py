"""The whole path of a decision, pure: candidates in, one exact choice out.

No clock, no randomness, no I/O: time and ids are arguments, so any decision can be run again. The stages and
their order are the contract's; every candidate leaves with a fate, and every rule that stands in the way is
reported, not only the first.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from engine.arbitration import choose
from engine.decision import STAGE_NAMES, STAGE_OF, Ask, Block, Chosen, Decision, Fates, Stage
from engine.governor import FAR, Standing
from engine.plan import Mask, PlacementPlan, Plan
from engine.quotas import next_day
from features.facts import Facts
from policies.conditions import Unknown

_NOTHING = np.empty(0)
_NOWHERE = np.empty(0, dtype=np.intp)


def decide(
    plan: Plan,
    ask: Ask,
    facts: Facts,
    values: Mapping[str, Any],
    now: int,
    *,
    spent: Collection[str] = (),
    full: bool = False,
) -> Decision:
    """Run the stages for one placement at `now` (ms).

    `values` are the condition values by dotted name, `spent` the offers whose budget cannot take one more,
    `full` says that the channel's capacity cannot.
    """
    placement = plan.placements[ask.placement]
    if ask.control:
        return _silence(placement, "control_group")
    fates: Fates = np.full(len(placement.offers), Stage.CHOICE, dtype=np.int8)
    alive, excluded = _valid(placement, ask, now)
    fates[~alive] = Stage.NO_CANDIDATES
    nulls = _drop_ineligible(placement, values, alive, fates)
    standing = Standing(plan.rules, facts, values, now)
    blocks = _blocks(plan, placement, standing, alive, spent, full=full)
    for block in sorted(blocks, key=lambda block: STAGE_OF[block.reason]):
        fates[block.mask & alive] = STAGE_OF[block.reason]
        alive &= ~block.mask
    below = alive & (placement.priority < plan.policy.arbitration.threshold)
    if below.any():
        fates[below] = Stage.BELOW_THRESHOLD
        alive &= ~below
    candidates = alive.nonzero()[0]
    if len(candidates) == 0:
        reason = STAGE_NAMES[int(fates.max())] if len(fates) else STAGE_NAMES[Stage.NO_CANDIDATES]
        return Decision("none", reason, (), fates, excluded, tuple(blocks), nulls, _NOWHERE, _NOTHING, FAR)
    picks, chance = choose(
        placement.priority[candidates],
        placement.deviation[candidates],
        plan.policy.arbitration.exploration,
        ask.uid,
        min(ask.limit, placement.placement.slots),
        at_random=ask.at_random,
    )
    places = [int(candidates[pick.place]) for pick in picks]
    chosen = tuple(
        Chosen(
            offer=placement.offers[place].id,
            rank=rank,
            category=placement.offers[place].category,
            propensity=float(placement.propensity[place]),
            value=placement.offers[place].value,
            priority=float(placement.priority[place]),
            selection_probability=pick.probability,
        )
        for rank, (place, pick) in enumerate(zip(places, picks, strict=True), 1)
    )
    until = standing.yes_until(placement.channel, [placement.items[place] for place in places])
    until = min(until, int(placement.valid_until[places].min()))
    return Decision("offer", None, chosen, fates, excluded, tuple(blocks), nulls, candidates, chance, until)


def _silence(placement: PlacementPlan, reason: str) -> Decision:
    fates: Fates = np.zeros(len(placement.offers), dtype=np.int8)
    return Decision("none", reason, (), fates, (), (), {}, _NOWHERE, _NOTHING, FAR)


def _valid(placement: PlacementPlan, ask: Ask, now: int) -> tuple[Mask, tuple[int, ...]]:
    """Return who is valid now, and the places that the caller excluded."""
    if placement.always_valid:
        alive = np.ones(len(placement.offers), dtype=np.bool_)
    else:
        alive = (placement.valid_from <= now) & (now < placement.valid_until)
    excluded = tuple(place for offer in ask.exclude if (place := placement.index.get(offer)) is not None)
    if excluded:
        alive[list(excluded)] = False
    return alive, excluded


def _drop_ineligible(
    placement: PlacementPlan, values: Mapping[str, Any], alive: Mask, fates: Fates
) -> dict[int, str]:
    """Evaluate each distinct condition once; what cannot be known drops, and names its null."""
    nulls = {}
    for place, eligibility in enumerate(placement.eligibility):
        try:
            holds = eligibility.condition.evaluate(values)
        except Unknown as unknown:
            holds = False
            nulls[place] = unknown.name
        if not holds:
            fates[eligibility.mask & alive] = Stage.NOT_ELIGIBLE
            alive &= ~eligibility.mask
    return nulls


def _blocks(
    plan: Plan,
    placement: PlacementPlan,
    standing: Standing,
    alive: Mask,
    spent: Collection[str],
    *,
    full: bool,
) -> list[Block]:
    """Return every rule that stops any of the candidates that are alive, with those that it stops."""
    found: list[Block] = []

    def stop(rule: str, reason: str, mask: Mask, eligible_at: int | None, details: str = "") -> None:
        stopped = mask & alive
        if stopped.any():
            found.append(Block(rule, reason, eligible_at, details, stopped))

    now, channel = standing.now, placement.channel
    consent = standing.consent_refusal(channel)
    if consent is not None:
        stop(consent.rule, consent.reason, placement.obeys, None, consent.details)
    if channel.quiet is not None:
        free = standing.quiet_free(channel, now)
        if free != now:
            stop("quiet_hours", "quiet_hours", placement.obeys, free)
    _stop_suppressed(plan, placement, standing, stop)
    for rule in placement.caps:
        cap = plan.rules.caps[rule.index]
        for each in standing.caps_used(rule.index):
            mask = rule.masks.get(each)
            if mask is not None:
                at = standing.cap_free(rule.index, each, now)
                if at != now:
                    stop(cap.name, "contact_policy", mask, at)
    for offer in spent:
        place = placement.index.get(offer)
        if place is not None:
            mask = np.zeros(len(placement.offers), dtype=np.bool_)
            mask[place] = True
            budget = placement.offers[place].budget
            daily = budget is not None and budget.per == "day"
            stop("budget", "budget", mask, next_day(plan, now) if daily else None)
    if full:
        stop("capacity", "capacity", np.ones(len(placement.offers), dtype=np.bool_), next_day(plan, now))
    return found


def _stop_suppressed(plan: Plan, placement: PlacementPlan, standing: Standing, stop: Any) -> None:
    now = standing.now
    for rule in placement.suppressions:
        suppression, mask = plan.rules.suppressions[rule.index], rule.masks[None]
        if suppression.after is not None and suppression.after.same_offer:
            for offer in sorted(standing.named_offers(rule.index) & placement.index.keys()):
                free = standing.suppression_free(rule.index, offer, now)
                if free != now and mask[placement.index[offer]]:
                    only = np.zeros(len(mask), dtype=np.bool_)
                    only[placement.index[offer]] = True
                    stop(suppression.name, "suppressed", only, free)
            continue
        free = standing.suppression_free(rule.index, None, now)
        if free != now:
            null = standing.while_holds(suppression)[1] if suppression.while_ is not None else ""
            stop(suppression.name, "suppressed", mask, free, null)
