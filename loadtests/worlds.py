"""CTR in made-up worlds with a known truth: `python -m loadtests.worlds [--seeds 10] [--worlds a,b] [--json]`.

The worlds are in `loadtests.bandits.worlds`: `bilinear` favours the hybrid model, the others don't. A learner's CTR is
the mean true probability of what it chose, over all decisions and seeds; intervals are Student's t over seeds, and
as worlds differ more than learners do, `tact_ahead` is the difference seed by seed.
`vw-tuned` is the best of `visitors.VW_SETTINGS` on seeds of its own. In `step` the offers change hands midway:
"decisions to 90 %" counts how long it takes until the mean over 500 decisions is at 90 % of the new optimum.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats  # type: ignore[import-untyped]

from loadtests.bandits import visitors
from loadtests.bandits.worlds import WORLDS, Array, World

LEARNERS = ("tact", "vw", "vw-tuned", "gittins", "random", "oracle")
SPAN = 500
console = Console(stderr=True, highlight=False)


def visit(make: visitors.Maker, world: World, seed: int) -> Array:
    """Let a learner live through the world; returns the true probability of each of its choices."""
    player = make(world, seed)
    met = np.zeros(len(world.contexts))
    due: dict[int, list[tuple[Callable[[int], None], int]]] = {}
    launched = world.launched.tolist()
    on_offer: list[int] = []
    for decision in range(len(met)):
        for tell, earlier in due.pop(decision, ()):
            tell(earlier)
        if decision in world.launched:
            on_offer = [place for place, first in enumerate(launched) if first <= decision]
        chosen = player.choose(decision, on_offer)
        met[decision] = world.truth[decision, chosen]
        said_yes = world.luck[decision] < met[decision]
        tell = player.accepted if said_yes else player.silent
        at = decision + int(world.delay[decision] if said_yes else world.window)
        due.setdefault(at, []).append((tell, decision))
    return met


def recovery(met: Array, best: Array, changed: int) -> int:
    """Return decisions from the change until the mean over `SPAN` is at 90 % of the optimum; all if never."""
    window = np.ones(SPAN)
    share = np.convolve(met[changed:], window, "valid") / np.convolve(best[changed:], window, "valid")
    reached = np.flatnonzero(share >= 0.9)
    return int(reached[0]) + SPAN if len(reached) else len(met) - changed


def interval(values: list[float]) -> dict[str, Any]:
    """Return mean, and half the width of its 95 % interval."""
    if len(values) == 1:
        return {"mean": values[0], "half_width": None}
    error = statistics.stdev(values) / len(values) ** 0.5
    return {
        "mean": statistics.fmean(values),
        "half_width": float(stats.t.ppf(0.975, len(values) - 1)) * error,
    }


def maker(learner: str, name: str, decisions: int) -> tuple[visitors.Maker, str]:
    """Return how to make the learner, and the setting that tuning found."""
    if learner != "vw-tuned":
        return visitors.MAKERS[learner], ""
    world = WORLDS[name](1000, decisions)

    def ctr(setting: str) -> float:
        console.print(f"{name}: tuning VW, {setting}")
        return float(visit(partial(visitors.VowpalWabbit, arguments=setting), world, 1000).mean())

    best = max(visitors.VW_SETTINGS, key=ctr)
    return partial(visitors.VowpalWabbit, arguments=best), best


def measure(name: str, learner: str, seeds: int, decisions: int) -> dict[str, Any]:
    """Return the learner's CTR in the world, with its interval."""
    make, setting = maker(learner, name, decisions)
    ctr, recovered, shares = [], [], []
    for seed in range(seeds):
        world = WORLDS[name](seed, decisions)
        met = visit(make, world, seed)
        ctr.append(float(met.mean()))
        shares.append(float(met.mean() / world.best().mean()))
        if world.changed is not None:
            recovered.append(float(recovery(met, world.best(), world.changed)))
    found = {**interval(ctr), "of_best": statistics.fmean(shares), "ctr": ctr}
    if setting:
        found["setting"] = setting
    if recovered:
        found["decisions_to_90"] = statistics.median(recovered)
        found["decisions_to_90_each"] = recovered
    return found


def compare(by_learner: dict[str, Any]) -> None:
    """Add to each learner how far ahead ours is: the interval of the difference, seed by seed."""
    if "tact" not in by_learner:
        return
    ours = by_learner["tact"]["ctr"]
    for learner, one in by_learner.items():
        if learner != "tact":
            ahead = [mine - theirs for mine, theirs in zip(ours, one["ctr"], strict=True)]
            one["tact_ahead"] = interval(ahead)
            line = (
                f"{100 * one['tact_ahead']['mean']:.2f} ± {100 * (one['tact_ahead']['half_width'] or 0):.2f}"
            )
            console.print(f"{'':12} tact is ahead of {learner} by {line} points")


def main(arguments: list[str] | None = None) -> None:
    """Run the worlds and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("--learners", default=",".join(LEARNERS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--decisions", type=int, default=8_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    for wanted, known in ((asked.worlds, WORLDS), (asked.learners, LEARNERS)):
        unknown = set(wanted.split(",")) - set(known)
        if unknown:
            parser.error(f"unknown {', '.join(sorted(unknown))}: choose among {', '.join(known)}")
    console.print(f"{asked.seeds} seeds, 0 to {asked.seeds - 1}; {asked.decisions} decisions each")
    found: dict[str, dict[str, Any]] = {}
    for name in asked.worlds.split(","):
        found[name] = {}
        for learner in asked.learners.split(","):
            started = time.perf_counter()
            one = found[name][learner] = measure(name, learner, asked.seeds, asked.decisions)
            took = time.perf_counter() - started
            line = (
                f"{name:12} {learner:9} CTR {100 * one['mean']:.2f} ± {100 * (one['half_width'] or 0):.2f} %"
            )
            rest = (
                f"{one['of_best']:.2f} of the best, {one.get('decisions_to_90', '')} {one.get('setting', '')}"
            )
            console.print(f"{line}, {rest} {took:.0f} s")
        compare(found[name])
    if asked.json:
        json.dump({"worlds": found}, sys.stdout, indent=2)
        print()
        return
    print(f"{'CTR, %':12} " + " ".join(f"{learner:>13}" for learner in asked.learners.split(",")))
    for name, by_learner in found.items():
        cells = (
            f"{100 * one['mean']:.2f} ± {100 * (one['half_width'] or 0):.2f}" for one in by_learner.values()
        )
        print(f"{name:12} " + " ".join(f"{cell:>13}" for cell in cells))


if __name__ == "__main__":
    main()
