"""Randomised experiments that others made, written as decision logs, so that `tact evaluate` judges them.

- `hillstrom`: an e-mail for men, one for women or none, a third each. Reward: a visit within two weeks; money:
  spend.
- `starbucks_rewards`: four waves, per wave no offer with 0.253, else one of ten with 0.0747 each. Reward: a
  purchase within 72 hours of the wave; money: what was spent less what the offers gave back.
- `starbucks_promo_rct`: a promotion or none, a half each. Reward: a purchase; money: 10 a purchase, a contact
  costs 0.15.

Silence was drawn like an offer, so the candidates' chances leave to 1 the chance of silence, and the outcome of
those who got nothing is in the log: `none` is judged by what they did. They stand in the group `control`, the
others in `random`. `inputs` and `segment` hold what was known of the customer, numbers and strings.
"""

import bisect
import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from engine.evaluation.files import write_day

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
ZERO_MS = 1_767_225_600_000
"""2026-01-01: the experiments' own dates are unknown or do not matter."""
PRIOR = 0.1
WINDOW_H = 72

Row = dict[str, Any]


def candidates(offers: list[str], chance: float, cost: float = 0.0) -> list[Row]:
    """Return candidates that were equally likely, with the same prior: nothing was known of any."""
    known = {"stage": "choice", "propensity": PRIOR, "low": PRIOR, "high": PRIOR, "value": 1.0, "weight": 1.0}
    return [{**known, "offer": offer, "cost": cost, "chance": chance} for offer in offers]


def decision(number: int, customer: str, at: int, over: list[Row], offer: str | None) -> Row:
    """Return a decision by chance: an offer, or silence."""
    return {
        "decision_id": f"d-{number:07}",
        "customer": customer,
        "at": at,
        "placement": "mail",
        "channel": "email",
        "action": "none" if offer is None else "offer",
        "reason": "control_group" if offer is None else None,
        "grp": "control" if offer is None else "random",
        "policy_version": "experiment",
        "model_version": "none",
        "candidates": over,
        "chosen": []
        if offer is None
        else [{"offer": offer, "rank": 1, "selection_probability": over[0]["chance"]}],
    }


def outcome(reward: float, value: float, at: int) -> Row:
    """Return what became of it, known at `at` (ms)."""
    return {
        "outcome": "accepted" if reward else "silent",
        "outcome_at": at,
        "reward": reward,
        "outcome_value": value,
    }


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt") as stream:
        yield from csv.DictReader(stream)


def numbers(row: dict[str, str], *names: str) -> dict[str, float]:
    """Return the numbers that are known; an age of 118 means that none was given."""
    known = {name: row.get(name, "") for name in names}
    return {
        name: float(text) for name, text in known.items() if text and not (name == "age" and text == "118")
    }


def hillstrom(folder: Path) -> Iterator[Row]:
    over = candidates(["mens", "womens"], 1 / 3)
    offers = {"Mens E-Mail": "mens", "Womens E-Mail": "womens", "No E-Mail": None}
    for number, row in enumerate(rows_of(folder / "hillstrom_half.csv.gz")):
        yield {
            **decision(number, f"h-{number:06}", ZERO_MS, over, offers[row["segment"]]),
            **outcome(float(row["visit"]), float(row["spend"]), ZERO_MS + 14 * DAY_MS),
            "segment": {name: row[name] for name in ("newbie", "channel", "zip_code", "mens", "womens")},
            "inputs": numbers(row, "recency", "history"),
        }


def rewards(folder: Path) -> Iterator[Row]:
    portfolio = json.loads((folder / "portfolio.json").read_text())
    over = candidates([f"offer-{place}" for place in range(len(portfolio))], 0.747 / len(portfolio))
    received: dict[tuple[str, int], str] = {}
    spent: dict[str, list[tuple[int, float]]] = defaultdict(list)
    waves = set()
    for row in rows_of(folder / "transcript_waves1-4.csv.gz"):
        who, hour = row["customer"], int(row["hour"])
        if row["event"] == "offer received":
            received[who, hour] = f"offer-{row['offer']}"
            waves.add(hour)
        elif row["event"] == "transaction":
            spent[who].append((hour, float(row["amount"])))
        elif row["event"] == "offer completed":
            spent[who].append((hour, -float(row["reward"])))
    for amounts in spent.values():
        amounts.sort()
    number = 0
    for profile in rows_of(folder / "profile.csv.gz"):
        who = profile["customer"]
        hours = [hour for hour, _ in spent[who]]
        for wave in sorted(waves):
            window = slice(bisect.bisect_left(hours, wave), bisect.bisect_left(hours, wave + WINDOW_H))
            amounts_here = [amount for _, amount in spent[who][window]]
            at = ZERO_MS + wave * HOUR_MS
            bought = float(any(amount > 0 for amount in amounts_here))
            yield {
                **decision(number, f"member-{who}", at, over, received.get((who, wave))),
                **outcome(bought, sum(amounts_here), at + WINDOW_H * HOUR_MS),
                "segment": {"gender": profile["gender"] or "unknown"},
                "inputs": numbers(profile, "income", "became_member_on", "age"),
            }
            number += 1


def promotion(folder: Path) -> Iterator[Row]:
    over = candidates(["promotion"], 0.5, cost=0.15)
    for number, row in enumerate(rows_of(folder / "train.csv.gz")):
        bought = float(row["purchase"])
        yield {
            **decision(
                number, f"p-{row['ID']}", ZERO_MS, over, "promotion" if row["Promotion"] == "Yes" else None
            ),
            **outcome(bought, 10 * bought, ZERO_MS + 14 * DAY_MS),
            "segment": {name: row[name] for name in ("V1", "V4", "V5", "V6", "V7")},
            "inputs": numbers(row, "V2", "V3"),
        }


EXPERIMENTS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "hillstrom": hillstrom,
    "starbucks_rewards": rewards,
    "starbucks_promo_rct": promotion,
}


def write(data: Path, name: str, out: Path) -> int:
    """Write an experiment as a decision log; returns the number of decisions."""
    return write_rows(EXPERIMENTS[name](data / name), out)


def write_rows(rows: Iterable[Row], out: Path) -> int:
    """Write rows as a decision log, one folder a day; returns how many."""
    days: dict[date, list[Row]] = defaultdict(list)
    for row in rows:
        days[datetime.fromtimestamp(row["at"] / 1000, UTC).date()].append(row)
    for day, held in days.items():
        write_day(out, day, held)
    return sum(len(held) for held in days.values())
