"""A policy's own cases, run by the very core that decides in production: same fold, same governor, same choice.

A case brings its clock and its customer; nothing here touches a store. Values that a case gives win over what
its events would give, and its customer is in no group unless it says so.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec.structs import replace

from engine.judging.answer import Json, decide_answer, make_record, refusal, trace, when
from engine.judging.decide import decide
from engine.judging.decision import Ask
from engine.judging.governor import NextFree, Refusal, Standing
from engine.judging.plan import Plan, condition_values
from engine.judging.quotas import budget_quota, capacity_quota, next_day
from features.event import parse_event, parse_time
from features.facts import Dated, Facts, Item
from features.fold import apply
from features.state import Customer, FeatureState
from policies.cases import Case, Check, Decide

_TAG = "case" * 4


class Failure(msgspec.Struct, frozen=True):
    """A case that failed: what was expected, what came, and why it came."""

    name: str
    expected: Json
    got: Json
    why: list[str]
    file: str
    line: int


def run_cases(plan: Plan, cases: Sequence[Case]) -> list[Failure]:
    """Run the cases in order and return those that failed."""
    return [failure for case in cases if (failure := run_case(plan, case)) is not None]


def run_case(plan: Plan, case: Case) -> Failure | None:
    """Run one case; None when everything that it expects came."""
    facts, state = _customer(plan, case)
    values = _values(plan, case, facts, state)
    if isinstance(case.ask, Decide):
        answer, why = _decide(plan, case, case.ask, facts, values, state)
    else:
        answer, why = _check(plan, case, case.ask, facts, values)
    got = {name: answer.get(name) for name in case.expect}
    if all(_same(name, wanted, got[name]) for name, wanted in case.expect.items()):
        return None
    return Failure(case.name, case.expect, got, why, case.file, case.line)


def _customer(plan: Plan, case: Case) -> tuple[Facts, FeatureState]:
    """Fold the case's events, then lay over what it gives as values."""
    given = case.customer
    customer = Customer(Facts(customer_id=given.customer_id))
    for number, raw in enumerate(given.events):
        event = parse_event({"customer_id": given.customer_id, **raw}, now=case.now, made_id=str(number))
        customer = apply(
            plan.catalogue,
            customer,
            event,
            mark_types=plan.mark_types,
            keep_ms=plan.policy.keep.events_ms,
            question_fields=plan.question_fields,
            channel_purposes=plan.channel_purposes,
        )
    facts = customer.facts
    profile = {name: Dated(value, case.now) for name, value in given.profile.items() if name != "open_cases"}
    if given.timezone is not None:
        profile["timezone"] = Dated(given.timezone, case.now)
    facts = replace(
        facts,
        contacts=tuple(sorted(given.contacts, key=lambda contact: (contact.at, contact.uid))),
        consent={
            **facts.consent,
            **{purpose: Dated(value, case.now) for purpose, value in given.consent.items()},
        },
        profile={**facts.profile, **profile},
        answers={**facts.answers, **{name: Dated(value, case.now) for name, value in given.answers.items()}},
    )
    return facts, customer.state


def _values(plan: Plan, case: Case, facts: Facts, state: FeatureState) -> dict[str, Any]:
    context = case.ask.context if isinstance(case.ask, Decide) else {}
    values = condition_values(plan, facts, state, context, case.now)
    values |= {"features." + name: value for name, value in case.customer.features.items()}
    if "open_cases" in case.customer.profile:
        values["profile.open_cases"] = case.customer.profile["open_cases"]
    return values


def _spent(plan: Plan, case: Case) -> frozenset[str]:
    """Return the offers whose budget, as the case gives it, cannot take one more."""
    found = set()
    for offer, micro in case.budgets.items():
        quota = budget_quota(plan, offer, case.now)
        if quota is not None and micro + quota.amount > quota.limit:
            found.add(offer)
    return frozenset(found)


def _full(plan: Plan, case: Case, channel: str) -> bool:
    quota = capacity_quota(plan, channel, case.now)
    return quota is not None and case.capacities.get(channel, 0) >= quota.limit


def _decide(
    plan: Plan, case: Case, asked: Decide, facts: Facts, values: dict[str, Any], state: FeatureState
) -> tuple[Json, list[str]]:
    placement = plan.placements[asked.placement]
    ask = Ask(
        uid=blake2b(case.name.encode(), digest_size=6).hexdigest(),
        placement=asked.placement,
        limit=min(asked.limit or placement.placement.slots, placement.placement.slots),
        context=asked.context,
        exclude=asked.exclude,
        control=case.customer.control,
        at_random=case.customer.random,
    )
    full = _full(plan, case, placement.channel.name)
    decision = decide(plan, ask, facts, values, case.now, spent=_spent(plan, case), full=full)
    reserved = decision.action == "offer" and placement.reserves and not asked.preview
    expires_at = case.now + placement.channel.reservation_ttl_ms if reserved else 0
    record = make_record(plan, ask, decision, facts.customer_id, case.now, state.as_of, expires_at)
    answer = decide_answer(plan, _TAG, record, decision)
    steps = trace(plan, record)
    times = [entry["eligible_at"] for entry in answer["suppressed"] if entry["eligible_at"] is not None]
    answer |= {
        "offers": [offer["offer"] for offer in answer["offers"]],
        "rules": [entry["rule"] for entry in answer["suppressed"]],
        "eligible_at": min(times, default=None),
        "trace": steps,
    }
    why = [
        f"{step['offer']}: {step['verdict']} ({step['reason'] or step['stage']}) {step['details']}"
        for step in steps
    ]
    return answer, why


def _check(
    plan: Plan, case: Case, asked: Check, facts: Facts, values: dict[str, Any]
) -> tuple[Json, list[str]]:
    channel, item = plan.policy.channels[asked.channel], Item(asked.offer, asked.category)
    standing = Standing(plan.rules, facts, values, case.now)
    refusals = standing.refusals(channel, item)
    extra: list[NextFree] = []
    if asked.offer in _spent(plan, case):
        refusals.append(Refusal("budget", "budget", None))
        extra.append(lambda _: None)
    if _full(plan, case, asked.channel):
        following = next_day(plan, case.now)
        refusals.append(Refusal("capacity", "capacity", following))
        extra.append(lambda at: max(at, following))
    answer: Json = {"allowed": not refusals, "rules": [stop.rule for stop in refusals]}
    if refusals:
        answer["reasons"] = [refusal(stop) for stop in refusals]
        answer["eligible_at"] = when(standing.eligible_at(channel, item, extra=extra))
    why = [
        f"{stop.rule} ({stop.reason}) stands in the way until {when(stop.eligible_at)} {stop.details}"
        for stop in refusals
    ]
    return answer, why or ["no rule stands in the way"]


def _same(name: str, wanted: Any, got: Any) -> bool:
    """Compare as the contract says: rules as a set, times as moments, dicts by what they name."""
    if name == "rules":
        return set(wanted or ()) == set(got or ())
    if isinstance(wanted, dict) and isinstance(got, dict):
        return all(_same(key, value, got.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(
            _same("", one, two) for one, two in zip(wanted, got, strict=True)
        )
    if isinstance(wanted, str) and isinstance(got, str) and wanted != got:
        try:
            return parse_time(wanted) == parse_time(got)
        except ValueError:
            return False
    return bool(wanted == got)
