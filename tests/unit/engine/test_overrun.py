"""Overruns: the rules that a contact from outside broke, whenever it happened."""

import pytest

from engine.judging.governor import Standing
from engine.judging.overrun import breaks, broken_rules
from engine.judging.rules import Rules
from features.facts import Case, Contact, Facts, Item, Mark
from policies.model import Cap, When
from tests.unit.engine.shop import DAY_MS, HOUR_MS, NOW, customer, policy_of, sent

PROMOTION = Item(None, "promotion")
ROLLING = Cap("rolling", When(), max=1, per_ms=DAY_MS)
TWICE = Cap("twice", When(), max=2, per_ms=DAY_MS)
GAP = Cap("gap", When(), gap_ms=HOUR_MS)
DAY = Cap("day", When(), max=1, calendar="day")
MIDNIGHT = NOW - 12 * HOUR_MS


@pytest.mark.parametrize(
    ("cap", "others", "broken"),
    [
        (ROLLING, [NOW - DAY_MS], False),
        (ROLLING, [NOW - DAY_MS + 1], True),
        (ROLLING, [NOW + DAY_MS - 1], True),
        (ROLLING, [NOW + DAY_MS], False),
        (ROLLING, [NOW], True),
        (TWICE, [NOW - DAY_MS + 1, NOW + 1], False),
        (TWICE, [NOW - DAY_MS + 2, NOW + 1], True),
        (TWICE, [NOW - 2, NOW - 1], True),
        (GAP, [NOW - HOUR_MS, NOW + HOUR_MS], False),
        (GAP, [NOW - HOUR_MS + 1], True),
        (GAP, [NOW + HOUR_MS - 1], True),
        (DAY, [MIDNIGHT - 1, MIDNIGHT + DAY_MS], False),
        (DAY, [MIDNIGHT], True),
        (DAY, [MIDNIGHT + DAY_MS - 1], True),
    ],
)
def test_a_window_with_one_too_many_is_broken_wherever_it_lies(
    cap: Cap, others: list[int], broken: bool
) -> None:
    assert breaks(cap, others, NOW, ("UTC",), 0) is broken


def test_a_calendar_cap_is_broken_where_one_of_the_zones_says_so() -> None:
    assert not breaks(DAY, [MIDNIGHT - 1], NOW, ("UTC",), 0)
    assert breaks(DAY, [MIDNIGHT - 1], NOW, ("UTC", "Asia/Tokyo"), 0)


RULES = """
caps:
  - {name: daily, max: 1, per: 24h, when: {kind: outbound}}
  - {name: monthly, max: 2, per: 30d, each: category}
suppressions:
  - {name: sore, after: {event: complaint}, for: 2d}
  - {name: busy, while: profile.open_cases > 0}
"""


def broken(facts: Facts, at: int, item: Item = PROMOTION, channel: str = "email") -> tuple[str, ...]:
    policy = policy_of(rules=RULES)
    standing = Standing(Rules(policy), facts, {"profile.open_cases": facts.open_cases()}, NOW)
    return broken_rules(standing, policy.channels[channel], item, at)


def test_a_late_report_meets_contacts_older_than_any_window_from_now() -> None:
    at = NOW - 25 * DAY_MS
    facts = customer(
        contacts=tuple(
            sent(at - days * DAY_MS, "email", (None, "promotion"), uid=f"u{days}") for days in (29, 20)
        )
    )
    assert broken(facts, at) == ("monthly",)


def test_every_rule_that_was_broken_is_named() -> None:
    facts = customer(
        contacts=(
            sent(NOW - 1, "email", (None, "promotion")),
            sent(NOW, "email", (None, "promotion"), uid="v"),
        ),
        marks=(Mark("complaint", NOW - 5),),
        cases=(Case("k", 1),),
    )
    assert broken(facts, NOW) == ("daily", "monthly", "sore", "busy")


def test_a_live_reservation_counts_as_now() -> None:
    facts = customer(contacts=(Contact("u", NOW - 5, "email", (PROMOTION,), "reserved", NOW + 1),))
    assert broken(facts, NOW) == ("daily",)
    assert broken(facts, NOW - DAY_MS) == ()


def test_what_a_condition_was_at_another_moment_is_not_held_against_a_contact() -> None:
    facts = customer(cases=(Case("k", 1),))
    assert broken(facts, NOW) == ("busy",)
    assert broken(facts, NOW - 1) == ()


@pytest.mark.parametrize(
    ("at", "named"), [(0, ()), (1, ("sore",)), (2 * DAY_MS, ("sore",)), (2 * DAY_MS + 1, ())]
)
def test_a_block_is_judged_at_the_contacts_own_moment(at: int, named: tuple[str, ...]) -> None:
    facts = customer(marks=(Mark("complaint", NOW - 10 * DAY_MS),))
    assert broken(facts, NOW - 10 * DAY_MS - 1 + at) == named


def test_what_obeys_nothing_breaks_nothing() -> None:
    facts = customer(contacts=(sent(NOW - 1, "email", (None, "promotion")),))
    assert broken(facts, NOW, Item(None, "transactional")) == ()


def test_an_inbound_contact_breaks_no_rule_that_does_not_see_it() -> None:
    facts = customer(contacts=(sent(NOW - 1, "email", (None, "promotion")),))
    assert broken(facts, NOW, channel="web") == ()
