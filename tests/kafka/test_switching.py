"""From the store's journal to Kafka and back, as docs/operating.md says: every event counts once."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

from api.remote import RemoteFailure, ask
from api.running.distributed import ROOT
from api.running.kafka.jars import Kafka
from api.running.processes import answers
from loadtests.fleet import Fleet, Process, running, wait_for

CUSTOMER = "switched"


def waited_ms(fleet: Fleet, kafka: str) -> int:
    """Return what the health command of the page says, with TACT_KAFKA or without."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TACT_")}
    done = subprocess.run(
        [sys.executable, "deploy/health.py", "features"],
        cwd=ROOT,
        env={**inherited, "TACT_STORE": fleet.store_url, "TACT_KAFKA": kafka},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(re.findall(r"has waited (\d+) ms", done.stdout)[0])


def send(fleet: Fleet, number: int, api: int) -> None:
    event = {"type": "page_view", "customer_id": CUSTOMER, "channel": "web"}
    assert fleet.ask("POST", "/v1/events", [event] * number, api=api)["accepted"] == number


def views(fleet: Fleet) -> int:
    return int(fleet.ask("GET", f"/v1/customers/{CUSTOMER}")["features"]["views_7d"]["value"])


def restart(process: Process, kafka: str) -> None:
    assert process.stop() == 0
    process._environment["TACT_KAFKA"] = kafka
    process.start()


def switch(fleet: Fleet, *, before: str, after: str) -> None:
    """Do as the page says, once no more events come."""
    wait_for(lambda: waited_ms(fleet, before) == 0, 20, fleet.logs)
    (worker,) = fleet.workers
    assert worker.stop() == 0
    for number, api in enumerate(fleet.apis):
        restart(api, after)
        wait_for(partial(serves, fleet.urls[number]), 20, fleet.logs)
    worker._environment["TACT_KAFKA"] = after
    worker.start()
    wait_for(lambda: all(answers(url) for url in fleet.urls), 20, fleet.logs)


def serves(url: str) -> bool:
    """Say whether it decides: it is degraded while no worker is there."""
    try:
        return bool(ask(url, "GET", "/readyz")["status"])
    except RemoteFailure:
        return False


def test_events_count_once_from_the_stores_journal_to_kafka_and_back(kafka: Kafka, tmp_path: Path) -> None:
    policies = ROOT / "policies" / "retail"
    with running(tmp_path, policies, apis=2, workers=1, settings={"TACT_KAFKA": ""}) as fleet:
        brokers = fleet.cluster.bootstrap
        send(fleet, 7, api=0)
        switch(fleet, before="", after=brokers)
        assert views(fleet) == 7
        send(fleet, 5, api=1)
        switch(fleet, before=brokers, after="")
        assert views(fleet) == 12
        send(fleet, 3, api=0)
        wait_for(lambda: views(fleet) == 15, 10, fleet.logs)
        assert waited_ms(fleet, brokers) == waited_ms(fleet, "") == 0
