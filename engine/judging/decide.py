"""The whole path of a decision, pure: candidates in, one exact choice out.

No clock, no randomness, no I/O: time and ids are arguments, so any decision can be run again. The stages and
their order are the contract's; every candidate leaves with a fate, and every rule that stands in the way is
reported, not only the first.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from engine.judging.choice import Pick
from engine.judging.decision import STAGE_NAMES, STAGE_OF, Ask, Block, Chosen, Decision, Stage
from engine.judging.governor import FAR, Standing
from engine.judging.masks import Mask, mask_of
from engine.judging.plan import PlacementPlan, Plan
from engine.judging.quotas import next_day
from engine.judging.ranking import Ranking
from features.facts import Facts
from policies.conditions import Unknown

_NO_CANDIDATES: Final = int(Stage.NO_CANDIDATES)
_NOT_ELIGIBLE: Final = int(Stage.NOT_ELIGIBLE)
_BELOW_THRESHOLD: Final = int(Stage.BELOW_THRESHOLD)


def decide(
    plan: Plan,
    ask: Ask,
    facts: Facts,
    values: Mapping[str, Any],
    now: int,
    *,
    spent: Collection[str] = (),
    full: bool = False,
    score: Callable[[], Ranking] | None = None,
) -> Decision:
    """Run the stages for one placement at `now` (ms).

    `values` are the condition values by dotted name, `spent` the offers whose budget cannot take one more,
    `full` says that the channel's capacity cannot. `score` ranks the placement's offers for this customer; without
    it the marketer's priors do.
    """
    placement = plan.placements[ask.placement]
    if ask.control:
        return Decision("none", "control_group", (), (), (), {}, None, FAR)
    alive, until = placement.valid_at(now)
    if ask.exclude:
        places = (placement.index.get(offer) for offer in ask.exclude)
        alive &= ~mask_of(place for place in places if place is not None)
    dropped: dict[int, Mask] = {_NO_CANDIDATES: placement.everyone & ~alive}
    eligible, nulls = _eligible(placement, values, alive)
    dropped[_NOT_ELIGIBLE] = alive & ~eligible
    alive = eligible
    standing = Standing(plan.rules, facts, values, now)
    blocks = _blocks(plan, placement, standing, alive, spent, full=full)
    for block in blocks:
        stage = STAGE_OF[block.reason]
        dropped[stage] = dropped.get(stage, 0) | block.mask & alive
        alive &= ~block.mask
    ranked = score() if score is not None and alive else placement.priors
    version, scored = ranked.version, ranked.packed(alive)
    dropped[_BELOW_THRESHOLD] = alive & ranked.below_threshold
    alive &= ~ranked.below_threshold
    fates = tuple([fate for fate in sorted(dropped.items()) if fate[1]])
    if not alive:
        reason = STAGE_NAMES[fates[-1][0] if fates else _NO_CANDIDATES]
        return Decision(
            "none", reason, (), fates, tuple(blocks), nulls, None, FAR, version, scored, ranked.untried
        )
    slots = min(ask.limit, placement.placement.slots)
    considered, picks = ranked.choose(alive, ask.uid, slots, at_random=ask.at_random)
    chosen = tuple([_chosen(placement, ranked, pick, rank) for rank, pick in enumerate(picks, 1)])
    items = [placement.items[pick.place] for pick in picks]
    until = min(until, standing.yes_until(placement.channel, items))
    return Decision(
        "offer", None, chosen, fates, tuple(blocks), nulls, considered, until, version, scored, ranked.untried
    )


def _chosen(placement: PlacementPlan, ranked: Ranking, pick: Pick, rank: int) -> Chosen:
    offer = placement.offers[pick.place]
    return Chosen(
        offer=offer.id,
        rank=rank,
        category=offer.category,
        propensity=ranked.scores.propensity.item(pick.place),
        value=ranked.value(pick.place),
        priority=ranked.priority.item(pick.place),
        selection_probability=pick.probability,
    )


def _eligible(
    placement: PlacementPlan, values: Mapping[str, Any], alive: Mask
) -> tuple[Mask, dict[int, str]]:
    """Evaluate each distinct condition once; what cannot be known drops, and names its null."""
    nulls = {}
    for number, eligibility in enumerate(placement.eligibility):
        try:
            holds = eligibility.condition.evaluate(values)
        except Unknown as unknown:
            holds = False
            nulls[number] = unknown.name
        if not holds:
            alive &= ~eligibility.mask
    return alive, nulls


def _blocks(
    plan: Plan,
    placement: PlacementPlan,
    standing: Standing,
    alive: Mask,
    spent: Collection[str],
    *,
    full: bool,
) -> list[Block]:
    """Return every rule that stops any of the candidates that are alive, in the order of the stages."""
    found: list[Block] = []

    def stop(rule: str, reason: str, mask: Mask, eligible_at: int | None, details: str = "") -> None:
        stopped = mask & alive
        if stopped:
            found.append(Block(rule, reason, eligible_at, details, stopped))

    now, channel = standing.now, placement.channel
    consent = standing.consent_refusal(channel)
    if consent is not None:
        stop(consent.rule, consent.reason, placement.obeys, None, consent.details)
    if channel.quiet is not None:
        free = standing.quiet_free(channel, now)
        if free != now:
            stop("quiet_hours", "quiet_hours", placement.obeys, free)
    if placement.suppressions:
        _stop_suppressed(plan, placement, standing, stop)
    for counter in standing.counted():
        index, each = counter
        mask = placement.caps[index].get(each)
        if mask is not None:
            at = standing.cap_free(counter, now)
            if at != now:
                stop(plan.rules.caps[index].name, "contact_policy", mask, at)
    for offer in spent:
        place = placement.index.get(offer)
        if place is not None:
            budget = placement.offers[place].budget
            daily = budget is not None and budget.per == "day"
            stop("budget", "budget", 1 << place, next_day(plan, now) if daily else None)
    if full:
        stop("capacity", "capacity", placement.everyone, next_day(plan, now))
    # Erasure speaks as a suppression, but before consent and quiet hours are asked.
    found.sort(key=lambda block: (block.rule != "erased", STAGE_OF[block.reason]))
    return found


def _stop_suppressed(plan: Plan, placement: PlacementPlan, standing: Standing, stop: Any) -> None:
    now = standing.now
    for index, mask in placement.suppressions:
        suppression = plan.rules.suppressions[index]
        if suppression.after is not None and suppression.after.same_offer:
            for offer in sorted(standing.named_offers(index) & placement.index.keys()):
                free = standing.suppression_free(index, offer, now)
                if free != now:
                    stop(suppression.name, "suppressed", mask & 1 << placement.index[offer], free)
            continue
        free = standing.suppression_free(index, None, now)
        if free != now:
            null = standing.while_holds(suppression)[1] if suppression.while_ is not None else ""
            stop(suppression.name, "suppressed", mask, free, null)
