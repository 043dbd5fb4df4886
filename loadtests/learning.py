"""Progressive loss on classification sets turned into bandits: `python -m loadtests.learning --data DIR`.

Every NAME.csv.gz with a column `y` in DIR is a set: a class is an offer, the reward is 1 for the right one, and only
the chosen offer's reward is learned. The loss is the share of wrong choices from the first row on, over shuffles
whose numbers are their seeds. Ours plays every set with the one setting that ships. `vw-tuned` tries all of
`players.VW_SETTINGS` on `--tune-shuffles` shuffles of up to `--tune-rows` rows, and the best few on all shuffles.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtests.bandits import players
from loadtests.bandits.data import Bandit, folder

LEARNERS = ("tact", "vw", "vw-tuned", "gittins", "river", "random")
FINALISTS = 3
console = Console(stderr=True, highlight=False)


def progress(line: str) -> None:
    """Show a line that the next one overwrites, where somebody looks."""
    if console.is_terminal:
        console.print(line, end="\r")


def loss(make: players.Maker, bandit: Bandit, shuffle: int, rows: int | None = None) -> float:
    """Play one shuffle; returns the share of wrong choices."""
    player = make(bandit, shuffle)
    wrong = 0
    order = bandit.order(shuffle, rows).tolist()
    for row in order:
        chosen = player.choose(row)
        reward = float(chosen == bandit.right[row])
        wrong += reward == 0.0
        player.learn(row, chosen, reward)
    return wrong / len(order)


def summary(losses: list[float]) -> dict[str, Any]:
    """Return mean and standard error over the shuffles."""
    error = statistics.stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else 0.0
    return {"mean": statistics.fmean(losses), "se": error, "losses": losses}


def tuned(
    bandit: Bandit, shuffles: int, tune_shuffles: int, tune_rows: int, rows: int | None
) -> dict[str, Any]:
    """Return the best of VW's settings on this set."""
    limit = min(tune_rows, rows or tune_rows)

    def makers(setting: str) -> players.Maker:
        return partial(players.VowpalWabbit, arguments=setting)

    tried = {}
    for number, setting in enumerate(players.VW_SETTINGS):
        progress(f"{bandit.name} vw setting {number + 1} of {len(players.VW_SETTINGS)}")
        found = [loss(makers(setting), bandit, shuffle, limit) for shuffle in range(tune_shuffles)]
        tried[setting] = statistics.fmean(found)
    finalists = sorted(tried, key=tried.__getitem__)[:FINALISTS]
    ended = {
        setting: summary([loss(makers(setting), bandit, shuffle, rows) for shuffle in range(shuffles)])
        for setting in finalists
    }
    best = min(ended, key=lambda setting: float(ended[setting]["mean"]))
    return {**ended[best], "setting": best, "tried": len(tried)}


def play(bandit: Bandit, learner: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Return mean and standard error of one learner's loss on one set."""
    if learner == "vw-tuned":
        return tuned(bandit, asked.shuffles, asked.tune_shuffles, asked.tune_rows, asked.rows)
    make = players.MAKERS[learner]
    losses = []
    for shuffle in range(asked.shuffles):
        progress(f"{bandit.name} {learner} shuffle {shuffle + 1} of {asked.shuffles}")
        losses.append(loss(make, bandit, shuffle, asked.rows))
    return summary(losses)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of NAME.csv.gz with a column y")
    parser.add_argument("--learners", default=",".join(LEARNERS))
    parser.add_argument("--sets", help="only these, by name")
    parser.add_argument("--shuffles", type=int, default=10)
    parser.add_argument("--rows", type=int, help="only so many rows of each shuffle")
    parser.add_argument("--tune-shuffles", type=int, default=1)
    parser.add_argument("--tune-rows", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    learners = asked.learners.split(",")
    unknown = set(learners) - set(LEARNERS)
    if unknown:
        parser.error(f"unknown learners {', '.join(sorted(unknown))}: choose among {', '.join(LEARNERS)}")
    console.print(f"{asked.shuffles} shuffles, seeds 0 to {asked.shuffles - 1}")
    sets: dict[str, dict[str, Any]] = {}
    for bandit in folder(asked.data):
        if asked.sets and bandit.name not in asked.sets.split(","):
            continue
        sets[bandit.name] = {}
        for learner in learners:
            started = time.perf_counter()
            found = sets[bandit.name][learner] = play(bandit, learner, asked)
            found["seconds"] = round(time.perf_counter() - started, 1)
            line = f"{bandit.name:15} {learner:9} {found['mean']:.4f} ± {found['se']:.4f}"
            console.print(f"{line}  {found.get('setting', '')} {found['seconds']} s")
    if asked.json:
        json.dump({"sets": sets}, sys.stdout, indent=2)
        print()
        return
    print(f"{'progressive loss':15} " + " ".join(f"{learner:>15}" for learner in learners))
    for name, by_learner in sets.items():
        cells = (f"{found['mean']:.3f} ± {found['se']:.3f}" for found in by_learner.values())
        print(f"{name:15} " + " ".join(f"{cell:>15}" for cell in cells))


if __name__ == "__main__":
    main()
