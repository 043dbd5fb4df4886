"""Experiments that others made, on small made-up files of their layout: the command and pandas say the same."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests import experiments
from loadtests.experiment_logs import EXPERIMENTS
from loadtests.experiment_own import CASES, learned, policy_set
from loadtests.experiment_plain import FRAMES, answer
from loadtests.experiments import disagreements
from policies.loader import load_dir

KNOWN = {"No E-Mail": 0.1, "Mens E-Mail": 0.45, "Womens E-Mail": 0.25}


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def mails(folder: Path, count: int = 900) -> None:
    rng = np.random.default_rng(71)
    rows = []
    for number in range(count):
        arm = list(KNOWN)[int(rng.integers(3))]
        visit = int(rng.random() < KNOWN[arm])
        known: dict[str, Any] = {
            "recency": number % 12,
            "history": 10.5 * (number % 7),
            "mens": number % 2,
            "womens": 1,
        }
        known |= {"zip_code": "Rural", "newbie": number % 2, "channel": "Web"}
        rows.append({**known, "segment": arm, "visit": visit, "conversion": 0, "spend": visit * 12.5})
    table(folder / "hillstrom" / "hillstrom_half.csv.gz", rows)


def members(folder: Path) -> None:
    rng = np.random.default_rng(72)
    home = folder / "starbucks_rewards"
    home.mkdir()
    (home / "portfolio.json").write_text(json.dumps([{"id": "a"}, {"id": "b"}]))
    people = range(60)
    profile = [
        {"customer": who, "gender": "F" if who % 3 else "", "age": 118, "income": ""} for who in people
    ]
    table(home / "profile.csv.gz", profile)
    events: list[dict[str, Any]] = []

    def happened(**said: Any) -> None:
        events.append(
            {"customer": 0, "event": "", "hour": 0, "offer": "", "amount": "", "reward": "", **said}
        )

    for wave in (0, 168, 336, 408):
        for who in people:
            if rng.random() < 0.7:
                offer = int(rng.integers(2))
                happened(customer=who, event="offer received", hour=wave, offer=offer)
            hour = wave + int(rng.integers(0, 80))  # some after the window, or on its first hour
            happened(customer=who, event="transaction", hour=hour, amount=round(float(rng.random()) * 9, 2))
            if rng.random() < 0.3:
                happened(customer=who, event="offer completed", hour=hour, offer=0, reward=2)
    table(home / "transcript_waves1-4.csv.gz", sorted(events, key=lambda event: event["hour"]))


def coins(folder: Path) -> None:
    rows = [
        {"ID": number, "Promotion": "Yes" if number % 2 else "No", "purchase": int(number % 5 == 0)}
        | dict.fromkeys(("V1", "V4", "V5", "V6", "V7"), 1)
        | {"V2": 3.5, "V3": number}
        for number in range(40)
    ]
    table(folder / "starbucks_promo_rct" / "train.csv.gz", rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    mails(folder)
    members(folder)
    coins(folder)
    return folder


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_the_log_holds_what_pandas_reads_from_the_files(data: Path, name: str) -> None:
    frame = FRAMES[name](data / name)
    plain = sorted(zip(frame.customer, frame.arm, frame.accept, frame.value.round(6), strict=True))
    logged = []
    for row in EXPERIMENTS[name](data / name):
        (offer,) = [one["offer"] for one in row["chosen"]] or [""]
        cost = row["candidates"][0]["cost"] if offer else 0.0
        logged.append((row["customer"], offer, row["reward"], round(row["outcome_value"] - cost, 6)))
    assert sorted(logged) == plain
    assert set(CASES[name].segments) <= set(frame.columns)


def test_the_customer_is_the_unit_of_a_plain_answer() -> None:
    pandas = pytest.importorskip("pandas")
    once = pandas.DataFrame({"customer": ["a", "b", "c", "d"], "accept": [1.0, 0.0, 1.0, 0.0]})
    twice = pandas.concat([once, once], ignore_index=True)
    everybody = np.ones(4, dtype=bool)
    assert answer(twice, "accept", np.ones(8, dtype=bool)) == pytest.approx(answer(once, "accept", everybody))
    assert answer(once, "accept", everybody, everybody).value == 0.0


def test_the_model_learns_from_one_half_and_scores_the_other(data: Path) -> None:
    rows = list(EXPERIMENTS["hillstrom"](data / "hillstrom"))
    scored = learned(rows, ["mens", "womens"])
    assert 0.4 * len(rows) < len(scored) < 0.6 * len(rows)
    mens, womens = (np.array([row["candidates"][place]["propensity"] for row in scored]) for place in (0, 1))
    assert float(mens.mean()) == pytest.approx(KNOWN["Mens E-Mail"], abs=0.1)
    assert float(womens.mean()) == pytest.approx(KNOWN["Womens E-Mail"], abs=0.1)
    # What the scored half did plays no part: its rewards may be anything.
    kept = {row["customer"] for row in scored}
    changed = [{**row, "reward": 1.0} if row["customer"] in kept else row for row in rows]
    again = learned(changed, ["mens", "womens"])
    assert [row["candidates"] for row in again] == [row["candidates"] for row in scored]


def test_the_policy_set_of_ones_own_is_a_clean_one_that_never_explores(tmp_path: Path) -> None:
    policy_set(tmp_path / "own", ["a", "b"], CASES["starbucks_promo_rct"])
    policy = load_dir(tmp_path / "own").policy
    exploration = policy.arbitration.exploration
    assert (exploration.alpha, exploration.floor) == (0.0, 0.0)
    assert policy.channels["email"].cost == 0.15


def test_the_command_and_pandas_agree_on_a_made_up_experiment(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        experiments.main(["--data", str(data), "--only", "hillstrom", "--out", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)["experiments"]["hillstrom"]
    assert (ended.value.code, found["disagreements"]) == (0, [])
    said = {one["policy"]: one for one in found["whole"]["accept"]["policies"]}
    for policy, arm in (("always:mens", "Mens E-Mail"), ("none", "No E-Mail")):
        assert said[policy]["dr"]["low"] <= KNOWN[arm] <= said[policy]["dr"]["high"]
    assert (said["always:mens"]["verdict"], said["none"]["verdict"]) == ("better", "worse")
    own = found["half"]["accept"]["policies"][0]
    assert own["policy"] == "own"
    assert own["dr"]["low"] <= own["plain"]["value"] <= own["dr"]["high"]
    segments = [one["segment"] for one in found["lift"]["accept"]]
    assert segments == ["everybody", "channel Web", "newbie 0", "newbie 1"]
    assert found["lift"]["accept"][0]["lift"] == pytest.approx(found["lift"]["accept"][0]["plain"]["value"])
    assert (tmp_path / "hillstrom" / "log" / "day=2026-01-01" / "part-00000.parquet").exists()


def agreeing() -> dict[str, Any]:
    """Return findings in which nothing disagrees."""
    one = {"policy": "always:a", "verdict": "better", "snips": 0.3, "dr": {"low": 0.2, "high": 0.4}}
    one |= {"plain": {"value": 0.3}, "plain_difference": {"low": 0.01, "high": 0.1}}
    lift = {"segment": "everybody", "verdict": "better", "lift": 0.1, "plain": {"value": 0.1, "low": 0.05}}
    part = {reward: {"policies": [one]} for reward in ("accept", "value")}
    copied: dict[str, Any] = json.loads(
        json.dumps({"whole": part, "half": part, "lift": {"accept": [lift], "value": [lift]}})
    )
    return copied


@pytest.mark.parametrize(
    ("place", "changed", "sentence"),
    [
        ("whole", {"plain": {"value": 0.5}, "snips": 0.5}, "outside of the interval of DR"),
        ("half", {"snips": 0.31}, "SNIPS 0.310000 is not the arm's mean"),
        ("half", {"plain_difference": {"low": -0.2, "high": -0.1}}, "called better, which the plain"),
        ("lift", {"lift": 0.11}, "0.110000 is not 0.100000"),
        ("lift", {"plain": {"value": 0.1, "low": -0.01}}, "called better, which one look denies"),
    ],
)
def test_what_does_not_fit_is_said(place: str, changed: dict[str, Any], sentence: str) -> None:
    assert disagreements(agreeing()) == []
    found = agreeing()
    part = found["lift"]["accept"] if place == "lift" else found[place]["accept"]["policies"]
    part[0] |= changed
    (said,) = disagreements(found)
    assert sentence in said


def test_a_folder_without_experiments_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        experiments.main(["--data", str(tmp_path)])
    assert ended.value.code == 2
