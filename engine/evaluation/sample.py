"""From logged decisions and a judged policy to what the estimators look at.

Judged are the decisions in which somebody could have been chosen and whose outcome is settled. The control
group's have no candidates, so they are not among them; a question is no offer; an open or censored outcome is
not known. Rewards: `accept` is 1 or 0; `value` is the money of the outcome less what the contact cost.

Silence: where the log itself kept silent by chance (the chances leave something to 1), silence is an action like
any other, with its measured reward. Where it never could have, its reward is known: 0.

A message of several offers earns one reward, so all its ranks are weighed: the chance of each rank given the
ones above it, as serving draws them. Where the judged policy has nobody left for a rank, that rank is not
weighed. With `first_only` rank 1 alone is: the judged policy chooses the first offer, and the others follow as
they were logged. Either way the prediction may look at rank 1 alone, for DR holds whatever is predicted.

Predicted rewards are the logged propensities, which knew nothing of the outcome, corrected for each offer by
what was accepted over what was expected, as learned from the other fifths of the customers.
"""

from typing import Final, Literal, NamedTuple

import numpy as np

from engine.evaluation.estimators import Sample
from engine.evaluation.log import Flags, Log, Whole
from engine.judging.scoring import Array

Reward = Literal["accept", "value"]
FOLDS: Final = 5
STRENGTH: Final = 10.0
"""Expected accepts that a correction is worth before the log speaks: it starts at 1."""
CERTAIN: Final = 1e-6
"""A chance of silence up to this is the rounding of chances that add up to 1."""


class Judged(NamedTuple):
    """Which decisions are judged, what they earned, and why the others are not."""

    rows: Whole
    """Places of the judged decisions, ascending."""
    reward: Array
    """One number a judged decision."""
    left_out: dict[str, int]
    """control_group, nothing_to_choose, question, young, open, censored, unknown_chance: how many decisions each."""
    earliest_open: int | None
    """When the earliest decision with an open outcome was made (ms)."""


def judge(log: Log, reward: Reward) -> Judged:
    """Return the decisions that can be judged."""
    choice = np.bincount(log.row, log.reached | log.below, minlength=len(log)) > 0
    offered = log.first >= 0
    unknown = offered & np.isnan(log.reward)
    reasons: dict[str, Flags] = {
        "control_group": ~choice & (log.group == "control"),
        "nothing_to_choose": ~choice & (log.group != "control"),
        "question": log.action == "question",
        "young": log.young & choice,
        "open": (unknown & (log.outcome != "censored")) | (log.outcome == "open"),
        "censored": log.outcome == "censored",
        # A choice that was not drawn, or whose chance was not kept, can stand for no other.
        "unknown_chance": offered & ~(log.probability > 0),
    }
    left = np.ones(len(log), dtype=bool)
    counted = {}
    for name, mask in reasons.items():
        counted[name] = int((left & mask).sum())
        left &= ~mask
    rows = np.flatnonzero(left)
    open_at = log.at[reasons["open"] & choice]
    return Judged(rows, rewards(log, reward)[rows], counted, int(open_at.min()) if len(open_at) else None)


def rewards(log: Log, reward: Reward) -> Array:
    """Return what each decision earned; 0 where nothing was shown and nothing is logged, nan where unknown."""
    silent = (log.first < 0) & np.isnan(log.reward)
    accepted = np.where(silent, 0.0, log.reward)
    if reward == "accept":
        return accepted
    place = np.maximum(log.first, 0)
    value, cost = (_at(log.factors[name], place, log.first >= 0) for name in ("value", "cost"))
    earned = np.where(np.isnan(log.outcome_value), accepted * value, log.outcome_value)
    return np.where(np.isnan(accepted), np.nan, earned - cost)


def _at(factor: Array, place: Whole, there: Flags) -> Array:
    if not len(factor):
        return np.zeros(len(place))
    return np.where(there, np.nan_to_num(factor[place]), 0.0)


def sample_of(
    log: Log, judged: Judged, chances: Array, reward: Reward, further: Array | None = None
) -> Sample:
    """Return what the estimators look at; `chances` are the judged policy's for rank 1, over all candidates.

    `further` are those of all that was chosen, as `Chances.further` gives them; without them rank 1 alone is judged.
    """
    size = len(log)
    speaks = summed(log.row, chances, size)
    silence = np.clip(1 - speaks, 0.0, 1.0)
    logged = summed(log.row, np.nan_to_num(log.factors["chance"]), size)
    measured = 1 - logged > CERTAIN
    offered = log.first >= 0
    done = np.where(offered, chances[np.maximum(log.first, 0)] if len(chances) else 0.0, silence)
    predicted = predictions(log, judged, reward)
    quiet = _quiet(log, judged, measured)
    expected = summed(log.row, chances * predicted, size) + silence * quiet
    said = predicted[np.maximum(log.first, 0)] if len(predicted) else np.zeros(size)
    rows = judged.rows
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(log.probability > 0, done / log.probability, 0.0)
    if further is not None:
        weight = weight * _further_ranks(log, further)
    return Sample(
        reward=judged.reward,
        weight=weight[rows],
        predicted=np.where(offered, said, quiet)[rows],
        expected=expected[rows],
        silent=np.where(measured, 0.0, silence)[rows],
        customer=log.customer[rows],
    )


def _further_ranks(log: Log, further: Array) -> Array:
    """Return, for each decision, judged over logged chance of its ranks after the first."""
    row, _, rank, logged = log.chosen
    ratio = np.ones(len(log))
    weighed = (rank > 1) & (logged > 0) & ~np.isnan(further)
    np.multiply.at(ratio, row[weighed], further[weighed] / logged[weighed])
    return ratio


def summed(place: Whole, amount: Array, size: int) -> Array:
    """Return the sum of the amounts at each of the `size` places."""
    sums: Array = np.bincount(place, weights=amount, minlength=size).astype(np.float64)
    return sums


def unsupported(log: Log, judged: Judged, chances: Array) -> Array:
    """Return, for each judged decision, the judged policy's chance of what the log could never have done."""
    never = ~(np.nan_to_num(log.factors["chance"]) > 0)
    return summed(log.row, chances * never, len(log))[judged.rows]


def predictions(log: Log, judged: Judged, reward: Reward) -> Array:
    """Return the predicted reward of each candidate, from the other folds' customers only."""
    factors = log.factors
    base = np.nan_to_num(factors["propensity"])
    fold = log.customer % FOLDS
    rows = judged.rows[log.first[judged.rows] >= 0]
    first = log.first[rows]
    accepted = np.where(np.isnan(log.reward[rows]), 0.0, log.reward[rows])
    kinds = len(log.offers)
    key = fold[rows] * kinds + log.offer[first]
    got, wanted = (
        summed(key, weights, FOLDS * kinds).reshape(FOLDS, kinds) for weights in (accepted, base[first])
    )
    correction = (got.sum(axis=0) - got + STRENGTH) / (wanted.sum(axis=0) - wanted + STRENGTH)
    accept: Array = np.minimum(base * correction[fold[log.row], log.offer], 1.0)
    if reward == "accept":
        return accept
    worth = _worth(log, judged, rows, accepted, key)
    earned: Array = accept * worth[fold[log.row], log.offer] - np.nan_to_num(factors["cost"])
    return earned


def _worth(log: Log, judged: Judged, rows: Whole, accepted: Array, key: Whole) -> Array:
    """Return the money of one accept, by fold (of the others) and offer; the offers' value until some is seen."""
    kinds = len(log.offers)
    stated = np.zeros(kinds)
    stated[log.offer] = np.nan_to_num(log.factors["value"])
    position = np.searchsorted(judged.rows, rows)
    money = judged.reward[position] + _at(log.factors["cost"], log.first[rows], log.first[rows] >= 0)
    got, count = (summed(key, weights, FOLDS * kinds).reshape(FOLDS, kinds) for weights in (money, accepted))
    got, count = got.sum(axis=0) - got, count.sum(axis=0) - count
    worth: Array = (got + STRENGTH * stated) / (count + STRENGTH)
    return worth


def _quiet(log: Log, judged: Judged, measured: Flags) -> Array:
    """Return the predicted reward of silence: 0, or its measured mean among the other folds' customers."""
    fold = log.customer % FOLDS
    silent = (log.first[judged.rows] < 0) & measured[judged.rows]
    whose = fold[judged.rows][silent]
    got = summed(whose, judged.reward[silent], FOLDS)
    count = np.bincount(whose, minlength=FOLDS)
    mean = (got.sum() - got) / np.maximum(count.sum() - count, 1)
    return np.where(measured, mean[fold], 0.0)
