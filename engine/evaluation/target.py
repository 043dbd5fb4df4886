"""The judged policy: the chance of each logged candidate under it.

What is judged anew is the arbitration: priorities from the logged propensities with the judged set's value,
weight, channel cost and expression, its threshold, its exploration, the same shortlist and quadrature as in
serving. What is not: conditions, consent, caps, budgets, the models and the number of slots are as they were
logged. An offer that the judged set does not have, or not at this placement, gets no chance.

Candidates are those that reached the choice, and those that only the logging policy's threshold dropped: another
policy may speak where that one was silent. What the chances of a decision leave to 1 is the chance of silence.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from engine.errors import TactError
from engine.evaluation.log import Flags, Log
from engine.evaluation.sample import CERTAIN
from engine.judging.choice import distribution
from engine.judging.scoring import Array
from policies.model import Exploration, PolicySet

REFERENCES: Final = ("random", "logged", "none", "always:OFFER")
_REMEMBERED: Final = 65_536


class Chances:
    """A judged policy: the chance of each candidate of a log."""

    def __init__(self, first: Callable[[Log], Array], further: Callable[[Log], Array] | None = None) -> None:
        """Take what gives each candidate its chance of rank 1, and each chosen one of a later rank its chance there.

        Without `further` later ranks are drawn by the chances of rank 1, scaled up over what is left.
        """
        self._first, self._further = first, further

    def __call__(self, log: Log) -> Array:
        """Return each candidate's chance of rank 1."""
        return self._first(log)

    def further(self, log: Log) -> Array:
        """Return, for each entry of `log.chosen`, its chance at its rank given the ones above; nan if none is left."""
        return self._further(log) if self._further is not None else _scaled_up(log, self._first(log))


class BadTarget(TactError):
    """A policy that cannot be judged on this log."""

    status = 422
    kind = "bad-target"


def reference(name: str) -> Chances:
    """Return a policy without a policy set: `random`, `logged`, `none` or `always:OFFER`.

    `always:OFFER` keeps silent where that offer was no candidate; an offer that no decision of the log has is
    BadTarget, and so is an unknown name.
    """
    if name == "random":
        return Chances(_uniform)
    if name == "logged":
        return Chances(lambda log: np.nan_to_num(log.factors["chance"]), lambda log: log.chosen[3])
    if name == "none":
        return Chances(lambda log: np.zeros(len(log.offer)))
    if name.startswith("always:"):
        offer = name.removeprefix("always:")

        def always(log: Log) -> Array:
            if offer not in log.offers:
                raise BadTarget(
                    f'no decision of the log has the offer "{offer}" as a candidate: {_some(log)}'
                )
            chances: Array = ((log.offer == log.offers.index(offer)) & log.reached).astype(np.float64)
            return chances

        return Chances(always)
    raise BadTarget(f'"{name}" is neither a folder of a policy set nor one of {", ".join(REFERENCES)}')


def _some(log: Log) -> str:
    shown = sorted(log.offers)
    return "it has " + ", ".join(shown[:10]) + (" and others" if len(shown) > 10 else "")


def _uniform(log: Log) -> Array:
    count = np.bincount(log.row, log.reached, minlength=len(log))
    return np.where(log.reached, 1 / np.maximum(count, 1)[log.row], 0.0)


class Levers(dict[str, Array]):
    """What the judged set's expression reads, one array over all candidates for each name."""


def levers(log: Log, policy: PolicySet) -> tuple[Levers, Flags]:
    """Return the factors of each candidate with the judged set's value, weight and cost, and who has a place.

    A candidate has a place where the judged set has the offer at the decision's placement.
    """
    known = [policy.offers.get(offer) for offer in log.offers]
    value = np.array([offer.value if offer else 0.0 for offer in known], dtype=np.float64)
    weight = np.array([offer.weight if offer else 0.0 for offer in known], dtype=np.float64)
    cost = np.zeros(len(log))
    placed = np.zeros(len(log.offer), dtype=bool)
    for name in set(log.placement.tolist()):
        placement = policy.placements.get(name)
        if placement is None:
            continue
        here = log.placement == name
        cost[here] = policy.channels[placement.channel].cost
        offered = np.array([offer is not None and name in offer.placements for offer in known], dtype=bool)
        placed |= here[log.row] & offered[log.offer]
    factors = log.factors
    read = Levers(
        propensity=factors["propensity"],
        value=_values(log, policy, value[log.offer]),
        weight=weight[log.offer],
        channel_cost=cost[log.row],
        opt_out=np.nan_to_num(factors["opt_out"]),  # where nothing of it was learned it is 0, as in serving
    )
    missing = [name for name in policy.arbitration.priority.names if name not in read]
    if missing:
        raise BadTarget(f'the priority reads "{missing[0]}", which the decision log does not hold')
    candidates = (log.reached | log.below) & placed & ~np.isnan(factors["propensity"])
    return read, candidates


def _values(log: Log, policy: PolicySet, file: Array) -> Array:
    """Return what offers are worth: by the file, or where the judged set learns values, as the log has them."""
    logged = log.factors["value"]
    return file if policy.model("value") is None else np.where(np.isnan(logged), file, logged)


def priorities(log: Log, policy: PolicySet) -> tuple[Array, Array, Flags]:
    """Return mean priority, its deviation, and who may be chosen, over all candidates, as serving does it."""
    read, candidates = levers(log, policy)
    arbitration = policy.arbitration

    def priority(propensity: Array) -> Array:
        values: dict[str, Any] = {**read, "propensity": propensity}
        used = {name: values[name] for name in {*arbitration.priority.names, "propensity"}}
        return np.asarray(arbitration.priority.evaluate(used), dtype=np.float64)

    mean = priority(read["propensity"])
    low, high = _spread(log, arbitration.exploration.alpha)
    with np.errstate(invalid="ignore"):
        deviation = np.nan_to_num(np.abs(priority(high) - priority(low)) / 2, nan=0.0, posinf=0.0, neginf=0.0)
    return mean, deviation, candidates & (mean >= arbitration.threshold)


def _spread(log: Log, alpha: float) -> tuple[Array, Array]:
    """Return the propensities `alpha` deviations below and above; the log has them at its own alpha."""
    factors = log.factors
    middle, low, high = factors["propensity"], factors["low"], factors["high"]
    logged = log.alpha[log.row]
    scale = np.where(logged > 0, alpha / np.where(logged > 0, logged, 1.0), 1.0)
    centre = _logit(middle)
    lower, upper = centre + scale * (_logit(low) - centre), centre + scale * (_logit(high) - centre)
    # A bound that was not logged is no uncertainty.
    return (
        np.where(np.isnan(lower), middle, 1 / (1 + np.exp(-lower))),
        np.where(np.isnan(upper), middle, 1 / (1 + np.exp(-upper))),
    )


def _logit(share: Array) -> Array:
    inside = np.clip(share, 1e-12, 1 - 1e-12)
    result: Array = np.log(inside / (1 - inside))
    return result


def of_policy(policy: PolicySet) -> Chances:
    """Return a policy set as a judged policy."""
    exploration = policy.arbitration.exploration

    def chances(log: Log) -> Array:
        mean, deviation, alive = priorities(log, policy)
        return _first(log, mean, deviation, alive, exploration)

    def further(log: Log) -> Array:
        mean, deviation, alive = priorities(log, policy)
        return _later(log, mean, deviation, alive, exploration)

    return Chances(chances, further)


def _scaled_up(log: Log, chances: Array) -> Array:
    row, place, _, _ = log.chosen
    chance = chances[place]
    # What the ranks above took: a running sum over all, less what it was where the decision begins.
    above = np.cumsum(chance) - chance
    begin = np.searchsorted(row, row)
    left = np.bincount(log.row, weights=chances, minlength=len(log))[row] - (above - above[begin])
    some = left > CERTAIN
    return np.where(some, np.minimum(chance / np.where(some, left, 1.0), 1.0), np.nan)


def _first(log: Log, mean: Array, deviation: Array, alive: Flags, exploration: Exploration) -> Array:
    chances = np.zeros(len(mean))
    places = np.flatnonzero(alive)
    bounds = np.searchsorted(places, log.starts)
    # Where scores do not differ by customer, a log has few distinct situations.
    remembered: dict[bytes, Array] = {}
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if begin == end:
            continue
        here = places[begin:end]
        new = log.untried[here]
        key = mean[here].tobytes() + deviation[here].tobytes() + new.tobytes()
        share = remembered.get(key)
        if share is None:
            share = _shares(mean[here], deviation[here], new, exploration)
            if len(remembered) < _REMEMBERED:
                remembered[key] = share
        chances[here] = share
    return chances


def _later(log: Log, mean: Array, deviation: Array, alive: Flags, exploration: Exploration) -> Array:
    """Return the chance of each chosen candidate after the first of its decision, among those not chosen above it."""
    found = np.full(len(log.chosen[0]), np.nan)
    left = alive.copy()
    for entry, (row, place, rank) in enumerate(zip(*(part.tolist() for part in log.chosen[:3]), strict=True)):
        if rank > 1:
            here = np.arange(log.starts[row], log.starts[row + 1])
            here = here[left[here]]
            if len(here):
                shares = _shares(mean[here], deviation[here], log.untried[here], exploration)
                found[entry] = shares[here == place].sum()
        left[place] = False
    return found


def _shares(mean: Array, deviation: Array, new: Flags, exploration: Exploration) -> Array:
    """Return the chance of each of the candidates, which are all that there are."""
    shares = np.zeros(len(mean))
    over = distribution(mean, deviation, np.arange(len(mean)), exploration, new)
    shares[over.places] = over.chance
    return shares
