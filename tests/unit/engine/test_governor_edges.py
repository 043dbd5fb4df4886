"""The governor where the oracle has no words: what it answers for questions that no rule asks."""

from engine.judging.governor import FAR, Standing, first_free
from engine.judging.rules import Rules
from tests.unit.engine.shop import NOW, customer, policy_of

RULES = """
suppressions:
  - {name: busy, while: profile.open_cases > 0}
  - {name: sore, after: {event: complaint}, for: 1d}
"""


def standing() -> Standing:
    return Standing(Rules(policy_of(rules=RULES)), customer(), {"profile.open_cases": 0}, NOW)


def test_a_condition_has_no_intervals() -> None:
    assert standing().suppression_blocks(0, "boots") == ()


def test_only_same_offer_suppressions_name_offers() -> None:
    assert standing().named_offers(0) == standing().named_offers(1) == set()


def test_rules_that_never_agree_leave_no_moment() -> None:
    assert first_free([lambda at: at + (FAR >> 4)], NOW) is None
    assert first_free([lambda at: None], NOW) is None
    assert first_free([], NOW) == NOW


def test_rules_that_agree_in_the_end_leave_the_first_such_moment() -> None:
    def even(at: int) -> int:
        return at + at % 2

    def third(at: int) -> int:
        return at + -at % 3

    assert first_free([even, third], 7) == 12
