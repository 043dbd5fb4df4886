"""The learned levers: what the priority reads of a head, only where it reads it and only where it was learned."""

from typing import Any

import numpy as np
import pytest

from engine.evaluation.rows import row_of
from engine.judging.answer import Factors
from engine.judging.decision import Record
from engine.judging.plan import Plan, compile_plan
from engine.judging.trail import Outcome
from engine.learning.hybrid import Hybrid
from engine.learning.levers import TRIED, Levers, untried
from engine.learning.outcomes import RARE
from features.state import FeatureState
from tests.unit.engine.test_outcomes import FILES, Story, policy

PRIORITY = "policy: outcomes\ntimezone: UTC\narbitration: {priority: propensity * value - 40 * opt_out}\n"
RIVER = FILES["models.yaml"].replace(
    "complaint]}", "complaint], learner: river.linear_model.LogisticRegression}"
)


def told(story: Story, plan: Plan, **context: Any) -> dict[str, list[float]]:
    levers = Levers(plan, plan.placements["home"], story.learning.heads)
    encoded = levers.encode(FeatureState(), {}, context, 0, {})
    return {name: lever.tolist() for name, lever in levers.read(encoded).items()}


def sold(models: str) -> Story:
    """Boots sell for 80 or 20, and make people complain; nobody was ever shown socks."""
    story = Story()
    story.policy = policy(policy=PRIORITY, models=models)
    for number in range(80):
        uid = story.shown("boots", **{"context.rich": number % 2 == 0})
        story.came(uid, "purchase", amount=80.0 if number % 2 == 0 else 20.0)
        if number % 4 == 0:
            story.came(uid, "complaint")
    return story


@pytest.mark.parametrize("models", [FILES["models.yaml"], RIVER], ids=["hybrid", "river"])
def test_value_and_opt_out_are_those_of_this_customer(models: str) -> None:
    story = sold(models)
    plan = compile_plan(story.policy)
    rich, poor = told(story, plan, rich=True), told(story, plan, rich=False)
    assert rich["value"][0] == pytest.approx(80, abs=8)
    assert poor["value"][0] == pytest.approx(20, abs=8)
    assert rich["value"][1] == 10.0  # nothing is known of it, so the file's
    assert rich["opt_out"][0] > poor["opt_out"][0] + 0.005
    assert 0 < poor["opt_out"][0] < 1


def test_before_anything_is_learned_the_file_and_no_opt_out_hold() -> None:
    story = Story()
    story.policy = policy(policy=PRIORITY)
    plan = compile_plan(story.policy)
    assert told(story, plan) == {}
    placement = plan.placements["home"]
    assert placement.levers["opt_out"] == 0.0
    assert placement.levers["value"].tolist() == [30.0, 10.0]
    story.shown("boots")
    assert told(story, plan) == {"opt_out": pytest.approx([RARE, RARE], rel=0.5)}


def test_what_the_priority_does_not_read_is_not_worked_out() -> None:
    story = sold(FILES["models.yaml"])
    plan = compile_plan(
        policy(policy="policy: outcomes\ntimezone: UTC\narbitration: {priority: propensity}\n")
    )
    assert told(story, plan) == {}


def record_of(plan: Plan, *rows: list[float]) -> Record:
    return Record(
        uid="u" * 12,
        at=0,
        customer_id="c1",
        placement="home",
        channel="web",
        limit=1,
        context={},
        exclude=(),
        action="none",
        reason="below_threshold",
        chosen=(),
        policy_version=plan.policy.version,
        model_version="1-0",
        features_as_of=0,
        dropped=(),
        blocks=(),
        nulls={},
        places=b"",
        chance=b"",
        reserved=False,
        expires_at=0,
        scored=np.array(rows, dtype="<f4").tobytes(),
    )


def test_a_record_keeps_what_was_learned_beside_the_propensity() -> None:
    plan = compile_plan(policy(policy=PRIORITY))
    record = record_of(plan, [0.1, 0.2], [0.05, 0.1], [0.2, 0.3], [80.0, 10.0], [0.01, 0.002])
    factors = Factors(plan, record)
    assert factors.priority.tolist() == pytest.approx([0.1 * 80 - 0.4, 0.2 * 10 - 0.08], rel=1e-6)
    assert factors.told(0)["value"] == 80.0
    assert factors.told(1)["opt_out"] == pytest.approx(0.002)
    sold_for = [Outcome("purchase", 5, None, 70.0), Outcome("purchase", 9, None, 30.0)]
    row = row_of(plan, "d1", "tag", record, {}, [*sold_for[::-1], Outcome("complaint", 6, None)], None, 10)
    assert [(one["value"], one["opt_out"]) for one in row["candidates"]] == [
        (80.0, pytest.approx(0.01)),
        (10.0, pytest.approx(0.002)),
    ]
    assert (row["outcome_value"], row["opted_out"]) == (70.0, True)


def test_a_record_without_learned_levers_is_read_by_the_file() -> None:
    plan = compile_plan(policy(policy=PRIORITY))
    factors = Factors(plan, record_of(plan, [0.1, 0.2], [0.05, 0.1], [0.2, 0.3]))
    assert factors.priority.tolist() == pytest.approx([3.0, 2.0], rel=1e-6)
    assert factors.told(0)["value"] == 30.0
    assert factors.opt_out(0) is None


def test_an_offer_is_new_until_it_was_shown_for_three_accepts_at_its_start() -> None:
    head = Hybrid()
    head.add_offers({"often": 0.0, "rare": -3.0})
    for _ in range(int(2 * TRIED)):
        head.learn({}, "often", 0.0)
        head.learn({}, "rare", 0.0)
    new = untried(head, ["rare", "often", "unheard of"])
    assert new is not None
    assert new.tolist() == [True, False, True]
    assert untried(head, ["often"]) is None
