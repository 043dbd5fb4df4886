"""Many processes on few customers under mixed rules: every answer must be true, and every contact there once.

Eight client processes ask an API of two processes for checks, reservations, decisions, confirms and releases of a
hundred hot customers at a time, and keep what they were told. After each wave (a fresh hundred, so that no history
grows beyond what a life holds) the judge reads the raw facts and looks for breaches of any rule at any instant,
for lost and doubled reservations, for ends that are not the one acknowledged, for refusals that no fact explains,
and for an `eligible_at` that is not exactly the first free moment.
"""

import multiprocessing
import re
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from api.remote import lines
from loadtests.server import Running, metrics, start
from loadtests.torture.answers import Judgement
from loadtests.torture.client import CLIENTS, client
from loadtests.torture.ledger import Ledger
from loadtests.torture.wire import Progress, Said, Verdict, Wire
from loadtests.torture.world import POLICY, RULES, write_policy

HOT: Final = 100
WAVE: Final = 50_000
"""Operations on one hundred customers before the next hundred."""
ZONES: Final = ("Europe/London", "Asia/Tokyo", "America/New_York", "Asia/Kathmandu")
KINDS: Final = ("breaches", "lost", "doubled", "wrong states", "false answers", "odd answers")


def run(count: int, seed: int, folder: Path, environment: Mapping[str, str], progress: Progress) -> Verdict:
    """Run `count` operations, and judge them wave by wave."""
    verdict = Verdict("hammer", seed)
    verdict.expect(*KINDS)
    tact = start(
        folder / "data",
        "--policies",
        str(write_policy(folder, POLICY)),
        "--workers",
        "2",
        environment=environment,
    )
    try:
        _waves(tact, count, seed, verdict, progress)
        verdict.figures["judgements a commit, one process"] = judgements(metrics(tact))
    finally:
        with suppress(Exception):
            tact.stop()
    return verdict


def judgements(text: str) -> str:
    """Return how many commits of one API process were judged how often, from what `/metrics` says."""
    found = re.findall(r'tact_commits_total\{judgements="(\d+)"\} ([0-9.e+]+)', text)
    return ", ".join(f"{times}: {float(commits):.0f}" for times, commits in found)


def _waves(tact: Running, count: int, seed: int, verdict: Verdict, progress: Progress) -> None:
    done = requests = judged = refusals = 0
    seconds = 0.0
    rates: list[float] = []
    context = multiprocessing.get_context("spawn")
    with context.Pool(CLIENTS) as pool:
        for wave in range(-(-count // WAVE)):
            part = min(WAVE, count - done)
            customers = [f"hot-{wave}-{number}" for number in range(HOT)]
            zones = {customer: ZONES[number % len(ZONES)] for number, customer in enumerate(customers)}
            link = Wire(tact.port)
            tags = {}
            for customer, zone in zones.items():
                link.ask("PUT", f"/v1/customers/{customer}/profile", {"timezone": zone})
                seen = link.ask(
                    "POST", "/v1/decide", {"customer_id": customer, "placement": "buzz", "preview": True}
                )
                tags[seen.body["decision_id"][:16]] = customer
            link.close()
            begun = time.perf_counter()
            shares = [
                (tact.port, seed * 10_007 + wave * 101 + number, customers, -(-part // CLIENTS))
                for number in range(CLIENTS)
            ]
            said = [one for share in pool.starmap(client, shares) for one in share]
            took = time.perf_counter() - begun
            figures = judge_wave(tact, said, zones, tags, verdict)
            done, seconds, requests = done + part, seconds + took, requests + len(said)
            judged, refusals = judged + figures[0], refusals + figures[1]
            rates.append(part / took)
            progress(
                f"{done} of {count} operations, {part / took:.0f}/s, {judged} answers judged, "
                f"{sum(map(len, verdict.broken.values()))} broken"
            )
    verdict.figures = {
        "operations": done,
        "requests": requests,
        "operations/s": round(done / seconds),
        "slowest wave/s": round(min(rates)),
        "median wave/s": round(statistics.median(rates)),
        "answers judged": judged,
        "refusals judged": refusals,
    }


def judge_wave(
    tact: Running, said: list[Said], zones: Mapping[str, str], tags: Mapping[str, str], verdict: Verdict
) -> tuple[int, int]:
    """Judge everything that was said in a wave; returns how many answers and refusals were judged.

    `tags` is whose facts are whose: the first characters of every id that is made for a customer.
    """
    ledger = Ledger(RULES)
    ledger.customer |= tags
    for one in said:
        ledger.take(one, verdict)
    histories = ledger.histories(
        [one for one in lines(tact.url, "/v1/facts") if "contacts" in one], zones, verdict
    )
    for customer_id, history in histories.items():
        for sentence in history.breaches():
            verdict.breach("breaches", f"{customer_id}: {sentence}")
    judgement = Judgement(histories, RULES, verdict)
    judgement.learn(said)
    for one in said:
        judgement.judge(one)
    return judgement.judged, judgement.refusals
