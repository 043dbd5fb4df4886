"""Truth of probabilities: what the running engine states as its chances, against what it did and what came of it.

    python -m loadtests.truth [--decisions 200000] [--seed N] [--json]

A world with known rates of acceptance (12 offers, 4 segments, 3 placements, one of them with 3 slots) is decided for
over HTTP by a whole Tact, whose learner learns and so changes the policy all the while. Then the decision log must
say the truth:

- *Estimates*: IPS of three policies that never ran (even choice, always one offer, other weights) lies within its
  95 % interval of the truth; and so in every twentieth of the log that has overlap enough to say anything.
- *Choices*: chi-square of what was chosen against the stated chances, by offer and segment, by bins of the chance, and
  for ranks 2 and 3 given the ones above them. The variance is that of the stated chances, decision by decision.
- *Control*: the same with 1/n stated instead must be far off in both, or nothing is proven.

The truth of a policy is its expected reward on the contexts that were logged. It is judged by rank 1 (the other ranks
follow as they were logged) and by all ranks; of the latter the product of three weights leaves little overlap, so its
twentieths are told and not failed by. Exit 1 when a choice is rejected (1 % over all tests together), an estimate lies
outside its 99.9 % interval, or the control is not found. A correct engine leaves a 95 % interval once in twenty times,
so that is told and not failed by either.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import uvloop
from numpy.typing import NDArray
from rich.console import Console
from scipy import stats  # type: ignore[import-untyped]

from api.running.valkey import ValkeyServer
from engine.evaluation import log as decision_log
from engine.runtime import open_engine
from engine.workers.archive import Archive
from loadtests import stated
from loadtests.server import Running, running
from loadtests.talk import EVENTS, Follow, Talk
from policies.loader import load_files
from policies.model import PolicySet

Array = NDArray[np.float64]

CONNECTIONS: Final = 24
CUSTOMERS: Final = 20_000
SEGMENTS: Final = 4
OFFERS: Final = tuple(f"offer-{number:02}" for number in range(12))
PLACES: Final = {"home": (1.0,), "till": (0.7,), "grid": (0.9, 0.6, 0.4)}
"""Placement to what each of its ranks multiplies a rate by."""
AT_TILL: Final = 8
"""So many offers have a place at the till."""
STATED_OFF: Final = {"rank 1": 1e-6, "rank 2": 0.01, "rank 3": 0.01}
"""How far a stated chance may be off: that of rank 1 is on the log, as float32; the others are worked out again from
scores that the log keeps as float32, by a quadrature that is exact to 0.01."""
CARRIES: Final = 500.0
"""Effective decisions from which on an interval of 99.9 % is one: of fewer, with the few large weights that messages of
three offers have, the standard error itself is a guess. All are reported, these alone can fail a run."""
console = Console(stderr=True, highlight=False)


class World(NamedTuple):
    """Who accepts what: one rate for each segment and offer."""

    rates: Array


def make_world(seed: int) -> World:
    """Return a world whose segments like different offers."""
    rng = np.random.default_rng(seed)
    logit = -2.4 + rng.normal(0, 0.4, len(OFFERS)) + rng.normal(0, 0.8, (SEGMENTS, len(OFFERS)))
    return World(np.clip(1 / (1 + np.exp(-logit)), 0.01, 0.3))


def files(weights: Iterable[float], window_s: int) -> dict[str, str]:
    """Return a policy set with these weights; after `window_s` a silence is a no."""
    offers = [
        f"  - {{id: {offer}, category: promotion, placements: [home, grid{', till' if place < AT_TILL else ''}],"
        f" value: 1, weight: {weight:.3f}, prior: 8%, attributes: {{line: line-{place % 3}}}}}"
        for place, (offer, weight) in enumerate(zip(OFFERS, weights, strict=True))
    ]
    return {
        "policy.yaml": f"""
policy: truth
timezone: UTC
groups: {{control: 2%, random: 5%}}
arbitration:
  priority: propensity * value * weight - channel_cost
  exploration: {{alpha: 0.5, floor: 30%, shortlist: 32}}
attribution: {{impression: {window_s}s, accept: {window_s}s}}
""",
        "channels.yaml": "channels:\n  web: {kind: inbound}\nplacements:\n"
        + "".join(f"  {name}: {{channel: web, slots: {len(ranks)}}}\n" for name, ranks in PLACES.items()),
        "models.yaml": "models:\n  accept: {predicts: accept, inputs: [context.*]}\n",
        "offers.yaml": "categories: {promotion: {}}\noffers:\n" + "\n".join(offers) + "\n",
    }


def _policy(weights: Iterable[float], window_s: int) -> PolicySet:
    return load_files(files(weights, window_s)).policy


class Crowd:
    """Customers who come, look, and accept at the world's rates; keeps a book of what they were told."""

    def __init__(self, world: World, seed: int) -> None:
        """Everything random comes from the seed."""
        self.world = world
        self.rnd = random.Random(seed)
        self.offered = 0
        self.accepted = 0
        self.away = 0
        """Answers that the engine gave without its store: they are not on the log."""
        self.versions: set[str] = set()

    def decide(self, number: int) -> Any:
        """Return the body of a decide."""
        who = self.rnd.randrange(CUSTOMERS)
        return {
            "customer_id": f"c{who}",
            "placement": self.rnd.choice(tuple(PLACES)),
            "context": {"segment": f"s{who % SEGMENTS}", "night": number % 2 == 0},
        }

    def reply(self, answer: Any) -> list[Follow]:
        """Accept at most one of the offers, a moment later."""
        if answer["reason"] == "state_unavailable":
            self.away += 1
            return []
        offers = answer["offers"]
        if not offers:
            return []
        self.offered += 1
        self.versions.add(answer["model_version"])
        rates = self.world.rates[int(answer["customer_id"][1:]) % SEGMENTS]
        luck = self.rnd.random()
        for offer, share in zip(offers, PLACES[answer["placement"]], strict=False):
            luck -= share * rates[OFFERS.index(offer["offer"])]
            if luck < 0:
                self.accepted += 1
                return [Follow(self.rnd.uniform(0.05, 3.0), EVENTS, _accept(answer, offer["offer"]))]
        return []


def _accept(answer: Any, offer: str) -> dict[str, Any]:
    decision = answer["decision_id"]
    return {
        "event_id": f"yes-{decision}",
        "type": "accept",
        "customer_id": answer["customer_id"],
        "decision_id": decision,
        "offer": offer,
    }


async def _talked(
    tact: Running, crowd: Crowd, decisions: int, rate: float, window_s: int, *, say: bool
) -> None:
    """Let the crowd talk, then wait until the window of every decision has passed."""
    talk = Talk(crowd.decide, crowd.reply, decisions, rate)
    talking = asyncio.create_task(talk.run(tact.port, CONNECTIONS))
    started = time.perf_counter()
    while not talking.done():
        await asyncio.wait({talking}, timeout=1)
        if say:
            pace = talk.answers / (time.perf_counter() - started)
            told = f"{talk.answers:,} of {decisions:,} decided, {pace:.0f}/s, {crowd.accepted:,} accepted"
            console.print(f"{told}, {len(crowd.versions)} models".ljust(100), end="\r")
    await talking
    await asyncio.sleep(window_s)


async def _archived(store: str, folder: Path) -> None:
    """Finish what the feature worker and the archive had not done yet when they were stopped."""
    engine = await open_engine(store)
    try:
        while (await engine.worker.step()).events:
            pass
        archive = Archive(engine.customers, engine.plans, folder)
        while await archive.step():
            pass
        await archive.flush()
    finally:
        await engine.close()


def measure(
    decisions: int, seed: int, *, rate: float, window_s: int = 30, keep: Path | None = None, say: bool = True
) -> dict[str, Any]:
    """Run a Tact in the world of this seed, and judge what its decision log says."""
    world = make_world(seed)
    rng = np.random.default_rng(seed + 1)
    # Uneven from the start: a short run tells even choice from what was done as well.
    own, other = rng.uniform(0.5, 2.0, len(OFFERS)), rng.uniform(0.7, 1.4, len(OFFERS))
    crowd = Crowd(world, seed)
    with tempfile.TemporaryDirectory(prefix="tact-truth-") as scratch:
        folder, data = Path(scratch) / "policies", Path(scratch) / "data"
        folder.mkdir()
        for name, text in files(own, window_s).items():
            (folder / name).write_text(text)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            with running("--policies", str(folder), data=data) as tact:
                runner.run(_talked(tact, crowd, decisions, rate, window_s, say=say))
            server = ValkeyServer(data)
            server.start()
            try:
                runner.run(_archived(f"unix://{server.socket_path}", data / "decisions"))
            finally:
                server.stop()
        if keep is not None:
            shutil.copytree(data / "decisions", keep)
        log = decision_log.read(data / "decisions")
    known = stated.Known(OFFERS, world.rates, PLACES, "context.segment", _policy(own, window_s))
    likely = np.argsort(world.rates[:, :AT_TILL].mean(axis=0))
    judged = stated.judge_all(log, known, _policy(other, window_s), always=OFFERS[int(likely[AT_TILL // 2])])
    return {
        "seed": seed,
        "decisions": decisions,
        "offered": crowd.offered,
        "accepted": crowd.accepted,
        "away": crowd.away,
        "models": len(crowd.versions),
        **judged,
    }


def main(arguments: list[str] | None = None) -> None:
    """Run, print, and exit 1 when something stated is not true."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--decisions", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--rate", type=float, default=700.0, help="decisions a second at most")
    parser.add_argument("--keep", type=Path, default=None, help="folder that the decision log is copied to")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 31)
    console.print(f"seed {seed}")
    found = measure(asked.decisions, seed, rate=asked.rate, keep=asked.keep)
    if asked.json:
        json.dump(found, sys.stdout, indent=2)
        print()
    for sentence in complaints(found):
        console.print(sentence, style="red")
    show(found)
    sys.exit(1 if complaints(found) else 0)


def show(found: dict[str, Any]) -> None:
    """Print what was found for people."""
    console.print(
        f"{found['offered']:,} offered, {found['accepted']:,} accepted, {found['models']} models served, "
        f"{found['away']} answered without the store"
    )
    for title, said in (("stated", found), ("control: 1/n", found["control"])):
        console.print(title)
        for name, one in said["estimates"].items():
            console.print(
                f"  {name:24} truth {one['truth']:.5f}, IPS {one['ips']:.5f} ({one['low']:.5f} to {one['high']:.5f}"
                f"{'' if one['inside_95'] else ', outside'}), {one['errors_off']:+.2f} standard errors, "
                f"{one['blocks_inside_95']} of {one['blocks']} blocks inside"
            )
        for test in said["choices"]:
            console.print(
                f"  {test['name']:28} {test['draws']:,} draws, chi-square {test['statistic']:.1f} "
                f"on {test['freedom']}, p {test['p']:.3g}"
            )


def complaints(found: dict[str, Any]) -> list[str]:
    """Return a sentence for everything that is not as it should be."""
    said = [
        f"the truth of '{name}' is outside the 99.9 % interval: {one['errors_off']:+.2f} standard errors"
        for name, one in found["estimates"].items()
        if not one["inside_99.9"] and one["effective"] >= CARRIES
    ]
    if sum(one["effective"] >= CARRIES for one in found["estimates"].values()) < 2:
        said.append(
            "the log has too little overlap with the judged policies for their intervals to mean anything"
        )
    first = [one for one in found["estimates"].values() if one["first_only"]]
    inside, blocks = (sum(one[key] for one in first) for key in ("blocks_inside_95", "blocks"))
    if blocks and stats.binom.cdf(inside, blocks, 0.95) < 1e-4:
        said.append(f"only {inside} of {blocks} intervals of blocks hold the truth")
    if found["rejected"]:
        said.append(f"the choices do not fit the stated chances: {found['choices']}")
    said += [
        f"a chance stated for a chosen offer of {rank} is {off:.2g} off what follows from the log"
        for rank, off in found["stated_off"].items()
        if off > STATED_OFF[rank]
    ]
    if found["accepted_logged"] != found["accepted"]:
        said.append(f"{found['accepted']} accepts were sent, the log has {found['accepted_logged']}")
    if found["logged_offers"] < found["offered"]:
        said.append(f"{found['offered']} decisions offered something, the log has {found['logged_offers']}")
    if not found["control"]["found"]:
        said.append("the control, 1/n stated, was not found")
    return said


if __name__ == "__main__":
    main()
