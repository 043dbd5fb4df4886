"""A model and a policy set of one's own, to be judged on an experiment that neither has seen.

The model is the one that ships, with its shipped setting; it learns from one half of the customers, and scores the
other half. The policy set sends the best offer by expected money.
"""

import zlib
from math import exp, log
from pathlib import Path
from typing import NamedTuple

from engine.learning.hybrid import Hybrid
from loadtests.experiment_logs import PRIOR, Row


class Case(NamedTuple):
    """What is asked of one experiment."""

    segments: tuple[str, ...]
    within: str
    """How long lift watches a customer: until the outcome of the first assignment, and before the next one."""
    value: float = 1.0
    """Of an accept, to the policy set."""
    cost: float = 0.0


CASES = {
    "hillstrom": Case(("channel", "newbie"), "14d"),
    "starbucks_rewards": Case(("gender",), "7d"),
    "starbucks_promo_rct": Case(("V4",), "14d", 10.0, 0.15),
}


def learned(rows: list[Row], known: list[str]) -> list[Row]:
    """Return the customers of one half, scored by a model that has learned from the other half alone."""
    model = Hybrid()
    model.add_offers(dict.fromkeys(known, log(PRIOR / (1 - PRIOR))))
    kept = []
    for row in rows:
        context = {**row["segment"], **row["inputs"]}
        if zlib.crc32(row["customer"].encode()) % 2:
            if row["chosen"]:
                model.learn(context, row["chosen"][0]["offer"], row["reward"])
        else:
            kept.append((row, context))
    found = []
    for row, context in kept:
        propensity = [1 / (1 + exp(-mean)) for mean in model.predict_all(context)[0].tolist()]
        scored = [
            {**one, "propensity": share, "low": share, "high": share}
            for one, share in zip(row["candidates"], propensity, strict=True)
        ]
        found.append({**row, "candidates": scored, "model_version": "half"})
    return found


def policy_set(folder: Path, known: list[str], case: Case) -> None:
    """Write a policy set that sends the best offer by expected money, nothing below its cost, and never explores."""
    folder.mkdir(parents=True)
    (folder / "policy.yaml").write_text(
        "policy: own\ntimezone: UTC\narbitration:\n  priority: propensity * value - channel_cost\n"
        "  exploration: {alpha: 0, floor: 0%, shortlist: 32}\n"
    )
    (folder / "channels.yaml").write_text(
        f"channels:\n  email: {{kind: outbound, cost: {case.cost}}}\n"
        "placements:\n  mail: {channel: email, slots: 1}\n"
    )
    lines = [
        f"  - {{id: {one}, category: promotion, placements: [mail], value: {case.value}}}\n" for one in known
    ]
    (folder / "offers.yaml").write_text("categories: {promotion: {}}\noffers:\n" + "".join(lines))


def best(row: Row, case: Case) -> str:
    """Return what the policy set sends: plainly, the greatest expected money, "" where none is worth the contact."""
    worth = [(one["propensity"] * case.value - case.cost, one["offer"]) for one in row["candidates"]]
    money, offer = max(worth)
    return str(offer) if money >= 0 else ""
