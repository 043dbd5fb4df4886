import csv
import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from loadtests import learning, worlds
from loadtests.bandits import players, visitors
from loadtests.bandits.data import Bandit, read
from loadtests.bandits.worlds import WORLDS


def write_set(folder: Path, name: str, rows: int = 60) -> Path:
    path = folder / f"{name}.csv.gz"
    random = np.random.default_rng(3)
    with gzip.open(path, "wt", newline="") as file:
        out = csv.writer(file)
        out.writerow(["size", "colour", "y"])
        for _ in range(rows):
            colour = str(random.choice(["red", "blue"]))
            out.writerow([f"{random.normal():.3f}", colour, {"red": "stop", "blue": "go"}[colour]])
    return path


def test_a_set_becomes_a_bandit_with_a_class_as_an_offer(tmp_path: Path) -> None:
    bandit = read(write_set(tmp_path, "lights"))
    assert bandit.name == "lights"
    assert bandit.offers == ["go", "stop"]
    first = bandit.contexts[0]
    assert isinstance(first["size"], float)
    assert bandit.offers[bandit.right[0]] == {"red": "stop", "blue": "go"}[str(first["colour"])]
    assert "y" not in first


def test_the_peers_get_numbers_at_mean_0_and_deviation_1(tmp_path: Path) -> None:
    sizes = [float(row["size"]) for row in read(write_set(tmp_path, "lights")).scaled]
    assert (np.mean(sizes), np.std(sizes)) == pytest.approx((0.0, 1.0))


def test_a_set_without_y_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    with pytest.raises(SystemExit, match="no column y"):
        read(path)


def test_a_shuffle_is_its_seeds(tmp_path: Path) -> None:
    bandit = read(write_set(tmp_path, "lights"))
    assert bandit.order(1, None).tolist() == bandit.order(1, None).tolist()
    assert bandit.order(1, None).tolist() != bandit.order(2, None).tolist()
    assert sorted(bandit.order(1, None).tolist()) == list(range(60))


def test_a_learner_is_told_only_of_what_it_chose() -> None:
    bandit = Bandit("two", [{"a": 1.0}, {"a": 2.0}], ["x", "y"])
    told: list[tuple[int, float]] = []
    player = SimpleNamespace(
        choose=lambda row: 0, learn=lambda row, chosen, reward: told.append((chosen, reward))
    )
    assert learning.loss(lambda *_: player, bandit, 0) == 0.5
    assert sorted(told) == [(0, 0.0), (0, 1.0)]


def test_every_learner_plays_and_the_json_holds_mean_and_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path, "lights")
    monkeypatch.setattr(players, "VW_SETTINGS", players.VW_SETTINGS[:2])
    learning.main(["--data", str(tmp_path), "--shuffles", "2", "--json"])
    found = json.loads(capsys.readouterr().out)["sets"]["lights"]
    assert set(found) == set(learning.LEARNERS)
    assert all(0 <= one["mean"] <= 1 and one["se"] >= 0 for one in found.values())
    assert found["tact"]["mean"] < found["random"]["mean"]


def test_vw_is_tuned_among_at_least_20_settings_with_and_without_crosses() -> None:
    assert len(players.VW_SETTINGS) >= 20
    for kind in ("--squarecb", "--cover", "--epsilon", "--first", "-q UA"):
        assert any(kind in setting for setting in players.VW_SETTINGS)
    assert any("-q" not in setting for setting in players.VW_SETTINGS)


def test_a_world_is_its_seeds_and_its_best_is_among_what_is_on_offer() -> None:
    one, other = (WORLDS["bilinear"](4, 200) for _ in range(2))
    assert one.truth.tolist() == other.truth.tolist()
    assert one.contexts == other.contexts
    early = one.launched == 0
    assert one.best()[0] == one.truth[0, early].max()
    assert one.best()[-1] == one.truth[-1].max()


def test_a_yes_arrives_after_its_delay_and_silence_after_the_window() -> None:
    world = WORLDS["late"](1, 300)._replace(window=50, delay=np.full(300, 7))
    seen: list[tuple[str, int, int]] = []

    class Listener(visitors.Chance):
        now = 0

        def choose(self, decision: int, on_offer: object) -> int:
            self.now = decision
            return 0

        def accepted(self, decision: int) -> None:
            seen.append(("yes", decision, self.now + 1 - decision))

        def silent(self, decision: int) -> None:
            seen.append(("no", decision, self.now + 1 - decision))

    met = worlds.visit(Listener, world, 0)
    assert {(word, after) for word, _, after in seen} == {("yes", 7), ("no", 50)}
    assert [word == "yes" for word, decision, _ in seen] == [
        bool(world.luck[decision] < met[decision]) for _, decision, _ in seen
    ]


def test_recovery_counts_decisions_from_the_change_to_90_percent() -> None:
    best = np.ones(4000)
    met = np.where(np.arange(4000) < 2600, 0.0, 1.0)
    met[:2000] = 1.0
    assert worlds.recovery(met, best, 2000) == pytest.approx(600 + 0.9 * worlds.SPAN, abs=1)
    assert worlds.recovery(np.zeros(4000), best, 2000) == 2000


def test_the_worlds_run_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    worlds.main(
        [
            "--worlds",
            "step",
            "--learners",
            "tact,gittins,random,oracle",
            "--seeds",
            "2",
            "--decisions",
            "1200",
            "--json",
        ]
    )
    found = json.loads(capsys.readouterr().out)["worlds"]["step"]
    assert found["oracle"]["of_best"] == pytest.approx(1)
    assert found["tact"]["mean"] > found["random"]["mean"]
    assert found["random"]["tact_ahead"]["mean"] == pytest.approx(
        found["tact"]["mean"] - found["random"]["mean"]
    )
    assert set(found["tact"]) >= {"mean", "half_width", "decisions_to_90"}
