"""The compiled plan: masks and arrays over a placement's candidates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.judging import plan as plan_module
from engine.judging import ranking
from engine.judging.governor import FAR
from engine.judging.masks import mask_of, places_of
from engine.judging.plan import condition_values
from engine.judging.scoring import Snapshot, prior_snapshot, score
from features.event import parse_event, parse_time
from features.facts import Case, Dated
from features.state import FeatureState
from tests.unit.engine.shop import CHANNELS, NOW, customer, offers_with, plan_of, policy_of


@given(st.sets(st.integers(0, 1200)))
def test_a_mask_has_a_bit_a_place(places: set[int]) -> None:
    assert places_of(mask_of(places)) == sorted(places)
    assert mask_of(places).bit_count() == len(places)


def test_candidates_are_the_placements_offers_in_file_order() -> None:
    home = plan_of().placements["home"]
    assert [offer.id for offer in home.offers] == ["boots", "socks", "guide"]
    assert home.index == {"boots": 0, "socks": 1, "guide": 2}
    assert home.everyone == 0b111
    assert plan_of().placements["desk"].everyone == 0b1


OFFERS = offers_with(
    "id: always, category: promotion, placements: [home]",
    "id: early, category: promotion, placements: [home], valid: {until: 2026-11-10}",
    "id: late, category: promotion, placements: [home], valid: {from: 2026-11-20}",
    "id: between, category: promotion, placements: [home], valid: {from: 2026-11-05, until: 2026-11-20}",
    "id: order, category: transactional, placements: [home]",
)


@pytest.mark.parametrize(
    ("day", "valid", "until"),
    [
        ("2026-11-04", 0b10011, "2026-11-05"),
        ("2026-11-05", 0b11011, "2026-11-11"),
        ("2026-11-10", 0b11011, "2026-11-11"),
        ("2026-11-11", 0b11001, "2026-11-20"),
        ("2026-11-20", 0b11101, "2026-11-21"),
        ("2026-11-21", 0b10101, None),
    ],
)
def test_who_is_valid_and_until_when(day: str, valid: int, until: str | None) -> None:
    home = plan_of(OFFERS).placements["home"]
    change = FAR if until is None else parse_time(until + "T00:00:00Z")
    assert home.valid_at(parse_time(day + "T00:00:00Z")) == (valid, change)
    assert home.valid_at(parse_time(day + "T23:59:59.999Z")) == (valid, change)


RULES = """
caps:
  - {name: any, max: 1, per: 1h}
  - {name: line, max: 1, per: 1h, each: attribute.line}
  - {name: web, max: 1, per: 1h, when: {channel: web, category: service}}
suppressions:
  - {name: shoes, after: {event: complaint}, for: 1h, when: {attribute.line: shoes}}
  - {name: nobody, after: {event: complaint}, for: 1h, when: {offer: guide, category: promotion}}
"""


def test_rules_are_masks_over_those_that_they_look_at() -> None:
    plan = plan_of(rules=RULES)
    mail, home = plan.placements["mail"], plan.placements["home"]
    assert mail.caps == ({None: 0b111}, {"shoes": 0b011}, {})
    assert home.caps == ({}, {}, {None: 0b100})
    assert mail.suppressions == ((0, 0b011),)
    assert (mail.reserves, home.reserves, plan.placements["desk"].reserves) == (True, True, True)
    assert not plan_of().placements["home"].reserves


def test_what_obeys_nothing_is_in_no_rules_mask() -> None:
    home = plan_of(OFFERS, "caps:\n  - {name: web, max: 1, per: 1h, when: {channel: web}}").placements["home"]
    assert home.obeys == 0b01111
    assert home.caps == ({None: 0b01111},)


def test_offers_of_one_condition_share_its_evaluation() -> None:
    offers = offers_with(
        "id: a, category: promotion, placements: [home], eligible: features.views_7d > 1",
        "id: b, category: promotion, placements: [home]",
        "id: c, category: promotion, placements: [home], eligible: features.views_7d > 1",
        "id: d, category: promotion, placements: [home], eligible: features.since_store > 1.0",
    )
    plan = plan_of(offers)
    assert [eligibility.mask for eligibility in plan.placements["home"].eligibility] == [0b0101, 0b1000]
    assert [name for name, *_ in plan.readers] == ["features.since_store", "features.views_7d"]


def test_priorities_are_the_marketers_expression() -> None:
    channels = CHANNELS.replace("{kind: inbound}", "{kind: inbound, cost: 0.5}")
    home = plan_of(channels=channels).placements["home"].priors
    assert home.priority == pytest.approx(np.array([0.02 * 12, 0.06 * 4, 0.1]) - 0.5)
    assert home.scores.propensity == pytest.approx(np.array([0.02, 0.06, 0.1]))
    assert (home.deviation > 0).all()
    assert home.below_threshold == 0b111


def test_distributions_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_REMEMBERED", 2)
    home = plan_of().placements["home"].priors
    for mask in (0b111, 0b011, 0b101, 0b110):
        made = home.distribution(mask, at_random=False)
        assert home.distribution(mask, at_random=False) is made
        assert made.places == places_of(mask)
        assert home.distribution(mask, at_random=True).chance == pytest.approx(
            [1 / mask.bit_count()] * mask.bit_count()
        )
        assert len(home.remembered) <= 2


def test_a_snapshot_replaces_the_priors() -> None:
    offers = policy_of().offers
    prior = prior_snapshot(offers)
    assert score(prior, tuple(offers.values()), 0.3).propensity == pytest.approx(np.array([0.02, 0.06, 0.1]))
    learned = Snapshot("v2", prior.offers, prior.mean + 1, prior.deviation / 2)
    scores = score(learned, tuple(offers.values()), 1.0)
    assert (scores.low < scores.propensity).all()
    assert (scores.propensity < scores.high).all()
    plan = plan_module.compile_plan(policy_of(), learned)
    assert plan.snapshot.version == "v2"
    assert (
        plan.placements["home"].priors.scores.propensity
        > plan_of().placements["home"].priors.scores.propensity
    ).all()


def test_conditions_see_defaults_profile_features_and_context() -> None:
    facts = customer(
        profile={
            "owned": Dated(("boots",), 1),
            "tier": Dated(None, 1),
            "gone": Dated("x", 1),
            "timezone": Dated("Europe/Paris", 1),
        },
        cases=(Case("a", 2, 1), Case("b", 1, 2)),
    )
    plan = plan_of(
        offers_with("id: a, category: promotion, placements: [home], eligible: features.views_7d > 1")
    )
    view = {"type": "page_view", "customer_id": "c"}
    views = parse_event(view, now=NOW, made_id="e")
    values = condition_values(
        plan, facts, plan.catalogue.fold(FeatureState(), views), {"device": "phone"}, NOW
    )
    assert values == {
        "profile.owned": ["boots"],
        "profile.tier": "basic",
        "profile.shops_for": None,
        "profile.open_cases": 1,
        "profile.timezone": "Europe/Paris",
        "features.views_7d": 1,
        "context.device": "phone",
    }


def test_marks_are_kept_for_the_events_of_suppressions_and_for_those_that_rules_may_come_to_name() -> None:
    plan = plan_of(rules="suppressions:\n  - {name: own, after: {event: x_own}, for: 1h}")
    assert {"x_own", "complaint", "reject"} <= plan.mark_types
    assert "page_view" not in plan.mark_types
    assert plan.channel_purposes == {"email": "marketing_email"}
