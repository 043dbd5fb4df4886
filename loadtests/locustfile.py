"""The true mix of traffic against a running Tact.

`locust -f loadtests/locustfile.py --headless -u 20 -r 20 -t 30s --host http://127.0.0.1:8080`: for each decision
some three events, now and then a sender's check of several customers with its confirms, and a look at a customer.
"""

import random
from typing import Any

from locust import FastHttpUser, between, task

CUSTOMERS = 5_000
TYPES = (
    "page_view",
    "page_view",
    "page_view",
    "click",
    "add_to_cart",
    "email_open",
    "store_scan",
    "purchase",
)


class Shopper(FastHttpUser):
    """A touchpoint of the shop: it reports, asks and sends."""

    wait_time = between(0.01, 0.05)

    def on_start(self) -> None:
        """Know the placements and channels of the active policy."""
        active: Any = self.client.get("/v1/policies/active").json()
        self.placements = list(active["placements"])
        self.channels = [name for name, kind in active["channels"].items() if kind == "outbound"]
        self.categories = active["categories"]

    @task(30)
    def event(self) -> None:
        """Report what somebody did."""
        kind = random.choice(TYPES)
        self.client.post(
            "/v1/events",
            json={
                "type": kind,
                "customer_id": self._somebody(),
                "properties": {"category": random.choice(("boots", "coats", "ski")), "amount": 12.5},
            },
        )

    @task(10)
    def decide(self) -> None:
        """Ask for the next best action."""
        self.client.post(
            "/v1/decide", json={"customer_id": self._somebody(), "placement": random.choice(self.placements)}
        )

    @task(2)
    def send(self) -> None:
        """Check some customers, confirm the reserved ones, release one in ten."""
        body = {
            "channel": random.choice(self.channels),
            "category": random.choice(self.categories),
            "customer_ids": [self._somebody() for _ in range(20)],
        }
        answer: Any = self.client.post("/v1/contacts/check", json=body).json()
        for result in answer["results"]:
            if result.get("reservation_id"):
                end = "release" if random.random() < 0.1 else "confirm"
                self._end(result["reservation_id"], end)

    def _end(self, reservation_id: str, end: str) -> None:
        path = f"/v1/contacts/{reservation_id}/{end}"
        with self.client.post(path, name=f"/v1/contacts/[id]/{end}", catch_response=True) as reply:
            # A refusal at the confirm is an answer: the night may have begun meanwhile.
            if reply.status_code in (200, 409):
                reply.success()

    @task(1)
    def look(self) -> None:
        """Look at a customer as a service agent does."""
        with self.client.get(
            f"/v1/customers/{self._somebody()}", name="/v1/customers/[id]", catch_response=True
        ) as reply:
            if reply.status_code in (200, 404):
                reply.success()

    @staticmethod
    def _somebody() -> str:
        return f"customer-{random.randrange(CUSTOMERS)}"
