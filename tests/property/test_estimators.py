"""The estimators beside plain loops written from the papers' formulas: the same to 1e-9."""

from math import isclose, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.estimators import (
    NAMES,
    Sample,
    changed_weight,
    dr,
    dros,
    effective_size,
    every_estimate,
    ips,
    snips,
    switch_dr,
)
from engine.evaluation.intervals import standard_error

Actions = list[float]


class Impression:
    """One logged decision, as the papers write it: two policies over the actions, an action, its reward."""

    def __init__(self, logged: Actions, judged: Actions, model: Actions, action: int, reward: float) -> None:
        self.logged, self.judged, self.model = logged, judged, model
        self.action, self.reward = action, reward

    @property
    def weight(self) -> float:
        return self.judged[self.action] / self.logged[self.action]

    def direct(self) -> float:
        total = 0.0
        for chance, prediction in zip(self.judged, self.model, strict=True):
            total += chance * prediction
        return total


def plain_ips(log: list[Impression]) -> float:
    total = 0.0
    for one in log:
        total += one.reward * one.judged[one.action] / one.logged[one.action]
    return total / len(log)


def plain_snips(log: list[Impression]) -> float:
    above = below = 0.0
    for one in log:
        above += one.weight * one.reward
        below += one.weight
    return above / below


def plain_dr(log: list[Impression]) -> float:
    total = 0.0
    for one in log:
        total += one.direct() + one.weight * (one.reward - one.model[one.action])
    return total / len(log)


def plain_switch_dr(log: list[Impression], tau: float) -> float:
    total = 0.0
    for one in log:
        total += one.direct()
        if one.weight <= tau:
            total += one.weight * (one.reward - one.model[one.action])
    return total / len(log)


def plain_dros(log: list[Impression], lam: float) -> float:
    total = 0.0
    for one in log:
        shrunk = lam / (one.weight * one.weight + lam) * one.weight
        total += one.direct() + shrunk * (one.reward - one.model[one.action])
    return total / len(log)


def shares(draw: st.DrawFn, count: int, low: float) -> Actions:
    raw = draw(st.lists(st.floats(low, 1.0), min_size=count, max_size=count))
    total = sum(raw) or 1.0
    return [share / total for share in raw]


@st.composite
def logs(draw: st.DrawFn) -> list[Impression]:
    count = draw(st.integers(1, 5))
    found = []
    for _ in range(draw(st.integers(2, 25))):
        judged = shares(draw, count, 0.01)
        model = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
        action = draw(st.integers(0, count - 1))
        found.append(Impression(shares(draw, count, 0.01), judged, model, action, draw(st.floats(-2, 20))))
    return found


def sample_of(log: list[Impression], per_customer: int = 1) -> Sample:
    return Sample(
        reward=np.array([one.reward for one in log]),
        weight=np.array([one.weight for one in log]),
        predicted=np.array([one.model[one.action] for one in log]),
        expected=np.array([one.direct() for one in log]),
        silent=np.zeros(len(log)),
        customer=np.arange(len(log)) // per_customer,
    )


@settings(max_examples=150, deadline=None)
@given(log=logs(), tau=st.floats(0.01, 50), lam=st.floats(0.001, 1000))
def test_every_estimator_is_its_papers_formula(log: list[Impression], tau: float, lam: float) -> None:
    sample = sample_of(log)
    assert ips(sample).value == pytest.approx(plain_ips(log), rel=1e-9, abs=1e-9)
    assert snips(sample).value == pytest.approx(plain_snips(log), rel=1e-9, abs=1e-9)
    assert dr(sample).value == pytest.approx(plain_dr(log), rel=1e-9, abs=1e-9)
    # A weight on the very edge of τ may fall to either side by rounding.
    if not any(isclose(one.weight, tau, rel_tol=1e-12) for one in log):
        assert switch_dr(sample, tau).value == pytest.approx(plain_switch_dr(log, tau), rel=1e-9, abs=1e-9)
    assert dros(sample, lam).value == pytest.approx(plain_dros(log, lam), rel=1e-9, abs=1e-9)


@settings(max_examples=75, deadline=None)
@given(log=logs())
def test_a_chosen_setting_gives_what_it_gives_when_named(log: list[Impression]) -> None:
    sample = sample_of(log)
    cut, shrunk = switch_dr(sample), dros(sample)
    assert cut.value == pytest.approx(switch_dr(sample, cut.setting).value)
    assert shrunk.value == pytest.approx(dros(sample, shrunk.setting).value)


@settings(max_examples=75, deadline=None)
@given(log=logs())
def test_the_limits_of_shrinking_are_the_model_alone_and_dr(log: list[Impression]) -> None:
    sample = sample_of(log)
    direct = float(sample.expected.mean())
    assert dros(sample, 0.0).value == pytest.approx(direct)
    assert dros(sample, float("inf")).value == pytest.approx(dr(sample).value)
    assert switch_dr(sample, 0.0).value == pytest.approx(direct)
    assert switch_dr(sample, float("inf")).value == pytest.approx(dr(sample).value)


@settings(max_examples=75, deadline=None)
@given(log=logs())
def test_a_policy_judged_on_its_own_log_earned_the_mean(log: list[Impression]) -> None:
    for one in log:
        one.judged = one.logged
    sample = sample_of(log)
    mean = sum(one.reward for one in log) / len(log)
    assert ips(sample).value == pytest.approx(mean, abs=1e-9)
    assert snips(sample).value == pytest.approx(mean, abs=1e-9)
    assert effective_size(sample) == pytest.approx(len(log))


@settings(max_examples=75, deadline=None)
@given(log=logs(), per_customer=st.integers(1, 4))
def test_the_standard_error_is_that_of_sums_by_customer(log: list[Impression], per_customer: int) -> None:
    sample = sample_of(log, per_customer)
    mean = plain_ips(log)
    by_customer: dict[int, float] = {}
    for place, one in enumerate(log):
        added = one.weight * one.reward - mean
        by_customer[place // per_customer] = by_customer.get(place // per_customer, 0.0) + added
    count = len(by_customer)
    influence = sample.weight * sample.reward - mean
    if count < 2:
        assert standard_error(influence, sample.customer) == float("inf")
        return
    squares = sum(total * total for total in by_customer.values())
    wanted = sqrt(count / (count - 1) * squares) / len(log)
    assert standard_error(influence, sample.customer) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@settings(max_examples=75, deadline=None)
@given(log=logs())
def test_every_estimate_lies_in_its_interval(log: list[Impression]) -> None:
    estimates = every_estimate(sample_of(log))
    assert tuple(one.name for one in estimates) == NAMES
    for one in estimates:
        assert one.interval.low <= one.value + 1e-9
        assert one.value - 1e-9 <= one.interval.high


@settings(deadline=None)
@given(
    weight=st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
    setting=st.floats(1e-6, 1e9),
    name=st.sampled_from(["switch-dr", "dros"]),
)
def test_cutting_and_shrinking_never_add_weight(weight: list[float], setting: float, name: str) -> None:
    given_weight = np.array(weight)
    changed = changed_weight(name, given_weight, setting)
    assert (changed <= given_weight * (1 + 1e-12) + 1e-300).all()  # what is hardly above 0 is not exact
    assert (changed >= 0).all()
