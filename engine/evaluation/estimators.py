"""Off-policy estimators: what another policy would have earned, from decisions that this one made.

`w` is the chance of the logged action under the judged policy over the logged chance, `r` its reward, `q` the
reward predicted for an action by a model that has not seen this customer. With `e = Σ_a π(a) q(a)`:

    IPS        mean(w r)                                   unbiased, noisy
    SNIPS      sum(w r) / sum(w)                           Swaminathan and Joachims 2015
    DR         mean(e + w (r - q))                         Dudík, Langford and Li 2011: unbiased, less noisy
    SWITCH-DR  the same with w = 0 where w > τ             Wang, Agarwal and Dudík 2017
    DRos       the same with λ w / (w² + λ) for w          Su, Dimakopoulou, Krishnamurthy and Dudík 2020

τ and λ are chosen from the data, as Su and others do: the smallest sum of squared standard error and squared
bias wins. The bias is what cutting or shrinking took away, b = mean((w - ŵ)(r - q)); it is not known better than
its own standard error, so its square is taken as b² + se(b)². A shrunk estimate may be off by b, and b by its
own error, so the interval is widened on both sides by |b| + z se(b). Shrinking buys a steadier figure; it never
sells doubt as certainty, and without this a model that happens to fit looks sure of everything.

Where the judged policy keeps silent and the log never did, the reward is known: nothing shown is nothing
accepted. `silent` is the chance of that; it adds 0 to every sum, and counts in SNIPS's denominator.
"""

from math import inf
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from engine.evaluation.intervals import FEW, Interval, bernstein, hall, standard_error
from engine.evaluation.log import Whole
from engine.judging.scoring import Array

NAMES: Final = ("ips", "snips", "dr", "switch-dr", "dros")


class Sample(NamedTuple):
    """What the estimators look at, one number a decision each."""

    reward: Array
    weight: Array
    """Judged over logged chance of what was done; 0 or above."""
    predicted: Array
    """Predicted reward of what was done."""
    expected: Array
    """Predicted reward of what the judged policy would do, by its chances."""
    silent: Array
    """The judged policy's chance of a silence whose reward is known to be 0."""
    customer: Whole


class Estimate(NamedTuple):
    """One estimator's answer: reward a decision, with its interval."""

    name: str
    value: float
    interval: Interval
    setting: float | None
    """τ or λ, where there is one; infinite means that nothing was cut or shrunk."""


def effective_size(sample: Sample) -> float:
    """Return how many equally weighted decisions the weights are worth: (Σw)² / Σw² (Kish)."""
    weight = sample.weight + sample.silent
    squares = float(weight @ weight)
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0


def ips(sample: Sample, confidence: float = 0.95) -> Estimate:
    """Return the inverse propensity score estimate."""
    parts = sample.weight * sample.reward
    return _average("ips", sample, parts, sample.weight, confidence)


def snips(sample: Sample, confidence: float = 0.95) -> Estimate:
    """Return the self-normalised estimate; 0 with an unbounded interval where nothing overlaps."""
    share = sample.weight + sample.silent
    total = float(share.mean())
    if total <= 0:
        return Estimate("snips", 0.0, Interval(-inf, inf, inf, "hall"), None)
    value = float((sample.weight * sample.reward).mean()) / total
    influence = (sample.weight * sample.reward - value * share) / total
    interval = interval_of(value, influence, sample, sample.weight / total, confidence)
    return Estimate("snips", value, interval, None)


def dr(sample: Sample, confidence: float = 0.95) -> Estimate:
    """Return the doubly robust estimate."""
    return _average("dr", sample, _robust(sample, sample.weight), sample.weight, confidence)


def switch_dr(sample: Sample, tau: float | None = None, confidence: float = 0.95) -> Estimate:
    """Return SWITCH-DR; without `tau` the best of twenty quantiles of the weights, and of not cutting."""
    used = sample.weight[sample.weight > 0]
    settings = [tau] if tau is not None else [*np.unique(np.quantile(used, _SHARES))] if len(used) else [inf]
    if tau is None and settings[-1] < inf:
        settings.append(inf)
    return _shrunk("switch-dr", sample, settings, confidence)


def dros(sample: Sample, lam: float | None = None, confidence: float = 0.95) -> Estimate:
    """Return DR with optimistic shrinkage; without `lam` the best of a grid around the squared weights."""
    used = sample.weight[sample.weight > 0]
    settings = [lam] if lam is not None else [inf]
    if lam is None and len(used):
        reach = float((used**2).max())
        settings = [*np.geomspace(reach / 1e4, reach * 1e2, 25), inf]
    return _shrunk("dros", sample, settings, confidence)


def every_estimate(sample: Sample, confidence: float = 0.95) -> list[Estimate]:
    """Return all five, in the order of NAMES."""
    return [
        ips(sample, confidence),
        snips(sample, confidence),
        dr(sample, confidence),
        switch_dr(sample, None, confidence),
        dros(sample, None, confidence),
    ]


_SHARES: Final = np.linspace(0.05, 1.0, 20)


def changed_weight(name: str, weight: Array, setting: float) -> Array:
    """Return the weights as SWITCH-DR cuts them at τ, or as DRos shrinks them with λ."""
    if setting == inf:
        return weight
    changed: Array = (
        np.where(weight <= setting, weight, 0.0)
        if name == "switch-dr"
        else setting * weight / (weight**2 + setting)
        if setting > 0
        else np.zeros_like(weight)
    )
    return changed


def _robust(sample: Sample, weight: Array) -> Array:
    return sample.expected + weight * (sample.reward - sample.predicted)


def _shrunk(name: str, sample: Sample, settings: list[float], confidence: float) -> Estimate:
    residual = sample.reward - sample.predicted
    best = (inf, inf, 0.0, sample.weight)
    for setting in settings:
        weight = changed_weight(name, sample.weight, setting)
        parts, taken = _robust(sample, weight), (sample.weight - weight) * residual
        error = standard_error(parts - parts.mean(), sample.customer)
        bias = abs(float(taken.mean()))
        bias_error = standard_error(taken - taken.mean(), sample.customer)
        doubt = error**2 + bias**2 + bias_error**2
        if doubt < best[0] or best[0] == inf:
            z = NormalDist().inv_cdf((1 + confidence) / 2)
            best = (doubt, setting, bias + z * bias_error, weight)
    _, setting, widened, weight = best
    plain = _average(name, sample, _robust(sample, weight), weight, confidence)
    low, high, error, method = plain.interval
    return Estimate(name, plain.value, Interval(low - widened, high + widened, error, method), float(setting))


def _average(name: str, sample: Sample, parts: Array, weight: Array, confidence: float) -> Estimate:
    value = float(parts.mean())
    return Estimate(name, value, interval_of(value, parts - value, sample, weight, confidence), None)


def interval_of(
    value: float, influence: Array, sample: Sample, weight: Array, confidence: float = 0.95
) -> Interval:
    """Return the interval of an estimate in which each decision's reward weighs `weight`.

    `influence` is what each decision adds to the estimate's error.
    """
    rewarded = (weight > 0) & (sample.reward > 0)
    if not weight.any() and not influence.any():
        return Interval(value, value, 0.0, "hall")
    if len(np.unique(sample.customer[rewarded])) >= FEW:
        return hall(value, influence, sample.customer, confidence)
    # With so few rewards the largest seen says little: one more of the heaviest customer is what could have come.
    scale = max(1.0, float(np.abs(sample.reward).max(initial=0.0)))
    heaviest = float(np.bincount(sample.customer, weight).max())
    return bernstein(value, influence, sample.customer, heaviest * scale, confidence)
