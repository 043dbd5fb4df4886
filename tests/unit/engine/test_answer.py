"""Answers and records: what was logged is what was said, and every offer has a fate."""

import pytest

from engine.judging.answer import (
    decide_answer,
    make_record,
    offers,
    record_view,
    refusal,
    suppressed,
    trace,
    when,
)
from engine.judging.decision import DECODER, ENCODER, Ask, Decision, Record
from engine.judging.governor import Refusal
from engine.judging.plan import Plan
from features.facts import Dated, Facts, Mark
from tests.unit.engine.shop import DAY_MS, HOUR_MS, NOW, customer, decided, offers_with, plan_of, sent

TAG = "T" * 16
UID = "AAAAAAAAAAAA"
OFFERS = offers_with(
    "id: gone, category: promotion, placements: [mail], value: 9, valid: {until: 2026-11-01}",
    "id: picky, category: promotion, placements: [mail], value: 9, eligible: profile.tier == 'gold'",
    "id: shy, category: promotion, placements: [mail], value: 9, eligible: profile.shops_for == 'family'",
    "id: refused, category: promotion, placements: [mail], value: 9",
    "id: sent, category: promotion, placements: [mail], value: 9",
    "id: poor, category: promotion, placements: [mail], value: 9, budget: {max: 3.00, cost_per_accept: 3.00}",
    "id: cheap, category: promotion, placements: [mail], value: 0.001",
    "id: left-out, category: promotion, placements: [mail], value: 9",
    "id: one, category: service, placements: [mail], value: 9, content: {title: Hello}",
    "id: two, category: service, placements: [mail], value: 9",
    "id: three, category: service, placements: [mail], value: 9",
    "id: four, category: service, placements: [mail], value: 9",
)
RULES = """
caps:
  - {name: same-offer, max: 1, per: 30d, each: offer}
  - {name: same-again, gap: 40d, each: offer}
suppressions:
  - {name: no-thanks, after: {event: reject, same: offer}, for: 60d}
"""
FACTS = customer(
    contacts=(sent(NOW - DAY_MS, "email", ("sent", "promotion")),),
    marks=(Mark("reject", NOW - DAY_MS, ("refused",), 1),),
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(OFFERS, RULES, threshold="0.01")


def made(plan: Plan, facts: Facts = FACTS, **ask: object) -> tuple[Decision, Record]:
    asked = {"uid": UID, "exclude": ("left-out",), **ask}
    decision = decided(plan, "mail", facts, ask=asked, spent=("poor",))
    full = Ask(**{"placement": "mail", "limit": 10, **asked})  # type: ignore[arg-type]
    return decision, make_record(plan, full, decision, "c1", NOW, NOW - 5, NOW + HOUR_MS)


def test_a_trace_names_every_offer_and_the_stage_that_dropped_it(plan: Plan) -> None:
    _, record = made(plan)
    fates = {step["offer"]: (step["stage"], step["verdict"], step["reason"]) for step in trace(plan, record)}
    assert list(fates) == [offer.id for offer in plan.placements["mail"].offers]
    kept = [fates.pop(name) for name in ("one", "two", "three", "four")]
    assert sorted(kept) == [("choice", "chosen", None)] * 3 + [("choice", "outranked", None)]
    assert fates == {
        "gone": ("no_candidates", "dropped", "no_candidates"),
        "picky": ("not_eligible", "dropped", "not_eligible"),
        "shy": ("not_eligible", "dropped", "not_eligible"),
        "refused": ("suppressed", "dropped", "suppressed"),
        "sent": ("contact_policy", "dropped", "contact_policy"),
        "poor": ("budget", "dropped", "budget"),
        "cheap": ("below_threshold", "dropped", "below_threshold"),
        "left-out": ("no_candidates", "dropped", "excluded"),
    }


def test_a_trace_says_what_lay_behind_each_fate(plan: Plan) -> None:
    _, record = made(plan)
    details = {step["offer"]: step["details"] for step in trace(plan, record)}
    assert details["gone"] == {"valid_from": None, "valid_until": "2026-11-01"}
    assert details["picky"] == {"condition": "profile.tier == 'gold'"}
    assert details["shy"] == {"condition": "profile.shops_for == 'family'", "null": "profile.shops_for"}
    assert [stop["rule"] for stop in details["sent"]["rules"]] == ["same-offer", "same-again"]
    assert details["refused"]["rules"] == [
        {"rule": "no-thanks", "reason": "suppressed", "eligible_at": when(NOW + 59 * DAY_MS)}
    ]
    assert details["cheap"]["threshold"] == 0.01
    assert details["cheap"]["priority"] == pytest.approx(0.00001)
    assert details["one"]["expression"] == "propensity * value * weight - channel_cost"
    assert details["one"]["value"] == 9.0


def test_a_trace_gives_the_chances_that_were_drawn_from(plan: Plan) -> None:
    decision, record = made(plan)
    steps = {step["offer"]: step["details"] for step in trace(plan, record) if step["stage"] == "choice"}
    for pick in decision.chosen:
        assert steps[pick.offer]["rank"] == pick.rank
        assert steps[pick.offer]["selection_probability"] == pick.selection_probability
    [outranked] = set(steps) - {pick.offer for pick in decision.chosen}
    assert steps[outranked]["selection_probability"] == pytest.approx(0.25, abs=1e-6)
    assert "rank" not in steps[outranked]


def test_a_record_read_back_gives_the_same_trace(plan: Plan) -> None:
    for ask in ({}, {"control": True}, {"at_random": True}, {"context": {"device": "phone"}}):
        _, record = made(plan, **ask)
        again = DECODER.decode(ENCODER.encode(record))
        assert again == record
        assert trace(plan, again) == trace(plan, record)


def test_the_control_group_is_said_of_every_offer(plan: Plan) -> None:
    _, record = made(plan, control=True)
    assert {(step["stage"], step["verdict"]) for step in trace(plan, record)} == {
        ("control_group", "dropped")
    }
    assert record.group == "control"


def test_the_groups_are_kept_with_the_decision(plan: Plan) -> None:
    assert made(plan, at_random=True)[1].group == "random"
    assert made(plan)[1].group == ""


def test_an_answer_says_what_was_chosen_and_what_stood_in_the_way(plan: Plan) -> None:
    decision, record = made(plan)
    answer = decide_answer(plan, TAG, record, decision)
    assert answer["decision_id"] == TAG + UID
    assert (answer["action"], answer["reason"], answer["channel"]) == ("offer", None, "email")
    assert [offer["rank"] for offer in answer["offers"]] == [1, 2, 3]
    assert answer["reservation"] == {
        "id": TAG + UID,
        "state": "reserved",
        "expires_at": "2026-11-21T13:00:00.000Z",
    }
    assert answer["features_as_of"] == "2026-11-21T11:59:59.995Z"
    assert {entry["rule"]: entry["offers"] for entry in answer["suppressed"]} == {
        "no-thanks": 1,
        "same-offer": 1,
        "same-again": 1,
        "budget": 1,
    }


def test_silence_has_a_reason_and_no_reservation(plan: Plan) -> None:
    decision = decided(plan, "mail", customer(consent={}))
    ask = Ask(uid=UID, placement="mail", limit=3)
    answer = decide_answer(plan, TAG, make_record(plan, ask, decision, "c1", NOW, 0, 0), decision)
    assert (answer["action"], answer["reason"], answer["offers"]) == ("none", "consent", [])
    assert (answer["reservation"], answer["features_as_of"]) == (None, None)


def test_the_earliest_time_among_a_rules_offers_is_the_one_that_is_said(plan: Plan) -> None:
    facts = customer(
        contacts=(
            sent(NOW - 2 * DAY_MS, "email", ("sent", "promotion"), uid="a"),
            sent(NOW - DAY_MS, "email", ("one", "service"), uid="b"),
        )
    )
    entry = next(one for one in suppressed(made(plan, facts)[0]) if one["rule"] == "same-offer")
    assert entry == {"rule": "same-offer", "offers": 2, "eligible_at": when(NOW + 28 * DAY_MS)}


def test_an_offer_that_the_policy_no_longer_has_is_shown_without_content(plan: Plan) -> None:
    decision, _ = made(plan)
    shown = offers(plan_of(), decision.chosen)
    assert [offer["content"] for offer in shown] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (
            Refusal("daily", "contact_policy", NOW),
            {"rule": "daily", "reason": "contact_policy", "eligible_at": "2026-11-21T12:00:00.000Z"},
        ),
        (
            Refusal("consent", "consent", None, "marketing_email"),
            {"rule": "consent", "reason": "consent", "eligible_at": None, "details": "marketing_email"},
        ),
    ],
)
def test_a_refusal_says_its_rule_its_stage_and_its_end(refused: Refusal, said: dict[str, object]) -> None:
    assert refusal(refused) == said


def test_a_decision_read_back_is_the_whole_record(plan: Plan) -> None:
    _, record = made(plan, context={"device": "phone"})
    view = record_view(plan, TAG, record, None, [{"type": "accept"}])
    assert view["decision_id"] == TAG + UID
    assert view["request"] == {
        "placement": "mail",
        "limit": 10,
        "context": {"device": "phone"},
        "exclude": ["left-out"],
    }
    assert view["candidates"] == trace(plan, record)
    assert (view["group"], view["outcomes"]) == (None, [{"type": "accept"}])
    assert view["policy_version"] == plan.policy.version


def test_consent_is_traced_with_its_purpose(plan: Plan) -> None:
    facts = customer(consent={"marketing_email": Dated("denied", 0)})
    step = next(step for step in trace(plan, made(plan, facts)[1]) if step["offer"] == "one")
    assert step["stage"] == "consent"
    assert step["details"]["rules"][0]["details"] == "marketing_email"
