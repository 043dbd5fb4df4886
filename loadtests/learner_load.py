"""All that a learner has to understand: a policy set with every kind of channel, customers who do everything.

An attribution window of seconds, so that windows end while a run lasts: yeses come before it, after it, twice, and
without saying about which of several offers; messages are confirmed, released, or left to expire; one channel tells
what was seen. Two heads learn.
"""

import random
from typing import Any, Final

from loadtests.talk import EVENTS, Follow

CUSTOMERS: Final = 400
POLICY: Final = {
    "policy.yaml": """
policy: learner-crash
timezone: UTC
groups: {random: 10%}
attribution: {impression: 8s, accept: 8s}
""",
    "channels.yaml": """
channels:
  web:  {kind: inbound}
  shop: {kind: inbound}
  push: {kind: outbound, reservation_ttl: 1m}
placements:
  home: {channel: web, slots: 1}
  grid: {channel: web, slots: 3}
  till: {channel: shop, slots: 1}
  pop:  {channel: push, slots: 2}
""",
    "offers.yaml": "categories: {promotion: {}}\noffers:\n"
    + "".join(
        f"  - {{id: offer-{number}, category: promotion, placements: [home, grid, till, pop], value: {1 + number % 3},"
        f" prior: {2 + number}%, attributes: {{line: line-{number % 3}, discount: {number / 10}}}}}\n"
        for number in range(9)
    ),
    "features.yaml": "features:\n  views: {count: [page_view], within: 7d}\n",
    "models.yaml": """
models:
  accept: {predicts: accept, inputs: [features.*, context.*]}
  opt_out: {predicts: [unsubscribe], inputs: [context.*], half_life: 1h}
""",
}


class Crowd:
    """Customers who do everything that a learner has to understand."""

    def __init__(self, seed: int) -> None:
        """Everything random comes from the seed."""
        self.rnd = random.Random(seed)

    def decide(self, number: int) -> Any:
        """Return the body of a decide."""
        rnd = self.rnd
        return {
            "customer_id": f"c{rnd.randrange(CUSTOMERS)}",
            "placement": rnd.choice(("home", "grid", "till", "pop")),
            "context": {"device": rnd.choice(("phone", "tv", "desk")), "hour": number % 24},
        }

    def reply(self, answer: Any) -> list[Follow]:
        """Say what comes of an answer: some of it late, twice, after the window, or without saying about what."""
        rnd, found = self.rnd, []
        if rnd.random() < 0.3:
            found.append(self._event("page_view", answer, None, 0.0))
        at, reservation = 0.0, answer["reservation"]
        if reservation is not None:
            at = rnd.uniform(0.1, 3.0)
            fate = rnd.choices(("confirm", "release", ""), (6, 2, 2))[0]
            if fate:
                found.append(Follow(at, f"/v1/contacts/{reservation['id']}/{fate}"))
        if answer["placement"] == "till" and rnd.random() < 0.7:
            found.append(self._event("impression", answer, None, at + rnd.uniform(0.0, 2.0)))
        for offer in answer["offers"]:
            if rnd.random() < 0.15:
                named = offer["offer"] if len(answer["offers"]) > 1 and rnd.random() < 0.9 else None
                type_ = rnd.choice(("accept", "accept", "purchase"))
                found += [
                    self._event(type_, answer, named, at + rnd.uniform(0.0, 10.0))
                    for _ in range(rnd.choice((1, 1, 2)))
                ]
            elif rnd.random() < 0.05:
                type_ = rnd.choice(("reject", "unsubscribe"))
                found.append(self._event(type_, answer, offer["offer"], at + rnd.uniform(0.0, 6.0)))
        return found

    def _event(self, type_: str, answer: Any, offer: str | None, after_s: float) -> Follow:
        event: dict[str, Any] = {
            "event_id": f"e-{self.rnd.getrandbits(64):x}",
            "type": type_,
            "customer_id": answer["customer_id"],
        }
        if type_ != "page_view":
            event["decision_id"] = answer["decision_id"]
        if offer is not None:
            event["offer"] = offer
        return Follow(after_s, EVENTS, event)
