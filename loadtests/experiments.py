"""Randomised experiments that others made, written as decision logs, so that `tact evaluate` judges them.

`python -m loadtests.experiments --data FOLDER --out FOLDER` writes one log for each experiment that it finds:

- `hillstrom`: an e-mail for men, one for women or none, a third each. Reward: a visit within two weeks; money:
  spend.
- `starbucks_rewards`: four waves, per wave no offer with 0.253, else one of ten with 0.0747 each. Reward: a
  purchase within 72 hours of the wave; money: what was spent less what the offers gave back.
- `starbucks_promo_rct`: a promotion or none, a half each. Reward: a purchase; money: 10 a purchase, a contact
  costs 0.15.

Silence was drawn like an offer, so the candidates' chances leave to 1 the chance of silence, and the outcome of
those who got nothing is in the log: `none` is judged by what they did. They stand in the group `control`, the
others in `random`.
"""

import argparse
import bisect
import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from engine.evaluation.log import write_day

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


def hillstrom(folder: Path) -> Iterator[Row]:
    over = candidates(["mens", "womens"], 1 / 3)
    offers = {"Mens E-Mail": "mens", "Womens E-Mail": "womens", "No E-Mail": None}
    for number, row in enumerate(rows_of(folder / "hillstrom_half.csv.gz")):
        yield {
            **decision(number, f"h-{number:06}", ZERO_MS, over, offers[row["segment"]]),
            **outcome(float(row["visit"]), float(row["spend"]), ZERO_MS + 14 * DAY_MS),
            "segment": {name: row[name] for name in ("newbie", "channel", "zip_code", "mens", "womens")},
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
        }


EXPERIMENTS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "hillstrom": hillstrom,
    "starbucks_rewards": rewards,
    "starbucks_promo_rct": promotion,
}


def write(data: Path, name: str, out: Path) -> int:
    """Write an experiment as a decision log; returns the number of decisions."""
    days: dict[date, list[Row]] = defaultdict(list)
    for row in EXPERIMENTS[name](data / name):
        days[datetime.fromtimestamp(row["at"] / 1000, UTC).date()].append(row)
    for day, rows in days.items():
        write_day(out, day, rows)
    return sum(len(rows) for rows in days.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder for each experiment")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one log for each")
    asked = parser.parse_args()
    found = [name for name in EXPERIMENTS if (asked.data / name).is_dir()]
    if not found:
        parser.error(f"{asked.data} has none of {', '.join(EXPERIMENTS)}")
    for name in found:
        print(f"{asked.out / name}: {write(asked.data, name, asked.out / name)} decisions")


if __name__ == "__main__":
    main()
