"""Other people's randomised experiments through `tact evaluate` itself, beside their plain answers.

`python -m loadtests.experiments --data FOLDER [--out FOLDER] [--json]` takes each experiment of
`loadtests.experiment_logs` that FOLDER holds, and

- writes it as a decision log and asks the command, as a user would: what sending each offer to everybody, any offer
  at random, nothing, and what was done earn; and lift, everybody and by segment;
- learns a model (the one that ships) from one half of the customers, writes the other half with the model's
  propensities, and asks the same of a policy set (`own`) that sends the best by the model;
- works all of it out again from the files with pandas (`loadtests.experiment_plain`).

Exit code 1, and a line each under "disagreements", where a plain answer lies outside of Tact's interval, where SNIPS of
an arm is not that arm's mean, or where a verdict claims what the plain difference denies. All chances are known and
no draw is made, so the figures are the same at every run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from loadtests.experiment_logs import EXPERIMENTS, Row, write_rows
from loadtests.experiment_own import CASES, Case, best, learned, policy_set
from loadtests.experiment_plain import FRAMES, answer, followed, offers

REWARDS = ("accept", "value")


def tact_evaluate(*words: str) -> dict[str, Any]:
    """Run the command; its answer "no" is an answer."""
    done = subprocess.run(
        [sys.executable, "-m", "api.main", "evaluate", *words, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"tact evaluate {' '.join(words)}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def judged(log_folder: Path, asked: dict[str, Any], frame: Any, reward: str) -> dict[str, Any]:
    """Return what the command says of each policy beside the plain answer; `asked` has where each was followed."""
    found = tact_evaluate(*asked, "--log", str(log_folder), "--reward", reward)
    everybody = np.ones(len(frame), dtype=bool)
    policies = []
    for one, (name, mask) in zip(found["policies"], asked.items(), strict=True):
        policies.append(
            {
                "policy": Path(name).name,
                "verdict": one["verdict"],
                "dr": one["estimates"]["dr"],
                "snips": one["estimates"]["snips"]["value"],
                "difference": one["difference"],
                "plain": answer(frame, reward, mask)._asdict(),
                "plain_difference": answer(frame, reward, mask, everybody)._asdict(),
                "warnings": one["warnings"],
            }
        )
    return {"done": found["done"], "policies": policies, "warnings": found["warnings"]}


def ahead(said: dict[str, Any], asked: dict[str, Any], frame: Any, reward: str) -> dict[str, Any]:
    """Return how far `own` is plainly ahead of the best of what sends everybody the same, or nothing."""
    single = {
        name: one["dr"]["value"]
        for name, one in zip(asked, said["policies"], strict=True)
        if name == "none" or name.startswith("always:")
    }
    best_single = max(single, key=lambda name: float(single[name]))
    own = next(iter(asked.values()))
    return {"best": best_single, **answer(frame, reward, own, asked[best_single])._asdict()}


def lifted(log_folder: Path, case: Case, frame: Any, reward: str) -> list[dict[str, Any]]:
    """Return lift, everybody and by segment, beside the plain difference of the first assignment's groups."""
    first = frame.drop_duplicates("customer").reset_index(drop=True)
    treated = (first["arm"] != "").to_numpy()
    rows: list[dict[str, Any]] = []
    for segment in case.segments:
        words = ["lift", "--log", str(log_folder), "--reward", reward, "--within", case.within]
        found = tact_evaluate(*words, "--segment", segment)
        for one in [found["overall"], *found["segments"]]:
            here = np.ones(len(first), dtype=bool)
            if one["segment"]:
                here = (first[segment] == one["segment"]).to_numpy()
            elif rows:
                continue  # everybody was told with the segment before
            plain = answer(first, reward, treated & here, ~treated & here)
            name = f"{segment} {one['segment']}" if one["segment"] else "everybody"
            rows.append({**one, "segment": name, "plain": plain._asdict(), "warnings": found["warnings"]})
    return rows


def disagreements(found: dict[str, Any]) -> list[str]:
    """Return in one sentence each what does not fit."""
    said = []
    for reward in REWARDS:
        for part in ("whole", "half"):
            for one in found[part][reward]["policies"]:
                where = f"{reward}, {part}, {one['policy']}"
                plain, claimed = one["plain"]["value"], one["verdict"]
                if not _low(one["dr"]) <= plain <= _high(one["dr"]):
                    said.append(f"{where}: the plain mean {plain:.4f} is outside of the interval of DR")
                # SNIPS of one arm is that arm's mean, where the contact's cost is the arm's alone.
                if one["policy"].startswith("always:") and abs(one["snips"] - plain) > 1e-9:
                    said.append(f"{where}: SNIPS {one['snips']:.6f} is not the arm's mean {plain:.6f}")
                if claimed in ("better", "worse"):
                    difference = one["plain_difference"]
                    if (difference["high"] if claimed == "better" else -difference["low"]) < 0:
                        said.append(f"{where}: called {claimed}, which the plain difference denies")
        for one in found["lift"][reward]:
            plain = one["plain"]["value"]
            if one["verdict"] != "too_early" and abs(one["lift"] - plain) > 1e-9:
                said.append(f"{reward}, lift, {one['segment']}: {one['lift']:.6f} is not {plain:.6f}")
            if one["verdict"] == "better" and one["plain"]["low"] < 0:
                said.append(f"{reward}, lift, {one['segment']}: called better, which one look denies")
    return said


def _low(interval: dict[str, Any]) -> float:
    return -inf if interval["low"] is None else float(interval["low"])


def _high(interval: dict[str, Any]) -> float:
    return inf if interval["high"] is None else float(interval["high"])


def run(data: Path, name: str, out: Path) -> dict[str, Any]:
    """Return everything about one experiment; its logs and policy set stay in `out`."""
    case, frame, known = CASES[name], FRAMES[name](data / name), offers(data / name, name)
    arm = frame["arm"].to_numpy()
    rows = list(EXPERIMENTS[name](data / name))
    whole, half, own = out / "log", out / "half", out / "own"
    write_rows(rows, whole)
    scored = learned(rows, known)
    write_rows(scored, half)
    policy_set(own, known, case)

    def asked(of: Any) -> dict[str, Any]:
        single = {f"always:{one}": of == one for one in known}
        return {**single, "random": of != "", "none": of == "", "logged": np.ones(len(of), dtype=bool)}

    found: dict[str, Any] = {"decisions": len(frame), "whole": {}, "half": {}, "lift": {}}
    # Rows of the half in the order of the frame: customer by customer and, within one, as they were assigned.
    kept = {row["customer"] for row in scored}
    part = frame[frame["customer"].isin(kept)].reset_index(drop=True)
    chosen = np.array([best(row, case) for row in _in_order(scored, part)], dtype=object)
    for reward in REWARDS:
        found["whole"][reward] = judged(whole, asked(arm), frame, reward)
        of_half = {str(own): followed(part, chosen), **asked(part["arm"].to_numpy())}
        found["half"][reward] = judged(half, of_half, part, reward)
        found["half"][reward]["own_less_best"] = ahead(found["half"][reward], of_half, part, reward)
        found["lift"][reward] = lifted(whole, case, frame, reward)
    found["disagreements"] = disagreements(found)
    return found


def _in_order(rows: Iterable[Row], frame: Any) -> list[Row]:
    """Return the rows in the frame's order; both have each customer's assignments in the order of time."""
    by_customer: dict[str, list[Row]] = {}
    for row in rows:
        by_customer.setdefault(row["customer"], []).append(row)
    waiting = {customer: iter(held) for customer, held in by_customer.items()}
    return [next(waiting[customer]) for customer in frame["customer"]]


def show(name: str, found: dict[str, Any]) -> None:
    console = Console(width=130)

    def cells(said: dict[str, Any], value: str = "value") -> list[str]:
        unknown = {"low": "-∞", "high": "∞"}
        return [unknown[key] if said[key] is None else f"{said[key]:.4f}" for key in (value, "low", "high")]

    for part, title in (("whole", "everybody"), ("half", "the half that the model of `own` has not seen")):
        for reward in REWARDS:
            table = Table(
                "policy", "DR", "from", "to", "less done", "from", "to", "plain", "from", "to", "verdict"
            )
            for one in found[part][reward]["policies"]:
                numbers = [*cells(one["dr"]), *cells(one["difference"]), *cells(one["plain"])]
                table.add_row(one["policy"].replace(":", ": "), *numbers, one["verdict"].replace("_", " "))
            console.print(f"\n{name}, {reward} a decision, {title}", highlight=False)
            console.print(table)
            own = found[part][reward].get("own_less_best")
            if own:
                console.print(
                    f"own less {own['best']}, plainly: {' '.join(cells(own))}", highlight=False, emoji=False
                )
            warnings = [*found[part][reward]["warnings"]]
            warnings += [
                f"{one['policy']}: {w}" for one in found[part][reward]["policies"] for w in one["warnings"]
            ]
            for warning in warnings:
                console.print(f"warning: {warning}", highlight=False, markup=False, emoji=False)
    for reward in REWARDS:
        table = Table("segment", "treated", "control", "lift", "from", "to", "plain", "from", "to", "verdict")
        for one in found["lift"][reward]:
            numbers = [
                f"{one['treated']:,}",
                f"{one['control']:,}",
                *cells(one, "lift"),
                *cells(one["plain"]),
            ]
            table.add_row(one["segment"], *numbers, one["verdict"].replace("_", " "))
        console.print(f"\n{name}, lift a customer, {reward}", highlight=False)
        console.print(table)
        for warning in dict.fromkeys(w for one in found["lift"][reward] for w in one["warnings"]):
            console.print(f"warning: {warning}", highlight=False, markup=False)
    for one in found["disagreements"]:
        console.print(f"DISAGREES: {one}", highlight=False, markup=False, emoji=False)


def main(arguments: list[str] | None = None) -> None:
    """Run what the folder holds; exit code 1 where anything disagrees."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder for each experiment")
    parser.add_argument("--out", type=Path, help="folder that keeps the logs and the policy sets")
    parser.add_argument("--only", choices=list(EXPERIMENTS), help="one experiment")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    asked = parser.parse_args(arguments)
    names = [name for name in EXPERIMENTS if (asked.data / name).is_dir() and asked.only in (None, name)]
    if not names:
        parser.error(f"{asked.data} has none of {', '.join(EXPERIMENTS)}")
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            found[name] = run(asked.data, name, (asked.out or Path(scratch)) / name)
            if not asked.json:
                show(name, found[name])
    if asked.json:
        print(json.dumps({"experiments": found}, indent=2))
    sys.exit(1 if any(one["disagreements"] for one in found.values()) else 0)


if __name__ == "__main__":
    main()
