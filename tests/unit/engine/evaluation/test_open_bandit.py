"""Data that others logged: the readers, on small files of the same layout, and the real ones where they are."""

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.evaluation.estimators import dr, dros, ips, snips, switch_dr
from engine.evaluation.log import read
from engine.judging.scoring import Array
from loadtests import ope
from loadtests.experiment_logs import ZERO_MS, hillstrom, promotion, rewards, write
from loadtests.ope import FOLDS, Impressions, open_bandit, open_bandit_files, predicted, sample, shares
from tests.property.test_estimators import (
    Impression,
    plain_dr,
    plain_dros,
    plain_ips,
    plain_snips,
    plain_switch_dr,
)

DATA = os.environ.get("TACT_TEST_DATA", "")
REAL = pytest.mark.skipif(not DATA, reason="TACT_TEST_DATA names no folder with the public data sets")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def bandit(path: Path, seed: int, policy: list[float], rates: list[float], size: int = 4000) -> Path:
    """Write an Open Bandit file in which an item is clicked with its rate, whatever the position."""
    rng = np.random.default_rng(seed)
    rows = []
    for item in rng.choice(len(policy), p=policy, size=size).tolist():
        row = {"timestamp": "2019-11-24", "item_id": item, "position": int(rng.integers(1, 4))}
        row |= {"click": int(rng.random() < rates[item]), "propensity_score": policy[item]}
        rows.append({**row, "user_feature_0": "81ce"})
    return written(path, rows)


def test_one_policy_is_judged_from_the_log_of_the_other(tmp_path: Path) -> None:
    rates, leaning = [0.02, 0.05, 0.1, 0.15], [0.1, 0.2, 0.3, 0.4]
    folder = tmp_path / "obd"
    bandit(folder / "random_all.csv.gz", 61, [0.25] * 4, rates)
    bandit(folder / "bts_all.csv.gz", 62, leaning, rates)
    (files,) = open_bandit_files(tmp_path)
    bts, even = open_bandit(*files)
    assert (bts["judged"], bts["log"], even["judged"], even["log"]) == ("bts", "random", "random", "bts")
    for found, truth in ((bts, float(np.dot(rates, leaning))), (even, float(np.mean(rates)))):
        assert all(one["holds"] for one in found["estimates"].values())
        assert found["estimates"]["dr"]["value"] == pytest.approx(truth, rel=0.15)
        assert found["warnings"] == []


def test_the_average_policy_is_how_often_each_item_was_shown(tmp_path: Path) -> None:
    log = Impressions(bandit(tmp_path / "x.csv.gz", 63, [0.1, 0.9], [0.0, 0.0], 500))
    average = shares(log, 2, 3)
    assert average.sum(axis=1).tolist() == pytest.approx([1, 1, 1])
    here = log.position == 1
    assert average[1, 1] == pytest.approx(float((log.item[here] == 1).mean()))


def test_the_mail_experiment_is_three_actions_of_a_third(tmp_path: Path) -> None:
    row = {"newbie": 0, "channel": "Web", "zip_code": "Rural", "mens": 1, "womens": 0}
    seen = [("Mens E-Mail", 1, 29.5), ("No E-Mail", 1, 0.0), ("Womens E-Mail", 0, 0.0)]
    rows = [{**row, "segment": name, "visit": visit, "spend": spend} for name, visit, spend in seen]
    written(tmp_path / "hillstrom_half.csv.gz", rows)
    mens, nobody, womens = hillstrom(tmp_path)
    assert [one["grp"] for one in (mens, nobody, womens)] == ["random", "control", "random"]
    assert mens["chosen"] == [{"offer": "mens", "rank": 1, "selection_probability": 1 / 3}]
    assert (mens["reward"], mens["outcome_value"]) == (1.0, 29.5)
    assert (nobody["chosen"], nobody["reward"], len(nobody["candidates"])) == ([], 1.0, 2)


def test_the_promotion_is_a_toss_of_a_coin(tmp_path: Path) -> None:
    row = dict.fromkeys(("V1", "V4", "V5", "V6", "V7"), "1")
    rows = [
        {"ID": 1, "Promotion": "No", "purchase": 0, **row},
        {"ID": 3, "Promotion": "Yes", "purchase": 1, **row},
    ]
    written(tmp_path / "starbucks_promo_rct" / "train.csv.gz", rows)
    nobody, sent = promotion(tmp_path / "starbucks_promo_rct")
    assert (nobody["action"], sent["action"]) == ("none", "offer")
    assert (sent["outcome_value"], sent["candidates"][0]["cost"]) == (10.0, 0.15)
    assert write(tmp_path, "starbucks_promo_rct", tmp_path / "log") == 2
    assert read(tmp_path / "log").probability.tolist() == [0.5, 0.5]


def test_a_wave_earns_what_is_spent_in_three_days_less_what_is_given_back(tmp_path: Path) -> None:
    (tmp_path / "portfolio.json").write_text(json.dumps([{"id": "a"}, {"id": "b"}]))
    written(tmp_path / "profile.csv.gz", [{"customer": 0, "gender": "F"}, {"customer": 1, "gender": ""}])
    events = [
        (0, "offer received", 0, 1, "", ""),
        (0, "transaction", 71, "", 20.0, ""),
        (0, "offer completed", 71, 1, "", 5),
        (0, "transaction", 72, "", 50.0, ""),  # after the window
        (0, "offer received", 168, 0, "", ""),
        (1, "transaction", 2, "", 3.0, ""),
    ]
    names = ("customer", "event", "hour", "offer", "amount", "reward")
    written(
        tmp_path / "transcript_waves1-4.csv.gz", [dict(zip(names, event, strict=True)) for event in events]
    )
    found = list(rewards(tmp_path))
    assert [(one["customer"], one["at"] - ZERO_MS) for one in found] == [
        ("member-0", 0),
        ("member-0", 168 * 3_600_000),
        ("member-1", 0),
        ("member-1", 168 * 3_600_000),
    ]
    assert [(one["reward"], one["outcome_value"]) for one in found] == [(1, 15), (0, 0), (1, 3), (0, 0)]
    assert [one["action"] for one in found] == ["offer", "offer", "none", "none"]
    assert found[0]["candidates"][0]["chance"] == pytest.approx(0.747 / 2)


def plain(log: Impressions, judged: Array) -> list[Impression]:
    """Return the impressions as the plain loops look at them; the log was drawn evenly."""
    positions, items = judged.shape
    model = predicted(log, items, positions)
    return [
        Impression(
            [1 / items] * items,
            judged[position].tolist(),
            model[place % FOLDS, position].tolist(),
            item,
            click,
        )
        for place, (item, position, click) in enumerate(
            zip(log.item.tolist(), log.position.tolist(), log.click.tolist(), strict=True)
        )
    ]


@REAL
def test_every_estimate_on_the_real_files_is_that_of_the_plain_loops() -> None:
    for random_file, bts_file, name in open_bandit_files(Path(DATA)):
        log, other = Impressions(random_file), Impressions(bts_file)
        items, positions = int(log.item.max()) + 1, int(log.position.max()) + 1
        judged = shares(other, items, positions)
        looked, rows = sample(log, judged), plain(log, judged)
        cut, shrunk = switch_dr(looked, 3.0), dros(looked, 20.0)
        assert ips(looked).value == pytest.approx(plain_ips(rows), abs=1e-6), name
        assert snips(looked).value == pytest.approx(plain_snips(rows), abs=1e-6), name
        assert dr(looked).value == pytest.approx(plain_dr(rows), abs=1e-6), name
        assert cut.value == pytest.approx(plain_switch_dr(rows, 3.0), abs=1e-6), name
        assert shrunk.value == pytest.approx(plain_dros(rows, 20.0), abs=1e-6), name


@REAL
def test_every_estimate_on_the_real_files_holds_what_the_other_log_earned() -> None:
    found = [one for files in open_bandit_files(Path(DATA)) for one in open_bandit(*files)]
    assert found, "no Open Bandit files there"
    for one in found:
        for name, estimate in one["estimates"].items():
            assert estimate["holds"], f"{one['set']}, {one['judged']} from {one['log']}: {name}"


@REAL
def test_the_real_mail_experiment_says_what_is_known_of_it(tmp_path: Path) -> None:
    said = {one["policy"]: one for one in next(ope.experiments(Path(DATA)))["policies"]}
    known = {"always:mens": 0.183, "always:womens": 0.151, "none": 0.106}
    for policy, rate in known.items():
        interval = said[policy]["estimates"]["dr"]
        assert interval["low"] <= rate <= interval["high"], policy
        assert interval["high"] - interval["low"] < 0.02
