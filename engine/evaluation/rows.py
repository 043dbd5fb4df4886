"""A decision and what became of it, as one row of the decision log."""

from array import array
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from engine.judging.answer import Factors
from engine.judging.decision import STAGE_NAMES, Record, Stage
from engine.judging.masks import places_of
from engine.judging.plan import Plan
from engine.judging.trail import SEEN, YES, Outcome
from engine.learning.encoding import flatten
from engine.learning.inputs import Context
from features.facts import Mark
from policies.model import OPT_OUTS


def row_of(
    plan: Plan,
    decision_id: str,
    customer: str,
    record: Record,
    inputs: Context,
    outcomes: Sequence[Outcome],
    state: str | None,
    now: int,
    marks: Sequence[Mark] = (),
) -> dict[str, Any]:
    """Return the row at `now` (ms); `plan` is that of the record's policy version, keys are those of the schema.

    `state` is what became of the reservation (reserved, confirmed, released, expired), None where there was none.
    `marks` are what the customer did, whether it named the decision or not.
    """
    outcome, at, reward = _outcome(plan, record, outcomes, state, now)
    return {
        "decision_id": decision_id,
        "customer": customer,
        "at": _moment(record.at),
        "placement": record.placement,
        "channel": record.channel,
        "action": record.action,
        "reason": record.reason,
        "grp": record.group or "none",
        "policy_version": record.policy_version,
        "model_version": record.model_version,
        "alpha": plan.policy.arbitration.exploration.alpha,
        "inputs": list(flatten(inputs).items()),
        "segment": [(name, value) for name, value in inputs.items() if isinstance(value, str)],
        "candidates": [] if record.group == "control" else _candidates(plan, record),
        "chosen": [
            {"offer": pick.offer, "rank": pick.rank, "selection_probability": pick.selection_probability}
            for pick in record.chosen
        ],
        "outcome": outcome,
        "outcome_at": _moment(at) if at is not None else None,
        "reward": reward,
        "outcome_value": _amount(plan, record, outcomes) if outcome == "accepted" else None,
        "opted_out": any(one.type in OPT_OUTS for one in outcomes),
        "delivered": None if state is None else state == "confirmed",
        "seen": True if any(one.type in SEEN for one in outcomes) else None,
        "responses": [
            {"type": mark.type, "at": _moment(mark.at)}
            for mark in marks
            if mark.type in YES and record.at <= mark.at <= record.at + plan.policy.attribution.accept_ms
        ],
        "untried": [
            plan.placements[record.placement].offers[place].id
            for place in places_of(int.from_bytes(record.untried, "little"))
        ],
    }


def _outcome(
    plan: Plan, record: Record, outcomes: Sequence[Outcome], state: str | None, now: int
) -> tuple[str, int | None, float | None]:
    """Return the outcome, its moment (ms) and the reward."""
    until = record.at + plan.policy.attribution.accept_ms
    yes = [one.at for one in outcomes if one.type in YES and one.at <= until]
    if yes:
        return "accepted", min(yes), 1.0
    if state in ("released", "expired"):
        return "censored", None, None
    no = [one.at for one in outcomes if one.type == "reject" and one.at <= until]
    if no:
        return "rejected", min(no), 0.0
    return ("silent", until, 0.0) if now > until else ("open", None, None)


def _amount(plan: Plan, record: Record, outcomes: Sequence[Outcome]) -> float | None:
    """Return what the message brought: of each offer the first amount that a yes told of; None where none did."""
    until = record.at + plan.policy.attribution.accept_ms
    first: dict[str | None, float] = {}
    for one in sorted(outcomes, key=lambda one: one.at):
        if one.type in YES and one.at <= until and one.amount is not None:
            first.setdefault(one.offer, one.amount)
    return sum(first.values()) if first else None


def _candidates(plan: Plan, record: Record) -> list[dict[str, Any]]:
    factors = Factors(plan, record)
    placement, scores = factors.placement, factors.scores
    fates = {
        place: stage for stage, mask in record.dropped for place in places_of(int.from_bytes(mask, "little"))
    }
    chances = dict(zip(array("H", record.places), array("f", record.chance), strict=True))
    excluded = set(record.exclude)
    found = []
    for place, offer in enumerate(placement.offers):
        stage, at = fates.get(place, Stage.CHOICE), factors.at(place)
        name = STAGE_NAMES[stage]
        scored = (
            {}
            if at is None
            else {
                "propensity": float(scores.propensity[at]),
                "low": float(scores.low[at]),
                "high": float(scores.high[at]),
                "priority": float(factors.priority[at]),
                "deviation": float(factors.deviation[at]),
            }
        )
        found.append(
            {
                "offer": offer.id,
                "stage": name,
                "reason": "excluded" if offer.id in excluded else None if stage == Stage.CHOICE else name,
                "value": factors.value(place),
                "opt_out": factors.opt_out(place),
                "weight": offer.weight,
                "cost": placement.channel.cost,
                "chance": chances.get(place, 0.0) if stage == Stage.CHOICE else None,
                **scored,
            }
        )
    return found


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
