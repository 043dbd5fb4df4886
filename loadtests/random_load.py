"""Random load that leaves nothing to guess: every request is a deed whose answer is taken into the promises.

The policy set is small on purpose: few customers, tight caps and a capacity, so that most requests meet others.
"""

import asyncio
import json
import random
from typing import Any

from loadtests.promises import Answer, Deed, Promises, usable

CHANNELS = {"email": ("boots", "scarf"), "call": ("boots",), "push": ("scarf", "gloves")}
CAPACITY = 25
POLICY = {
    "policy.yaml": "policy: crash\ntimezone: UTC\ncurrency: GBP\n",
    "channels.yaml": f"""
channels:
  web: {{kind: inbound}}
  email: {{kind: outbound}}
  push: {{kind: outbound}}
  call: {{kind: outbound, capacity: {{max: {CAPACITY}, per: day}}}}
placements:
  home: {{channel: web, slots: 1, fallback: boots}}
  letter: {{channel: email, slots: 2}}
""",
    "offers.yaml": """
categories: {promotion: {}}
offers:
  - {id: boots, category: promotion, placements: [home, letter], value: 5}
  - {id: scarf, category: promotion, placements: [letter], value: 5}
  - {id: gloves, category: promotion, placements: [letter], value: 5}
""",
    "contact_policy.yaml": """
caps:
  - {name: email-weekly, max: 3, per: 7d, when: {channel: email}}
  - {name: push-weekly, max: 12, per: 7d, when: {channel: push}}
  - {name: same-offer, max: 8, per: 30d, each: offer}
""",
    "features.yaml": """
features:
  views: {count: [page_view], within: 60d}
  purchases: {count: [purchase], within: 60d}
  worth: {sum: amount, of: [page_view, purchase], within: 60d}
""",
}
FEATURES = ("views", "purchases", "worth")


class Link:
    """One client's connection; opened anew when it was lost."""

    def __init__(self, port: int) -> None:
        """Talk to a loopback port."""
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None, key: str = "") -> Answer | None:
        """Return the answer, or None where none came."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: tact\r\ncontent-length: {len(data)}\r\n"
        head += "content-type: application/json\r\n" if data else ""
        head += f"idempotency-key: {key}\r\n" if key else ""
        try:
            async with asyncio.timeout(10):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self.port)
                reader, writer = self._streams
                writer.write(head.encode() + b"\r\n" + data)
                first, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                length = next(int(f.split(":")[1]) for f in fields if f.startswith("content-length:"))
                raw = await reader.readexactly(length)
            return Answer(int(first.split()[1]), json.loads(raw))
        except (OSError, EOFError, TimeoutError, StopIteration, ValueError):
            self.close()
            return None

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Load:
    """Clients that ask for random things until told to stop."""

    def __init__(self, promises: Promises, customers: list[str], name: str, rnd: random.Random) -> None:
        """`name` makes ids that no other load uses."""
        self.promises = promises
        self.customers = customers
        self.name = name
        self.rnd = rnd
        self.answered = 0
        self._number = 0

    async def client(self, port: int, stop: asyncio.Event) -> None:
        """Ask one thing after the other."""
        link = Link(port)
        try:
            while not stop.is_set():
                deed = self._next()
                self.promises.maybe.append(deed)
                answer = await link.ask("POST", deed.path, deed.body, deed.key)
                if answer is None:
                    await asyncio.sleep(0.05)  # a refused connection must not spin
                elif usable(answer):
                    self._settle(deed, answer)
                else:
                    await asyncio.sleep(0.02)  # nor must one who is told to come again
        finally:
            link.close()

    def _settle(self, deed: Deed, answer: Answer) -> None:
        self.answered += 1
        self.promises.maybe.remove(deed)
        deed.settle(answer)

    def _next(self) -> Deed:
        rnd, promises = self.rnd, self.promises
        self._number += 1
        name = f"{self.name}-{self._number}"
        who = rnd.choice(self.customers)
        channel = rnd.choice(list(CHANNELS))
        offer = rnd.choice(CHANNELS[channel])
        what = rnd.random()
        if what < 0.35:
            return promises.sent([self._event(name)])
        if what < 0.45:
            return promises.sent(self._event(f"{name}-{at}") for at in range(rnd.randrange(2, 40)))
        if what < 0.55:
            return promises.decided(who, rnd.choice(("home", "letter")), name)
        if what < 0.65:
            return promises.recorded(name, who, "push", offer)
        if what < 0.95 and promises.open:
            taken = rnd.sample(sorted(promises.open), min(len(promises.open), rnd.choice((1, 1, 1, 4))))
            if len(taken) > 1:
                return promises.confirmed(taken)
            return promises.ended(taken[0], rnd.choice(("confirmed", "confirmed", "released")))
        return promises.checked(channel, offer, rnd.choices(self.customers, k=rnd.choice((1, 1, 6))), name)

    def _event(self, name: str) -> dict[str, Any]:
        return {
            "event_id": name,
            "type": self.rnd.choice(("page_view", "purchase")),
            "customer_id": self.rnd.choice(self.customers),
            "properties": {"amount": self.rnd.randrange(1, 1_000_000)},
        }
