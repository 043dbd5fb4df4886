"""Two people become one while both are being hammered: caps hold over the union from the next request on.

Client processes reserve, confirm and release on both ids of many pairs; meanwhile each pair is linked. Afterwards
the judge looks at the facts: every contact that was acknowledged on either side is there once, in the state that
was acknowledged; no reservation that was asked for after the link's answer exceeds a cap of the union; refusals
and yeses after it are explained by the union; whoever was denied on one side is refused by both ids; and what was
made under the old id can still be ended.
"""

import multiprocessing
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from api.remote import lines
from loadtests.server import Running, start
from loadtests.torture.answers import Judgement
from loadtests.torture.client import CLIENTS, Client
from loadtests.torture.judge import History, Rule
from loadtests.torture.ledger import Ledger
from loadtests.torture.wire import Progress, Said, Verdict, Wire, percentile
from loadtests.torture.world import CHANNEL_OFFERS, POLICY, write_policy

PAIRS: Final = 40
"""Pairs that are hammered at once."""
KINDS: Final = (
    "breaches",
    "lost",
    "doubled",
    "wrong states",
    "false answers",
    "odd answers",
    "old ids",
    "consents",
)
MERGE_POLICY: Final = POLICY | {
    "channels.yaml": POLICY["channels.yaml"].replace(
        "{kind: outbound, reservation_ttl: 2s}",
        "{kind: outbound, reservation_ttl: 2s, consent: marketing}",
    ),
    "contact_policy.yaml": """
caps:
  - {name: email-rolling, max: 4, per: 20s, when: {channel: email}}
  - {name: any-rolling, max: 9, per: 20s, when: {kind: outbound}}
  - {name: same-offer, max: 3, per: 20s, each: offer}
""",
}
RULES: Final = (
    Rule("email-rolling", 4, per=20_000, channels=frozenset({"email"})),
    Rule("any-rolling", 9, per=20_000),
    Rule("same-offer", 3, per=20_000, each_offer=True),
)


class _Sides(Client):
    """A client that asks for either side of the pairs until told to stop."""

    def until(self, stop: Path) -> list[Said]:
        while not stop.exists():
            self.run(self.operations + 20)
        return self.said

    def _send(self, link: Wire) -> tuple[str, Any]:
        rnd = self.rnd
        self.operations += 1
        self.number += 1
        if rnd.random() < 0.5 and self.open:
            contact_id = self.open.pop(rnd.randrange(len(self.open)))
            return self._end(link, contact_id, "confirm" if rnd.random() < 0.5 else "release")
        channel = rnd.choice(("email", "email", "push", "letter"))
        body = {
            "channel": channel,
            "offer": rnd.choice(CHANNEL_OFFERS[channel]),
            "customer_ids": rnd.choices(self.customers, k=rnd.choice((1, 1, 4))),
            "reservation_ttl_s": rnd.choice((1, 2, 30)),
        }
        link.send("POST", "/v1/contacts/check", body)
        return "check", {"body": body}


def _sides(port: int, seed: int, customers: list[str], stop: Path) -> list[Said]:
    return _Sides(port, seed, customers).until(stop)


def run(count: int, seed: int, folder: Path, environment: Mapping[str, str], progress: Progress) -> Verdict:
    """Merge `count` pairs."""
    verdict = Verdict("merge", seed)
    verdict.expect(*KINDS)
    policies = write_policy(folder, MERGE_POLICY)
    tact = start(folder / "data", "--policies", str(policies), "--workers", "2", environment=environment)
    rnd = random.Random(seed)
    took: list[float] = []
    totals = {"operations": 0, "answers judged": 0, "merged under way": 0}
    try:
        with multiprocessing.get_context("spawn").Pool(CLIENTS) as pool:
            for batch in range(-(-count // PAIRS)):
                pairs = [f"{batch}-{number}" for number in range(min(PAIRS, count - batch * PAIRS))]
                one = _Batch(tact, pairs, rnd, verdict)
                stop = folder / f"stop-{batch}"
                ids = [*one.names]
                shares = [(tact.port, rnd.getrandbits(40), ids, stop) for _ in range(CLIENTS)]
                answers = pool.starmap_async(_sides, shares)
                try:
                    one.link()
                finally:
                    stop.touch()
                said = sorted((s for share in answers.get() for s in share), key=lambda s: s.sent)
                one.judge(said)
                took += one.took
                totals["operations"] += len(said)
                totals["answers judged"] += one.judged
                totals["merged under way"] += len(one.linked)
                broken = sum(map(len, verdict.broken.values()))
                progress(
                    f"{totals['merged under way']} of {count} merges, {len(said)} operations, {broken} broken"
                )
    finally:
        with suppress(Exception):
            tact.stop()
    verdict.figures = totals | {
        "link median ms": round(percentile(took, 0.5) * 1000, 1),
        "link worst ms": round(max(took) * 1000, 1),
    }
    return verdict


class _Batch:
    """Some pairs that are hammered and merged at the same time."""

    def __init__(self, tact: Running, pairs: list[str], rnd: random.Random, verdict: Verdict) -> None:
        self.tact = tact
        self.pairs = pairs
        self.rnd = rnd
        self.verdict = verdict
        self.wire = Wire(tact.port)
        self.names = {f"{side}-{pair}": pair for pair in pairs for side in "ab"}
        self.denied = {pair for pair in pairs if rnd.random() < 0.25}
        self.linked: dict[str, Said] = {}
        self.took: list[float] = []
        self.judged = 0
        for pair in pairs:
            self.wire.ask("POST", "/v1/identities/link", _alias(f"b-{pair}", pair))
            wishes = {"a": "granted", "b": "denied" if pair in self.denied else "granted"}
            if rnd.random() < 0.5:
                wishes = {
                    "b": wishes["b"],
                    "a": wishes["a"],
                }  # the later of the two is now and then the grant
            for side, wish in wishes.items():
                self.wire.ask("PUT", f"/v1/customers/{side}-{pair}/consent", {"marketing": wish})

    def link(self) -> None:
        """Merge every pair, one after the other, while clients are at both of its sides."""
        begun = time.perf_counter()
        while not self._seen(self.pairs[-1]) and time.perf_counter() - begun < 30:
            time.sleep(0.02)  # the client processes may still be starting
        for pair in self.pairs:
            time.sleep(self.rnd.uniform(0.0, 0.03))
            begun = time.perf_counter()
            for _ in range(20):
                said = self.wire.ask("POST", "/v1/identities/link", _alias(f"a-{pair}", pair))
                if said.status not in {429, 503}:
                    break
            self.took.append(time.perf_counter() - begun)
            if said.status != 200 or said.body["customer_id"] != f"a-{pair}":
                self.verdict.breach("odd answers", f"a link was answered {said.status} {said.body}")
            else:
                self.linked[pair] = said
        time.sleep(0.5)

    def _seen(self, pair: str) -> bool:
        """Say whether clients have reserved on the side that is going to be merged away."""
        said = self.wire.ask("GET", f"/v1/customers/b-{pair}")
        return said.status == 200 and bool(said.body["contacts"])

    def judge(self, said: list[Said]) -> None:
        """Judge what was said, and what is there now."""
        verdict = self.verdict
        ledger = Ledger(RULES, self.names)
        for one in said:
            ledger.take(one, verdict)
        zones = dict.fromkeys(self.pairs, "UTC")
        histories = ledger.histories(
            [one for one in lines(self.tact.url, "/v1/facts") if "contacts" in one], zones, verdict
        )
        for pair, history in histories.items():
            self._caps(pair, history, said)
        judgement = Judgement(histories, RULES, verdict)
        for one in said:
            if one.op == "check" and one.status == 200:
                names = [self.names[customer_id] for customer_id in one.asked["body"]["customer_ids"]]
                judgement.check(one, names, self._passed(names, one))
                self._denials(names, one)
        self.judged = judgement.judged
        for pair in self.linked:
            self._now(pair)
        self.wire.close()

    def _passed(self, names: list[str], one: Said) -> set[str]:
        """Return the pairs that were not surely one person then, or had denied: they are judged elsewhere."""
        return {pair for pair in names if not self._after(pair, one)} | self.denied

    def _after(self, pair: str, one: Said) -> bool:
        return pair in self.linked and one.sent > self.linked[pair].answered

    def _caps(self, pair: str, history: History, said: list[Said]) -> None:
        """Look at every contact that was asked for after the link: it must have found room in the union."""
        asked = {
            row["reservation_id"]: one.sent
            for one in said
            if one.op == "check" and one.status == 200
            for row in one.body["results"]
            if "reservation_id" in row
        }
        since = self.linked[pair].answered if pair in self.linked else None
        late = [
            held.made for held in history.held if since is not None and asked.get(held.contact_id, 0) > since
        ]
        for sentence in history.breaches(late):
            self.verdict.breach("breaches", f"{pair}, linked by {since}: {sentence}")

    def _denials(self, names: list[str], one: Said) -> None:
        if one.asked["body"]["channel"] != "email":
            return
        for pair, row in zip(names, one.body["results"], strict=True):
            stopped = any(reason["rule"] == "consent" for reason in row.get("reasons", ()))
            if pair in self.denied and self._after(pair, one) and not stopped:
                self.verdict.breach("consents", f"{pair} had denied: {row}")
            if pair not in self.denied and stopped:
                self.verdict.breach("consents", f"{pair} had granted: {row}")

    def _now(self, pair: str) -> None:
        """Both ids are one customer, with the same contacts and the same consent."""
        old, new = (self.wire.ask("GET", f"/v1/customers/{side}-{pair}") for side in "ba")
        if old.status != 200 or new.status != 200 or old.body["customer_id"] != f"a-{pair}":
            self.verdict.breach("old ids", f"b-{pair} is answered {old.status} {old.body}")
            return
        ids = [[contact["contact_id"] for contact in said.body["contacts"]] for said in (old, new)]
        if len(set(ids[1])) != len(ids[1]) or not set(ids[1]) <= set(ids[0]):
            self.verdict.breach("old ids", f"b-{pair} shows {ids[0]}, a-{pair} {ids[1]}")
        wish = "denied" if pair in self.denied else "granted"
        if new.body["consent"] != {"marketing": wish}:
            self.verdict.breach("consents", f"{pair} has {new.body['consent']}, it should be {wish}")


def _alias(customer_id: str, pair: str) -> dict[str, str]:
    return {"customer_id": customer_id, "kind": "cookie", "value": f"cookie-{pair}"}
