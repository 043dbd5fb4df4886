"""Steps in, heads out: what each kind of model learns of an outcome."""

from typing import Any

import msgspec
import numpy as np
import pytest

from engine.judging.trail import (
    AMOUNT_MAX,
    MADE,
    OUTCOME,
    Outcome,
    Step,
    amount_of,
    encode_outcome,
    parse_outcome,
    parse_step,
    step,
)
from engine.learning.hybrid import Hybrid
from engine.learning.outcomes import RARE, Case, Learning
from engine.learning.river_head import RiverHead
from engine.learning.snapshot import Snapshot, pack, unpack
from policies.loader import load_files
from policies.model import PolicySet

TAG, UID = "t" * 16, "u" * 12
FILES = {
    "policy.yaml": "policy: outcomes\ntimezone: UTC\n",
    "channels.yaml": "channels:\n  web: {kind: inbound}\nplacements:\n  home: {channel: web}\n",
    "offers.yaml": """
categories: {promotion: {}}
offers:
  - {id: boots, category: promotion, placements: [home], value: 30, prior: 5%}
  - {id: socks, category: promotion, placements: [home], value: 10, prior: 2%}
""",
    "models.yaml": """
models:
  accept:  {predicts: accept}
  basket:  {predicts: value}
  opt_out: {predicts: [unsubscribe, complaint]}
""",
}


def policy(**files: str) -> PolicySet:
    return load_files(FILES | {f"{name}.yaml": text for name, text in files.items()}).policy


class Story:
    """Decisions and what became of them, one after the other."""

    def __init__(self, learning: Learning | None = None) -> None:
        self.learning = learning or Learning()
        self.policy = policy()
        self.count = 0

    def shown(self, *offers: str, **context: Any) -> str:
        self.count += 1
        uid = f"{self.count:012d}"
        contexts = {model.name: {"placement": "home", **context} for model in self.policy.models}
        self.case = Case(self.count, "web", offers, False, self.policy, contexts)
        self.learning.take(Step(MADE, TAG, uid), self.count, lambda _: self.case)
        return uid

    def came(self, uid: str, kind: str, offer: str | None = None, amount: float | None = None) -> bool:
        told = Outcome(kind, self.count, offer, amount)
        return self.learning.take(Step(OUTCOME, TAG, uid, told), self.count, lambda _: self.case)

    def head(self, role: Any) -> Hybrid:
        model = self.policy.model(role)
        assert model is not None
        head = self.learning.heads[model.head]
        assert isinstance(head, Hybrid)
        return head

    def expects(self, role: Any, offer: str, **context: Any) -> float:
        mean = self.head(role).predict({"placement": "home", **context}, offer)[0]
        return mean if role == "value" else 1 / (1 + float(np.exp(-mean)))


def test_values_start_at_the_file_and_follow_the_amounts_of_a_yes() -> None:
    story = Story()
    story.shown("boots")
    assert story.expects("value", "boots") == pytest.approx(30)
    assert story.head("value").setting.family == "gaussian"
    for _ in range(60):
        rich = story.count % 2 == 0
        story.came(story.shown("boots", rich=rich), "purchase", amount=80.0 if rich else 20.0)
    assert story.expects("value", "boots", rich=True) == pytest.approx(80, abs=8)
    assert story.expects("value", "boots", rich=False) == pytest.approx(20, abs=8)
    assert story.head("value").outcomes.tolist() == [60, 0]


def test_silence_a_no_and_a_yes_without_an_amount_teach_no_value() -> None:
    story = Story()
    story.came(story.shown("boots"), "reject")
    story.came(story.shown("boots"), "accept")
    story.came(story.shown("boots"), "page_view", amount=9.0)
    assert story.head("value").outcomes.tolist() == [0, 0]
    assert story.head("accept").outcomes.tolist() == [3, 0]


def test_the_first_amount_counts_once_an_offer_also_when_the_yes_told_none() -> None:
    story = Story()
    uid = story.shown("boots", "socks")
    assert story.came(uid, "accept", "boots")
    assert story.came(uid, "purchase", "boots", 50.0)
    assert not story.came(uid, "purchase", "boots", 90.0)
    assert not story.came(uid, "purchase", None, 90.0)  # of which of the two?
    assert story.came(uid, "purchase", "socks", 12.0)
    assert story.head("value").outcomes.tolist() == [1, 1]
    assert story.head("accept").outcomes.tolist() == [1, 1]


def test_one_wild_amount_moves_a_value_little() -> None:
    story = Story()
    for _ in range(200):
        story.came(story.shown("boots"), "purchase", amount=30.0 + story.count % 5)
    story.came(story.shown("boots"), "purchase", amount=AMOUNT_MAX)
    assert story.expects("value", "boots") == pytest.approx(32, abs=2)


def test_values_are_learned_alike_in_any_currency() -> None:
    found = []
    for unit in (1.0, 1000.0):
        story = Story()
        priced = FILES["offers.yaml"].replace("30", f"{30 * unit:g}").replace("10", f"{10 * unit:g}")
        story.policy = policy(offers=priced)
        for _ in range(20):
            story.came(story.shown("boots", rich=story.count % 2 == 0), "purchase", amount=50.0 * unit)
        found.append(story.expects("value", "boots", rich=True) / unit)
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_opting_out_is_rare_until_it_was_learned_and_is_no_yes() -> None:
    story = Story()
    first = story.shown("boots")
    assert story.expects("opt_out", "boots") == pytest.approx(RARE, rel=0.2)
    story.came(first, "complaint")
    assert not story.learning.notes.answered
    assert story.expects("opt_out", "boots") > 2 * RARE
    story.came(first, "accept")
    assert story.learning.notes.answered


def test_without_drift_no_outcome_is_watched() -> None:
    story = Story()
    story.policy = policy(models="models:\n  accept: {predicts: accept, drift: false}\n")
    story.came(story.shown("boots"), "accept")
    story.learning._close(1 << 60)
    assert story.head("accept").watch.errors.tolist() == []


def test_another_half_life_holds_from_the_next_decision_and_resets_nothing() -> None:
    story = Story()
    story.came(story.shown("boots"), "accept")
    before = story.expects("accept", "boots")
    story.policy = policy(models="models:\n  accept: {predicts: accept, half_life: 9d}\n")
    story.shown("socks")
    assert story.head("accept").setting.half_life_ms == 9 * 86_400_000
    assert story.expects("accept", "boots") == pytest.approx(before, rel=0.1)


RIVER = "models:\n  accept: {predicts: accept, learner: river.linear_model.LogisticRegression}\n"


def test_another_learner_begins_at_the_priors_and_the_one_before_is_kept() -> None:
    story = Story()
    for _ in range(20):
        story.came(story.shown("boots"), "accept")
    before, open_one = story.expects("accept", "boots"), story.shown("boots")
    old = story.policy, story.case
    story.policy = policy(models=RIVER)
    story.came(story.shown("boots"), "accept")
    river = story.learning.heads[story.policy.models[0].head]
    assert isinstance(river, RiverHead)
    assert river.outcomes.tolist() == [1, 0]
    # What was decided before is learned by the model that decided.
    story.policy, story.case = old
    story.came(open_one, "accept")
    assert river.outcomes.tolist() == [1, 0]
    assert story.expects("accept", "boots") >= before


def test_a_crash_anywhere_leaves_the_same_heads_whatever_learns() -> None:
    models = FILES["models.yaml"].replace(
        "predicts: accept}", "predicts: accept, learner: river.linear_model.LogisticRegression}"
    )
    living, dying = Story(), Story()
    for story in (living, dying):
        story.policy = policy(models=models)
    for number in range(30):
        for story in (living, dying):
            uid = story.shown(("boots", "socks")[number % 2], rich=number % 3 == 0)
            if number % 2:
                story.came(uid, "purchase", amount=float(number))
        if number % 7 == 0:
            kept = unpack(
                pack(Snapshot("1", dying.learning.heads, msgspec.msgpack.encode(dying.learning.notes)))
            )
            notes = msgspec.msgpack.decode(kept.notes, type=type(dying.learning.notes))
            dying.learning = Learning(kept.heads, notes)
    assert pack(Snapshot("1", dying.learning.heads)) == pack(Snapshot("1", living.learning.heads))


def test_a_step_carries_an_amount_and_older_steps_without_one_are_read() -> None:
    told = Outcome("purchase", 5, "boots", 12.5)
    assert parse_step(step(OUTCOME, TAG, UID, encode_outcome(told))).outcome == told
    old = msgspec.msgpack.encode(("purchase", 5, "boots"))
    assert parse_outcome(old) == Outcome("purchase", 5, "boots", None)
    assert encode_outcome(Outcome("purchase", 5, "boots")) == old
    with pytest.raises(ValueError, match="array"):
        parse_outcome(msgspec.msgpack.encode(("purchase",)))


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (3, 3.0),
        (-2.5, -2.5),
        (True, None),
        ("3", None),
        (None, None),
        (float("nan"), None),
        (2 * AMOUNT_MAX, None),
        (10**400, None),
    ],
)
def test_only_an_amount_that_can_be_is_taken(amount: object, expected: float | None) -> None:
    assert amount_of({"amount": amount}) == expected
    assert amount_of({}) is None
