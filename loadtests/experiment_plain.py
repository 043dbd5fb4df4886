"""What the experiments say by plain arithmetic: pandas on the files as they are, with no line shared with Tact.

A frame has one row for each assignment: `customer`, `arm` ("" is silence), `accept`, `value` (money less what the
contact cost) and whatever segments there are. An answer is a mean, or a difference of two means, with the normal
95 % interval; the customer is the unit, so what the rows of one customer add to the error is summed first.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from engine.judging.scoring import Array

Z = 1.959963984540054


class Answer(NamedTuple):
    """A figure and its interval."""

    value: float
    low: float
    high: float


def answer(frame: Any, reward: str, mask: Any, against: Any = None) -> Answer:
    """Return the mean of the reward where `mask` holds, less its mean where `against` holds, if given."""
    value, influence = 0.0, np.zeros(len(frame))
    for part, sign in ((mask, 1.0), (against, -1.0)):
        if part is None:
            continue
        rows = np.asarray(part, dtype=bool)
        mean = float(frame[reward][rows].mean())
        value += sign * mean
        influence[rows] += sign * (frame[reward].to_numpy()[rows] - mean) / rows.sum()
    error = float((pd.Series(influence).groupby(frame["customer"].to_numpy()).sum() ** 2).sum() ** 0.5)
    return Answer(value, value - Z * error, value + Z * error)


def hillstrom(folder: Path) -> Any:
    raw = pd.read_csv(folder / "hillstrom_half.csv.gz")
    return raw.assign(
        customer=raw.index.map(lambda number: f"h-{number:06}"),
        arm=raw.segment.map({"Mens E-Mail": "mens", "Womens E-Mail": "womens", "No E-Mail": ""}),
        accept=raw.visit.astype(float),
        value=raw.spend,
        newbie=raw.newbie.astype(str),
    )


def rewards(folder: Path) -> Any:
    profile = pd.read_csv(folder / "profile.csv.gz")
    events = pd.read_csv(folder / "transcript_waves1-4.csv.gz")
    sent = events[events.event == "offer received"]
    waves = []
    for wave in sorted(sent.hour.unique()):
        here = events[(events.hour >= wave) & (events.hour < wave + 72)]
        bought = here[(here.event == "transaction") & (here.amount > 0)].groupby("customer").amount.sum()
        given = here[here.event == "offer completed"].groupby("customer").reward.sum()
        frame = pd.DataFrame({"who": profile.customer, "gender": profile.gender.fillna("unknown")})
        arm = sent[sent.hour == wave].set_index("customer").offer.map(lambda offer: f"offer-{int(offer)}")
        frame["arm"] = frame.who.map(arm).fillna("")
        frame["accept"] = frame.who.isin(bought.index).astype(float)
        frame["value"] = frame.who.map(bought).fillna(0.0) - frame.who.map(given).fillna(0.0)
        waves.append(frame.assign(wave=wave))
    whole = pd.concat(waves, ignore_index=True)
    return whole.assign(customer=whole.who.map(lambda who: f"member-{who}"))


def promotion(folder: Path) -> Any:
    raw = pd.read_csv(folder / "train.csv.gz")
    sent = raw.Promotion == "Yes"
    return raw.assign(
        customer=raw.ID.map(lambda who: f"p-{who}"),
        arm=sent.map({True: "promotion", False: ""}),
        accept=raw.purchase.astype(float),
        value=10.0 * raw.purchase - 0.15 * sent,
        V4=raw.V4.astype(str),
    )


FRAMES = {"hillstrom": hillstrom, "starbucks_rewards": rewards, "starbucks_promo_rct": promotion}


def offers(folder: Path, name: str) -> list[str]:
    """Return the experiment's offers."""
    if name == "starbucks_rewards":
        return [f"offer-{place}" for place in range(len(json.loads((folder / "portfolio.json").read_text())))]
    return {"hillstrom": ["mens", "womens"], "starbucks_promo_rct": ["promotion"]}[name]


def followed(frame: Any, chosen: Array) -> Any:
    """Return where the arm drawn is the one that a policy would have chosen (`chosen` has one for each row)."""
    return frame["arm"].to_numpy() == chosen
