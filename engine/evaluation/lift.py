"""Lift: what the customers who are decided for earn over the control group, at any moment one looks.

The unit is the customer, by the group that is sticky to the customer: whoever is not in the control group is
treated, exploration included, message or not. A customer's outcome is whether they bought within `horizon_ms` after
their first decision, whatever they bought and whether or not it named a decision: who gets nothing names none, and
the rule must be one for all (intention to treat). Where the log has no purchases (or money is asked for, which only
what named a decision tells), it is what the decisions of that time earned. It counts once that time is over and no
decision in it is open. So each customer is one observation that never changes again, in the order in which they
became complete, and the group was drawn before: that is what the guarantee needs.

People look every day and stop when they like what they see. With 190 looks a 95 % interval made for one look is
wrong in a third of all experiments in which nothing happens. The confidence sequence here (asymptotic, Gaussian
mixture: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, Annals of Statistics 52, theorem 2.2) covers the
true lift at all looks together with 95 %:

    half-width = error * sqrt(2 (n rho² + 1) / (n rho²) * log(sqrt(n rho² + 1) / (1 - confidence)))

where `error` is the usual two-sample standard error and n the customers. rho makes it tightest at `planned`
customers, which must be named before looking. It is asymptotic, so it says nothing until both groups have
`START_CUSTOMERS` customers and `START_REWARDED` with a reward.
"""

from collections.abc import Callable
from math import inf, log, sqrt
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from engine.evaluation.log import Flags, Log, Names, Whole
from engine.evaluation.sample import Reward, rewards, summed
from engine.judging.scoring import Array

START_CUSTOMERS: Final = 100
START_REWARDED: Final = 10
PLANNED: Final = 10_000
BOUGHT: Final = frozenset({"purchase", "store_purchase"})
"""What counts: an accept is left out, for nobody in the control group can accept what was not offered."""
DAY_MS: Final = 86_400_000
HORIZON_MS: Final = 7 * DAY_MS
LOOKS: Final = 200
"""Points of the curve that is drawn."""


class Customers(NamedTuple):
    """Complete customers in the order in which they became so."""

    outcome: Array
    treated: Array
    """1 for treated, 0 for control."""
    segment: tuple[str, ...]


class Look(NamedTuple):
    """What a look at some of the customers shows."""

    treated: int
    control: int
    treated_mean: float
    control_mean: float
    lift: float
    low: float
    high: float


class Lift(NamedTuple):
    """The lift of one segment ("" is everybody), now and as it could have been seen before."""

    segment: str
    now: Look
    curve: tuple[Look, ...]
    verdict: str
    """better, worse, open (the interval holds 0) or too_early."""


class Lifts(NamedTuple):
    """All that a log says of lift."""

    overall: Lift
    segments: tuple[Lift, ...]
    waiting: int
    """Customers whose time is not over, or with a decision still open."""
    warnings: tuple[str, ...]
    counted: str
    """bought (whether a customer did) or earned (what the decisions did)."""


def lifts(
    decisions: Log,
    reward: Reward,
    segment: str | None = None,
    *,
    horizon_ms: int = HORIZON_MS,
    planned: int = PLANNED,
    confidence: float = 0.95,
) -> Lifts:
    """Return lift overall, and by the values of a segment.

    The intervals of all segments hold together: each is made at 1 - (1 - confidence) / (number of segments).
    """
    known, waiting = customers(decisions, reward, horizon_ms, segment)
    overall = _lift("", known.outcome, known.treated, planned, confidence)
    parts = []
    names = sorted(set(known.segment)) if segment else []
    for name in names:
        here = np.array([one == name for one in known.segment], dtype=bool)
        share = 1 - (1 - confidence) / len(names)
        expected = max(1, round(planned * float(here.mean())))
        parts.append(_lift(name or "(none)", known.outcome[here], known.treated[here], expected, share))
    warnings = []
    control = known.treated == 0
    if not control.any():
        warnings.append(
            "no customer of the control group is complete: set groups.control in policy.yaml, or wait"
        )
    elif not known.outcome[control].any():
        warnings.append(
            "nothing that the control group did is in the log: its outcomes are all zero, so this is what the "
            "treated earned, not lift"
        )
    if waiting:
        warnings.append(f"{waiting} customers are not complete yet and are left out")
    moved = changed_group(decisions, horizon_ms)
    if moved:
        warnings.append(
            f"{moved} customers were in the control group for a part of their time only, and count by their first "
            "decision: what they got later is in their outcome, so this lift is nearer to 0 than that of a group "
            "that gets nothing; shorten --within, or judge with --since the day of the last change"
        )
    counted = "bought" if _by_purchases(decisions, reward) else "earned"
    return Lifts(overall, tuple(parts), waiting, tuple(warnings), counted)


def customers(
    decisions: Log, reward: Reward, horizon_ms: int = HORIZON_MS, segment: str | None = None
) -> tuple[Customers, int]:
    """Return the complete customers, and how many are not complete yet."""
    size = int(decisions.customer.max()) + 1
    first = np.full(size, -1, dtype=np.int64)
    # Decisions are in time order: writing them backwards leaves each customer's first.
    first[decisions.customer[::-1]] = np.arange(len(decisions))[::-1]
    begin = decisions.at[first]
    inside = decisions.at < begin[decisions.customer] + horizon_ms
    if _by_purchases(decisions, reward):
        row, kind, at, known = decisions.responses
        whose = decisions.customer[row]
        counts = _bought(kind) & (at >= begin[whose]) & (at < begin[whose] + horizon_ms)
        outcome = (np.bincount(whose[counts], minlength=size) > 0).astype(np.float64)
        recorded = known[first]
    else:
        earned = np.where(inside, np.nan_to_num(rewards(decisions, reward)), 0.0)
        outcome, recorded = summed(decisions.customer, earned, size), np.ones(size, dtype=bool)
    still = summed(decisions.customer, (inside & (decisions.outcome == "open")).astype(np.float64), size)
    complete = (begin + horizon_ms <= decisions.ended_at) & (still == 0) & recorded & ~decisions.young[first]
    order = np.flatnonzero(complete)
    order = order[np.argsort(begin[order], kind="stable")]
    names = decisions.segment(segment)[first[order]] if segment else [""] * len(order)
    treated = (decisions.group[first[order]] != "control").astype(np.float64)
    return Customers(outcome[order], treated, tuple(names)), int((~complete).sum())


def _by_purchases(decisions: Log, reward: Reward) -> bool:
    return reward == "accept" and bool(_bought(decisions.responses.type).any())


def _bought(kind: Names) -> Flags:
    return np.array([one in BOUGHT for one in kind.tolist()], dtype=bool)


def changed_group(decisions: Log, horizon_ms: int = HORIZON_MS) -> int:
    """Return how many customers were both in the control group and out of it while they were watched."""
    size = int(decisions.customer.max()) + 1
    begin = np.full(size, -1, dtype=np.int64)
    begin[decisions.customer[::-1]] = decisions.at[::-1]
    inside = decisions.at < begin[decisions.customer] + horizon_ms
    control = decisions.group == "control"
    groups = [
        np.bincount(decisions.customer[inside & part], minlength=size) > 0 for part in (control, ~control)
    ]
    return int((groups[0] & groups[1]).sum())


def _lift(name: str, outcome: Array, treated: Array, planned: int, confidence: float) -> Lift:
    ends = np.unique(np.linspace(1, max(len(outcome), 1), LOOKS).astype(np.int64))
    curve = sequence(outcome, treated, ends[ends <= len(outcome)], planned, confidence)
    now = curve[-1] if curve else Look(0, 0, 0.0, 0.0, 0.0, -inf, inf)
    verdict = (
        "too_early" if now.high == inf else "better" if now.low > 0 else "worse" if now.high < 0 else "open"
    )
    return Lift(name, now, tuple(curve), verdict)


def sequence(
    outcome: Array, treated: Array, ends: Whole, planned: int = PLANNED, confidence: float = 0.95
) -> list[Look]:
    """Return the confidence sequence of the difference in means after the first `ends` customers each."""
    return _looks(outcome, treated, ends, lambda seen: boundary(seen, planned, confidence))


def naive(outcome: Array, treated: Array, ends: Whole, confidence: float = 0.95) -> list[Look]:
    """Return the intervals that hold for one look only: for comparison, not for use."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return _looks(outcome, treated, ends, lambda _: z)


def boundary(seen: int, planned: int, confidence: float) -> float:
    """Return how many standard errors the sequence reaches after `seen` customers."""
    doubt = -2 * log(1 - confidence)
    scaled = seen * (doubt + log(doubt) + 1) / planned + 1
    return sqrt(2 * scaled / (scaled - 1) * log(sqrt(scaled) / (1 - confidence)))


def _looks(outcome: Array, treated: Array, ends: Whole, reach: Callable[[int], float]) -> list[Look]:
    """Return the looks; `reach` gives the half-width in standard errors after so many customers."""
    sums = [
        np.cumsum([share, share * outcome, share * outcome**2, share * (outcome > 0)], axis=1)[:, ends - 1]
        for share in (treated, 1 - treated)
    ]
    found = []
    for place, seen in enumerate(ends.tolist()):
        groups = [_group(*part[:, place].tolist()) for part in sums]
        (ones, mean_one, error_one), (others, mean_other, error_other) = groups
        difference = mean_one - mean_other
        half = sqrt(error_one + error_other) * reach(seen)
        found.append(
            Look(ones, others, mean_one, mean_other, difference, difference - half, difference + half)
        )
    return found


def _group(count: float, total: float, squares: float, rewarded: float) -> tuple[int, float, float]:
    """Return size, mean and squared standard error of one group; infinite until it is large enough."""
    mean = total / count if count else 0.0
    if count < START_CUSTOMERS or rewarded < START_REWARDED:
        return int(count), mean, inf
    return int(count), mean, max(squares / count - mean**2, 0.0) / (count - 1)
