"""`tact evaluate`: what it prints, and its exit codes: 0 judged, 1 the log cannot say, 2 wrong usage."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from api.cli.evaluate import evaluate
from tests.unit.engine.evaluation.logged import DAY_MS, START, World, candidate, logged, policy_set, row

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
app.command("evaluate")(evaluate)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def said(result: Result) -> Any:
    return json.loads(result.stdout)


def refused(result: Result) -> str:
    """Return the one sentence of a refusal."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("tact: ")
    return lines[0]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("log")
    logged(folder, World(policy_set(), 2000, seed=51).rows)
    return str(folder)


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("policies")
    for name, text in policy_set(values=(5.0, 9.0, 6.0)).files.items():
        (folder / name).write_text(text)
    return str(folder)


COMMANDS = [
    line.partition("  #")[0].strip()
    for line in (Path(__file__).resolve().parents[2] / "docs" / "evaluating.md").read_text().splitlines()
    if line.startswith("tact evaluate ")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_on_judging_works(
    log: str, groups: str, policies: str, command: str
) -> None:
    words = command.removeprefix("tact evaluate ").split()
    stands_for = {
        "policies/next": policies,
        "archive": groups if words[0] == "lift" else log,
        "always:winter-boots": "always:boots",
    }
    done = run(*[stands_for.get(word, word) for word in words], "--json")
    assert done.exit_code == 0, done.output
    assert said(done)["reward"] in ("accept", "value")


def test_a_policy_set_is_judged_with_all_five_estimators(log: str, policies: str) -> None:
    done = run(policies, "random", "--log", log, "--json")
    assert done.exit_code == 0, done.output
    found = said(done)
    assert (found["decisions"], found["judged"]) == (2000, 2000)
    assert [one["policy"] for one in found["policies"]] == [policies, "random"]
    first = found["policies"][0]
    assert list(first["estimates"]) == ["ips", "snips", "dr", "switch-dr", "dros"]
    assert [one["factor"] for one in first["factors"]] == ["propensity", "value", "weight", "cost"]
    assert {(one["channel"], one["head"]) for one in found["calibration"]} == {
        ("email", "accept"),
        ("email", "opt_out"),
    }


def test_the_table_names_what_was_judged_and_reads_no_emoji_into_it(log: str, policies: str) -> None:
    done = run(policies, "always:boots", "--log", log, "--reward", "value")
    assert done.exit_code == 0, done.output
    for words in (
        "2,000 decisions, 2,000 judged",
        "always:boots: ",
        "switch-dr",
        "effective size",
        "without value",
    ):
        assert words in done.stdout, words
    assert "are the probabilities true?" in done.stdout


def test_a_log_that_cannot_judge_is_the_answer_no(tmp_path: Path) -> None:
    rare = [candidate("boots", chance=0.999), candidate("socks", chance=0.001)]
    logged(tmp_path, [row(number, rare, "boots") for number in range(50)])
    done = run("always:socks", "--log", str(tmp_path))
    assert done.exit_code == 1
    assert "this log cannot say" in done.stdout
    assert "too little overlap to say anything" in done.stdout


def test_nothing_to_judge_is_the_answer_no(tmp_path: Path) -> None:
    logged(tmp_path, [row(0, [], None)])
    done = run("random", "--log", str(tmp_path))
    assert done.exit_code == 1
    assert "no decision of this log can be judged" in done.stdout


def test_first_alone_judges_rank_one(tmp_path: Path) -> None:
    made = [candidate("boots", chance=0.5), candidate("socks", chance=0.5)]
    message = row(0, made, "boots")
    message["chosen"].append({"offer": "socks", "rank": 2, "selection_probability": 0.5})
    logged(tmp_path, [message, row(1, made, "boots")])
    sizes = [
        said(run("random", "--log", str(tmp_path), *more, "--json"))["policies"][0]["effective_size"]
        for more in ([], ["--first"])
    ]
    assert sizes == pytest.approx([(2 + 1) ** 2 / (2**2 + 1), 2.0])


def test_bounds_choose_the_decisions(log: str) -> None:
    found = said(run("random", "--log", log, "--until", "2026-11-20T00:10:00Z", "--json"))
    assert found["decisions"] == 600


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["best"], "neither a folder of a policy set nor one of random, logged, none, always:OFFER"),
        (["always:hats"], 'the offer "hats" as a candidate: it has boots, guide, socks'),
        (["random", "--reward", "clicks"], 'accept or value, not "clicks"'),
        (["random", "--since", "yesterday"], "--since is a day or a UTC time such as 2026-11-24"),
        (["random", "--since", "2027-01-01"], "no decision log for that time"),
        (["random", "--segment", "tier"], "--segment goes with lift"),
        (["lift", "random"], "lift stands alone"),
        (["lift", "--within", "1 week"], "--within is a whole number and one of s m h d w"),
    ],
)
def test_wrong_usage_is_one_sentence_with_the_way_out(log: str, words: list[str], sentence: str) -> None:
    assert sentence in refused(run(*words, "--log", log))


def test_a_folder_without_a_log_is_wrong_usage(tmp_path: Path) -> None:
    assert "no decision log" in refused(run("random", "--log", str(tmp_path)))
    assert "is no folder" in refused(run("random", "--log", str(tmp_path / "absent")))


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    logged(tmp_path, [row(0, [candidate("boots", chance=1.0)], "boots")])
    path = next(tmp_path.rglob("*.parquet"))
    path.write_bytes(b"PAR1 and nothing else PAR1")
    assert "cannot be read" in refused(run("random", "--log", str(tmp_path)))


def test_pictures_lie_beside_the_numbers(log: str, policies: str, tmp_path: Path) -> None:
    done = run(policies, "none", "--log", log, "--plot", str(tmp_path / "plots"), "--json")
    assert done.exit_code == 0, done.output
    written = [Path(path) for path in said(done)["pictures"]]
    assert sorted(path.name for path in written if path.suffix == ".svg") == [
        "calibration-email-accept.svg",
        "calibration-email-opt_out.svg",
        "policy-1-estimates.svg",
        "policy-1-weights.svg",
        "policy-2-estimates.svg",
        "policy-2-weights.svg",
    ]
    for path in written:
        start = path.read_bytes()[:8]
        assert start.startswith(b"<?xml") if path.suffix == ".svg" else start == b"\x89PNG\r\n\x1a\n"


def test_a_folder_for_pictures_that_cannot_be_made_is_said(log: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(run("random", "--log", log, "--plot", str(tmp_path / "file" / "x")))


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("groups")
    rows = []
    for number in range(2000):
        control = number % 4 == 0
        reward = float(number % 16 == 0 if control else number % 2 == 0)
        rows.append(
            row(
                number,
                [] if control else [candidate("boots", chance=1.0)],
                None if control else "boots",
                grp="control" if control else "none",
                reward=reward,
                outcome="accepted" if reward else "silent",
                outcome_at=START + 10 * DAY_MS,
            )
        )
    logged(folder, rows)
    return str(folder)


def test_lift_is_told_overall_and_by_segment_with_its_picture(groups: str, tmp_path: Path) -> None:
    done = run(
        "lift",
        "--log",
        groups,
        "--segment",
        "profile.tier",
        "--plot",
        str(tmp_path),
        "--planned",
        "2000",
        "--json",
    )
    assert done.exit_code == 0, done.output
    found = said(done)
    assert (found["overall"]["verdict"], found["overall"]["control"]) == ("better", 500)
    assert [one["segment"] for one in found["segments"]] == ["basic", "gold"]
    assert [Path(path).name for path in found["pictures"]] == [
        "lift.svg",
        "lift.png",
        "lift-segments.svg",
        "lift-segments.png",
    ]
    table = run("lift", "--log", groups)
    assert "everybody" in table.stdout
    assert "hold at every look" in table.stdout


def test_lift_that_is_too_early_is_the_answer_no(log: str) -> None:
    done = run("lift", "--log", log, "--json")
    assert done.exit_code == 1
    assert said(done)["overall"]["low"] is None
