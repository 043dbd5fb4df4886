"""The arbitration expression over arrays."""

import math

import numpy as np
import pytest

from policies.conditions import ConditionError, compile_priority

VALUES = {
    "propensity": np.array([0.1, 0.2, 0.3]),
    "value": np.array([0.0, 2.0, -3.0]),
    "weight": np.array([1.0, 2.0, 1.0]),
    "channel_cost": 0.5,
}
SILENCE = -math.inf


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("propensity * value * weight - channel_cost", [-0.5, 0.3, -1.4]),
        ("1", [1.0, 1.0, 1.0]),
        ("-value + 2 * (weight - 1)", [0.0, 0.0, 3.0]),
        ("value > 0 ? value : -1", [-1.0, 2.0, -1.0]),
        ("value > 0 && propensity >= 0.2 || !(weight <= 1.0) ? 1 : 0", [0.0, 1.0, 0.0]),
        ("value == 0 != true ? 1 : 0", None),
        ("6 / weight / 3", [2.0, 1.0, 2.0]),
        ("1 / value", [SILENCE, 0.5, -1 / 3]),
        ("0 / value", [SILENCE, 0.0, 0.0]),
        ("value == 0 ? 0 : 1 / value", [0.0, 0.5, -1 / 3]),
        ("1 / value > 0 ? 1 : 2", [SILENCE, 1.0, 2.0]),
        ("(1 / value > 0 || true) ? 1 : 2", [1.0, 1.0, 1.0]),
        ("1e308 * 10 * value", [SILENCE, SILENCE, SILENCE]),
    ],
)
def test_a_priority_is_worked_out_for_each_offer(source: str, expected: list[float] | None) -> None:
    if expected is None:
        with pytest.raises(ConditionError):
            compile_priority(source)
    else:
        assert compile_priority(source).evaluate(VALUES).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("source", "detail", "fix"),
    [
        ("propensty * value", 'unknown variable "propensty"', "propensity"),
        ("value > 1", "true or false", "? 1 : 0"),
        ("value ? 1 : 0", "true or false", "?:"),
        ("value + (value > 1)", "a number", "?:"),
        ("value % 2", '"%"', "+ - * /"),
        ("'a'", "only numbers", "write an expression"),
        ("features.views * 2", "only numbers", "write an expression"),
        ("[1][0]", "only numbers", "write an expression"),
        ("value *", "ends too early", "complete"),
    ],
)
def test_a_priority_that_cannot_be_says_why(source: str, detail: str, fix: str) -> None:
    with pytest.raises(ConditionError) as caught:
        compile_priority(source)
    assert detail in caught.value.detail
    assert fix in caught.value.fix


def test_a_priority_knows_its_variables() -> None:
    assert compile_priority("value * propensity").names == ("value", "propensity")
