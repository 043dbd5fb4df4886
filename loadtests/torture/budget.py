"""Budgets and capacity under the hammer: never oversold, given back, and sold to the last one.

Each round is a fresh channel with a daily capacity and a fresh offer with a budget. Eight client processes reserve,
decide, confirm, release, accept and let expire, with many confirms in the last milliseconds of a reservation. Of
each sale it is known from when on and until when it surely held its part, and within what wider span it may have:
surely held parts beyond the limit at any instant are a breach, a refusal while all possible parts leave room is
false, and at the end exactly what is left can still be sold.
"""

import multiprocessing
import random
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from loadtests.server import Running, start
from loadtests.torture.client import CLIENTS, Client
from loadtests.torture.wire import Progress, Said, Verdict, Wire, ms
from loadtests.torture.world import write_policy

CAPACITY: Final = 60
BUDGET: Final = 45
ACCEPT_MS: Final = 3_000
ROUND: Final = 5_000
CUSTOMERS: Final = 60
FOREVER: Final = 1 << 60
KINDS: Final = ("oversold", "false refusals", "left unsold", "odd answers")


def policy(rounds: int) -> dict[str, str]:
    """Return a policy set with one limited channel and one limited offer a round."""
    channels = ["  mail: {kind: outbound, reservation_ttl: 2s}"]
    placements = []
    offers = ["  - {id: news, category: promotion, placements: [], value: 1}"]
    for number in range(rounds):
        channels.append(f"  call-{number}: {{kind: outbound, capacity: {{max: {CAPACITY}, per: day}}}}")
        placements.append(f"  slot-{number}: {{channel: mail, slots: 1}}")
        offers.append(
            f"  - {{id: gift-{number}, category: promotion, placements: [slot-{number}], value: 1,"
            f" budget: {{max: {BUDGET * 2}.00, cost_per_accept: 2.00}}}}"
        )
    return {
        "policy.yaml": "policy: budget\ntimezone: UTC\ncurrency: GBP\nattribution: {accept: 3s}\n",
        "channels.yaml": "\n".join(["channels:", *channels, "placements:", *placements, ""]),
        "offers.yaml": "\n".join(["categories: {promotion: {}}", "offers:", *offers, ""]),
    }


class Part(NamedTuple):
    """A span of one sale's part of a quota (ms): surely held in [surely, until), possibly in [maybe, at_most)."""

    surely: int
    until: int
    maybe: int
    at_most: int


class _Seller(Client):
    """A client that sells a round's channel and offer."""

    def __init__(self, port: int, seed: int, customers: list[str], number: int) -> None:
        super().__init__(port, seed, customers)
        self.round = number
        self.sales: list[tuple[str, str, int]] = []
        """(contact id, quota, expires at) of reservations that nobody has ended."""
        self.accepts: list[str] = []
        self.edge: list[tuple[int, str, str]] = []

    def _send(self, link: Wire) -> tuple[str, Any]:
        rnd = self.rnd
        self.operations += 1
        self.number += 1
        if self.accepts:
            contact_id = self.accepts.pop()
            event = {
                "event_id": f"a{contact_id}",
                "type": "accept",
                "customer_id": self.customers[0],
                "decision_id": contact_id,
                "offer": f"gift-{self.round}",
            }
            link.send("POST", "/v1/events", event)
            return "accept", contact_id
        late = self._at_the_edge(link)
        if late is not None:
            return late
        if rnd.random() < 0.45 and self.sales:
            return self._one_end(link)
        if rnd.random() < 0.4:
            body: Any = {"customer_id": rnd.choice(self.customers), "placement": f"slot-{self.round}"}
            link.send("POST", "/v1/decide", body)
            return "decide", body
        rows = rnd.choice((1, 1, 1, 8))
        self.operations += rows - 1
        limited = rnd.random() < 0.6
        body = {
            "channel": f"call-{self.round}" if limited else "mail",
            "offer": "news" if limited else f"gift-{self.round}",
            "customer_ids": rnd.choices(self.customers, k=rows),
            "reservation_ttl_s": rnd.choice((1, 1, 1.2, 2)),
        }
        link.send("POST", "/v1/contacts/check", body)
        return "check", body

    def _one_end(self, link: Wire) -> tuple[str, Any]:
        """End a reservation, or let it expire; few of a capacity are confirmed, so that it lasts the round."""
        rnd = self.rnd
        contact_id, quota, expires = self.sales.pop(rnd.randrange(len(self.sales)))
        what = rnd.random()
        if what < 0.3:
            self.edge.append((expires, contact_id, quota))
        if what < (0.45 if quota == "capacity" else 0.35):
            return self._send(link)  # its end comes later, or it expires
        return self._end_sale(link, contact_id, quota, "confirm" if what > 0.9 else "release")

    def _at_the_edge(self, link: Wire) -> tuple[str, Any] | None:
        """Confirm what is about to expire, in the very last milliseconds of its life."""
        now = time.time() * 1000
        self.edge = sorted(sale for sale in self.edge if sale[0] > now)
        if not self.edge or self.edge[0][0] > now + 15:
            return None
        expires, contact_id, quota = self.edge.pop(0)
        time.sleep(max(0.0, expires - now - self.rnd.uniform(0.0, 4.0)) / 1000)
        return self._end_sale(link, contact_id, quota, "confirm")

    @staticmethod
    def _end_sale(link: Wire, contact_id: str, quota: str, end: str) -> tuple[str, Any]:
        link.send("POST", f"/v1/contacts/{contact_id}/{end}")
        return end, (contact_id, quota)

    def _learn(self, said: Said) -> None:
        if said.status != 200:
            return
        if said.op in {"check", "decide"}:
            self.sales += [(sale, quota, expires) for sale, quota, expires, _ in sold(said)]
        elif said.op == "confirm" and said.asked[1] == "budget" and self.rnd.random() < 0.3:
            self.accepts.append(said.asked[0])


def sold(said: Said) -> list[tuple[str, str, int, int]]:
    """Return (contact id, quota, expires at, ttl) of each reservation that an answer made."""
    if said.op == "decide":
        taken = said.body["reservation"]
        return [(taken["id"], "budget", ms(taken["expires_at"]), 2_000)] if taken is not None else []
    quota = "capacity" if said.asked["channel"] != "mail" else "budget"
    return [
        (row["reservation_id"], quota, ms(row["expires_at"]), round(said.asked["reservation_ttl_s"] * 1000))
        for row in said.body["results"]
        if row["allowed"]
    ]


def _sell(port: int, seed: int, customers: list[str], number: int, operations: int) -> list[Said]:
    return _Seller(port, seed, customers, number).run(operations)


def run(count: int, seed: int, folder: Path, environment: Mapping[str, str], progress: Progress) -> Verdict:
    """Sell round after round until `count` operations are done."""
    verdict = Verdict("budget", seed)
    verdict.expect(*KINDS)
    rounds = -(-count // ROUND)
    policies = write_policy(folder, policy(rounds))
    tact = start(folder / "data", "--policies", str(policies), "--workers", "2", environment=environment)
    rnd = random.Random(seed)
    done, seconds, sales = 0, 0.0, 0
    try:
        with multiprocessing.get_context("spawn").Pool(CLIENTS) as pool:
            for number in range(rounds):
                operations = min(ROUND, count - done)
                customers = [f"c-{number}-{one}" for one in range(CUSTOMERS)]
                share = -(-operations // CLIENTS)
                shares = [(tact.port, rnd.getrandbits(40), customers, number, share) for _ in range(CLIENTS)]
                begun = time.perf_counter()
                said = sorted((s for part in pool.starmap(_sell, shares) for s in part), key=lambda s: s.sent)
                took = time.perf_counter() - begun
                one = _Round(tact, number, said, verdict)
                sales += one.judge()
                done, seconds = done + operations, seconds + took
                broken = sum(map(len, verdict.broken.values()))
                progress(f"{done} of {count} operations, {operations / took:.0f}/s, {broken} broken")
    finally:
        with suppress(Exception):
            tact.stop()
    verdict.figures = {
        "operations": done,
        "operations/s": round(done / seconds),
        "reservations": sales,
        "rounds": rounds,
    }
    return verdict


class _Round:
    """What was said in one round, and what of it was held when."""

    def __init__(self, tact: Running, number: int, said: list[Said], verdict: Verdict) -> None:
        self.tact = tact
        self.number = number
        self.said = said
        self.verdict = verdict
        self.wire = Wire(tact.port)
        self.limits = {"capacity": CAPACITY, "budget": BUDGET}
        self.sales: dict[str, tuple[str, int, Said]] = {}
        self.ends: dict[str, tuple[str, Said]] = {}
        self.accepts: dict[str, Said] = {}

    def judge(self) -> int:
        """Judge the round; returns how many reservations it made."""
        for one in self.said:
            self._take(one)
        parts: dict[str, list[Part]] = {"capacity": [], "budget": []}
        for sale, (quota, expires, made) in self.sales.items():
            parts[quota] += self._parts(sale, quota, expires, made)
        for quota, limit in self.limits.items():
            most, at = _most((part.surely, part.until) for part in parts[quota])
            if most > limit:
                self.verdict.breach(
                    "oversold", f"{quota} {self.number}: {most} surely held at {at} of {limit}"
                )
            self._refusals(quota, limit, parts[quota])
        self._sell_the_rest()
        return len(self.sales)

    def _take(self, said: Said) -> None:
        if said.op in {"check", "decide"} and said.status == 200:
            for sale, quota, expires, _ in sold(said):
                self.sales[sale] = (quota, expires, said)
        elif said.op in {"confirm", "release"} and said.status == 200:
            self.ends[said.asked[0]] = (said.op, said)
        elif said.op == "accept" and said.status == 202:
            self.accepts[said.asked] = said
        elif not (said.op == "confirm" and said.status == 409):
            self.verdict.breach("odd answers", f"{said.op} was answered {said.status} {said.body}")

    def _parts(self, sale: str, quota: str, expires: int, made: Said) -> list[Part]:
        """Return when a sale held its part; a confirm that came at the end of its life may leave a hole."""
        op, end = self.ends.get(sale, ("", made))
        if op == "release":
            until = max(made.answered, min(expires, end.sent))
            return [Part(made.answered, until, made.sent, min(expires, end.answered))]
        first = Part(made.answered, max(expires, made.answered), made.sent, expires)
        if op != "confirm":
            return [first]
        if quota == "capacity" or sale in self.accepts:
            first_sure, ends_at = end.answered, FOREVER
            sure_until = FOREVER if quota == "capacity" else end.sent + ACCEPT_MS
        else:
            first_sure, sure_until, ends_at = end.answered, end.sent + ACCEPT_MS, end.answered + ACCEPT_MS
        if end.answered < expires:
            return [Part(made.answered, sure_until, made.sent, ends_at)]
        return [first, Part(first_sure, max(sure_until, first_sure), min(end.sent, expires), ends_at)]

    def _refusals(self, quota: str, limit: int, parts: list[Part]) -> None:
        """Look for refusals at moments when all that may have been held leaves room."""
        steps = _steps((part.maybe, part.at_most) for part in parts)
        for one in self.said:
            if self._refused(one, quota):
                held = _most_within(steps, one.sent, one.answered)
                if held < limit:
                    self.verdict.breach(
                        "false refusals", f"{quota} {self.number} of {limit}, at most {held} held: {one}"
                    )

    @staticmethod
    def _refused(said: Said, quota: str) -> bool:
        if said.status != 200:
            return False
        if said.op == "decide":
            return quota == "budget" and said.body["reason"] == "budget"
        return said.op == "check" and any(
            reason["rule"] == quota for row in said.body["results"] for reason in row.get("reasons", ())
        )

    def _sell_the_rest(self) -> None:
        """When all holds are over, exactly what was not spent can be sold, and then no more."""
        confirmed = sum(
            op == "confirm" and self.sales[sale][0] == "capacity" for sale, (op, _) in self.ends.items()
        )
        spent = {"capacity": confirmed, "budget": len(self.accepts)}
        over = max((one.answered for one in self.said), default=0) + ACCEPT_MS + 100
        time.sleep(max(0.0, over / 1000 - time.time()))
        for quota, limit in self.limits.items():
            body: dict[str, Any] = {
                "channel": f"call-{self.number}" if quota == "capacity" else "mail",
                "offer": "news" if quota == "capacity" else f"gift-{self.number}",
                "reservation_ttl_s": 600,
            }
            more = 0
            while more <= limit:
                body["customer_ids"] = [f"late-{self.number}-{more}"]
                answer = self.wire.ask("POST", "/v1/contacts/check", body)
                if answer.status != 200 or not answer.body["results"][0]["allowed"]:
                    break
                more += 1
            if spent[quota] + more > limit:
                self.verdict.breach(
                    "oversold", f"{quota} {self.number}: {spent[quota]} spent and {more} more, limit {limit}"
                )
            elif spent[quota] + more < limit:
                self.verdict.breach(
                    "left unsold",
                    f"{quota} {self.number}: {spent[quota]} spent, only {more} more, limit {limit}",
                )


def _steps(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (moment, how many spans hold from then on), ascending."""
    changes: dict[int, int] = {}
    for begin, end in spans:
        if begin < end:
            changes[begin] = changes.get(begin, 0) + 1
            changes[end] = changes.get(end, 0) - 1
    count, steps = 0, []
    for at in sorted(changes):
        count += changes[at]
        steps.append((at, count))
    return steps


def _most(spans: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the most spans that hold at one moment, and that moment."""
    return max(((count, at) for at, count in _steps(spans)), default=(0, 0))


def _most_within(steps: list[tuple[int, int]], start: int, end: int) -> int:
    """Return the most that held at any moment of [start, end]."""
    most = 0
    for at, count in steps:
        if at > end:
            break
        most = count if at <= start else max(most, count)
    return most
