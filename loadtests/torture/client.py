"""A client process of the hammer: asks at random for a few customers, and keeps all that it is told."""

import random
from typing import Any, Final

from loadtests.torture.wire import Said, Wire
from loadtests.torture.world import CHANNEL_OFFERS, SLOTS

CLIENTS: Final = 8
LINKS: Final = 2
"""Requests that one client process has under way at once."""


class Client:
    """One process's share of a wave."""

    def __init__(self, port: int, seed: int, customers: list[str]) -> None:
        self.rnd = random.Random(seed)
        self.customers = customers
        self.links = [Wire(port) for _ in range(LINKS)]
        self.said: list[Said] = []
        self.open: list[str] = []
        self.ended: list[str] = []
        self.twins: list[tuple[str, str]] = []
        self.complained: list[str] = []
        self.operations = 0
        self.number = 0
        self.name = f"{seed}"

    def run(self, operations: int) -> list[Said]:
        """Ask until so many operations were sent; returns all that was said."""
        while self.operations < operations:
            under_way = [self._send(link) for link in self.links]
            for link, (op, asked) in zip(self.links, under_way, strict=True):
                said = link.receive(op, asked)
                self.said.append(said)
                self._learn(said)
                if op in {"check", "decide"} and "key" in asked and said.status == 200:
                    self._again(link, said)
        for link in self.links:
            link.close()
        return self.said

    def _send(self, link: Wire) -> tuple[str, Any]:
        """Send one request; returns what it was."""
        rnd = self.rnd
        self.operations += 1
        self.number += 1
        if self.twins:
            return self._end(link, *self.twins.pop())
        what = rnd.random()
        if what < 0.34 and self.open:
            contact_id = self.open.pop(rnd.randrange(len(self.open)))
            if what < 0.02:  # both ends at once, over two connections: one of them must win
                self.twins.append((contact_id, "release"))
                return self._end(link, contact_id, "confirm")
            if what < 0.08 and len(self.open) > 3:
                ids = [contact_id, *(self.open.pop() for _ in range(3))]
                self.operations += 3
                link.send("POST", "/v1/contacts/confirm", {"reservation_ids": ids})
                return "bulk", ids
            return self._end(link, contact_id, "release" if what > 0.25 else "confirm")
        if what < 0.36 and self.ended:
            return self._end(link, rnd.choice(self.ended), rnd.choice(("confirm", "release")))
        if what < 0.38 and self.complained:
            customer = self.complained.pop()
            link.send("GET", f"/v1/customers/{customer}")
            return "look", customer
        if what < 0.39:
            event = {"type": "complaint", "customer_id": rnd.choice(self.customers)}
            event["event_id"] = f"e{self.name}-{self.number}"
            self.complained.append(event["customer_id"])
            link.send("POST", "/v1/events", event)
            return "event", event
        key = f"{self.name}-{self.number}" if rnd.random() < 0.05 else ""
        if what < 0.5:
            placement = rnd.choice(tuple(SLOTS))
            body: Any = {"customer_id": rnd.choice(self.customers), "placement": placement}
            link.send("POST", "/v1/decide", body, key)
            return "decide", {"body": body} | ({"key": key} if key else {})
        channel = rnd.choice(("email", "email", "push", "letter"))
        advisory = rnd.random() < 0.3
        rows = 1 if what < 0.85 else rnd.randrange(2, 13)
        self.operations += rows - 1
        body = {
            "channel": channel,
            "offer": rnd.choice(CHANNEL_OFFERS[channel]),
            "customer_ids": rnd.choices(self.customers, k=rows),
        }
        if advisory:
            key = ""
            body["reserve"] = False
        else:
            body["reservation_ttl_s"] = rnd.choice((1, 1.5, 2, 4, 15))
        link.send("POST", "/v1/contacts/check", body, key)
        return "check", {"body": body} | ({"key": key} if key else {})

    @staticmethod
    def _end(link: Wire, contact_id: str, end: str) -> tuple[str, Any]:
        link.send("POST", f"/v1/contacts/{contact_id}/{end}")
        return end, contact_id

    def _learn(self, said: Said) -> None:
        if said.op == "check" and said.status == 200:
            self.open += [row["reservation_id"] for row in said.body["results"] if "reservation_id" in row]
        elif said.op == "decide" and said.status == 200 and said.body["reservation"] is not None:
            self.open.append(said.body["reservation"]["id"])
        elif said.op in {"confirm", "release"} and said.status == 200:
            self.ended.append(said.asked)
            del self.ended[:-20]

    def _again(self, link: Wire, first: Said) -> None:
        """Ask the same with the same key: the answer must be the first one, and nothing be taken twice."""
        path = "/v1/decide" if first.op == "decide" else "/v1/contacts/check"
        again = link.ask("POST", path, first.asked["body"], first.asked["key"])
        self.said.append(again._replace(op="again", asked=first.body))


def client(port: int, seed: int, customers: list[str], operations: int) -> list[Said]:
    """Run one client process's share and return all that was said."""
    return Client(port, seed, customers).run(operations)
