"""A head that River's classifiers learn: starts at the prior, serves what River says, survives a crash."""

import subprocess
import sys
from random import Random
from typing import Any

import numpy as np
import pytest
from river import compose, linear_model, optim, preprocessing

from engine.learning.hybrid import Hybrid
from engine.learning.river_head import ALARM, TRIALS, CompiledRiver, RiverHead
from engine.learning.snapshot import Snapshot, pack, unpack
from policies.plain_objects import NotPlain

LINEAR = "river.linear_model.LogisticRegression"
TREE = "river.tree.HoeffdingTreeClassifier"
ADAGRAD: dict[str, Any] = {"optimizer": {"river.optim.AdaGrad": {"lr": 0.1}}}
NOWHERE = np.zeros(2), np.ones(2)


def logit(chance: float) -> float:
    return float(np.log(chance / (1 - chance)))


def chance(logits: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(logits)))


def outcomes(count: int, seed: int = 1) -> list[tuple[dict[str, Any], str, float]]:
    """`boots` suits the app and the young, `hats` nobody in particular."""
    random = Random(seed)
    found: list[tuple[dict[str, Any], str, float]] = []
    for number in range(count):
        age, device = random.gauss(40, 10), random.choice(["app", "web"])
        context = {"age": age, "device": device}
        suits = device == "app" and age < 45
        rate = (0.8 if suits else 0.05) if number % 2 == 0 else 0.3
        found.append((context, ("boots", "hats")[number % 2], float(random.random() < rate)))
    return found


def taught(learner: str, parameters: dict[str, Any] | None = None, count: int = 400) -> RiverHead:
    head = RiverHead(learner, parameters or {})
    head.add_offers({"boots": logit(0.05), "hats": logit(0.2)})
    for context, offer, outcome in outcomes(count):
        head.check(head.learn(context, offer, outcome), outcome)
    return head


def kept(head: RiverHead | Hybrid) -> bytes:
    return pack(Snapshot("1-0", {"accept": head}))


@pytest.mark.parametrize("learner", [LINEAR, TREE])
def test_an_offer_starts_at_its_prior_and_as_uncertain_as_that(learner: str) -> None:
    head = taught(learner)
    head.add_offers({"scarf": logit(0.03)})
    mean, deviation = head.predict({"age": 30.0, "device": "app"}, "scarf")
    assert chance(mean) == pytest.approx(0.03)
    assert deviation == pytest.approx(1 / np.sqrt(TRIALS * 0.03 * 0.97))


@pytest.mark.parametrize("learner", [LINEAR, TREE])
def test_a_launch_leaves_what_the_others_learned_as_it_was(learner: str) -> None:
    head, context = taught(learner), {"age": 30.0, "device": "app"}
    before = head.predict(context, "boots")
    head.add_offers({"scarf": logit(0.03), "boots": logit(0.9)})
    assert head.predict(context, "boots") == before
    head.learn(context, "scarf", 1.0)
    assert head.predict(context, "boots")[0] == pytest.approx(before[0], abs=0.05)


def test_the_numbers_are_those_of_rivers_own_pipeline_mixed_with_the_start() -> None:
    head = RiverHead(LINEAR, ADAGRAD)
    head.add_offers({"boots": logit(0.05)})
    pipeline = compose.Pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(optim.AdaGrad(0.1))
    )
    random = Random(2)
    for _ in range(300):
        # Within three deviations, so that nothing is cut.
        x = {"age": random.uniform(20, 60), "spend": random.uniform(0, 9)}
        y = random.random() < 0.4
        head.learn(x, "boots", float(y))
        pipeline.learn_one({"age": x["age"], "spend": x["spend"]}, y)
    asked = {"age": 33.0, "spend": 5.0}
    expected = (TRIALS * 0.05 + 300 * pipeline.predict_proba_one(asked)[True]) / (TRIALS + 300)
    assert chance(head.predict(asked, "boots")[0]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["LogisticRegression", "PAClassifier", "Perceptron", "ALMAClassifier"])
def test_a_linear_one_serves_from_its_weights_what_it_says_itself(name: str) -> None:
    head = taught(f"river.linear_model.{name}")
    assert head.linear
    for context, _, _ in outcomes(20, seed=7):
        vector = head.encoder.vector({"age": context["age"], f"device={context['device']}": 1.0})
        said = head.classifier(0).predict_proba_one(dict(enumerate(vector[1:].tolist())))[True]
        mixed = (TRIALS * 0.05 + head.counted[0] * said) / (TRIALS + head.counted[0])
        assert chance(head.predict(context, "boots")[0]) == pytest.approx(mixed, abs=1e-9)


@pytest.mark.parametrize("learner", [LINEAR, TREE])
def test_it_learns_whom_an_offer_suits(learner: str) -> None:
    head = taught(learner, ADAGRAD if learner == LINEAR else {"grace_period": 50}, count=3000)
    for device, low, high in (("app", 0.4, 0.9), ("web", 0.01, 0.3)):
        assert low < chance(head.predict({"age": 35.0, "device": device}, "boots")[0]) < high


def test_the_deviation_shrinks_with_outcomes_and_grows_with_what_adagrad_has_not_seen() -> None:
    few, many = taught(LINEAR, ADAGRAD, count=100), taught(LINEAR, ADAGRAD, count=2000)
    usual, odd = {"age": 40.0, "device": "app"}, {"age": 70.0, "device": "app"}
    assert many.predict(usual, "boots")[1] < few.predict(usual, "boots")[1]
    assert many.predict(odd, "boots")[1] > many.predict(usual, "boots")[1]
    plain = taught(LINEAR, count=2000)
    assert plain.predict(odd, "boots")[1] == plain.predict(usual, "boots")[1]


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize(("learner", "parameters"), [(LINEAR, ADAGRAD), (TREE, {"grace_period": 40})])
def test_after_a_crash_it_goes_on_as_if_it_had_not_died(
    learner: str, parameters: dict[str, Any], count: int
) -> None:
    living = taught(learner, parameters, count)
    back = unpack(kept(living)).heads["accept"]
    assert isinstance(back, RiverHead)
    for head in (living, back):
        head.add_offers({"scarf": -2.0})
        for context, offer, outcome in outcomes(100, seed=4):
            head.check(head.learn(context, offer, outcome), outcome)
            head.learn({**context, "city": "Leeds"}, "scarf", outcome)
    assert kept(back) == kept(living)


@pytest.mark.parametrize("learner", [LINEAR, TREE])
def test_a_snapshot_that_was_only_read_is_written_as_it_was(learner: str) -> None:
    blob = kept(taught(learner))
    back = unpack(blob).heads["accept"]
    assert kept(back) == blob
    back.add_offers({"scarf": -2.0})
    assert chance(back.predict({}, "scarf")[0]) == pytest.approx(chance(-2.0))


def test_a_process_that_only_serves_a_linear_one_never_imports_river() -> None:
    code = (
        "import sys; from engine.learning.snapshot import unpack; "
        "head = unpack(sys.stdin.buffer.read()).heads['accept']; head.predict_all({'age': 3.0}); "
        "print('river' in sys.modules)"
    )
    blob = kept(taught(LINEAR, ADAGRAD))
    told = subprocess.run([sys.executable, "-c", code], input=blob, check=True, capture_output=True)
    assert told.stdout.split() == [b"False"]


def test_predicting_changes_nothing() -> None:
    for learner in (LINEAR, TREE):
        head = taught(learner)
        before = kept(head)
        head.predict_all({"age": 3.0, "never seen": 1.0, "device": "watch"})
        assert kept(head) == before


@pytest.mark.parametrize("learner", [LINEAR, TREE])
def test_of_a_no_taken_back_it_learns_the_yes(learner: str) -> None:
    head, context = taught(learner), {"age": 60.0, "device": "web"}
    head.learn(context, "boots", 0.0)
    no, count = head.predict(context, "boots")[0], head.outcomes.tolist()
    head.take_back(context, "boots", 0.0, 1.0)
    assert head.predict(context, "boots")[0] > no
    assert head.outcomes.tolist() == count


def test_an_alarm_leaves_a_tenth_of_the_outcomes_in_force() -> None:
    head = taught(LINEAR, {"optimizer": {"river.optim.SGD": {"lr": 0.1}}}, 600)
    counted, (_, deviation) = head.counted.copy(), head.predict({}, "boots")
    alarmed = any([head.check(0.1, 0.0) for _ in range(400)] + [head.check(0.1, 1.0) for _ in range(400)])
    assert alarmed
    assert head.counted[0] <= counted[0] / ALARM
    assert head.predict({}, "boots")[1] > deviation


def test_an_offer_that_the_head_has_not_met_stands_at_its_start_in_serving() -> None:
    head = taught(LINEAR)
    starts = np.array([-3.0, -4.0]), np.array([0.5, 0.6])
    served = CompiledRiver(head, ["scarf", "boots"], starts, 0.3)
    mean, deviation = served.predict(served.encode({"age": 40.0}))
    known = head.predict({"age": 40.0}, "boots")
    assert (mean[0], deviation[0]) == (pytest.approx(-3.0), pytest.approx(0.15))
    assert (mean[1], deviation[1]) == (pytest.approx(known[0]), pytest.approx(0.3 * known[1]))
    nothing = CompiledRiver(RiverHead(LINEAR, {}), ["scarf"], (starts[0][:1], starts[1][:1]))
    assert nothing.predict(nothing.encode({}))[0] == pytest.approx(-3.0)


def test_an_outcome_that_makes_a_classifier_raise_is_left_out() -> None:
    head = taught(LINEAR, count=10)
    broken = head.classifier(0)
    broken._weights = None
    head.learn({"age": 40.0}, "boots", 1.0)
    assert head.outcomes[0] == 6
    tree = taught(TREE, count=10)
    tree.classifier(0)._root = 3
    assert chance(tree.predict({"age": 40.0}, "boots")[0]) == pytest.approx(0.05)


def test_weights_that_grew_beyond_all_bounds_are_not_written_down() -> None:
    head = taught(LINEAR, count=10)
    head.classifier(0).intercept = float("inf")
    with pytest.raises(NotPlain, match="beyond all bounds"):
        kept(head)
