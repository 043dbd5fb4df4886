"""Brokers of a cluster of three are killed under load: nothing that was acknowledged is lost, nothing counts twice.

    python -m loadtests.kafka_brokers --events 500

Two APIs and two feature workers get a steady load of events and decisions; each event is kept by three brokers, of
which two must have it before it is acknowledged. The broker that leads most partitions is killed; when it is back and
in sync, the one that leads most of the rest. Decisions go on, events are answered 202 or 503 with Retry-After, and at
the end each customer's count equals the customer's acknowledged events. Exit 1 when anything of that is broken.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from engine.kafka.topics import EVENTS
from loadtests import fleet, shop
from loadtests.findings import Findings
from loadtests.fleet import Fleet
from loadtests.probes import Probes
from loadtests.steady import Rates, Steady, between, summary

COPIES: Final = 3
PATIENCE_S: Final = 60.0
CALM_S: Final = 10.0
"""How long the load runs between two faults, all being well."""


def say(sentence: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)


async def _partitions(bootstrap: str) -> list[Any]:
    """Return what Kafka says of the topic's partitions."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        (described,) = await admin.describe_topics([EVENTS])
    finally:
        await admin.close()
    return list(described["partitions"])


def _in_sync(tact: Fleet) -> bool:
    """Say whether every partition is kept by all brokers."""
    try:
        found = asyncio.run(_partitions(tact.cluster.bootstrap))
    except (KafkaError, OSError, TimeoutError):
        return False
    return all(len(partition["isr"]) == COPIES for partition in found)


def _first(tact: Fleet, besides: int) -> tuple[int, int]:
    """Return the broker that leads most partitions, `besides` left out, and how many it leads."""
    found = asyncio.run(_partitions(tact.cluster.bootstrap))
    leaders = Counter(int(partition["leader"]) for partition in found if partition["leader"] != besides)
    return leaders.most_common(1)[0]


def _lose(tact: Fleet, load: Steady, probes: Probes, besides: int) -> tuple[int, dict[str, Any]]:
    """Kill the broker that leads most partitions and bring it back; returns its number and what was seen."""
    number, leads = _first(tact, besides)
    say(f"broker {number}, which leads {leads} partitions, is killed")
    gone = time.monotonic()
    tact.cluster.node(number).kill()
    accepted_s = probes.accepted(PATIENCE_S, since=gone)
    visible_s = probes.visible(PATIENCE_S, since=gone)
    time.sleep(CALM_S)
    end = time.monotonic()
    tact.cluster.restart(number)
    in_sync_s = fleet.wait_for(lambda: _in_sync(tact), PATIENCE_S, tact.logs)
    fleet.wait_for(lambda: load.waiting == 0, PATIENCE_S, tact.logs)
    say(f"it is back; all partitions took events again after {accepted_s:.1f} s")
    time.sleep(CALM_S)
    return number, {
        "broker": number,
        "led_partitions": leads,
        "all_partitions_accept_after_s": round(accepted_s, 2),
        "all_partitions_visible_after_s": round(visible_s, 2),
        "in_sync_again_after_restart_s": round(in_sync_s, 2),
        "events": summary(between(load.sent, gone, end)),
        "decisions": summary(between(load.decided, gone, end)),
    }


def measure(rates: Rates) -> Findings:
    """Kill two brokers, one after the other."""
    found = Findings()
    found.figures |= {"events_per_s": rates.events, "events_per_request": rates.pack}
    with tempfile.TemporaryDirectory(prefix="tact-brokers-") as folder:
        policies = shop.write(Path(folder) / "policies", 20)
        settings = {"TACT_LOG": "warning", "TACT_KAFKA_COPIES": str(COPIES)}
        with fleet.running(
            Path(folder), policies, apis=2, workers=2, nodes=COPIES, settings=settings
        ) as tact:
            probes = Probes(tact)
            probes.shared_by(2, PATIENCE_S)
            load = Steady(tact.urls, rates)
            load.start()
            time.sleep(CALM_S)
            first, seen_first = _lose(tact, load, probes, 0)
            _, seen_second = _lose(tact, load, probes, first)
            found.figures["killed"] = [seen_first, seen_second]
            load.finish(PATIENCE_S)
            found.compare(load, probes, PATIENCE_S)
    found.answered(load)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=float, default=500.0, help="events a second")
    parser.add_argument("--pack", type=int, default=5, help="events in one request")
    parser.add_argument("--decisions", type=float, default=50.0, help="decisions a second")
    asked = parser.parse_args()
    found = measure(Rates(asked.events, asked.decisions, asked.pack))
    print(json.dumps(found.result(), indent=2))
    sys.exit(1 if found.complaints else 0)


if __name__ == "__main__":
    main()
