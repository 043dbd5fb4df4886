"""The metrics are those of docs/metrics.md, with the labels that it names, and say what was counted."""

import re
import time
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from api.metrics import Page, observe, of_folding, of_following, of_judging, of_store, render
from engine.measures import FoldMeasures, FollowMeasures, JudgingMeasures, StoreMeasures

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text()


def told(text: bytes) -> dict[str, float]:
    """Return the samples of Tact's own metrics, as they are written."""
    lines = [line for line in text.decode().splitlines() if line.startswith("tact_")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def full() -> tuple[JudgingMeasures, StoreMeasures, FoldMeasures, FollowMeasures]:
    """Return measures of which each has counted something."""
    judging, store, fold, follow = JudgingMeasures(), StoreMeasures(), FoldMeasures(), FollowMeasures(0)
    judging.judgements[1] += 1
    judging.decisions["offer", None] += 1
    judging.checks[True] += 1
    judging.refused("check", ["any-daily"])
    judging.overruns["any-daily"] += 1
    store.failures["late"] += 1
    fold.batches.observe(3)
    fold.visible.observe(0.02)
    fold.visible_since_occurred.observe(0.03)
    fold.quarantined["too old"] += 1
    fold.lag["tact.events:0"] = 7
    follow.errors["store"] += 1
    return judging, store, fold, follow


def test_the_page_of_the_docs_names_each_metric_and_its_labels() -> None:
    judging, store, fold, follow = full()
    observe("/v1/decide", 200, 0.002)
    page = Page(lambda: of_folding(fold), lambda: of_following(follow))
    text = render(judging, store) + generate_latest(page)
    kinds = {"counter": "_total", "histogram": "", "gauge": ""}
    made = {
        family.name + kinds[family.type]: {label for one in family.samples for label in one.labels} - {"le"}
        for family in text_string_to_metric_families(text.decode())
        if family.name.startswith("tact_")
    }
    rows = re.findall(r"^\| `(tact_\w+)` \| (.*?) \|", DOCS, re.MULTILINE)
    listed = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert listed == made


def test_a_histogram_counts_up_to_each_bound() -> None:
    _, _, fold, _ = full()
    fold.batches.observe(2, times=4)
    said = told(generate_latest(Page(lambda: of_folding(fold))))
    assert [said[f'tact_fold_batch_events_bucket{{le="{bound}"}}'] for bound in ("1", "2", "5", "+Inf")] == [
        0,
        4,
        5,
        5,
    ]
    assert (said["tact_fold_batch_events_count"], said["tact_fold_batch_events_sum"]) == (5, 11)
    assert said['tact_event_visible_seconds_bucket{le="0.025",since="accepted"}'] == 1
    assert said['tact_event_visible_seconds_bucket{le="0.025",since="occurred"}'] == 0
    assert said['tact_lag_entries{source="tact.events:0"}'] == 7
    assert said['tact_quarantined_total{kind="too old"}'] == 1


def test_what_was_judged_is_told_by_action_answer_and_rule() -> None:
    judging, store, _, _ = full()
    store.calls, store.writes, store.redials = 9, 3, 2
    said = told(generate_latest(Page(lambda: of_judging(judging), lambda: of_store(store))))
    assert said == {
        'tact_commits_total{judgements="1"}': 1,
        'tact_decisions_total{action="offer",reason=""}': 1,
        'tact_checks_total{allowed="true"}': 1,
        'tact_rule_refusals_total{asked="check",rule="any-daily"}': 1,
        'tact_overruns_total{rule="any-daily"}': 1,
        "tact_store_round_trips_total": 9,
        "tact_store_writes_total": 3,
        'tact_store_failures_total{reason="late"}': 1,
        "tact_store_redials_total": 2,
    }


def test_the_lag_of_a_follower_grows_until_it_has_read_on() -> None:
    now = time.time()
    follow = FollowMeasures(now - 60)

    def lag() -> float:
        return told(generate_latest(Page(lambda: of_following(follow))))["tact_trail_lag_seconds"]

    assert 60 <= lag() < 120
    follow.took(5, now + 30)  # the store's clock may be ahead of ours
    assert (lag(), follow.steps) == (0, 5)
