"""A classification set as a bandit: one class is one offer, and only the chosen offer's reward is seen."""

import csv
import gzip
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Bandit:
    """Rows of contexts with the one right offer of each; numbers are floats, all else strings."""

    def __init__(self, name: str, contexts: list[dict[str, float | str]], right: list[str]) -> None:
        self.name = name
        self.contexts = contexts
        self.offers = sorted(set(right))
        places = {offer: place for place, offer in enumerate(self.offers)}
        self.right = [places[offer] for offer in right]

    @cached_property
    def scaled(self) -> list[dict[str, float | str]]:
        """The contexts with numbers at mean 0 and deviation 1 over the whole set: a lead given to the peers."""
        numbers = [name for name, value in self.contexts[0].items() if isinstance(value, float)]
        values = np.array(
            [[context[name] for name in numbers] for context in self.contexts], dtype=np.float64
        )
        deviation = values.std(axis=0)
        values = (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
        rows = values.tolist()
        return [
            {**context, **dict(zip(numbers, row, strict=True))}
            for context, row in zip(self.contexts, rows, strict=True)
        ]

    def order(self, shuffle: int, rows: int | None) -> NDArray[np.int64]:
        """Return the rows in the order of a shuffle, whose number is its seed."""
        return np.random.default_rng(shuffle).permutation(len(self.right))[:rows]


def read(path: Path) -> Bandit:
    """Read NAME.csv.gz with a column `y`; a column is numeric where every value is."""
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "y" not in rows[0]:
        raise SystemExit(f"{path} has no column y: one set is one NAME.csv.gz with the class in y")
    right = [row.pop("y") for row in rows]
    numeric = {name for name in rows[0] if all(_is_number(row[name]) for row in rows)}
    contexts: list[dict[str, float | str]] = [
        {name: float(value) if name in numeric else value for name, value in row.items()} for row in rows
    ]
    return Bandit(path.name.removesuffix(".csv.gz"), contexts, right)


def folder(path: Path) -> list[Bandit]:
    """Read every set of a folder, by name."""
    found = [read(file) for file in sorted(path.glob("*.csv.gz"))]
    if not found:
        raise SystemExit(f"no NAME.csv.gz in {path}")
    return found


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
