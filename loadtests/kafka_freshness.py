"""How long it takes from sending an event until a decision sees it, through Kafka, under load.

    python -m loadtests.kafka_freshness

One broker, two feature workers, two APIs. In the background events are sent at a steady rate: 200 a second, one in a
request, then 1,000 a second, ten in a request. Meanwhile one probe after the other: an event of a customer that nobody
knew, sent to `POST /v1/events`, and decisions asked for until one has features of it (`features_as_of`). The time
counts from the sending. Exit 1 when the 99th percentile is over 150 ms, or anything was refused.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np
import uvloop

from loadtests import fleet, shop
from loadtests.fleet import Fleet
from loadtests.probes import Probes
from loadtests.steady import Rates, Steady, summary

TARGET_MS: Final = 150.0
LOADS: Final = (Rates(200, 0, 1, 5_000), Rates(1_000, 0, 10, 5_000))
WARM_S: Final = 5.0
PAUSE_S: Final = 0.05
"""Between two probes."""
POLL_S: Final = 0.001
PATIENCE_S: Final = 60.0


async def _probed(url: str, probes: int, name: str) -> list[float]:
    """Return how long each probe took to be visible (ms)."""
    found = []
    async with aiohttp.ClientSession() as session:
        for number in range(probes):
            who = f"{name}-{number}"
            event = {"type": "page_view", "customer_id": who, "properties": {"category": "boots"}}
            question = {"customer_id": who, "placement": "hero", "preview": True}
            began = time.perf_counter()
            async with session.post(f"{url}/v1/events", json=event) as reply:
                assert reply.status == 202, await reply.text()
            while True:
                async with session.post(f"{url}/v1/decide", json=question) as reply:
                    said = await reply.json()
                if said["features_as_of"] is not None:
                    break
                await asyncio.sleep(POLL_S)
            found.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(PAUSE_S)
    return found


def _measured(tact: Fleet, rates: Rates, probes: int) -> tuple[dict[str, Any], list[str]]:
    """Probe under one load; returns the figures and what was broken."""
    name = f"at-{rates.events:.0f}"
    load = Steady(tact.urls, rates, name=name)
    load.start()
    time.sleep(WARM_S)
    began, before = time.monotonic(), load.made
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        waits = runner.run(_probed(tact.urls[0], probes, f"probe-{name}"))
    rate = (load.made - before) / (time.monotonic() - began)
    load.finish(PATIENCE_S)
    p50, p95, p99 = (round(float(np.percentile(waits, share)), 1) for share in (50, 95, 99))
    requests = summary(load.sent)
    figures = {
        "events_per_s": round(rate),
        "events_per_request": rates.pack,
        "probes": probes,
        "visible_p50_ms": p50,
        "visible_p95_ms": p95,
        "visible_p99_ms": p99,
        "visible_worst_ms": round(max(waits), 1),
        "requests": requests,
    }
    print(f"{name}: {figures}", file=sys.stderr, flush=True)
    complaints = list(load.refused)
    if set(requests["statuses"]) != {"202"}:
        complaints.append(f"events were refused with nothing wrong: {requests['statuses']}")
    if p99 > TARGET_MS:
        complaints.append(
            f"at {rates.events:.0f} events/s the p99 is {p99} ms, at most {TARGET_MS:.0f} was promised"
        )
    return figures, complaints


def measure(probes: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure under each load."""
    rows, complaints = [], []
    with tempfile.TemporaryDirectory(prefix="tact-freshness-") as folder:
        policies = shop.write(Path(folder) / "policies", 100)
        with fleet.running(
            Path(folder), policies, apis=2, workers=2, settings={"TACT_LOG": "warning"}
        ) as tact:
            Probes(tact).shared_by(2, PATIENCE_S)
            for rates in LOADS:
                row, broken = _measured(tact, rates, probes)
                rows.append(row)
                complaints += broken
    return rows, complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--probes", type=int, default=500, help="events whose way is timed, under each load")
    asked = parser.parse_args()
    rows, complaints = measure(asked.probes)
    print(json.dumps({"loads": rows, "broken": len(complaints), "examples": complaints[:20]}, indent=2))
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
