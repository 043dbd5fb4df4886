"""Looks at a fleet from outside: when an event of each partition is visible, and what each customer's events count.

A probe is a customer that nobody knew before: its event is visible as soon as a decision has features of it.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from api.remote import RemoteFailure
from api.running.settings import setting
from engine.kafka.topics import GROUP, partition_of
from features.identity import tag
from loadtests.fleet import Fleet
from loadtests.once import hands

COUNT: Final = "f0"
"""The feature of `loadtests.shop` that counts page views."""
_POLL_S: Final = 0.01


class Probes:
    """Probes of one fleet, which runs on the policy set of `loadtests.shop`."""

    def __init__(self, fleet: Fleet) -> None:
        """Read the installation's secret, which says whose events lie where."""
        self.fleet = fleet
        self.partitions = int(setting("TACT_KAFKA_PARTITIONS", fleet.environment))
        self._secret = asyncio.run(hands.secret(fleet.store_url))
        self._numbers = itertools.count()

    def visible(self, within_s: float, *, api: int = 0, since: float | None = None) -> float:
        """Send an event to each partition and wait until all are visible; returns the seconds (`since` a moment).

        An event that is refused is sent again. RuntimeError when that takes longer than `within_s`.
        """
        began = time.monotonic() if since is None else since
        waiting = self._customers()
        self._until(lambda: self._accepted(api, waiting), began + within_s, "the events are not accepted")
        for partition, who in waiting.items():
            self._until(
                partial(self._seen, api, who),
                began + within_s,
                f"an event of partition {partition} is not visible",
            )
        return time.monotonic() - began

    def accepted(self, within_s: float, *, api: int = 0, since: float) -> float:
        """Wait until an event of every partition is accepted; returns the seconds since a moment."""
        waiting = self._customers()
        self._until(lambda: self._accepted(api, waiting), since + within_s, "the events are not accepted")
        return time.monotonic() - since

    def shared_by(self, workers: int, within_s: float) -> None:
        """Wait until the partitions are shared out among exactly so many workers; RuntimeError."""
        self._until(
            lambda: asyncio.run(_shares(self.fleet.cluster.bootstrap)) == workers,
            time.monotonic() + within_s,
            f"the partitions are not shared out among {workers} workers",
        )

    def health(self, api: int = 0) -> tuple[str, str]:
        """Return what /readyz says in all and of events, while it answers 200; nothing otherwise."""
        try:
            said = self.fleet.ask("GET", "/readyz", api=api)
        except RemoteFailure:
            return "", ""
        return said["status"], said["dependencies"]["events"]

    def counts(self, customers: Iterable[str], *, api: int = 0) -> dict[str, int]:
        """Return how many page views each customer has, who is unknown none."""
        found = {}
        for who in customers:
            try:
                said = self.fleet.ask("GET", f"/v1/customers/{who}", api=api)
            except RemoteFailure as failure:
                if failure.body is None or failure.body["status"] != 404:
                    raise
                found[who] = 0
            else:
                found[who] = int(said["features"][COUNT]["value"])
        return found

    def _customers(self) -> dict[int, str]:
        """Return a new customer of each partition."""
        found: dict[int, str] = {}
        while len(found) < self.partitions:
            who = f"probe-{next(self._numbers)}"
            found.setdefault(partition_of(tag(self._secret, who), self.partitions), who)
        return found

    def _accepted(self, api: int, customers: dict[int, str]) -> bool:
        events = [
            {"event_id": f"of-{who}", "type": "page_view", "customer_id": who} for who in customers.values()
        ]
        return self._asked(api, "/v1/events", events) is not None

    def _seen(self, api: int, who: str) -> bool:
        said = self._asked(api, "/v1/decide", {"customer_id": who, "placement": "hero", "preview": True})
        return said is not None and said["features_as_of"] is not None

    def _asked(self, api: int, path: str, body: Any) -> Any:
        with suppress(RemoteFailure):
            return self.fleet.ask("POST", path, body, api=api)
        return None

    def _until(self, true: Callable[[], bool], give_up: float, complaint: str) -> None:
        while not true():
            if time.monotonic() > give_up:
                raise RuntimeError(f"{complaint}: {self.fleet.logs()}")
            time.sleep(_POLL_S)


async def _shares(bootstrap: str) -> int:
    """Return how many members of the group of workers hold partitions, 0 while they are being shared out."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        (answer,) = await admin.describe_consumer_groups([GROUP])
    finally:
        await admin.close()
    _, _, state, _, _, members = answer.groups[0][:6]
    if state != "Stable":
        return 0
    return sum(any(parts for _, parts in _assignment(member[4])) for member in members)


def _assignment(blob: bytes) -> list[tuple[str, list[int]]]:
    """Return topics and their partitions of what a member holds."""
    return list(ConsumerProtocolMemberAssignment.decode(blob).assignment)
