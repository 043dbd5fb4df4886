"""Off-policy estimates on data that others logged, beside what was really earned.

`python -m loadtests.ope --data FOLDER [--json]` looks for, in FOLDER and one level below it:

- Open Bandit files (`random_NAME.csv.gz` beside `bts_NAME.csv.gz`, arXiv:2008.07146): the value of `bts` from
  the random log, and the other way round, beside the click rate of the policy's own log. `bts` knows no context
  and its chances moved while it ran; judged is its average over time, the share of each item at each position in
  its own log. Clicks of that log are used for nothing but the comparison.
- the experiments of `loadtests.experiment_logs`: what `tact evaluate` says of sending to all, random and what was
  done.

Each impression stands for one customer: the files name none. One random log has some 40 clicks, so intervals are
wide; what is tested is that they hold.
"""

import argparse
import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.evaluation.estimators import Sample, effective_size, every_estimate
from engine.evaluation.intervals import hall
from engine.evaluation.log import read
from engine.evaluation.report import Candidate, as_dict, evaluate, finite, overlap_warnings
from engine.evaluation.sample import Reward
from engine.evaluation.target import reference
from engine.judging.scoring import Array
from loadtests.experiment_logs import EXPERIMENTS, write

FOLDS = 5
STRENGTH = 500.0
"""Impressions that the overall click rate is worth in the prediction for one item at one position."""


class Impressions:
    """One Open Bandit file: item, position, click and the logged chance of each impression."""

    def __init__(self, path: Path) -> None:
        """Read the five columns that matter."""
        with gzip.open(path, "rt") as stream:
            names = stream.readline().rstrip("\n").split(",")
            columns = [names.index(name) for name in ("item_id", "position", "click", "propensity_score")]
            numbers = np.loadtxt(stream, delimiter=",", usecols=columns, ndmin=2)
        self.item: NDArray[np.int64] = numbers[:, 0].astype(np.int64)
        self.position: NDArray[np.int64] = numbers[:, 1].astype(np.int64) - int(numbers[:, 1].min())
        self.click: Array = numbers[:, 2]
        self.chance: Array = numbers[:, 3]

    def __len__(self) -> int:
        return len(self.item)


def shares(log: Impressions, items: int, positions: int) -> Array:
    """Return how often each item was shown at each position: positions x items, rows add up to 1."""
    counts = np.zeros((positions, items))
    np.add.at(counts, (log.position, log.item), 1)
    average: Array = counts / counts.sum(axis=1, keepdims=True)
    return average


def predicted(log: Impressions, items: int, positions: int) -> Array:
    """Return predicted clicks, folds x positions x items: each fold's come from the other folds."""
    fold = np.arange(len(log)) % FOLDS
    clicks, shown = np.zeros((FOLDS, positions, items)), np.zeros((FOLDS, positions, items))
    np.add.at(clicks, (fold, log.position, log.item), log.click)
    np.add.at(shown, (fold, log.position, log.item), 1)
    clicks, shown = clicks.sum(axis=0) - clicks, shown.sum(axis=0) - shown
    rate = clicks.sum(axis=(1, 2), keepdims=True) / shown.sum(axis=(1, 2), keepdims=True)
    model: Array = (clicks + STRENGTH * rate) / (shown + STRENGTH)
    return model


def sample(log: Impressions, judged: Array) -> Sample:
    """Return what the estimators look at; `judged` are chances, positions x items."""
    positions, items = judged.shape
    model = predicted(log, items, positions)[np.arange(len(log)) % FOLDS]
    rows = np.arange(len(log))
    return Sample(
        reward=log.click,
        weight=judged[log.position, log.item] / log.chance,
        predicted=model[rows, log.position, log.item],
        expected=(model[rows, log.position] * judged[log.position]).sum(axis=1),
        silent=np.zeros(len(log)),
        customer=rows,
    )


def open_bandit(random_file: Path, bts_file: Path, name: str) -> Iterator[dict[str, Any]]:
    """Judge `bts` on the random log and `random` on the log of `bts`."""
    logs = {"random": Impressions(random_file), "bts": Impressions(bts_file)}
    items = 1 + max(int(log.item.max()) for log in logs.values())
    positions = 1 + max(int(log.position.max()) for log in logs.values())
    even = np.full((positions, items), 1 / items)
    for judged, source in (("bts", "random"), ("random", "bts")):
        chances = shares(logs["bts"], items, positions) if judged == "bts" else even
        own = logs[judged].click
        truth = float(own.mean())
        around = hall(truth, own - truth, np.arange(len(own)))
        looked = sample(logs[source], chances)
        estimates = every_estimate(looked)
        yield {
            "set": f"open bandit, {name}",
            "judged": judged,
            "log": source,
            "impressions": len(looked.reward),
            "clicks": int(looked.reward.sum()),
            "effective_size": effective_size(looked),
            "own": {"value": truth, "low": around.low, "high": around.high},
            "estimates": {
                one.name: {
                    "value": one.value,
                    "low": finite(one.interval.low),
                    "high": finite(one.interval.high),
                    "setting": finite(one.setting) if one.setting is not None else None,
                    "holds": one.interval.low <= truth <= one.interval.high,
                }
                for one in estimates
            },
            "warnings": list(overlap_warnings(looked, 0.0)),
        }


def experiments(data: Path) -> Iterator[dict[str, Any]]:
    """Judge sending to all, random and what was done on each experiment, by accepts and by money."""
    for name in EXPERIMENTS:
        if not (data / name).is_dir():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            write(data, name, Path(scratch))
            log = read(Path(scratch))
        asked = [f"always:{offer}" for offer in sorted(log.offers)] + ["random", "logged", "none"]
        rewards: tuple[Reward, ...] = ("accept", "value")
        for reward in rewards:
            found = evaluate(log, [Candidate(one, reference(one)) for one in asked], reward)
            yield {"set": name, **as_dict(found)}


def open_bandit_files(data: Path) -> Iterator[tuple[Path, Path, str]]:
    for folder in (data, *sorted(path for path in data.iterdir() if path.is_dir())):
        for random_file in sorted(folder.glob("random_*.csv.gz")):
            name = random_file.name.removeprefix("random_").removesuffix(".csv.gz")
            bts_file = folder / f"bts_{name}.csv.gz"
            if bts_file.exists():
                yield random_file, bts_file, name


def show(found: list[dict[str, Any]]) -> None:
    console = Console(width=120)
    for one in found:
        if "own" in one:
            title = (
                f"{one['set']}: {one['judged']} from the {one['log']} log; {one['clicks']} clicks in "
                f"{one['impressions']}, worth {one['effective_size']:.0f}; its own log says "
                f"{one['own']['value']:.5f} [{one['own']['low']:.5f}, {one['own']['high']:.5f}]"
            )
            table = Table("estimator", "value", "95 % from", "to", "holds")
            for name, said in one["estimates"].items():
                table.add_row(
                    name, *[_number(said[key]) for key in ("value", "low", "high")], str(said["holds"])
                )
        else:
            title = (
                f"{one['set']}, {one['reward']}: {one['judged']} decisions, done {one['done']['value']:.4f}"
            )
            table = Table("policy", "ips", "dr", "95 % from", "to", "less done", "from", "to", "verdict")
            for said in one["policies"]:
                dr, less = said["estimates"]["dr"], said["difference"]
                numbers = [said["estimates"]["ips"]["value"], dr["value"], dr["low"], dr["high"]]
                numbers += [less["value"], less["low"], less["high"]]
                table.add_row(Text(said["policy"]), *[_number(number) for number in numbers], said["verdict"])
        console.print(title, highlight=False, markup=False, emoji=False)
        console.print(table)
        for warning in one["warnings"]:
            console.print(f"  warning: {warning}", highlight=False, markup=False)


def _number(number: float | None) -> str:
    return "∞" if number is None else f"{number:.5f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the files, or with folders of them"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    asked = parser.parse_args()
    if not asked.data.is_dir():
        parser.error(f"{asked.data} is no folder")
    found = [one for files in open_bandit_files(asked.data) for one in open_bandit(*files)]
    found += experiments(asked.data)
    if not found:
        parser.error(f"{asked.data} has neither random_NAME.csv.gz beside bts_NAME.csv.gz nor an experiment")
    if asked.json:
        print(json.dumps({"results": found}, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
