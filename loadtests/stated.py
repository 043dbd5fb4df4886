"""Whether a decision log's stated chances are true: chi-squares of its choices, estimates against known truths.

Works on any log of a world whose rates are known. A decision is one draw from its stated chances, so over many
decisions the counts of a set of classes have mean sum(c) and covariance sum(diag(c) - c c'), `c` being the chances
of the classes at each decision. Chances that depend on earlier decisions change nothing: what is left after the
stated chance has mean 0 given all that came before. A choice among fewer than two is no draw, and is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from engine.evaluation.estimators import Sample, effective_size, ips
from engine.evaluation.log import Log
from engine.evaluation.report import TOO_SMALL
from engine.evaluation.sample import judge, sample_of
from engine.evaluation.target import Chances, of_policy, reference
from loadtests.slates import Situations, dense, situations
from policies.model import PolicySet

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

BLOCKS: Final = 20
EXPECTED_MIN: Final = 5.0
"""Classes of which fewer are expected go together: a chi-square needs that many."""
EDGES: Final = np.array([0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.01])
"""Bins of the stated chance."""
SURE: Final = 0.999
FAR_OFF: Final = 5.0
"""Standard errors: so far off must the control's furthest estimate be."""
LEVEL: Final = 0.01
"""At which a choice is rejected, over all tests together."""


class Known(NamedTuple):
    """The world's truth."""

    offers: tuple[str, ...]
    rates: Array
    """By segment (s0, s1, …) and offer."""
    places: Mapping[str, Sequence[float]]
    """Placement to what each rank multiplies a rate by."""
    segment: str
    """The log's name for the segment."""
    policy: PolicySet
    """The one that decided."""


class Test(NamedTuple):
    """One chi-square: counts of chosen against stated chances."""

    name: str
    draws: int
    statistic: float
    freedom: int
    p: float


def chi_square(name: str, chances: Array, chosen: Whole) -> Test:
    """Return the test of `chosen` (a class for each row) against the rows' chances of the classes."""
    classes = chances.shape[1]
    expected = chances.sum(axis=0)
    rare = expected < EXPECTED_MIN
    if rare.any():
        # One class for all of the rare ones, at the end; dropped again where it is rare itself.
        chances = np.column_stack([chances[:, ~rare], chances[:, rare].sum(axis=1)])
        renamed = np.full(classes, np.count_nonzero(~rare))
        renamed[~rare] = np.arange(np.count_nonzero(~rare))
        chosen, classes = renamed[chosen], chances.shape[1]
    covariance = np.diag(chances.sum(axis=0)) - chances.T @ chances
    off = np.bincount(chosen, minlength=classes) - chances.sum(axis=0)
    if rare.any() and chances[:, -1].sum() < EXPECTED_MIN:
        covariance, off = covariance[:-1, :-1], off[:-1]
    values, vectors = np.linalg.eigh(covariance)
    free = values > 1e-9 * max(float(values[-1]), 1.0) if len(values) else np.zeros(0, dtype=bool)
    along = vectors[:, free].T @ off
    statistic, freedom = float((along**2 / values[free]).sum()), int(free.sum())
    return Test(
        name, len(chosen), statistic, freedom, float(stats.chi2.sf(statistic, freedom)) if freedom else 1.0
    )


class Draws(NamedTuple):
    """The draws of one rank: of each decision that came that far, every offer's chance and who was chosen."""

    row: Whole
    chances: Array
    chosen: Whole
    stated: Array
    """The chance that the log states for the one chosen."""


def draws_of(log: Log, known: Known, logged: Situations, rank: int) -> Draws:
    """Return the draws of a rank: rank 1 by the chances on the log, the others as they follow from the scores on it."""
    place = np.array([known.offers.index(offer) for offer in log.offers], dtype=np.int64)
    row, at, ranks, probability = log.chosen
    here = ranks == rank
    rows, offers = row[here], place[log.offer[at[here]]]
    if rank == 1:
        chances = dense(log, known.offers, np.nan_to_num(log.factors["chance"]))[rows]
    else:
        above: dict[int, list[int]] = {}
        for one, offer in zip(
            row[ranks < rank].tolist(), place[log.offer[at[ranks < rank]]].tolist(), strict=True
        ):
            above.setdefault(one, []).append(offer)
        found = [logged.each[logged.of[one]].chances(frozenset(above[one])) for one in rows.tolist()]
        chances = np.array(found).reshape(len(rows), len(known.offers))
    several = np.count_nonzero(chances, axis=1) > 1
    rows, offers, chances = rows[several], offers[several], chances[several]
    return Draws(rows, chances / chances.sum(axis=1, keepdims=True), offers, probability[here][several])


def choices(log: Log, known: Known, logged: Situations) -> tuple[list[Test], dict[str, float]]:
    """Return the tests of all ranks, and how far the chances stated for the chosen lie from those worked out."""
    tests, furthest = [], {}
    segment = segments(log, known)
    for rank in range(1, max(len(ranks) for ranks in known.places.values()) + 1):
        draws = draws_of(log, known, logged, rank)
        count, offers = draws.chances.shape
        if not count:
            continue
        rows = np.arange(count)
        worked_out = draws.chances[rows, draws.chosen]
        furthest[f"rank {rank}"] = float(np.abs(worked_out - draws.stated).max())
        wide = np.zeros((count, len(known.rates), offers))
        wide[rows, segment[draws.row]] = draws.chances
        chosen = segment[draws.row] * offers + draws.chosen
        tests.append(chi_square(f"rank {rank} by segment and offer", wide.reshape(count, -1), chosen))
        bins = np.digitize(draws.chances, EDGES) - 1
        binned = np.zeros((count, len(EDGES) - 1))
        np.add.at(binned, (rows[:, None], bins), draws.chances)
        tests.append(chi_square(f"rank {rank} by chance", binned, bins[rows, draws.chosen]))
    return tests, furthest


def truth_of(log: Log, known: Known, first: Array, then: Situations) -> Array:
    """Return each decision's expected reward where rank 1 is drawn from `first` and the others as `then` says.

    `first` has a chance for each decision and offer; at most one offer of a message is accepted.
    """
    rates = known.rates[segments(log, known)]
    expected = np.zeros(len(log))
    for name, shares in known.places.items():
        rows = np.flatnonzero(log.placement == name)
        worth = shares[0] * rates[rows]
        if len(shares) > 1:
            met, which = np.unique(then.of[rows], return_inverse=True)
            further = [
                [
                    then.each[one].earns(frozenset({place}), known.rates[then.segment[one]], shares)
                    for place in range(len(known.offers))
                ]
                for one in met.tolist()
            ]
            worth += np.array(further).reshape(len(met), len(known.offers))[which.reshape(-1)]
        expected[rows] = (first[rows] * worth).sum(axis=1)
    return expected


class Judged(NamedTuple):
    """A policy that never ran, and what it would have earned at each decision."""

    policy: Chances
    chances: Array
    """Of rank 1, over all candidates of the log."""
    truth: Array
    first_only: bool
    """It chooses rank 1, and the other ranks follow as they were logged; else it chooses all of them."""


def judged_by(log: Log, known: Known, logged: Situations, other: PolicySet, always: str) -> dict[str, Judged]:
    """Return three policies' chances and truths on this log: for rank 1 alone, and for all ranks where that differs."""
    offers, segment = known.offers, segments(log, known)
    policies = {
        "even": (reference("random"), situations(log, offers, segment, None)),
        f"always {always}": (reference(f"always:{always}"), None),
        "other weights": (of_policy(other), situations(log, offers, segment, other)),
    }
    found = {}
    for name, (policy, own) in policies.items():
        chances = policy(log)
        first = dense(log, offers, chances)
        found[name] = Judged(policy, chances, truth_of(log, known, first, logged), first_only=True)
        if (
            own is not None
        ):  # who always chooses one has nobody for the other ranks: they stay as they were logged
            truth = truth_of(log, known, first, own)
            found[f"{name}, all ranks"] = Judged(policy, chances, truth, first_only=False)
    return found


def estimates(log: Log, policies: Mapping[str, Judged]) -> dict[str, dict[str, Any]]:
    """Return for each policy its IPS estimate beside the truth, over all and over blocks of the log in time order.

    A block with less overlap than `tact evaluate` needs to say anything is left out.
    """
    judged = judge(log, "accept")
    found: dict[str, dict[str, Any]] = {}
    for name, policy in policies.items():
        truths = policy.truth[judged.rows]
        further = None if policy.first_only else policy.policy.further(log)
        sample = sample_of(log, judged, policy.chances, "accept", further)
        truth, told = float(truths.mean()), ips(sample)
        surely = ips(sample, SURE).interval
        blocks = [
            _holds(part, float(truths[rows].mean()))
            for rows in np.array_split(np.arange(len(judged.rows)), BLOCKS)
            if effective_size(part := _part(sample, rows)) >= TOO_SMALL
        ]
        found[name] = {
            "first_only": policy.first_only,
            "truth": truth,
            "ips": told.value,
            "low": told.interval.low,
            "high": told.interval.high,
            "errors_off": (told.value - truth) / told.interval.error,
            "effective": effective_size(sample),
            "inside_95": told.interval.low <= truth <= told.interval.high,
            "inside_99.9": surely.low <= truth <= surely.high,
            "blocks_inside_95": sum(blocks),
            "blocks": len(blocks),
        }
    return found


def _part(sample: Sample, rows: Whole) -> Sample:
    fields: dict[str, Any] = {name: array[rows] for name, array in sample._asdict().items()}
    return Sample(**fields)


def _holds(sample: Sample, truth: float) -> bool:
    interval = ips(sample).interval
    return bool(interval.low <= truth <= interval.high)


def even(log: Log) -> Log:
    """Return the log as if 1/n had been stated for everything: the control."""
    row, _, rank, _ = log.chosen
    several = np.bincount(log.row, log.reached, minlength=len(log))
    probability = 1 / np.maximum(several[row] - rank + 1, 1)
    first = np.full(len(log), np.nan)
    first[row[rank == 1]] = probability[rank == 1]
    chance = np.where(log.reached, 1 / np.maximum(several, 1)[log.row], np.nan)
    return msgspec.structs.replace(
        log,
        probability=np.where(log.first >= 0, first, log.probability),
        chosen=log.chosen._replace(probability=probability),
        factors=log.factors | {"chance": chance},
    )


def judge_all(log: Log, known: Known, other: PolicySet, always: str) -> dict[str, Any]:
    """Return all tests and estimates, and the control's; the judged policies are even choice, `always`, and `other`."""
    logged = situations(log, known.offers, segments(log, known), known.policy, groups=True)
    policies = judged_by(log, known, logged, other, always)
    said = _said(log, known, logged, policies)
    # The control states 1/n of what was left, at every rank.
    evenly = situations(log, known.offers, segments(log, known), None)
    control = _said(even(log), known, evenly, policies)
    furthest = max(abs(one["errors_off"]) for one in control["estimates"].values())
    return {
        "logged": len(log),
        "logged_offers": int((log.first >= 0).sum()),
        "accepted_logged": int(np.nansum(log.reward)),
        **said,
        "control": control | {"found": control["rejected"] and furthest > FAR_OFF},
    }


def _said(log: Log, known: Known, logged: Situations, policies: Mapping[str, Judged]) -> dict[str, Any]:
    tests, furthest = choices(log, known, logged)
    return {
        "estimates": estimates(log, policies),
        "choices": [test._asdict() for test in tests],
        "rejected": min(test.p for test in tests) < LEVEL / len(tests),
        "stated_off": furthest,
    }


def segments(log: Log, known: Known) -> Whole:
    """Return the number of each decision's segment."""
    return np.array([int(name[1:]) for name in log.segment(known.segment)], dtype=np.int64)
