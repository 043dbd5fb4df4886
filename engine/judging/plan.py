"""A policy set compiled for deciding: per placement, arrays and masks over its candidate offers.

Everything that does not depend on the customer is worked out here, once per policy version and model
snapshot, so that a request pays for what the customer's facts make different.
"""

from bisect import bisect_right
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec
import numpy as np

from engine.judging.governor import FAR
from engine.judging.masks import Mask, mask_of
from engine.judging.ranking import Ranking, rank
from engine.judging.rules import Each, Rules
from engine.judging.scoring import Snapshot, prior_snapshot, score
from features.catalogue import Catalogue, Reader
from features.facts import Facts, Item
from features.state import FeatureState
from policies.calendar import day_start
from policies.conditions import Condition
from policies.model import Channel, Offer, Placement, PolicySet

MARK_TYPES: Final = frozenset(
    {
        "accept",
        "answer",
        "call",
        "complaint",
        "email_bounce",
        "purchase",
        "reject",
        "store_purchase",
        "unsubscribe",
    }
)
"""Events that are always kept for suppressions to look back at, so that a rule added later finds its past."""


class Eligibility(msgspec.Struct, frozen=True):
    """One distinct condition and the candidates that carry it."""

    condition: Condition
    mask: Mask


class PlacementPlan(msgspec.Struct, frozen=True):
    """One placement, compiled. All arrays run over `offers`, the candidates in file order."""

    placement: Placement
    channel: Channel
    offers: tuple[Offer, ...]
    items: tuple[Item, ...]
    index: dict[str, int]
    everyone: Mask
    valid_from: tuple[int, ...]
    """Ascending moments (ms) from which on the mask beside it in `valid` holds."""
    valid: tuple[Mask, ...]
    eligibility: tuple[Eligibility, ...]
    obeys: Mask
    caps: tuple[dict[Each, Mask], ...]
    """For each cap of the policy set, the candidates that it looks at, by the value that it counts by."""
    suppressions: tuple[tuple[int, Mask], ...]
    """(index of the suppression, the candidates that it looks at), where there are any."""
    levers: dict[str, Any]
    """What the priority is made of beside the propensity: arrays over the offers, and the channel's cost."""
    priors: Ranking
    """How the candidates rank before anything is learned: the same for everyone."""
    budgeted: tuple[int, ...]
    limited: bool
    """Whether a budget or the channel's capacity may refuse a candidate."""
    reserves: bool
    """Whether a contact on this channel is counted."""

    def valid_at(self, now: int) -> tuple[Mask, int]:
        """Return who is valid at `now` (ms), and the moment at which that changes; FAR if never."""
        at = bisect_right(self.valid_from, now)
        return self.valid[at - 1], self.valid_from[at] if at < len(self.valid_from) else FAR


class Plan(msgspec.Struct, frozen=True):
    """A whole policy set, compiled against one model snapshot."""

    policy: PolicySet
    rules: Rules
    catalogue: Catalogue
    snapshot: Snapshot
    placements: dict[str, PlacementPlan]
    readers: tuple[Reader, ...]
    """What reads the features that any condition looks at, by dotted names."""
    defaults: dict[str, Any]
    """Dotted profile names and their defaults."""
    unknown: dict[str, Any]
    """What a condition sees of a customer of whom nothing is known, by dotted names."""
    limited: bool
    """Whether any offer has a budget or any channel a capacity."""
    mark_types: frozenset[str]
    question_fields: dict[str, str]
    channel_purposes: dict[str, str]


def compile_plan(policy: PolicySet, snapshot: Snapshot | None = None) -> Plan:
    """Compile a checked policy set; without a snapshot the marketer's priors score."""
    scores = snapshot or prior_snapshot(policy.offers)
    rules = Rules(policy)
    catalogue = Catalogue(policy.features)
    conditions = [offer.eligible for offer in policy.offers.values() if offer.eligible is not None]
    conditions += [rule.while_ for rule in policy.suppressions if rule.while_ is not None]
    names = {name for condition in conditions for name in condition.names}
    readers = tuple(
        ("features." + name, place, read)
        for name, place, read in catalogue.readers(
            sorted(name.removeprefix("features.") for name in names if name.startswith("features."))
        )
    )
    defaults = {
        f"profile.{field.name}": list(field.default) if isinstance(field.default, tuple) else field.default
        for field in policy.profile.values()
    }
    return Plan(
        policy=policy,
        rules=rules,
        catalogue=catalogue,
        snapshot=scores,
        placements={name: _compile_placement(policy, rules, scores, name) for name in policy.placements},
        readers=readers,
        defaults=defaults,
        unknown={
            **{name: read(None, 0) for name, _, read in readers},
            **defaults,
            "profile.open_cases": 0,
            "profile.timezone": None,
        },
        limited=any(offer.budget is not None for offer in policy.offers.values())
        or any(channel.capacity is not None for channel in policy.channels.values()),
        mark_types=MARK_TYPES | {rule.after.event for rule in policy.suppressions if rule.after is not None},
        question_fields={
            question.id: question.sets.removeprefix("profile.")
            for question in policy.questions
            if question.sets
        },
        channel_purposes={
            channel.name: channel.consent
            for channel in policy.channels.values()
            if channel.consent is not None
        },
    )


def _compile_placement(policy: PolicySet, rules: Rules, snapshot: Snapshot, name: str) -> PlacementPlan:
    placement = policy.placements[name]
    channel = policy.channels[placement.channel]
    offers = tuple(offer for offer in policy.offers.values() if name in offer.placements)
    items = tuple(Item(offer.id, offer.category) for offer in offers)
    obeys = mask_of(place for place, item in enumerate(items) if rules.obeys(item))
    valid_from, valid = _validity(policy.timezones, offers)
    levers: dict[str, Any] = {
        "value": np.array([offer.value for offer in offers], dtype=np.float64),
        "weight": np.array([offer.weight for offer in offers], dtype=np.float64),
        "channel_cost": channel.cost,
        "opt_out": 0.0,
    }
    scores = score(snapshot, offers, policy.arbitration.exploration.alpha)
    everyone = (1 << len(offers)) - 1
    return PlacementPlan(
        placement=placement,
        channel=channel,
        offers=offers,
        items=items,
        index={offer.id: place for place, offer in enumerate(offers)},
        everyone=everyone,
        valid_from=valid_from,
        valid=valid,
        eligibility=_eligibility(offers),
        obeys=obeys,
        caps=tuple(_cap_masks(rules, index, channel, items, obeys) for index in range(len(rules.caps))),
        suppressions=tuple(
            (index, mask)
            for index, rule in enumerate(rules.suppressions)
            if (
                mask := obeys
                & mask_of(p for p, item in enumerate(items) if rules.suppresses(rule, channel.name, item))
            )
        ),
        levers=levers,
        priors=rank("", scores, levers, policy.arbitration, everyone),
        budgeted=tuple(place for place, offer in enumerate(offers) if offer.budget is not None),
        limited=channel.capacity is not None or any(offer.budget is not None for offer in offers),
        reserves=rules.counts_contacts(channel.name),
    )


def _validity(zones: tuple[str, ...], offers: tuple[Offer, ...]) -> tuple[tuple[int, ...], tuple[Mask, ...]]:
    """Return the moments (ms) at which validity changes, and who is valid from each on.

    Dates are whole days in every one of the policy's zones.
    """
    spans = []
    for offer in offers:
        start, end = -FAR, FAR
        if offer.valid_from is not None:
            start = max(day_start(zone, offer.valid_from) for zone in zones)
        if offer.valid_until is not None:
            end = min(day_start(zone, offer.valid_until + timedelta(days=1)) for zone in zones)
        spans.append((start, end))
    moments = sorted({-FAR, *(moment for span in spans for moment in span if abs(moment) != FAR)})
    masks = [
        mask_of(p for p, (start, end) in enumerate(spans) if start <= moment < end) for moment in moments
    ]
    return tuple(moments), tuple(masks)


def _eligibility(offers: tuple[Offer, ...]) -> tuple[Eligibility, ...]:
    by_source: dict[str, tuple[Condition, list[int]]] = {}
    for place, offer in enumerate(offers):
        if offer.eligible is not None:
            by_source.setdefault(offer.eligible.source, (offer.eligible, []))[1].append(place)
    return tuple(Eligibility(condition, mask_of(places)) for condition, places in by_source.values())


def _cap_masks(
    rules: Rules, index: int, channel: Channel, items: tuple[Item, ...], obeys: Mask
) -> dict[Each, Mask]:
    masks: dict[Each, Mask] = {}
    for place, item in enumerate(items):
        looks, each = rules.cap_each(index, channel.name, item)
        if looks and obeys >> place & 1:
            masks[each] = masks.get(each, 0) | 1 << place
    return masks


def condition_values(
    plan: Plan, facts: Facts, state: FeatureState, context: Mapping[str, Any], now: int
) -> dict[str, Any]:
    """Return what conditions see at `now` (ms), by dotted names; `state` belongs to the plan's catalogue.

    A feature that nothing has fed yet reads the same at any moment, so it stands in `unknown`.
    """
    values = plan.unknown.copy()
    if state.catalogue_id:
        held = plan.catalogue.values(state)
        for name, place, read in plan.readers:
            value = held[place]
            if value is not None:
                values[name] = read(value, now)
    for name, dated in facts.profile.items():
        if dated.value is not None and (field := "profile." + name) in values:
            values[field] = list(dated.value) if isinstance(dated.value, tuple) else dated.value
    if facts.cases:
        values["profile.open_cases"] = facts.open_cases()
    for name, value in context.items():
        values["context." + name] = value
    return values
