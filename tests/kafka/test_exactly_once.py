"""`python -m loadtests.once` in short: faults change nothing, and without positions a replay is seen."""

from collections.abc import Iterator

import pytest

from api.running.kafka.jars import Kafka
from loadtests.once.judge import Verdict
from loadtests.once.run import Run, running

EVENTS = 10_000
FAULTS = ("kill", "freeze", "store", "broker", "reset")
FORGOTTEN = 120
"""People whose events are of 60 days, so that some ids are forgotten: four in ten of 300."""


@pytest.fixture(scope="module")
def run(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with running(tmp_path_factory.mktemp("once")) as (tact, policies):
        one = Run(tact, policies, seed=7, workers=2)
        sender = one.start(EVENTS, customers=300, pace=600)
        for kind in FAULTS:
            one.hurt(kind)
        sender.finish()
        yield one


@pytest.fixture(scope="module")
def verdict(run: Run) -> Verdict:
    run.settle()
    return run.judge()


@pytest.fixture(scope="module")
def careless(run: Run, verdict: Verdict) -> Verdict:
    """Everything again, by workers that pay no heed to positions."""
    run.replay_carelessly()
    run.settle()
    return run.judge()


def test_every_customer_is_what_the_events_make_whatever_happens_to_the_processes(
    run: Run, verdict: Verdict
) -> None:
    assert verdict.differences == []
    assert (verdict.missing, verdict.quarantined) == (0, 0)
    assert (verdict.events >= EVENTS, verdict.people, verdict.merged) == (True, 240, 60)
    assert set(run.faults.done) == set(FAULTS)


def test_without_positions_the_same_comparison_is_red(careless: Verdict) -> None:
    wrong = {sentence.partition(":")[0] for sentence in careless.differences}
    past = {f"c-{number}" for number in range(300) if number % 10 < 4}
    assert wrong <= past  # the ids of everybody else are still known
    assert len(wrong) > FORGOTTEN // 2
