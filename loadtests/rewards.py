"""The rewards data through a running engine, and everything recomputed independently.

`python -m loadtests.rewards --data FOLDER` replays all lines of `starbucks_rewards` (offers received become
recorded contacts, the rest events), compares features and contacts of 1,000 customers with a plain
recomputation, decides an e-mail for each customer, confirms it, asks again, and audits. `--convert FILE` only
writes the NDJSON.
"""

import argparse
import asyncio
import csv
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import aiohttp
from rich.progress import track

from api.remote import RemoteFailure
from features.event import format_time, parse_time
from loadtests.recompute import Occurrence, differences
from loadtests.server import Running, running
from policies.loader import load_dir

HOUR_MS = 3_600_000
CAP_MS = 80 * HOUR_MS
SAME_MS = 21 * 24 * HOUR_MS
SAMPLE = 1_000
AT_ONCE = 16


def policy_files(portfolio: list[dict[str, Any]]) -> dict[str, str]:
    """Return a policy set of the ten offers."""
    offers = [
        f"  - {{id: offer-{number}, category: {offer['offer_type']}, placements: [mail], "
        f"value: {max(offer['difficulty'], 1)}, prior: {10 + number}%, "
        f"attributes: {{reward: {offer['reward']}, difficulty: {offer['difficulty']}}}}}"
        for number, offer in enumerate(portfolio)
    ]
    categories = sorted({offer["offer_type"] for offer in portfolio})
    return {
        "policy.yaml": "policy: rewards\ntimezone: UTC\ncurrency: USD\nweek_starts: monday\n",
        "channels.yaml": "channels:\n  email: {kind: outbound}\nplacements:\n  mail: {channel: email, slots: 1}\n",
        "offers.yaml": "categories:\n"
        + "".join(f"  {name}: {{}}\n" for name in categories)
        + "offers:\n"
        + "\n".join(offers)
        + "\n",
        "contact_policy.yaml": "caps:\n"
        "  - {name: one-in-80h, max: 1, per: 80h, when: {kind: outbound}}\n"
        "  - {name: same-offer, max: 1, per: 21d, each: offer}\n",
        "features.yaml": "features:\n"
        "  buys_3d: {count: [store_purchase], within: 3d}\n"
        "  buys_7d: {count: [store_purchase], within: 7d}\n"
        "  buys_21d: {count: [store_purchase], within: 21d}\n"
        "  spend_7d: {sum: amount, of: [store_purchase], within: 7d}\n"
        "  spend_21d: {sum: amount, of: [store_purchase], within: 21d}\n"
        "  basket: {mean: amount, of: [store_purchase], within: 14d}\n"
        "  seen_14d: {count: [impression], within: 14d}\n"
        "  accept_rate: {rate: [accept], per: [impression], half_life: 7d, prior: {hits: 1, trials: 4}}\n"
        "  since_buy: {since: [store_purchase]}\n"
        "  last_seen: {last: offer_type, of: [impression]}\n"
        "  likes: {top: offer_type, of: [impression, accept], half_life: 10d, keep: 3}\n"
        "  kinds_seen: {distinct: offer_type, of: [impression], within: 21d}\n",
    }


def convert(data: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the portfolio and every line as an event or a contact, hour 0 at the epoch of 2026."""
    portfolio = json.loads((data / "portfolio.json").read_text())
    zero = parse_time("2026-01-01T00:00:00Z")
    types = {"offer viewed": "impression", "offer completed": "accept", "transaction": "store_purchase"}
    lines = []
    with gzip.open(data / "transcript_waves1-4.csv.gz", "rt") as stream:
        for number, row in enumerate(csv.DictReader(stream)):
            at = format_time(zero + int(row["hour"]) * HOUR_MS)
            said: dict[str, Any] = {"customer_id": f"member-{row['customer']}", "occurred_at": at}
            offer = int(row["offer"]) if row["offer"] else None
            if row["event"] == "offer received":
                assert offer is not None
                said |= {"type": "contact", "channel": "email", "offer": f"offer-{offer}"}
                said |= {"category": portfolio[offer]["offer_type"], "contact_id": f"sent-{number}"}
            else:
                said |= {"type": types[row["event"]], "event_id": f"line-{number}"}
                properties: dict[str, Any] = {}
                if offer is not None:
                    said |= {"offer": f"offer-{offer}"}
                    properties["offer_type"] = portfolio[offer]["offer_type"]
                if row["amount"]:
                    properties["amount"] = float(row["amount"])
                said["properties"] = properties
            lines.append(said)
    return portfolio, lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", compresslevel=1) as stream:
        for line in lines:
            stream.write(json.dumps(line) + "\n")


def command(*arguments: str) -> dict[str, Any]:
    """Run a `tact` command with --json and return what it printed; exit 1 is an answer too."""
    done = subprocess.run(  # our own command
        [sys.executable, "-m", "api.main", *arguments, "--json"], check=False, stdout=subprocess.PIPE
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def wait_until_folded(tact: Running) -> float:
    """Send one more event and wait until it is visible: the journal keeps the order. Returns the seconds."""
    started = time.perf_counter()
    who = f"marker-{time.time_ns()}"
    tact.ask("POST", "/v1/events", {"type": "x_marker", "customer_id": who})
    while True:
        try:
            tact.ask("GET", f"/v1/customers/{who}")
        except RemoteFailure:
            time.sleep(0.01)
        else:
            return time.perf_counter() - started


def compare(tact: Running, folder: Path, lines: list[dict[str, Any]], shift: int, count: int) -> list[str]:
    """Recompute features and contacts of `count` customers and return every difference."""
    definitions = load_dir(folder).policy.features
    events: dict[str, list[Occurrence]] = defaultdict(list)
    contacts: dict[str, set[tuple[int, str, str]]] = defaultdict(set)
    for line in lines:
        at, who = parse_time(line["occurred_at"]) + shift, line["customer_id"]
        if line["type"] == "contact":
            contacts[who].add((at, line["offer"], line["category"]))
        else:
            events[who].append(Occurrence(line["type"], at, line["properties"], line["event_id"]))
    everyone = sorted({line["customer_id"] for line in lines})
    wrong = []
    for who in track(
        random.Random(1).sample(everyone, min(count, len(everyone))), "recomputing", transient=True
    ):
        before = time.time_ns() // 1_000_000
        said = tact.ask("GET", f"/v1/customers/{who}")
        got = {name: feature["value"] for name, feature in said["features"].items()}
        wrong += [f"{who}: {text}" for text in differences(definitions, events[who], got, before)]
        held = {
            (parse_time(c["at"]), c["items"][0]["offer"], c["items"][0]["category"]) for c in said["contacts"]
        }
        if held != contacts[who]:
            wrong.append(f"{who}: contacts {held ^ contacts[who]}")
    return wrong


class Senders:
    """Decides, confirms and asks again for every customer, and checks each second answer."""

    def __init__(self, tact: Running, lines: list[dict[str, Any]], shift: int) -> None:
        """Know every contact that was recorded."""
        self.url = tact.url
        self.known: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for line in lines:
            if line["type"] == "contact":
                self.known[line["customer_id"]].append(
                    (parse_time(line["occurred_at"]) + shift, line["offer"])
                )
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def run(self, customers: list[str]) -> None:
        """Ask for all customers, some at once."""
        waiting = asyncio.Queue[str]()
        for who in customers:
            waiting.put_nowait(who)
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._sender(session, waiting) for _ in range(AT_ONCE)))

    async def _sender(self, session: aiohttp.ClientSession, waiting: asyncio.Queue[str]) -> None:
        while not waiting.empty():
            who = waiting.get_nowait()
            first = await self._post(session, "/v1/decide", {"customer_id": who, "placement": "mail"})
            self.seen["first " + first["action"]] += 1
            bracket = (0, 0)
            if first["action"] == "offer":
                begin = time.time_ns() // 1_000_000
                confirmed = await self._post(
                    session, f"/v1/contacts/{first['reservation']['id']}/confirm", None
                )
                bracket = (begin - 1, time.time_ns() // 1_000_000 + 1)
                self.seen[confirmed["state"]] += 1
            second = await self._post(session, "/v1/decide", {"customer_id": who, "placement": "mail"})
            self.seen["second " + second["action"]] += 1
            self._check(who, first, second, bracket)

    async def _post(self, session: aiohttp.ClientSession, path: str, body: Any) -> Any:
        async with session.post(self.url + path, json=body) as reply:
            return await reply.json(content_type=None)

    def _check(self, who: str, first: Any, second: Any, bracket: tuple[int, int]) -> None:
        now = time.time_ns() // 1_000_000
        said = {entry["rule"]: parse_time(entry["eligible_at"]) for entry in second["suppressed"]}
        sent = [(at, offer) for at, offer in self.known[who] if at > now - SAME_MS]
        recent = [at for at, _ in sent if at > now - CAP_MS]
        wanted = {}
        if first["action"] == "offer":
            offers = {offer for _, offer in sent} | {first["offers"][0]["offer"]}
            wanted["one-in-80h"] = (bracket[0] + CAP_MS, bracket[1] + CAP_MS)
        else:
            offers = {offer for _, offer in sent}
            if recent:
                wanted["one-in-80h"] = (max(recent) + CAP_MS, max(recent) + CAP_MS)
        if offers:
            ends = []
            for offer in offers:
                if first["action"] == "offer" and offer == first["offers"][0]["offer"]:
                    ends.append((bracket[0] + SAME_MS, bracket[1] + SAME_MS))
                else:
                    end = max(at for at, other in sent if other == offer) + SAME_MS
                    ends.append((end, end))
            wanted["same-offer"] = min(ends)
        right = (
            second["action"] == "none"
            and second["reason"] == "contact_policy"
            and said.keys() == wanted.keys()
            and all(low <= said[rule] <= high for rule, (low, high) in wanted.items())
        )
        if not right:
            self.wrong.append(f"{who}: {second['action']} {second['reason']} {said}, wanted {wanted}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the rewards data")
    parser.add_argument("--convert", type=Path, help="only write the NDJSON (gzip) here")
    parser.add_argument("--customers", type=int, default=None, help="decide for so many; all unless told")
    asked = parser.parse_args()
    portfolio, lines = convert(asked.data)
    if asked.convert:
        write_lines(asked.convert, lines)
        print(f"{len(lines)} lines written to {asked.convert}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "policies"
        folder.mkdir()
        for name, text in policy_files(portfolio).items():
            (folder / name).write_text(text)
        # Shifted here, by the rule that `tact replay` uses, so that the times are known to the recomputation.
        newest = max(parse_time(line["occurred_at"]) for line in lines)
        shift = time.time_ns() // 1_000_000 - newest
        file = Path(scratch) / "lines.ndjson.gz"
        write_lines(
            file,
            [{**line, "occurred_at": format_time(parse_time(line["occurred_at"]) + shift)} for line in lines],
        )
        with running("--policies", str(folder)) as tact:
            report(tact, folder, file, lines, shift, asked.customers)


def report(
    tact: Running, folder: Path, file: Path, lines: list[dict[str, Any]], shift: int, customers: int | None
) -> None:
    replayed = command("replay", str(file), "--url", tact.url, "--keep-times")
    print(f"replay: {json.dumps(replayed)}")
    print(f"folded {wait_until_folded(tact):.2f} s after the last answer")
    wrong = compare(tact, folder, lines, shift, SAMPLE)
    print(f"features and contacts of {SAMPLE} customers: {len(wrong)} wrong")
    everyone = [f"member-{number}" for number in range(17_000)][:customers]
    senders = Senders(tact, lines, shift)
    started = time.perf_counter()
    asyncio.run(senders.run(everyone))
    seconds = time.perf_counter() - started
    print(f"{len(everyone)} customers asked twice in {seconds:.1f} s: {dict(senders.seen)}")
    print(f"second answers: {len(senders.wrong)} wrong")
    found = command("audit", "--url", tact.url)
    print(
        f"audit: {len(found['breaches'])} breaches, {found['overruns']} recorded overruns, {found['contacts']} contacts"
    )
    for text in [*wrong[:10], *senders.wrong[:10]]:
        print("  wrong:", text)
    sys.exit(1 if wrong or senders.wrong or found["breaches"] else 0)


if __name__ == "__main__":
    main()
