"""While Kafka is away decisions go on and events wait; everything comes back by itself, and each event counts once.

A short form of `python -m loadtests.kafka_outage`.
"""

import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from api.remote import RemoteFailure
from api.running.kafka.jars import Kafka
from api.running.kafka.node import QUICK_SESSIONS
from loadtests import fleet, shop
from loadtests.fleet import Fleet, Process, wait_for
from loadtests.probes import Probes
from loadtests.steady import (
    Answer,
    Rates,
    Steady,
    between,
    compared,
    neither_accepted_nor_refused,
    not_decided,
)

PARTITIONS = 6
RATES = Rates(events=20, decisions=20, customers=15)
BEFORE = 20
NOTICED_S = 5.0
"""Kafka is away for longer than an API may take to notice."""
AFTERWARDS = 20
"""Events of one load that are sent after that, before Kafka comes back."""
WITHIN_S = 30.0
UNAVAILABLE = "urn:tact:problem:events-unavailable"


class Outage(NamedTuple):
    """What was seen while Kafka was away for some seconds."""

    load: Steady
    hasty: Steady
    """The load of an API that says yes before Kafka does."""
    meanwhile: list[Answer]
    """Answers to events, once the outage must have been noticed."""
    decided: list[Answer]
    status: str
    """What /readyz said."""
    events: str
    """What it said of events."""


@pytest.fixture(scope="module")
def tact(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One broker, one worker, an API, and one that says yes too early."""
    if "KAFKA_BOOTSTRAP" in os.environ:
        pytest.skip("KAFKA_BOOTSTRAP names a broker that is not ours to kill; unset it to start one here")
    folder = tmp_path_factory.mktemp("outage")
    policies = shop.write(folder / "policies", 5)
    settings = {"TACT_KAFKA_PARTITIONS": str(PARTITIONS), "TACT_LOG": "warning"}
    with fleet.running(folder, policies, settings=settings, kafka_settings=QUICK_SESSIONS) as one:
        one.add_api(policies, "loadtests.hasty")
        one.wait_ready()
        yield one


@pytest.fixture(scope="module")
def probes(tact: Fleet) -> Probes:
    return Probes(tact)


@pytest.fixture(scope="module")
def outage(tact: Fleet, probes: Probes) -> Outage:
    load = Steady(tact.urls[:1], RATES, name="honest")
    hasty = Steady(tact.urls[1:], RATES, name="hasty")
    load.start()
    hasty.start()
    wait_for(lambda: min(load.owed.total(), hasty.owed.total()) >= BEFORE, WITHIN_S, tact.logs)
    tact.cluster.node(1).kill()
    gone = time.monotonic()
    noticed = gone + NOTICED_S
    wait_for(lambda: len(between(load.sent, noticed, math.inf)) >= AFTERWARDS, WITHIN_S, tact.logs)
    status, events = probes.health()
    back = time.monotonic()
    tact.cluster.restart()
    load.finish()
    hasty.finish()
    probes.visible(WITHIN_S)
    return Outage(
        load,
        hasty,
        between(load.sent, noticed, back),
        between(load.decided, gone, back),
        status,
        events,
    )


def refusal(tact: Fleet) -> int:
    """Send an event and return the status of its refusal, 202 when there was none."""
    try:
        tact.ask("POST", "/v1/events", {"type": "page_view", "customer_id": "somebody"})
    except RemoteFailure as failure:
        return int(failure.body["status"])
    return 202


def test_decisions_go_on_while_kafka_is_away(outage: Outage) -> None:
    assert len(outage.decided) > AFTERWARDS
    assert not_decided(outage.decided, storeless=True) == []


def test_events_are_answered_503_with_retry_after_while_kafka_is_away(outage: Outage) -> None:
    assert {(answer.status, answer.said) for answer in outage.meanwhile} == {(503, UNAVAILABLE)}
    assert neither_accepted_nor_refused(outage.load.sent, math.inf) == []


def test_readyz_names_the_events_and_goes_on_serving_while_kafka_is_away(outage: Outage) -> None:
    assert outage.status == "degraded"
    assert outage.events != "ok"


def test_each_event_counts_once_after_kafka_was_away(outage: Outage, probes: Probes) -> None:
    assert outage.load.owed.total() == outage.load.made
    assert compared(outage.load.owed, probes.counts(outage.load.owed)) == (0, 0)


def test_an_api_that_says_yes_before_kafka_does_is_found_out(outage: Outage, probes: Probes) -> None:
    lost, doubled = compared(outage.hasty.owed, probes.counts(outage.hasty.owed))
    assert lost > 0
    assert doubled == 0


def test_a_worker_that_was_killed_goes_on_when_it_is_started_again(tact: Fleet, probes: Probes) -> None:
    (worker,) = tact.workers
    worker.kill()
    worker.start()
    probes.visible(WITHIN_S)
    assert worker.alive


def test_an_api_and_a_worker_end_and_start_while_kafka_is_away(tact: Fleet, probes: Probes) -> None:
    api, (worker,) = tact.apis[0], tact.workers
    tact.cluster.node(1).kill()
    wait_for(lambda: refusal(tact) == 503, WITHIN_S, tact.logs)
    assert (api.stop(), worker.stop()) == (0, 0)
    worker.log.write_bytes(b"")
    api.start()
    worker.start()
    wait_for(lambda: probes.health()[0] == "degraded", WITHIN_S, tact.logs)
    wait_for(lambda: b"waiting: no broker of" in worker.log.read_bytes(), WITHIN_S, tact.logs)
    assert tact.ask("POST", "/v1/decide", {"customer_id": "c1", "placement": "hero"})["action"] == "offer"
    assert refusal(tact) == 503
    assert worker.alive
    tact.cluster.restart()
    probes.visible(WITHIN_S)


def test_a_worker_ends_while_its_broker_hangs_and_goes_on_later(tact: Fleet, probes: Probes) -> None:
    (worker,) = tact.workers
    probes.visible(WITHIN_S)
    broker = tact.cluster.node(1).pid
    assert broker is not None
    os.kill(broker, signal.SIGSTOP)
    try:
        wait_for(lambda: refusal(tact) == 503, WITHIN_S, tact.logs)
        assert worker.stop() == 0
    finally:
        os.kill(broker, signal.SIGCONT)
    worker.start()
    probes.visible(WITHIN_S)


@pytest.mark.parametrize("arguments", [["api"], ["worker", "features"]])
def test_a_topic_of_another_number_of_partitions_is_refused_in_one_sentence(
    tact: Fleet, probes: Probes, tmp_path: Path, arguments: list[str]
) -> None:
    probes.visible(WITHIN_S)  # the topic is there
    other = {**tact.environment, "TACT_KAFKA_PARTITIONS": "5", "TACT_PORT": "0"}
    process = Process("other", arguments, other, tmp_path / "other.log")
    process.start()
    try:
        assert process.wait() == 1
    finally:
        process.kill()
    assert (
        process.log.read_text()
        .splitlines()[-1]
        .endswith(
            f"the topic tact.events has {PARTITIONS} partitions, TACT_KAFKA_PARTITIONS says 5: set it to {PARTITIONS}; "
            "the number is fixed once the topic is made"
        )
    )
