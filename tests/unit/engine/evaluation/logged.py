"""A small world with known acceptance, decided by a real policy set and written as a decision log."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from engine.evaluation.files import write_day
from engine.evaluation.log import Log, read
from engine.judging.ranking import rank
from engine.judging.scoring import Array, Scores
from features.event import parse_time
from policies.loader import load_files
from policies.model import PolicySet

START = parse_time("2026-11-20T00:00:00Z")
DAY_MS = 86_400_000
ALPHA = 0.3

Row = dict[str, Any]


def policy_set(
    *,
    priority: str = "propensity * value * weight - channel_cost",
    threshold: float = 0.0,
    alpha: float = ALPHA,
    floor: str = "10%",
    shortlist: int = 32,
    values: tuple[float, ...] = (6.0, 5.0, 4.0),
    weights: tuple[float, ...] = (1.0, 1.0, 1.0),
    cost: float = 0.1,
    offers: tuple[str, ...] = ("boots", "socks", "guide"),
) -> PolicySet:
    lines = "".join(
        f"  - {{id: {offer}, category: promotion, placements: [home], value: {value}, weight: {weight}, prior: 10%}}\n"
        for offer, value, weight in zip(offers, values, weights, strict=True)
    )
    return load_files(
        {
            "policy.yaml": "policy: test\ntimezone: UTC\ncurrency: GBP\narbitration:\n"
            f"  priority: '{priority}'\n  threshold: {threshold}\n"
            f"  exploration: {{alpha: {alpha}, floor: {floor}, shortlist: {shortlist}}}\n",
            "channels.yaml": f"channels:\n  email: {{kind: outbound, cost: {cost}}}\n"
            "placements:\n  home: {channel: email, slots: 1}\n",
            "offers.yaml": "categories:\n  promotion: {}\noffers:\n" + lines,
        }
    ).policy


def candidate(offer: str, **said: Any) -> Row:
    base = {"stage": "choice", "propensity": 0.1, "low": 0.08, "high": 0.12, "value": 1.0, "weight": 1.0}
    return {**base, "cost": 0.0, "offer": offer, **said}


def row(number: int, candidates: list[Row], offer: str | None = None, **said: Any) -> Row:
    """Return one settled decision; `offer` is the one chosen, with its candidate's chance."""
    chosen = [
        {"offer": one["offer"], "rank": 1, "selection_probability": one.get("chance")}
        for one in candidates
        if one["offer"] == offer
    ]
    return {
        "decision_id": f"d-{number:06}",
        "customer": f"c-{number:06}",
        "at": START + number * 1000,
        "placement": "home",
        "channel": "email",
        "action": "none" if offer is None else "offer",
        "grp": "none",
        "policy_version": "sha256:a",
        "model_version": "m-1",
        "alpha": ALPHA,
        "inputs": {"views_7d": 1.0},
        "segment": {"profile.tier": "gold" if number % 3 else "basic"},
        "candidates": candidates,
        "chosen": chosen,
        "outcome": None if offer is None else "silent",
        "outcome_at": START + number * 1000,
        "reward": None if offer is None else 0.0,
        **said,
    }


def logged(folder: Path, rows: list[Row]) -> Log:
    """Write rows to the days they belong to, and read the log."""
    days: dict[str, list[Row]] = {}
    for one in rows:
        days.setdefault(datetime.fromtimestamp(one["at"] / 1000, UTC).date().isoformat(), []).append(one)
    for day, held in days.items():
        write_day(folder, datetime.fromisoformat(day).date(), held)
    return read(folder)


class World:
    """Decisions whose acceptance is known: `truth` holds each candidate's, in the order of the log."""

    def __init__(
        self,
        policy: PolicySet,
        count: int,
        seed: int,
        *,
        per_customer: int = 1,
        lie: bool = False,
        slots: int = 1,
    ) -> None:
        """Decide `count` times; with `lie` the log states even chances instead of the true ones.

        A message of several slots is accepted when any of its offers is.
        """
        rng = np.random.default_rng(seed)
        offers = list(policy.offers.values())
        size = len(offers)
        self.rows: list[Row] = []
        truth = []
        for number in range(count):
            logit = rng.normal([-1.0, -2.0, -1.5, -1.2, -1.8][:size], 0.8)
            accepts = 1 / (1 + np.exp(-logit))
            stated = logit + rng.normal(0, 0.3, size)
            propensity, low, high = (1 / (1 + np.exp(-(stated + shift))) for shift in (0, -0.2, 0.2))
            value = np.array([offer.value * offer.weight for offer in offers])
            cost = policy.channels["email"].cost
            at_random = rng.random() < 0.1
            ranking = rank(
                "m-1",
                Scores(np.stack([propensity, low, high])),
                {"value": value, "weight": 1.0, "channel_cost": cost},
                policy.arbitration,
                (1 << size) - 1,
            )
            over, picks = ranking.choose((1 << size) - 1, f"{seed}-{number}", slots, at_random=at_random)
            pick = picks[0]
            chance = dict.fromkeys(range(size), 0.0) | dict(zip(over.places, over.chance, strict=True))
            made = [
                candidate(
                    offer.id,
                    propensity=propensity[place],
                    low=low[place],
                    high=high[place],
                    value=offer.value,
                    weight=offer.weight,
                    cost=cost,
                    opt_out=0.01,
                    priority=propensity[place] * value[place] - cost,
                    chance=1 / size if lie else chance[place],
                )
                for place, offer in enumerate(offers)
            ]
            accepted = float(any(rng.random() < accepts[one.place] for one in picks))
            chosen = offers[pick.place]
            self.rows.append(
                row(
                    number,
                    made,
                    chosen.id,
                    customer=f"c-{number // per_customer:06}",
                    grp="random" if at_random else "none",
                    outcome="accepted" if accepted else "silent",
                    reward=accepted,
                    outcome_value=accepted * chosen.value,
                    opted_out=bool(rng.random() < 0.01),
                    chosen=[
                        {
                            "offer": offers[one.place].id,
                            "rank": at,
                            "selection_probability": 1 / size if lie else one.probability,
                        }
                        for at, one in enumerate(picks, 1)
                    ],
                )
            )
            truth.append(accepts)
        self.accepts: Array = np.concatenate(truth)
        self.size = size

    def value(self, log: Log, chances: Array) -> float:
        """Return what these chances would have earned, in accepts a decision."""
        return float((chances * self.accepts).sum()) / len(log)

    def value_of_two(self, log: Log, chances: Array) -> float:
        """Return what messages of two offers drawn with these chances would have earned, one after the other."""
        total = 0.0
        for share, accepts in zip(
            chances.reshape(-1, self.size), self.accepts.reshape(-1, self.size), strict=True
        ):
            for first in range(self.size):
                for second in range(self.size):
                    if second != first and share[first] > 0:
                        both = share[first] * share[second] / (1 - share[first])
                        total += both * (1 - (1 - accepts[first]) * (1 - accepts[second]))
        return total / len(log)
