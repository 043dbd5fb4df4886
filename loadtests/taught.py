"""A running Tact that has learned: customers with a history, decisions, and answers to them."""

import random
import time
from typing import Any

from api.remote import ask
from loadtests.server import Running

CUSTOMERS = 500
EVENTS = 20
DECISIONS = 1_000
_CATEGORIES = ("boots", "hats", "coats", "bags")
_TYPES = (
    "page_view",
    "page_view",
    "purchase",
    "store_purchase",
    "email_delivered",
    "email_open",
    "store_scan",
)


def teach(tact: Running, seed: int = 5) -> None:
    """Give customers `known-N` a history, and let the engine learn from accepts until a model serves."""
    rnd = random.Random(seed)
    for number in range(CUSTOMERS):
        ask(tact.url, "POST", "/v1/events", [_event(f"known-{number}", rnd) for _ in range(EVENTS)])
    accepted: list[dict[str, Any]] = []
    for number in range(DECISIONS):
        who = f"known-{number % CUSTOMERS}"
        body = {"customer_id": who, "placement": "hero", "context": {"device": "mobile"}}
        answer = ask(tact.url, "POST", "/v1/decide", body)
        if rnd.random() < 0.1:
            accepted.append({"type": "accept", "customer_id": who, "decision_id": answer["decision_id"]})
    ask(tact.url, "POST", "/v1/events", accepted)
    until = time.monotonic() + 60
    while version(tact) == "prior":
        if time.monotonic() > until:
            raise SystemExit("no model serves after a minute: does the learner run?")
        time.sleep(0.1)


def version(tact: Running) -> str:
    """Return the version of the model that serves now."""
    body = {"customer_id": "nobody", "placement": "hero", "preview": True}
    return str(ask(tact.url, "POST", "/v1/decide", body)["model_version"])


def _event(customer: str, rnd: random.Random) -> dict[str, Any]:
    return {
        "type": rnd.choice(_TYPES),
        "customer_id": customer,
        "properties": {
            "category": rnd.choice(_CATEGORIES),
            "session_id": str(rnd.randrange(9)),
            "amount": round(rnd.uniform(1, 80), 2),
        },
    }
