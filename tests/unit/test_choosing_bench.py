"""The bench of choices: what it hands to each learner, and what it says of them."""

import json

import pytest

from loadtests import choosing


def test_every_customer_is_another_with_twenty_inputs() -> None:
    plan = choosing.plan_of(10)
    contexts = choosing.inputs_of(plan, choosing.customers(plan, 30, seed=1))
    assert {len(context) for context in contexts} == {21}  # the placement is the one more
    assert len({json.dumps(context, sort_keys=True) for context in contexts}) == 30


def test_ours_draws_by_the_probability_that_it_states() -> None:
    plan = choosing.plan_of(10)
    known = choosing.customers(plan, 1, seed=2)
    chosen = choosing.tact(plan, known * 2000, 3)
    drawn = [chosen(number) for number in range(2000)]
    stated = dict(drawn)
    assert sum(stated.values()) == pytest.approx(1.0, abs=0.05)  # but for offers too rare to be drawn
    for offer, probability in stated.items():
        share = sum(one == offer for one, _ in drawn) / len(drawn)
        assert share == pytest.approx(probability, abs=4 * (probability * (1 - probability) / 2000) ** 0.5)


def test_the_model_has_learned_something_of_the_customers() -> None:
    plan = choosing.plan_of(10)
    known = choosing.customers(plan, 40, seed=4)
    chosen = choosing.tact(plan, known, 5)
    assert len({chosen(number) for number in range(40)}) > 10


def test_all_are_measured_in_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    choosing.main(["--sizes", "10", "--rounds", "2", "--decisions", "3", "--json"])
    found = json.loads(capsys.readouterr().out)["offers"]["10"]
    assert list(found) == ["tact", "gittins-empty", "gittins-bare", "gittins", "vw"]
    assert found["tact"]["times_tact"] == 1.0
    assert all(0 < one["median_ms"] <= one["p99_ms"] for one in found.values())
