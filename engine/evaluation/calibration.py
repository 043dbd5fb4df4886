"""Whether a stated probability comes true: per channel and head, on the exploration slice.

The random group is chosen for evenly, so there every offer is judged, not only those that the model likes. Where
it has fewer than `ENOUGH` settled decisions, all decisions are used, each weighted by the even share over the
chance with which it was chosen; the effective size says what that leaves.

Heads: `accept` compares the propensity with acceptance, `opt_out` the stated chance of an opt-out with opt-outs.
A message of several offers is compared as a whole, as if its offers were accepted independently.
"""

from math import sqrt
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from engine.evaluation.intervals import hall
from engine.evaluation.log import Flags, Log, Whole
from engine.evaluation.sample import summed
from engine.judging.scoring import Array

ENOUGH: Final = 500
BINS: Final = 10


class Bin(NamedTuple):
    """Decisions with like predictions: what was said, what came, and how sure the latter is (95 %, Wilson)."""

    decisions: int
    predicted: float
    observed: float
    low: float
    high: float


class Calibration(NamedTuple):
    """One head on one channel."""

    channel: str
    head: str
    slice: str
    """random_group, or weighted."""
    decisions: int
    effective: float
    predicted: float
    """Mean of what was said."""
    observed: float
    """Mean of what came."""
    low: float
    high: float
    """Interval (95 %) of the observed mean minus the predicted mean; 0 inside means that they agree."""
    error: float
    """Mean distance between predicted and observed over the bins (expected calibration error)."""
    log_loss: float
    bins: tuple[Bin, ...]


def calibrations(log: Log) -> list[Calibration]:
    """Return every channel's heads that have a prediction and an outcome, channels by name."""
    found = []
    for channel in sorted(set(log.channel.tolist())):
        for head, stated, came in (
            ("accept", _message(log, "propensity"), log.reward),
            ("opt_out", _message(log, "opt_out"), log.opted_out),
        ):
            there = (log.channel == channel) & (log.first >= 0) & ~np.isnan(stated) & ~np.isnan(came)
            there &= log.outcome != "open"
            if there.any():
                found.append(_calibration(log, channel, head, there, stated, came))
    return found


def _message(log: Log, factor: str) -> Array:
    """Return the chance that any of a decision's offers succeeds; nan where one of them has no prediction."""
    rows, places = log.chosen.row, log.chosen.place
    with np.errstate(divide="ignore"):
        fails = np.log1p(-np.clip(log.factors[factor][places], 0.0, 1.0)) if len(places) else np.zeros(0)
    return -np.expm1(summed(rows, fails, len(log)))


def _calibration(log: Log, channel: str, head: str, there: Flags, stated: Array, came: Array) -> Calibration:
    at_random = there & (log.group == "random")
    if int(at_random.sum()) >= ENOUGH:
        rows, name = np.flatnonzero(at_random), "random_group"
        weight = np.ones(len(rows))
    else:
        rows, name = np.flatnonzero(there & (log.probability > 0)), "weighted"
        even = summed(log.row, log.reached.astype(np.float64), len(log))
        weight = 1 / (np.maximum(even[rows], 1) * log.probability[rows])
    said, seen, customer = stated[rows], came[rows], log.customer[rows]
    total = float(weight.sum())
    predicted, observed = float(weight @ said) / total, float(weight @ seen) / total
    gap = observed - predicted
    influence = weight * (seen - said - gap) * len(rows) / total
    interval = hall(gap, influence, customer)
    bins = _bins(said, seen, weight)
    inside = np.clip(said, 1e-12, 1 - 1e-12)
    loss = -float(weight @ (seen * np.log(inside) + (1 - seen) * np.log1p(-inside))) / total
    shares = [part.decisions for part in bins]
    return Calibration(
        channel=channel,
        head=head,
        slice=name,
        decisions=len(rows),
        effective=total**2 / float(weight @ weight),
        predicted=predicted,
        observed=observed,
        low=interval.low,
        high=interval.high,
        error=sum(
            share * abs(part.predicted - part.observed) for share, part in zip(shares, bins, strict=True)
        )
        / sum(shares),
        log_loss=loss,
        bins=bins,
    )


def _bins(said: Array, seen: Array, weight: Array) -> tuple[Bin, ...]:
    """Return up to BINS groups of about equally many decisions, by what was said; equal ones stay together."""
    edges = np.unique(np.quantile(said, np.linspace(0, 1, BINS + 1)[1:-1]))
    place: Whole = np.searchsorted(edges, said, side="left").astype(np.int64)
    made = []
    for one in np.unique(place):
        here = place == one
        heavy = weight[here]
        total = float(heavy.sum())
        observed = float(heavy @ seen[here]) / total
        low, high = wilson(observed, total**2 / float(heavy @ heavy))
        made.append(Bin(int(here.sum()), float(heavy @ said[here]) / total, observed, low, high))
    return tuple(made)


def wilson(share: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share seen in so many trials."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)
