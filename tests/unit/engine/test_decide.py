"""The path of a decision: the stages in their order, each with its reason."""

import pytest

from engine.judging.decision import Stage
from engine.judging.governor import FAR
from features.event import parse_time
from features.facts import Case, Dated, Mark
from tests.unit.engine.shop import (
    CHANNELS,
    DAY_MS,
    HOUR_MS,
    NOW,
    chosen,
    customer,
    decided,
    offers_with,
    plan_of,
    sent,
)

NIGHT = parse_time("2026-11-21T23:00:00Z")
DAILY = "caps:\n  - {name: daily, max: 1, per: 24h, when: {kind: outbound}}"


def test_slots_are_filled_and_no_more() -> None:
    assert len(decided(plan_of(), "home").chosen) == 2
    assert chosen(decided(plan_of(), "mail")) == ["boots", "guide", "socks"]
    assert len(decided(plan_of(), "mail", ask={"limit": 1}).chosen) == 1


def test_ranks_count_from_one_and_their_chances_multiply_to_that_of_the_whole() -> None:
    picks = decided(plan_of(), "mail").chosen
    assert [pick.rank for pick in picks] == [1, 2, 3]
    assert picks[-1].selection_probability == pytest.approx(1)
    assert 0 < picks[0].selection_probability < 1


def test_factors_are_the_offers_own() -> None:
    pick = next(pick for pick in decided(plan_of(), "mail").chosen if pick.offer == "boots")
    assert (pick.category, pick.value) == ("promotion", 12.0)
    assert pick.propensity == pytest.approx(0.02)
    assert pick.priority == pytest.approx(0.24)


def test_the_control_group_gets_nothing_whatever_else_holds() -> None:
    decision = decided(plan_of(), "home", ask={"control": True})
    assert (decision.action, decision.reason, decision.chosen) == ("none", "control_group", ())


def test_excluded_offers_leave_at_the_first_stage() -> None:
    decision = decided(plan_of(), "home", ask={"exclude": ("boots", "socks", "no-such-offer")})
    assert chosen(decision) == ["guide"]
    assert decision.dropped == ((Stage.NO_CANDIDATES, 0b011),)


@pytest.mark.parametrize(
    ("placement", "facts", "at", "quotas", "reason"),
    [
        ("home", customer(), NOW, {}, None),
        ("mail", customer(consent={}), NOW, {}, "consent"),
        ("mail", customer(consent={"marketing_email": Dated("denied", 0)}), NOW, {}, "consent"),
        ("mail", customer(consent={}), NIGHT, {}, "consent"),
        ("mail", customer(), NIGHT, {}, "quiet_hours"),
        ("mail", customer(contacts=(sent(NIGHT - 1, "email", (None, "service")),)), NIGHT, {}, "quiet_hours"),
        ("mail", customer(cases=(Case("k", 1),)), NOW, {}, "suppressed"),
        ("mail", customer(contacts=(sent(NOW - 1, "email", (None, "service")),)), NOW, {}, "contact_policy"),
        ("desk", customer(), NOW, {"spent": ("boots",)}, "budget"),
        ("desk", customer(), NOW, {"full": True}, "capacity"),
        ("desk", customer(), NOW, {"spent": ("boots",), "full": True}, "budget"),
        ("mail", customer(erased_at=1, consent={}), NOW, {}, "suppressed"),
        ("mail", customer(erased_at=1, consent={}), NIGHT, {}, "suppressed"),
    ],
)
def test_the_reason_is_the_first_stage_that_stops_them_all(
    placement: str, facts: object, at: int, quotas: dict[str, object], reason: str | None
) -> None:
    plan = plan_of(rules=DAILY + "\nsuppressions:\n  - {name: busy, while: profile.open_cases > 0}")
    decision = decided(plan, placement, facts, at=at, **quotas)  # type: ignore[arg-type]
    assert decision.reason == reason
    assert decision.action == ("offer" if reason is None else "none")


def test_the_reason_is_that_of_the_candidate_that_came_furthest() -> None:
    rules = (
        DAILY
        + "\nsuppressions:\n  - {name: busy, while: profile.open_cases >= 0, when: {category: promotion}}"
    )
    facts = customer(contacts=(sent(NOW - 1, "email", (None, "service")),))
    decision = decided(plan_of(rules=rules), "mail", facts)
    assert decision.reason == "contact_policy"
    assert decision.dropped == ((Stage.SUPPRESSED, 0b011), (Stage.CONTACT_POLICY, 0b100))


def test_each_candidate_is_dropped_once_at_its_first_stage() -> None:
    rules = DAILY + "\nsuppressions:\n  - {name: busy, while: profile.open_cases >= 0}"
    facts = customer(consent={}, contacts=(sent(NIGHT - 1, "email", (None, "service")),))
    decision = decided(plan_of(rules=rules), "mail", facts, at=NIGHT)
    assert decision.dropped == ((Stage.CONSENT, 0b111),)
    assert [block.rule for block in decision.blocks] == ["consent", "quiet_hours", "busy", "daily"]


def test_every_rule_in_the_way_says_when_it_would_allow() -> None:
    rules = "caps:\n  - {name: two-hours, gap: 2h}\n  - {name: daily, max: 1, per: 24h}"
    facts = customer(contacts=(sent(NOW - HOUR_MS, "email", (None, "service")),))
    decision = decided(plan_of(rules=rules), "mail", facts)
    assert [(block.rule, block.eligible_at) for block in decision.blocks] == [
        ("two-hours", NOW + HOUR_MS),
        ("daily", NOW + 23 * HOUR_MS),
    ]


def test_a_rule_that_stops_nobody_who_is_left_is_not_named() -> None:
    rules = "suppressions:\n  - {name: busy, while: profile.open_cases >= 0, when: {category: promotion}}"
    decision = decided(plan_of(rules=rules), "mail", ask={"exclude": ("boots", "socks")})
    assert decision.blocks == ()


def test_transactional_offers_pass_all_but_validity_and_capacity() -> None:
    offers = offers_with("id: order, category: transactional, placements: [mail, desk], value: 1")
    rules = DAILY + "\nsuppressions:\n  - {name: busy, while: profile.open_cases >= 0}"
    facts = customer(consent={}, erased_at=5, contacts=(sent(NIGHT - 1, "email", (None, "service")),))
    assert chosen(decided(plan_of(offers, rules), "mail", facts, at=NIGHT)) == ["order"]
    assert decided(plan_of(offers, rules), "desk", facts, full=True).reason == "capacity"


def test_denied_consent_alone_stops_an_inbound_channel() -> None:
    channels = CHANNELS.replace("{kind: inbound}", "{kind: inbound, consent: personal}")
    plan = plan_of(channels=channels)
    assert decided(plan, "home", customer(consent={})).action == "offer"
    denied = customer(consent={"personal": Dated("denied", 0)})
    assert decided(plan, "home", denied).reason == "consent"


def test_erasure_does_not_silence_inbound() -> None:
    assert decided(plan_of(), "home", customer(erased_at=1)).action == "offer"


# ---------------------------------------------------------------------- validity and eligibility

DATED = offers_with(
    "id: advent, category: promotion, placements: [home], value: 5, valid: {from: 2026-11-22, until: 2026-11-23}"
)


@pytest.mark.parametrize(
    ("zones", "first", "last"),
    [
        ("UTC", "2026-11-22T00:00:00.000Z", "2026-11-23T23:59:59.999Z"),
        ("America/New_York", "2026-11-22T05:00:00.000Z", "2026-11-24T04:59:59.999Z"),
        ("[Europe/London, America/New_York]", "2026-11-22T05:00:00.000Z", "2026-11-23T23:59:59.999Z"),
    ],
)
def test_valid_dates_are_whole_days_in_each_of_the_policys_zones(zones: str, first: str, last: str) -> None:
    plan = plan_of(DATED, zones=zones)
    start, end = parse_time(first), parse_time(last)
    actions = [
        decided(plan, "home", at=at).reason for at in (start - 1, start, (start + end) // 2, end, end + 1)
    ]
    assert actions == ["no_candidates", None, None, None, "no_candidates"]


def test_a_yes_ends_with_the_offers_validity() -> None:
    start, end = parse_time("2026-11-22T00:00:00Z"), parse_time("2026-11-24T00:00:00Z")
    assert decided(plan_of(DATED), "home", at=start).yes_until == end
    assert decided(plan_of(), "home").yes_until == FAR


def test_a_yes_ends_where_quiet_hours_or_a_block_ahead_begin() -> None:
    evening = parse_time("2026-11-21T21:00:00Z")
    assert decided(plan_of(), "mail").yes_until == evening
    rules = "suppressions:\n  - {name: sore, after: {event: complaint}, for: 1d}"
    ahead = customer(marks=(Mark("complaint", NOW + 60_000),))
    assert decided(plan_of(rules=rules), "mail", ahead).yes_until == NOW + 60_000


CONDITIONS = offers_with(
    'id: viewed, category: promotion, placements: [home], value: 1, eligible: "features.views_7d >= 2"',
    'id: visited, category: promotion, placements: [home], value: 1, eligible: "features.since_store < 60.0"',
    'id: gifts, category: promotion, placements: [home], value: 1, eligible: "profile.shops_for == null"',
    "id: owner, category: promotion, placements: [home], value: 1, eligible: \"'boots' in profile.owned\"",
    "id: phone, category: promotion, placements: [home], value: 1, eligible: \"context.device == 'phone'\"",
    'id: again, category: promotion, placements: [home], value: 1, eligible: "features.views_7d >= 2"',
)
WIDE = CHANNELS.replace("slots: 2", "slots: 9")


def test_conditions_read_features_profile_and_context() -> None:
    plan = plan_of(CONDITIONS, channels=WIDE)
    facts = customer(profile={"owned": Dated(("boots",), 0)})
    decision = decided(
        plan,
        "home",
        facts,
        features={"views_7d": 2, "since_store": 3.0},
        ask={"context": {"device": "phone"}},
    )
    assert chosen(decision) == ["again", "gifts", "owner", "phone", "viewed", "visited"]


def test_a_null_falls_on_the_silent_side_and_is_named() -> None:
    plan = plan_of(CONDITIONS, channels=WIDE)
    facts = customer(profile={"shops_for": Dated("family", 0)})
    decision = decided(plan, "home", facts, features={"views_7d": 0, "since_store": None})
    assert decision.reason == "not_eligible"
    conditions = [eligibility.condition.source for eligibility in plan.placements["home"].eligibility]
    assert {conditions[number]: name for number, name in decision.nulls.items()} == {
        "features.since_store < 60.0": "features.since_store",
        "context.device == 'phone'": "context.device",
    }


def test_a_profile_field_set_to_null_has_its_default_again() -> None:
    offers = offers_with(
        "id: basic, category: promotion, placements: [home], value: 1, eligible: \"profile.tier == 'basic'\""
    )
    assert decided(plan_of(offers), "home", customer(profile={"tier": Dated("gold", 0)})).action == "none"
    assert decided(plan_of(offers), "home", customer(profile={"tier": Dated(None, 0)})).action == "offer"


def test_a_while_that_cannot_be_known_suppresses_and_names_its_null() -> None:
    rules = "suppressions:\n  - {name: away, while: \"profile.shops_for == 'x'\"}"
    decision = decided(plan_of(rules=rules), "home", customer())
    assert decision.reason == "suppressed"
    assert [(block.rule, block.eligible_at, block.details) for block in decision.blocks] == [
        ("away", None, "profile.shops_for")
    ]


# ---------------------------------------------------------------------- suppressions, threshold, quotas


def test_same_offer_stops_only_the_offers_that_the_events_named() -> None:
    rules = "suppressions:\n  - {name: no-thanks, after: {event: reject, same: offer, count: 2, within: 14d}, for: 60d}"
    marks = (
        Mark("reject", NOW - 3 * DAY_MS, ("boots", "socks"), 1),
        Mark("reject", NOW - DAY_MS, ("boots",), 2),
    )
    decision = decided(plan_of(rules=rules), "mail", customer(marks=marks))
    assert chosen(decision) == ["guide", "socks"]
    assert [(b.rule, b.mask, b.eligible_at) for b in decision.blocks] == [
        ("no-thanks", 0b001, NOW + 59 * DAY_MS)
    ]


def test_an_item_whose_own_rule_is_full_is_left_out_and_the_others_stay() -> None:
    rules = "caps:\n  - {name: same-line, max: 1, per: 14d, each: attribute.line}"
    facts = customer(contacts=(sent(NOW - DAY_MS, "email", ("socks", "promotion")),))
    decision = decided(plan_of(rules=rules), "mail", facts)
    assert chosen(decision) == ["guide"]
    assert decision.dropped == ((Stage.CONTACT_POLICY, 0b011),)


def test_below_the_threshold_is_silence() -> None:
    decision = decided(plan_of(threshold="0.2"), "home")
    assert chosen(decision) == ["boots", "socks"]
    assert decision.dropped == ((Stage.BELOW_THRESHOLD, 0b100),)
    assert decided(plan_of(threshold="9.0"), "home").reason == "below_threshold"


def test_a_priority_at_the_threshold_is_not_below_it() -> None:
    offers = offers_with("id: exact, category: promotion, placements: [home], value: 0")
    assert decided(plan_of(offers), "home").action == "offer"


def test_channel_cost_takes_offers_below_the_threshold() -> None:
    channels = CHANNELS.replace("consent: marketing_email", "consent: marketing_email, cost: 0.15")
    assert chosen(decided(plan_of(channels=channels), "mail")) == ["boots", "socks"]


BUDGETS = offers_with(
    "id: total, category: promotion, placements: [home], value: 1, budget: {max: 10.00, cost_per_accept: 3.00}",
    "id: daily, category: promotion, placements: [home], value: 1, "
    "budget: {max: 10.00, cost_per_accept: 3.00, per: day}",
    "id: free, category: promotion, placements: [home], value: 1",
)


def test_a_spent_budget_drops_its_offer_and_a_daily_one_comes_back_tomorrow() -> None:
    decision = decided(plan_of(BUDGETS), "home", spent=("total", "daily", "elsewhere"))
    assert chosen(decision) == ["free"]
    assert [(block.rule, block.mask, block.eligible_at) for block in decision.blocks] == [
        ("budget", 0b001, None),
        ("budget", 0b010, parse_time("2026-11-22T00:00:00Z")),
    ]


def test_full_capacity_opens_again_at_the_policys_midnight() -> None:
    decision = decided(plan_of(zones="America/New_York"), "desk", full=True)
    assert [block.eligible_at for block in decision.blocks] == [parse_time("2026-11-22T05:00:00Z")]


def test_the_random_group_chooses_uniformly() -> None:
    decision = decided(plan_of(), "mail", ask={"at_random": True})
    assert [pick.selection_probability for pick in decision.chosen] == pytest.approx([1 / 3, 1 / 2, 1])


def test_a_decision_run_again_is_the_same() -> None:
    assert decided(plan_of(), "mail") == decided(plan_of(), "mail")
    firsts = {decided(plan_of(), "home", ask={"uid": f"d-{n}"}).chosen[0].offer for n in range(40)}
    assert len(firsts) > 1
