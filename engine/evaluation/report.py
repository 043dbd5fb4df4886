"""What `tact evaluate` says of policies: figures, and in plain words what they cannot say.

A verdict is `better`, `worse` or `open` by whether the interval of the difference to what was done holds 0, and
`cannot_say` where the overlap is too small for any of the figures.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final, NamedTuple

import numpy as np

from engine.evaluation.calibration import Calibration, calibrations
from engine.evaluation.estimators import Estimate, Sample, effective_size, every_estimate, interval_of
from engine.evaluation.factors import Factor, factors
from engine.evaluation.intervals import FEW, Interval, hall, standard_error
from engine.evaluation.log import Log
from engine.evaluation.sample import Judged, Reward, judge, sample_of, unsupported
from engine.evaluation.target import Chances
from engine.judging.scoring import Array
from policies.model import PolicySet

TOO_SMALL: Final = 100.0
"""Effective decisions below which nothing is said."""
TOO_FOREIGN: Final = 0.2
"""Share of a policy's choices that the log could never have made, above which nothing is said."""
MANY: Final = 5
"""Policies judged at once above which the best is likely to be lucky: one in four logs has a false claim at 6."""
HEADLINE: Final = "dr"
"""The estimate that verdicts and differences go by: unbiased, and less noisy than IPS."""


class Candidate(NamedTuple):
    """A policy to be judged: its name, its chances, and its set where it has one."""

    name: str
    chances: Chances
    policy: PolicySet | None = None


class Verdict(NamedTuple):
    """All that is said of one policy."""

    name: str
    verdict: str
    estimates: tuple[Estimate, ...]
    difference: float
    """To what was done, in reward a decision."""
    interval: Interval
    """Of the difference."""
    effective: float
    weights: Array
    """The weights of the judged decisions, for the picture."""
    unsupported: float
    """Share of its choices that the log could never have made."""
    silence: float
    """Share of decisions in which it would keep silent."""
    factors: tuple[Factor, ...]
    warnings: tuple[str, ...]


class Evaluation(NamedTuple):
    """A log, judged."""

    reward: Reward
    decisions: int
    judged: int
    customers: int
    since: int
    until: int
    left_out: Mapping[str, int]
    done: float
    """Mean reward of what was done."""
    done_interval: Interval
    policies: tuple[Verdict, ...]
    calibration: tuple[Calibration, ...]
    warnings: tuple[str, ...]


def evaluate(
    log: Log,
    candidates: list[Candidate],
    reward: Reward,
    confidence: float = 0.95,
    *,
    first_only: bool = False,
) -> Evaluation:
    """Judge the policies on the log; with `first_only` by rank 1 alone, the other ranks being as logged."""
    judged = judge(log, reward)
    if not len(judged.rows):
        done = Interval(-np.inf, np.inf, np.inf, "hall")
        return Evaluation(
            reward,
            len(log),
            0,
            0,
            int(log.at.min()),
            int(log.at.max()),
            judged.left_out,
            0.0,
            done,
            (),
            tuple(calibrations(log)),
            ("no decision of this log can be judged: none had a candidate and a settled outcome",),
        )
    mean = float(judged.reward.mean())
    customer = log.customer[judged.rows]
    return Evaluation(
        reward=reward,
        decisions=len(log),
        judged=len(judged.rows),
        customers=len(np.unique(customer)),
        since=int(log.at.min()),
        until=int(log.at.max()),
        left_out=judged.left_out,
        done=mean,
        done_interval=hall(mean, judged.reward - mean, customer, confidence),
        policies=tuple(
            _verdict(log, judged, one, reward, confidence, first_only=first_only) for one in candidates
        ),
        calibration=tuple(calibrations(log)),
        warnings=_log_warnings(log, judged) + _luck_warning(candidates),
    )


def _verdict(
    log: Log, judged: Judged, candidate: Candidate, reward: Reward, confidence: float, *, first_only: bool
) -> Verdict:
    chances = candidate.chances(log)
    sample = sample_of(log, judged, chances, reward, None if first_only else candidate.chances.further(log))
    never = unsupported(log, judged, chances)
    speaks = np.bincount(log.row, weights=chances, minlength=len(log))[judged.rows]
    effective = effective_size(sample)
    parts = sample.expected + sample.weight * (sample.reward - sample.predicted) - sample.reward
    difference = float(parts.mean())
    # What was done is subtracted, so each reward weighs one more.
    interval = interval_of(difference, parts - difference, sample, sample.weight + 1, confidence)
    foreign = float(never.mean())
    verdict = (
        "cannot_say"
        if effective < TOO_SMALL or foreign > TOO_FOREIGN
        else "better"
        if interval.low > 0
        else "worse"
        if interval.high < 0
        else "open"
    )
    return Verdict(
        name=candidate.name,
        verdict=verdict,
        estimates=tuple(every_estimate(sample, confidence)),
        difference=difference,
        interval=interval,
        effective=effective,
        weights=sample.weight,
        unsupported=foreign,
        silence=float(np.clip(1 - speaks, 0, 1).mean()),
        factors=tuple(factors(log, judged, candidate.policy)) if candidate.policy else (),
        warnings=overlap_warnings(sample, foreign),
    )


def overlap_warnings(sample: Sample, foreign: float) -> tuple[str, ...]:
    """Say in plain words where log and judged policy have too little in common.

    `foreign` is the share of the policy's choices that the log could never have made.
    """
    said = []
    size, effective = len(sample.reward), effective_size(sample)
    if effective < TOO_SMALL:
        said.append(
            f"too little overlap to say anything: the {size:,} decisions are worth {effective:.0f} for this "
            "policy; let the log explore more (exploration.floor, groups.random) or judge a policy closer to it"
        )
    elif effective < size / 20:
        said.append(
            f"thin overlap: the {size:,} decisions are worth {effective:,.0f} for this policy; mind the intervals"
        )
    if foreign > 0.01:
        said.append(
            f"{foreign:.0%} of what this policy would choose the log never could have chosen: nothing is known of "
            "it; IPS and SNIPS leave it out, DR, SWITCH-DR and DRos put the model's prediction there"
        )
    total = float(sample.weight.sum())
    if total > 0:
        share = float(np.bincount(sample.customer, sample.weight).max()) / total
        if share > 0.1:
            said.append(
                f"one customer carries {share:.0%} of all weight: one answer more would move the figures"
            )
    mean = sample.weight + sample.silent
    gap = float(mean.mean()) + foreign - 1
    error = standard_error(mean - mean.mean(), sample.customer)
    if abs(gap) > max(4 * error, 0.02):
        said.append(
            f"the logged chances do not fit what was done: the weights average {1 + gap:.2f}, and it should be 1; "
            "do not trust these figures"
        )
    rewarded = len(np.unique(sample.customer[(sample.weight > 0) & (sample.reward > 0)]))
    if total > 0 and rewarded < FEW:
        said.append(
            f"only {rewarded} customers with a reward took part: the intervals are Bernstein bounds, wide but safe"
        )
    if len(np.unique(sample.customer)) < 30:
        said.append("fewer than 30 customers: the intervals are too narrow")
    return tuple(said)


def _log_warnings(log: Log, judged: Judged) -> tuple[str, ...]:
    if (log.outcome == "accepted").any() and not (log.outcome == "silent").any():
        warning = (
            "no silence of this log is final yet, so of the decisions hardly more than those with an early yes are in "
            "it, and the figures are far too high: wait until attribution.accept has passed"
        )
        return (warning,)
    still = judged.left_out["open"]
    if judged.earliest_open is None or still <= 0.01 * (still + len(judged.rows)):
        return ()
    first = datetime.fromtimestamp(judged.earliest_open / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    warning = (
        f"{still:,} decisions since {first} are still open: an early yes is counted already and an early no is "
        f"not, so the figures lean upwards; judge with --until {first}"
    )
    return (warning,)


def _luck_warning(candidates: list[Candidate]) -> tuple[str, ...]:
    """Warn of many policies: each interval fails once in twenty, and the best of them was picked."""
    count = sum(one.name != "logged" for one in candidates)
    if count <= MANY:
        return ()
    warning = (
        f"{count} policies are judged at once and each interval fails once in twenty: the best of them looks better "
        "than it is; choose it here, and judge it alone on days that come later"
    )
    return (warning,)


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return plain values for JSON; what is infinite is null."""
    plain: dict[str, Any] = {
        "reward": evaluation.reward,
        "decisions": evaluation.decisions,
        "judged": evaluation.judged,
        "customers": evaluation.customers,
        "left_out": dict(evaluation.left_out),
        "done": {"value": evaluation.done, **_interval(evaluation.done_interval)},
        "policies": [
            {
                "policy": one.name,
                "verdict": one.verdict,
                "estimates": {
                    estimate.name: {
                        "value": estimate.value,
                        **_interval(estimate.interval),
                        **({} if estimate.setting is None else {"setting": finite(estimate.setting)}),
                    }
                    for estimate in one.estimates
                },
                "difference": {"value": one.difference, **_interval(one.interval)},
                "effective_size": one.effective,
                "unsupported": one.unsupported,
                "silence": one.silence,
                "factors": [factor._asdict() for factor in one.factors],
                "warnings": list(one.warnings),
            }
            for one in evaluation.policies
        ],
        "calibration": [
            {**one._asdict(), "bins": [part._asdict() for part in one.bins]} for one in evaluation.calibration
        ],
        "warnings": list(evaluation.warnings),
    }
    return plain


def _interval(interval: Interval) -> dict[str, Any]:
    return {
        "low": finite(interval.low),
        "high": finite(interval.high),
        "error": finite(interval.error),
        "method": interval.method,
    }


def finite(number: float) -> float | None:
    """Return a number as JSON knows it."""
    return number if isfinite(number) else None
