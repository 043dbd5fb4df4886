"""Budgets and capacity: what is taken, kept and given back."""

import pytest

from engine.judging.plan import Plan
from engine.judging.quotas import (
    Quota,
    QuotaOp,
    budget_quota,
    capacity_quota,
    confirmed,
    holds,
    message_quotas,
    next_day,
    placement_quotas,
    policy_day,
    released,
    used_up,
)
from features.event import parse_time
from features.facts import Item
from tests.unit.engine.shop import DAY_MS, NOW, offers_with, plan_of

OFFERS = offers_with(
    "id: total, category: promotion, placements: [home, desk], budget: {max: 10.00, cost_per_accept: 3.00}",
    "id: daily, category: promotion, placements: [home, desk], budget: {max: 10.50, cost_per_accept: 3.50, per: day}",
    "id: free, category: promotion, placements: [home, desk]",
)
TOTAL = Quota("budget:total", 3_000_000, 10_000_000, "total")
DAILY = Quota("budget:daily", 3_500_000, 10_500_000, "2026-11-21")
CALL = Quota("capacity:call", 1, 2, "2026-11-21")
ITEMS = (Item("total", "promotion"), Item("free", "promotion"), Item(None, "service"))
ACCEPT_MS = 7 * DAY_MS


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(OFFERS)


def test_a_budget_is_money_for_one_offer_in_whole_micro_units(plan: Plan) -> None:
    assert budget_quota(plan, "total", NOW) == TOTAL
    assert budget_quota(plan, "daily", NOW) == DAILY
    assert budget_quota(plan, "free", NOW) is None
    assert budget_quota(plan, "unknown", NOW) is None


def test_a_capacity_is_contacts_of_a_channel_by_the_policys_day(plan: Plan) -> None:
    assert capacity_quota(plan, "call", NOW) == CALL
    assert capacity_quota(plan, "email", NOW) is None
    assert capacity_quota(plan, "unknown", NOW) is None


def test_the_day_is_that_of_the_policys_first_zone() -> None:
    plan = plan_of(OFFERS, zones="[America/New_York, UTC]")
    late = parse_time("2026-11-22T04:59:59.999Z")
    assert policy_day(plan, late) == "2026-11-21"
    assert policy_day(plan, late + 1) == "2026-11-22"
    assert next_day(plan, late) == late + 1


def test_quotas_know_where_they_lie_and_how_to_be_read() -> None:
    assert CALL.keys == ("q:capacity:call:h", "q:capacity:call:s")
    assert CALL.reads("5") == (
        ("ZCOUNT", "q:capacity:call:h", "(5", "+inf"),
        ("HGET", "q:capacity:call:s", "2026-11-21"),
    )


def test_a_placement_draws_on_its_offers_budgets_and_its_channels_capacity(plan: Plan) -> None:
    assert placement_quotas(plan, plan.placements["desk"], NOW) == (TOTAL, DAILY, CALL)
    assert placement_quotas(plan, plan.placements["home"], NOW) == (TOTAL, DAILY)


def test_a_message_draws_on_the_budgets_of_its_own_offers(plan: Plan) -> None:
    assert message_quotas(plan, "call", ITEMS, NOW) == (TOTAL, CALL)
    assert message_quotas(plan, "email", ITEMS[1:], NOW) == ()


@pytest.mark.parametrize(
    ("live", "spent", "used"),
    [(0, 7_000_000, False), (0, 7_000_001, True), (2, 1_000_000, False), (2, 1_000_001, True), (3, 0, True)],
)
def test_a_quota_is_used_up_where_one_more_would_not_fit(live: int, spent: int, used: bool) -> None:
    assert (used_up((TOTAL,), (live, spent)) == {"budget:total"}) is used


def test_each_quota_is_judged_by_its_own_counts() -> None:
    assert used_up((TOTAL, CALL), (0, 0, 1, 1)) == {"capacity:call"}
    assert used_up((TOTAL, CALL), (4, 0, 1, 0)) == {"budget:total"}


def test_a_reservation_holds_all_that_it_may_use_while_it_lives(plan: Plan) -> None:
    assert holds(plan, "call", ITEMS, NOW, "m", NOW + 5) == (
        QuotaOp(TOTAL, "hold", "m", NOW + 5),
        QuotaOp(CALL, "hold", "m", NOW + 5),
    )


def test_what_is_shown_without_a_reservation_holds_its_budget_until_an_accept_may_come(plan: Plan) -> None:
    assert holds(plan, "call", ITEMS, NOW, "m", 0) == (QuotaOp(TOTAL, "hold", "m", NOW + ACCEPT_MS),)


def test_a_confirm_spends_capacity_and_keeps_the_budget_for_the_accept(plan: Plan) -> None:
    assert confirmed(plan, "call", ITEMS, NOW, "m", late=False) == (
        QuotaOp(TOTAL, "extend", "m", NOW + ACCEPT_MS),
        QuotaOp(CALL, "settle", "m"),
    )


def test_a_late_confirm_asks_again(plan: Plan) -> None:
    assert [change.op for change in confirmed(plan, "call", ITEMS, NOW, "m", late=True)] == ["hold", "take"]


def test_a_release_gives_all_back(plan: Plan) -> None:
    assert released(plan, "call", ITEMS, NOW, "m") == (
        QuotaOp(TOTAL, "drop", "m"),
        QuotaOp(CALL, "drop", "m"),
    )
