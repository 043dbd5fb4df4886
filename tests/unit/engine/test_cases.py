"""A policy's own cases, run by the core that decides."""

from pathlib import Path
from typing import Any

import pytest

import policies
from engine.judging.plan import compile_plan
from engine.judging.policy_cases import Failure, run_case, run_cases
from policies.cases import parse_cases
from policies.loader import load_dir
from policies.model import PolicySet
from tests.unit.engine.shop import CHANNELS, OFFERS, offers_with, policy_of

RULES = """
caps:
  - {name: daily, max: 1, per: 24h, when: {kind: outbound}}
  - {name: breather, gap: 4h, when: {kind: outbound}}
suppressions:
  - {name: sore, after: {event: complaint}, for: 30d, when: {category: promotion}}
  - {name: busy, while: profile.open_cases > 0, when: {category: promotion}}
"""
BUDGET = offers_with(
    "id: boots, category: promotion, placements: [home, mail], value: 1, budget: {max: 10.00, cost_per_accept: 3.00}",
    "id: guide, category: service, placements: [home, mail, desk], value: 1, eligible: features.views_7d >= 2",
)
SENT = "contacts: [{at: 2026-11-21T09:00:00Z, channel: email, category: service}]"


def policy(offers: str = OFFERS) -> PolicySet:
    return policy_of(offers, RULES, channels=CHANNELS)


def failure(
    ask: str,
    expect: str,
    customer: str = "",
    *,
    now: str = "2026-11-21T12:00:00Z",
    more: str = "",
    offers: str = OFFERS,
) -> Failure | None:
    known = "{" + ", ".join(filter(None, ["consent: {marketing_email: granted}", customer])) + "}"
    if customer.startswith("{"):
        known = customer
    text = f"- {{name: a case, now: {now}, customer: {known}, ask: {{{ask}}}, expect: {{{expect}}}{more}}}\n"
    [case] = parse_cases({"tests/one.yaml": text}, policy(offers))
    return run_case(compile_plan(policy(offers)), case)


MAIL = "decide: {placement: mail}"
EMAIL = "check: {channel: email, category: promotion}"


@pytest.mark.parametrize(
    ("ask", "expect", "customer", "options"),
    [
        (MAIL, "action: offer, reason: null", "", {}),
        (MAIL, "action: none, reason: quiet_hours", "", {"now": "2026-11-21T22:00:00Z"}),
        (MAIL, "action: none, reason: consent, rules: [consent]", "{timezone: Europe/London}", {}),
        (MAIL, "channel: email, placement: mail", "", {}),
        (
            MAIL,
            "reason: contact_policy, rules: [breather, daily], eligible_at: 2026-11-21T13:00:00Z",
            SENT,
            {},
        ),
        (MAIL, "offers: [guide]", "profile: {open_cases: 2}", {}),
        (MAIL, "offers: [guide]", "events: [{type: complaint, occurred_at: 2026-11-20T09:00:00Z}]", {}),
        (
            MAIL,
            "offers: [guide]",
            'events: [{type: case_opened, properties: {case_id: "7"}, occurred_at: 2026-11-20T09:00:00Z}]',
            {},
        ),
        ("decide: {placement: mail, exclude: [boots, socks]}", "offers: [guide]", "", {}),
        ("decide: {placement: mail, exclude: [boots, socks], preview: true}", "reservation: null", "", {}),
        ("decide: {placement: home}", "reservation: null", "", {}),
        (MAIL, "reason: control_group", "groups: {control: true}", {}),
        (EMAIL, "allowed: true, rules: []", "", {}),
        (EMAIL, "allowed: false, rules: [daily, breather], eligible_at: 2026-11-22T09:00:00Z", SENT, {}),
        (EMAIL, "allowed: false, rules: [breather, daily]", SENT, {}),
        (
            EMAIL,
            "allowed: false, rules: [quiet_hours], eligible_at: 2026-11-22T08:00:00.000Z",
            "",
            {"now": "2026-11-21T23:00:00Z"},
        ),
        (
            EMAIL,
            "allowed: false, rules: [daily, breather]",
            (
                "contacts: [{at: 2026-11-21T11:50:00Z, channel: call, category: service, state: reserved, "
                "expires_at: 2026-11-21T12:00:00.001Z}]"
            ),
            {},
        ),
        (
            EMAIL,
            "allowed: true",
            (
                "contacts: [{at: 2026-11-21T11:50:00Z, channel: call, category: service, state: reserved, "
                "expires_at: 2026-11-21T12:00:00Z}]"
            ),
            {},
        ),
        (
            "check: {channel: call, category: service}",
            "rules: [capacity]",
            "",
            {"more": ", capacities: {call: 2}"},
        ),
        (
            "check: {channel: call, category: service}",
            "allowed: true",
            "",
            {"more": ", capacities: {call: 1}"},
        ),
        (
            "check: {channel: email, offer: boots, category: promotion}",
            "rules: [budget], eligible_at: null, reasons: [{reason: budget}]",
            "",
            {"more": ", budgets: {boots: 7.01}", "offers": BUDGET},
        ),
        (
            MAIL,
            "offers: [boots], reason: null",
            "features: {views_7d: 1}",
            {"more": ", budgets: {boots: 7.00}", "offers": BUDGET},
        ),
        (
            MAIL,
            "offers: [guide], rules: [budget]",
            "features: {views_7d: 2}",
            {"more": ", budgets: {boots: 7.01}", "offers": BUDGET},
        ),
        (
            "decide: {placement: desk}",
            "reason: capacity",
            "features: {views_7d: 2}",
            {"more": ", capacities: {call: 2}", "offers": BUDGET},
        ),
        (
            "decide: {placement: desk}",
            "offers: [guide]",
            (
                "events: [{type: page_view, occurred_at: 2026-11-21T09:00:00Z}, "
                "{type: page_view, occurred_at: 2026-11-21T09:00:00Z}]"
            ),
            {"offers": BUDGET},
        ),
    ],
)
def test_what_is_expected_comes(ask: str, expect: str, customer: str, options: dict[str, Any]) -> None:
    assert failure(ask, expect, customer, **options) is None


def test_a_value_that_is_given_wins_over_the_events() -> None:
    viewed = "events: [{type: page_view, occurred_at: 2026-11-21T09:00:00Z}], features: {views_7d: 2}"
    assert failure("decide: {placement: desk}", "offers: [guide]", viewed, offers=BUDGET) is None


@pytest.mark.parametrize(
    ("expect", "got"),
    [
        ("allowed: true", {"allowed": False}),
        ("rules: [daily]", {"rules": ["daily", "breather"]}),
        ("eligible_at: 2026-11-22T09:00:01Z", {"eligible_at": "2026-11-22T09:00:00.000Z"}),
        ("eligible_at: null", {"eligible_at": "2026-11-22T09:00:00.000Z"}),
    ],
)
def test_a_failing_case_says_what_was_expected_what_came_and_why(expect: str, got: dict[str, Any]) -> None:
    failed = failure(EMAIL, expect, SENT)
    assert failed is not None
    assert (failed.name, failed.file, failed.line, failed.got) == ("a case", "tests/one.yaml", 1, got)
    assert list(failed.expected) == list(got)
    assert failed.why == [
        "daily (contact_policy) stands in the way until 2026-11-22T09:00:00.000Z ",
        "breather (contact_policy) stands in the way until 2026-11-21T13:00:00.000Z ",
    ]


def test_a_failing_decision_tells_every_offers_fate() -> None:
    failed = failure(MAIL, "offers: [socks]", "profile: {open_cases: 1}")
    assert failed is not None
    assert failed.got == {"offers": ["guide"]}
    assert [step.split(" (")[0] for step in failed.why] == [
        "boots: dropped",
        "socks: dropped",
        "guide: chosen",
    ]


def test_a_case_that_expects_a_refusal_fails_where_nothing_stands_in_the_way() -> None:
    failed = failure(EMAIL, "allowed: false")
    assert failed is not None
    assert failed.why == ["no rule stands in the way"]


def test_parts_that_are_not_named_are_not_compared_and_named_ones_are_compared_in_depth() -> None:
    assert failure(EMAIL, "reasons: [{rule: daily}, {rule: breather}]", SENT) is None
    assert failure(EMAIL, "reasons: [{rule: daily}]", SENT) is not None
    assert failure(EMAIL, "reasons: [{rule: breather}, {rule: daily}]", SENT) is not None


def test_the_random_group_of_a_case_chooses_uniformly() -> None:
    assert failure(MAIL, "action: offer", "groups: {random: true}") is None


def test_the_example_policy_set_passes_its_own_cases() -> None:
    loaded = load_dir(Path(policies.__file__).parent / "retail")
    assert len(loaded.cases) > 10
    assert run_cases(compile_plan(loaded.policy), loaded.cases) == []
