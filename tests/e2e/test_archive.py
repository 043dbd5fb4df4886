"""Every decision becomes a row of the decision log, and the last row of a decision is the whole truth."""

from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest

from engine.evaluation.export import export
from engine.evaluation.files import BadLog
from engine.evaluation.log import read
from engine.evaluation.target import of_policy
from engine.judging.decision import DECODER, ENCODER, Record
from engine.judging.ids import split_id
from engine.judging.plan import compile_plan
from engine.judging.trail import ARCHIVED, LEARNED
from engine.workers.archive import DUE, WRITTEN, Archive
from policies.loader import load_files
from tests.e2e.learning_world import FILES, World, shop

__all__ = ["shop"]  # pytest finds the fixture here

HOUR_MS = 3_600_000


@pytest.fixture
def archive(world: World, tmp_path: Path) -> Archive:
    return Archive(world.one.customers, world.one.plans, tmp_path / "log")


def archived(world: World, archive: Archive) -> None:
    while world.run(archive.step()):
        pass
    world.run(archive.flush())


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows in the order of the files."""
    return [row for file in sorted(folder.rglob("*.parquet")) for row in pl.read_parquet(file).to_dicts()]


def passes(world: World, decision_id: str) -> None:
    """Let a decision's window be over: its due time comes."""
    world.call("ZADD", DUE, 1, decision_id)


def test_a_decision_with_an_outcome_is_a_row_with_all_that_led_to_it(world: World, archive: Archive) -> None:
    world.event("page_view")
    world.run(world.one.people.put_profile("c1", {"tier": "gold"}))
    shown = world.decide(exclude=("hat",))
    offer = shown["offers"][0]["offer"]
    world.event("accept", shown, offer=offer)
    archived(world, archive)
    (row,) = rows(archive.folder)
    assert row["decision_id"] == shown["decision_id"]
    assert row["customer"] == world.one.customers.tag("c1")
    assert (row["action"], row["grp"], row["model_version"]) == ("offer", "none", "prior")
    assert (row["outcome"], row["reward"]) == ("accepted", 1.0)
    assert dict(row["inputs"]) == {
        "placement=home": 1.0,
        "features.views": 1.0,
        "profile.tier=gold": 1.0,
    }
    told = {one["offer"]: one for one in row["candidates"]}
    assert told["hat"]["reason"] == "excluded"
    assert told["hat"]["chance"] is None
    assert told["boots"]["propensity"] == pytest.approx(0.05)
    assert told["boots"]["low"] < 0.05 < told["boots"]["high"]
    assert told["boots"]["chance"] + told["socks"]["chance"] == pytest.approx(1.0)
    (chosen,) = row["chosen"]
    assert chosen["selection_probability"] == pytest.approx(told[offer]["chance"])


def test_what_a_yes_brought_and_an_opt_out_are_in_the_row(world: World, archive: Archive) -> None:
    shown = world.decide()
    for kind, told in (
        ("accept", {}),
        ("purchase", {"amount": 30.5}),
        ("purchase", {"amount": 7}),
        ("complaint", {}),
    ):
        world.event(kind, shown, properties=told)
    archived(world, archive)
    (row,) = rows(archive.folder)
    assert (row["outcome"], row["outcome_value"], row["opted_out"]) == ("accepted", 30.5, True)


def test_silence_is_written_when_the_window_has_passed_and_not_before(world: World, archive: Archive) -> None:
    shown = world.decide()
    archived(world, archive)
    assert rows(archive.folder) == []
    passes(world, shown["decision_id"])
    archived(world, archive)
    (row,) = rows(archive.folder)
    assert (row["outcome"], row["reward"]) == ("open", None)  # it was due too early, and stays due
    assert world.call("ZSCORE", DUE, shown["decision_id"]) is not None


def test_what_was_given_back_is_censored_and_never_a_no(world: World, archive: Archive) -> None:
    reserved = world.decide(placement="pop")
    world.run(world.one.contacts.release(reserved["reservation"]["id"]))
    archived(world, archive)
    (row,) = rows(archive.folder)
    assert (row["outcome"], row["reward"], row["delivered"]) == ("censored", None, False)


def test_a_learned_models_scores_are_logged_as_they_were(world: World, archive: Archive) -> None:
    for number in range(5):
        world.event("accept", world.decide(f"c{number}"), customer_id=f"c{number}")
    world.learn()
    world.run(world.learner.publish(0.0))
    world.run(world.one.models.refresh())
    shown = world.decide("c9", explain=True)
    world.event("accept", shown, customer_id="c9")
    archived(world, archive)
    row = next(row for row in rows(archive.folder) if row["decision_id"] == shown["decision_id"])
    told = {fate["offer"]: fate["details"] for fate in shown["trace"]}
    assert row["model_version"] == shown["model_version"]
    for one in row["candidates"]:
        assert one["propensity"] == pytest.approx(told[one["offer"]]["propensity"], rel=1e-6)
        assert one["priority"] == pytest.approx(told[one["offer"]]["priority"], rel=1e-6)
        assert one["deviation"] == pytest.approx(told[one["offer"]]["priority_deviation"], rel=1e-3)


def test_an_archive_that_died_goes_on_and_the_last_row_counts(world: World, archive: Archive) -> None:
    shown = world.decide()
    world.event("impression", shown)
    archived(world, archive)
    back = Archive(world.one.customers, world.one.plans, archive.folder)
    assert world.run(back.step()) == 0
    world.event("accept", shown)
    world.pass_a_millisecond()
    archived(world, back)
    assert [row["outcome"] for row in rows(archive.folder)] == ["open", "accepted"]
    log = read(archive.folder)
    assert log.outcome.tolist() == ["accepted"]
    assert log.reward.tolist() == [1.0]


def test_a_folder_that_cannot_be_written_to_is_told_of_and_loses_nothing(
    world: World, archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    archive.folder.write_text("in the way")
    world.event("accept", world.decide())
    while world.run(archive.step()):
        pass
    world.run(archive.try_flush())
    assert "make room there, or mend the folder" in caplog.text
    archive.folder.unlink()
    world.run(archive.try_flush())
    assert [row["outcome"] for row in rows(archive.folder)] == ["accepted"]


def test_the_log_is_read_by_duckdb_pandas_and_polars_as_it_is(world: World, archive: Archive) -> None:
    world.event("accept", world.decide())
    archived(world, archive)
    files = f"{archive.folder}/*/*.parquet"
    assert duckdb.connect().read_parquet(files).project("outcome, reward").fetchall() == [("accepted", 1.0)]
    assert pd.read_parquet(archive.folder)["outcome"].tolist() == ["accepted"]
    assert pl.read_parquet(files)["outcome"].to_list() == ["accepted"]


def test_an_export_has_each_decision_once(world: World, archive: Archive, tmp_path: Path) -> None:
    shown = world.decide()
    for outcome in ("impression", "accept"):
        world.event(outcome, shown)
        archived(world, archive)
        world.pass_a_millisecond()
    assert export(archive.folder, tmp_path / "out", date(2020, 1, 1)) == 1
    assert [row["outcome"] for row in rows(tmp_path / "out")] == ["accepted"]
    with pytest.raises(BadLog, match="no decisions since"):
        export(archive.folder, tmp_path / "none", date(9000, 1, 1))
    damaged = next(archive.folder.rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(BadLog, match="remove it or export that day again"):
        export(archive.folder, tmp_path / "none", date(2020, 1, 1))


def test_the_trail_is_kept_until_both_have_passed_it(world: World, archive: Archive) -> None:
    world.event("impression", world.decide())
    archived(world, archive)
    assert world.steps() == 2
    world.learn()
    world.run(world.learner.keep())
    assert world.call("GET", LEARNED) == world.call("GET", ARCHIVED)
    assert world.steps() <= 1


def test_what_the_control_group_buys_is_in_the_log_by_the_same_rule_as_what_others_buy(
    world: World, archive: Archive
) -> None:
    files = {**FILES, "policy.yaml": FILES["policy.yaml"] + "groups: {control: 50%}\n"}
    world.run(world.one.plans.activate(compile_plan(load_files(files).policy)))
    for number in range(8):
        # Before the decision: not its doing.
        world.event("purchase", customer_id=f"c{number}", ago_ms=HOUR_MS)
    made = {f"c{number}": world.decide(f"c{number}") for number in range(8)}
    for customer_id in made:
        world.event("page_view", customer_id=customer_id)
        world.event("purchase", customer_id=customer_id)
    archived(world, archive)
    for decision in made.values():
        passes(world, decision["decision_id"])
    archived(world, archive)
    found = rows(archive.folder)
    assert {row["grp"] for row in found} == {"control", "none"}
    assert [[one["type"] for one in row["responses"]] for row in found] == [["purchase"]] * 8
    log = read(archive.folder)
    assert len(log.responses.row) == 8
    assert log.responses.known.all()


def test_the_log_knows_who_was_new_so_the_policy_that_decided_is_judged_as_it_chose(
    world: World, archive: Archive
) -> None:
    exploring = "arbitration: {priority: propensity, exploration: {alpha: 0.01, floor: 20%}}\n"
    policy = load_files(FILES | {"policy.yaml": FILES["policy.yaml"] + exploring}).policy
    world.run(world.one.plans.activate(compile_plan(policy)))
    for number in range(70):  # at the till there are only boots: they are known by then
        world.event("accept" if number % 3 else "reject", world.decide(f"c{number}", "till"), f"c{number}")
    world.learn()
    world.run(world.learner.publish(0.0))
    world.run(world.one.models.refresh())
    for number in range(5):
        world.event("accept", world.decide(f"k{number}"), f"k{number}")
    archived(world, archive)
    assert [row["untried"] for row in rows(archive.folder)[-5:]] == [["socks", "hat"]] * 5
    log = read(archive.folder)
    home = log.placement[log.row] == "home"
    judged = of_policy(policy)(log)
    assert judged[home] == pytest.approx(log.factors["chance"][home], abs=1e-5)
    even = msgspec.structs.replace(log, untried=np.zeros_like(log.untried))
    assert of_policy(policy)(even)[home] != pytest.approx(judged[home], abs=0.05)


def closes(world: World, archive: Archive, *decision_ids: str) -> None:
    """Let the windows of decisions be over, for the learner as well."""
    archived(world, archive)
    for decision_id in decision_ids:
        passes(world, decision_id)
    archived(world, archive)
    learned = int(world.call("TIME")[0]) * 1000 + 8 * 24 * HOUR_MS
    for member in world.call("ZRANGE", DUE, 0, -1):
        world.call("ZADD", WRITTEN, 1, f"{member.decode()} {newest(archive)}")
    world.call("SET", LEARNED, f"{learned}-0")
    world.run(archive.empty())


def newest(archive: Archive) -> str:
    return str(max(archive.folder.rglob("*.parquet")).relative_to(archive.folder))


def held(world: World, decision_id: str) -> Record:
    place = split_id(decision_id)
    assert place is not None
    blob = world.run(world.one.store.record(*place))
    assert blob is not None
    return DECODER.decode(blob)


def test_a_closed_decision_leaves_a_stub_in_the_store_and_is_read_back_from_the_log_as_it_was(
    world: World, archive: Archive
) -> None:
    world.event("page_view")
    shown = world.decide(exclude=("hat",), context={"device": "mobile"})
    world.event("accept", shown, offer=shown["offers"][0]["offer"])
    before = world.run(world.one.records.read(shown["decision_id"]))
    size = len(ENCODER.encode(held(world, shown["decision_id"])))
    closes(world, archive, shown["decision_id"])
    left = held(world, shown["decision_id"])
    assert left.archived.startswith("day=")
    assert (left.state, left.scored, left.dropped) == (b"", b"", ())
    assert len(ENCODER.encode(left)) < size
    world.one.records.log_folder = archive.folder
    assert world.run(world.one.records.read(shown["decision_id"])) == before
    assert world.run(world.one.records.latest("c1", 5)) == {"decisions": [before]}


def test_without_the_log_a_closed_decision_says_what_it_chose_and_where_the_rest_is(
    world: World, archive: Archive
) -> None:
    shown = world.decide()
    closes(world, archive, shown["decision_id"])
    for folder in (None, archive.folder / "elsewhere"):
        world.one.records.log_folder = folder
        view = world.run(world.one.records.read(shown["decision_id"]))
        assert view["offers"] == shown["offers"]
        assert view["candidates"] == []
        assert view["archived"] == newest(archive)


def test_an_event_that_names_a_closed_decision_still_finds_its_offer(world: World, archive: Archive) -> None:
    shown = world.decide()
    closes(world, archive, shown["decision_id"])
    world.event("reject", shown)
    (mark,) = [
        mark for mark in world.run(world.one.customers.load("c1")).facts.marks if mark.type == "reject"
    ]
    assert mark.offers == (shown["offers"][0]["offer"],)
    world.one.records.log_folder = archive.folder
    assert [one["type"] for one in world.run(world.one.records.read(shown["decision_id"]))["outcomes"]] == [
        "reject"
    ]
    written = len(rows(archive.folder))
    archived(world, archive)
    assert len(rows(archive.folder)) == written  # its last row stays the last
    assert held(world, shown["decision_id"]).archived


def test_nothing_leaves_the_store_before_the_learner_has_passed_it(world: World, archive: Archive) -> None:
    shown = world.decide()
    archived(world, archive)
    passes(world, shown["decision_id"])
    archived(world, archive)
    world.call("ZADD", WRITTEN, 10, f"{shown['decision_id']} {newest(archive)}")
    world.call("SET", LEARNED, "10-5")
    assert world.run(archive.empty()) == 0
    assert not held(world, shown["decision_id"]).archived
    world.call("SET", LEARNED, "11-0")
    assert world.run(archive.empty()) == 1
    assert world.call("ZCARD", WRITTEN) == 0


def test_an_erased_customers_decision_is_not_brought_back(world: World, archive: Archive) -> None:
    shown = world.decide()
    archived(world, archive)
    passes(world, shown["decision_id"])
    archived(world, archive)
    world.call("ZADD", WRITTEN, 1, f"{shown['decision_id']} {newest(archive)}")
    world.call("SET", LEARNED, "11-0")
    world.run(world.one.people.erase("c1"))
    world.run(archive.empty())
    place = split_id(shown["decision_id"])
    assert place is not None
    assert world.run(world.one.store.record(*place)) is None


def test_the_log_holds_no_customers_id(world: World, archive: Archive) -> None:
    shown = world.decide("somebody@example.org")
    archived(world, archive)
    passes(world, shown["decision_id"])
    archived(world, archive)
    (row,) = rows(archive.folder)
    assert b"somebody" not in row["record"]
    assert "somebody" not in str(row)


def test_decisions_leave_the_store_by_themselves_when_their_window_and_the_learner_have_passed(
    world: World, archive: Archive
) -> None:
    soon = FILES | {"policy.yaml": FILES["policy.yaml"].replace("accept: 7d", "accept: 1s")}
    world.run(world.one.plans.activate(compile_plan(load_files(soon).policy)))
    shown = [world.decide(f"c{number}")["decision_id"] for number in range(3)]
    until = world.run(world.one.store.clock())[0] + 1_001
    archived(world, archive)
    while world.run(world.one.store.clock())[0] <= until:
        pass
    later = world.decide("c9")["decision_id"]
    world.learn()
    world.run(world.learner.keep())
    archived(world, archive)
    assert [bool(held(world, one).archived) for one in (*shown, later)] == [True, True, True, False]
    world.one.records.log_folder = archive.folder
    for one in shown:
        assert len(world.run(world.one.records.read(one))["candidates"]) == 3
