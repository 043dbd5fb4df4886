"""Answers as callers see them: plain JSON-able values made from decisions, records and refusals.

One rendering serves the answer of a decide, its trace and the record read back later: what was logged is what
was said.
"""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.judging.decision import STAGE_NAMES, Ask, Chosen, Decision, Record, Stage
from engine.judging.governor import Refusal
from engine.judging.ids import public_id
from engine.judging.masks import Mask, places_of
from engine.judging.plan import PlacementPlan, Plan
from engine.judging.ranking import LEARNED, priorities
from engine.judging.scoring import Array, Scores
from features.event import format_time
from features.facts import Value

Json = dict[str, Any]


def when(at: int | None) -> str | None:
    """Return the RFC 3339 time of a moment (ms), or None."""
    return None if at is None else format_time(at)


def make_record(
    plan: Plan,
    ask: Ask,
    decision: Decision,
    customer_id: str,
    now: int,
    features_as_of: int,
    expires_at: int,
    state: bytes = b"",
    profile: dict[str, Value] | None = None,
) -> Record:
    """Make the record of a decision; `expires_at` (ms) is 0 where nothing was reserved."""
    placement, over = plan.placements[ask.placement], decision.considered
    places, chance = over.packed if over is not None else (b"", b"")
    return Record(
        uid=ask.uid,
        at=now,
        customer_id=customer_id,
        placement=ask.placement,
        channel=placement.channel.name,
        limit=ask.limit,
        context=ask.context,
        exclude=ask.exclude,
        action=decision.action,
        reason=decision.reason,
        chosen=decision.chosen,
        policy_version=plan.policy.version,
        model_version=decision.model_version or plan.snapshot.version,
        features_as_of=features_as_of,
        dropped=tuple((stage, _packed(mask)) for stage, mask in decision.dropped),
        blocks=tuple(
            (block.rule, block.reason, block.eligible_at, block.details, _packed(block.mask))
            for block in decision.blocks
        ),
        nulls=decision.nulls,
        places=places,
        chance=chance,
        reserved=expires_at > 0,
        expires_at=expires_at,
        group="control" if ask.control else "random" if ask.at_random else "",
        state=state,
        profile=profile or {},
        scored=decision.scored,
        untried=_packed(decision.untried),
    )


def _packed(mask: Mask) -> bytes:
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _unpacked(mask: bytes) -> Mask:
    return int.from_bytes(mask, "little")


def offers(plan: Plan, chosen: Sequence[Chosen]) -> list[Json]:
    """Return the chosen offers in rank order, with their content."""
    known = plan.policy.offers
    return [
        {
            "offer": pick.offer,
            "rank": pick.rank,
            "category": pick.category,
            "content": known[pick.offer].content if pick.offer in known else {},
            "propensity": pick.propensity,
            "value": pick.value,
            "priority": pick.priority,
            "selection_probability": pick.selection_probability,
        }
        for pick in chosen
    ]


def suppressed(decision: Decision) -> list[Json]:
    """Return each rule that stood in the way, how many offers it stopped, and the earliest of their times."""
    found: dict[str, Json] = {}
    for block in decision.blocks:
        entry = found.setdefault(block.rule, {"rule": block.rule, "offers": 0, "eligible_at": None})
        entry["offers"] += block.mask.bit_count()
        if block.eligible_at is not None:
            at = format_time(block.eligible_at)
            entry["eligible_at"] = at if entry["eligible_at"] is None else min(at, entry["eligible_at"])
    return list(found.values())


def decide_answer(plan: Plan, tag: str, record: Record, decision: Decision) -> Json:
    """Return the answer of `POST /v1/decide`, less `took_ms` and the trace."""
    decision_id = public_id(tag, record.uid)
    reservation = None
    if record.reserved:
        reservation = {"id": decision_id, "state": "reserved", "expires_at": format_time(record.expires_at)}
    return {
        "decision_id": decision_id,
        "customer_id": record.customer_id,
        "placement": record.placement,
        "channel": record.channel,
        "action": record.action,
        "reason": record.reason,
        "offers": offers(plan, record.chosen) if record.chosen else [],
        "question": None,
        "reservation": reservation,
        "suppressed": suppressed(decision) if decision.blocks else [],
        "policy_version": record.policy_version,
        "model_version": record.model_version,
        "features_as_of": format_time(record.features_as_of) if record.features_as_of else None,
    }


def trace(plan: Plan, record: Record) -> list[Json]:
    """Return every offer of the placement with the stage that decided its fate and what lay behind it.

    `plan` must be that of the record's own policy version.
    """
    placement = plan.placements[record.placement]
    if record.reason == "control_group":
        return [
            _fate(offer.id, "control_group", "dropped", "control_group", {}) for offer in placement.offers
        ]
    fates: dict[int, int] = {
        place: stage for stage, mask in record.dropped for place in places_of(_unpacked(mask))
    }
    factors = Factors(plan, record)
    stops = _stops(placement, record)
    chances = dict(zip(array("H", record.places), array("f", record.chance), strict=True))
    chosen = {pick.offer: pick for pick in record.chosen}
    excluded = set(record.exclude)
    found = []
    for place, offer in enumerate(placement.offers):
        stage = STAGE_NAMES[fates.get(place, Stage.CHOICE)]
        if offer.id in excluded:
            found.append(_fate(offer.id, stage, "dropped", "excluded", {}))
        elif place not in fates:
            details = factors.told(place) | {"selection_probability": chances.get(place, 0.0)}
            pick = chosen.get(offer.id)
            if pick is not None:
                details |= {"rank": pick.rank, "selection_probability": pick.selection_probability}
            found.append(_fate(offer.id, stage, "outranked" if pick is None else "chosen", None, details))
        else:
            details = _why(placement, place, record, stage, factors) | (
                {"rules": stops[place]} if stops[place] else {}
            )
            found.append(_fate(offer.id, stage, "dropped", stage, details))
    return found


def _fate(offer: str, stage: str, verdict: str, reason: str | None, details: Json) -> Json:
    return {"offer": offer, "stage": stage, "verdict": verdict, "reason": reason, "details": details}


def _stops(placement: PlacementPlan, record: Record) -> list[list[Json]]:
    stops: list[list[Json]] = [[] for _ in placement.offers]
    for rule, reason, eligible_at, details, mask in record.blocks:
        said = refusal(Refusal(rule, reason, eligible_at, details))
        for place in places_of(_unpacked(mask)):
            stops[place].append(said)
    return stops


class Factors:
    """What each candidate's priority was made of: as a model scored it for this customer, else by the priors."""

    def __init__(self, plan: Plan, record: Record) -> None:
        """`plan` must be that of the record's own policy version."""
        placement = plan.placements[record.placement]
        self.plan = plan
        self.placement = placement
        priors = placement.priors
        self.scores, self.priority, self.deviation = priors.scores, priors.priority, priors.deviation
        self._order = {place: place for place in range(len(placement.offers))}
        self._learned: dict[str, Array] = {}
        if record.scored:
            gone = sum(_unpacked(mask) for stage, mask in record.dropped if stage < Stage.BELOW_THRESHOLD)
            reached = places_of(placement.everyone & ~gone)
            self._order = {place: at for at, place in enumerate(reached)}
            table = np.frombuffer(record.scored, "<f4").reshape(-1, len(reached)).astype(np.float64)
            self.scores = Scores(table[:3])
            # Where the priority reads what is learned beside the propensity, that stands in further rows.
            self._learned = dict(zip(LEARNED, table[3:], strict=False))
            levers = {
                name: lever[reached] if isinstance(lever, np.ndarray) else lever
                for name, lever in placement.levers.items()
            } | self._learned
            self.priority, self.deviation = priorities(plan.policy.arbitration.priority, levers, self.scores)

    def at(self, place: int) -> int | None:
        """Return where the arrays have a candidate; None for one that was not scored."""
        return self._order.get(place)

    def value(self, place: int) -> float:
        """Return what the offer was taken to be worth: as learned for this customer, else as the file says."""
        at = self._order.get(place)
        if at is None or "value" not in self._learned:
            return self.placement.offers[place].value
        return float(self._learned["value"][at])

    def opt_out(self, place: int) -> float | None:
        """Return the chance of an opt-out as it was expected; None where nothing of it was learned."""
        at = self._order.get(place)
        return float(self._learned["opt_out"][at]) if at is not None and "opt_out" in self._learned else None

    def told(self, place: int) -> Json:
        """Return the factors as a trace shows them."""
        offer, at, opt_out = self.placement.offers[place], self._order[place], self.opt_out(place)
        return {
            "propensity": float(self.scores.propensity[at]),
            "value": self.value(place),
            "weight": offer.weight,
            "channel_cost": self.placement.channel.cost,
            **({} if opt_out is None else {"opt_out": opt_out}),
            "priority": float(self.priority[at]),
            "priority_deviation": float(self.deviation[at]),
            "expression": self.plan.policy.arbitration.priority.source,
        }


def _why(placement: PlacementPlan, place: int, record: Record, stage: str, factors: Factors) -> Json:
    offer = placement.offers[place]
    if stage == "no_candidates":
        return {
            "valid_from": str(offer.valid_from) if offer.valid_from else None,
            "valid_until": str(offer.valid_until) if offer.valid_until else None,
        }
    if stage == "not_eligible" and offer.eligible is not None:
        null = next(
            (
                name
                for number, name in record.nulls.items()
                if placement.eligibility[number].condition.source == offer.eligible.source
            ),
            None,
        )
        return {"condition": offer.eligible.source} | ({"null": null} if null is not None else {})
    if stage == "below_threshold":
        return factors.told(place) | {"threshold": factors.plan.policy.arbitration.threshold}
    return {}


def refusal(refused: Refusal) -> Json:
    """Return one reason of a refusal; `details` only where there is something to say."""
    said: Json = {"rule": refused.rule, "reason": refused.reason, "eligible_at": when(refused.eligible_at)}
    if refused.details:
        said["details"] = refused.details
    return said


def record_view(plan: Plan, tag: str, record: Record, reservation: Json | None, outcomes: list[Json]) -> Json:
    """Return a decision read back: request, answer, every candidate's fate, and what became of it."""
    return {
        "decision_id": public_id(tag, record.uid),
        "customer_id": record.customer_id,
        "decided_at": format_time(record.at),
        "request": {
            "placement": record.placement,
            "limit": record.limit,
            "context": record.context,
            "exclude": list(record.exclude),
        },
        "placement": record.placement,
        "channel": record.channel,
        "action": record.action,
        "reason": record.reason,
        "offers": offers(plan, record.chosen),
        "question": None,
        "group": record.group or None,
        "reservation": reservation,
        # Of a closed decision whose log is elsewhere only the choice is known here.
        "candidates": [] if record.archived else trace(plan, record),
        "policy_version": record.policy_version,
        "model_version": record.model_version,
        "features_as_of": format_time(record.features_as_of) if record.features_as_of else None,
        "outcomes": outcomes,
    } | ({"archived": record.archived} if record.archived else {})
