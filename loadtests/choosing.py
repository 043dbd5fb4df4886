"""What a choice costs in process: `python -m loadtests.choosing [--rounds 9] [--decisions 40] [--json]`.

Among 10, 100 and 1,000 offers, milliseconds from what is known of a customer to the drawn offer with its probability:

- `tact`: all of it. Reads 12 features of the customer's state, 4 profile fields and 4 context keys, scores every offer
  with a trained model, ranks by the policy's expression, works out the chances (marginal Thompson over a shortlist of
  32, floor 2 %), and draws. No two customers are alike, so nothing that is remembered helps.
- `gittins-empty`: gittins 2.0.1, `decide` with its own default policy (no `score` or `explore` of one's own, default
  epsilon), arms without features and no context: the least that it can be asked, nothing about the customer.
- `gittins-bare`: the same arms, with the 20 inputs as context.
- `gittins`: with the inputs as context, and arms that have the offers' three attributes, as ours has.
- `vw`: VW `--cb_explore_adf --squarecb -q UA`, `predict` of the text example (it parses and predicts; the text is
  made beforehand), and a draw.

All have learned from the same number of outcomes. Rounds are interleaved, learner after learner, so a slow moment of
the machine meets all; figures are medians over the decisions of all rounds, ratios the medians of each round's ratio.
"""

import argparse
import json
import sys
import time
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from statistics import median
from typing import Any, Final, NamedTuple

import gittins  # type: ignore[import-untyped]
import numpy as np
from vowpalwabbit import Workspace  # type: ignore[import-untyped]

from engine.judging.plan import PlacementPlan, Plan, compile_plan
from engine.learning.hybrid import Hybrid
from engine.learning.inputs import Inputs
from engine.learning.snapshot import Snapshot
from engine.services.models import Served
from features.event import Event
from features.facts import Value
from features.state import FeatureState
from policies.loader import load_files

SIZES: Final = (10, 100, 1_000)
NOW: Final = 1_767_225_600_000
DAY_MS: Final = 86_400_000
TAUGHT: Final = 1_000
"""Outcomes that everybody has learned from."""
KINDS: Final = ("page_view", "click", "add_to_cart", "purchase", "store_scan", "email_open")
DEVICES: Final = ("mobile", "desktop", "till")
TIERS: Final = ("basic", "silver", "gold")


class Customer(NamedTuple):
    """What is known of one customer at one moment."""

    state: FeatureState
    profile: dict[str, Value]
    context: dict[str, Any]


def plan_of(offers: int) -> Plan:
    """Return a policy set with so many offers at one placement, and a model of 20 inputs."""
    counts = "".join(f"  {kind}_7d: {{count: [{kind}], within: 7d}}\n" for kind in KINDS)
    sums = "".join(f"  {kind}_sum: {{sum: amount, of: [{kind}], within: 30d}}\n" for kind in KINDS)
    lines = "".join(
        f"  - {{id: o{place}, category: c{place % 5}, placements: [home], value: {1 + place % 7}, prior: 5%, "
        f"attributes: {{line: line{place % 3}, discount: {place % 10 / 20}}}}}\n"
        for place in range(offers)
    )
    return compile_plan(
        load_files(
            {
                "policy.yaml": "policy: choosing\ntimezone: UTC\n",
                "channels.yaml": "channels:\n  web: {kind: inbound}\nplacements:\n  home: {channel: web, slots: 1}\n",
                "features.yaml": "features:\n" + counts + sums,
                "profile.yaml": "profile:\n  tier: {type: string}\n  app: {type: bool}\n"
                "  household: {type: number}\n  age: {type: number}\n",
                "offers.yaml": f"categories: {{{', '.join(f'c{place}: {{}}' for place in range(5))}}}\n"
                "offers:\n" + lines,
            }
        ).policy
    )


def customers(plan: Plan, count: int, seed: int) -> list[Customer]:
    """Return customers of whom no two are alike."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        state = FeatureState()
        for kind in KINDS:
            for _ in range(int(random.integers(1, 4))):
                at = NOW - int(random.integers(1, 6 * DAY_MS))
                amount = {"amount": round(float(random.exponential(20)), 2)}
                state = plan.catalogue.fold(
                    state, Event(f"e{number}", kind, f"c{number}", at, at, properties=amount)
                )
        profile: dict[str, Value] = {
            "tier": TIERS[int(random.integers(3))],
            "app": bool(random.integers(2)),
            "household": float(random.integers(1, 6)),
            "age": float(random.uniform(18, 80)),
        }
        context = {
            "device": DEVICES[int(random.integers(3))],
            "page": f"page{random.integers(4)}",
            "hour": float(random.uniform(0, 24)),
            "basket": float(random.exponential(30)),
        }
        found.append(Customer(state, profile, context))
    return found


def choose(
    served: Served, plan: Plan, place: PlacementPlan, customer: Customer, uid: str
) -> tuple[str, float]:
    """Choose as `engine.judging.decide` does, once rules have let every offer through."""
    score = served.scorer(plan, place, customer.state, customer.profile, customer.context, NOW, {})
    assert score is not None
    ranking = score()
    alive = place.everyone & ~ranking.below_threshold
    _, (pick,) = ranking.choose(alive, uid, 1, at_random=False)
    return place.offers[pick.place].id, pick.probability


Chooser = Callable[[int], tuple[str, float]]
"""Chooses for the customer of a number; returns the offer and the probability with which it was chosen."""


def tact(plan: Plan, known: list[Customer], seed: int) -> Chooser:
    """Return ours, with a model that has learned from the first customers."""
    (place,) = plan.placements.values()
    (model,) = plan.policy.models
    reader, head, random = Inputs(plan, model), Hybrid(), np.random.default_rng(seed)
    offers = plan.policy.offers.values()
    head.add_offers(
        {offer.id: -3.0 for offer in offers},
        {offer.id: {"category": offer.category, **offer.attributes} for offer in offers},
    )
    for number in range(TAUGHT):
        customer = known[number % len(known)]
        read = reader.read(customer.state, customer.profile, customer.context, "home", NOW)
        head.learn(read, f"o{random.integers(len(offers))}", float(random.uniform() < 0.1))
    served = Served(Snapshot("taught", {model.name: head}))
    return lambda number: choose(served, plan, place, known[number], f"{number:012}")


def inputs_of(plan: Plan, known: list[Customer]) -> list[dict[str, Any]]:
    """Return each customer's 20 inputs (and the placement), as the model reads them."""
    reader = Inputs(plan, plan.policy.models[0])
    return [reader.read(one.state, one.profile, one.context, "home", NOW) for one in known]


def of_gittins(plan: Plan, contexts: list[dict[str, Any]], seed: int, *, bare: bool) -> Chooser:
    """Return gittins, with bare arms or with those that have the offers' attributes."""
    state, random = gittins.create(18, 1e9), np.random.default_rng(seed)
    arms: list[tuple[str, dict[str, Any]]] = [
        (offer.id, {} if bare else {"category": offer.category, **offer.attributes})
        for offer in plan.policy.offers.values()
    ]
    for number in range(TAUGHT):
        decided = gittins.decide(state, contexts[number % len(contexts)], arms, float(number), f"t{number}")
        gittins.learn(state, decided.decision_id, float(random.uniform() < 0.1), float(number))

    def choose_one(number: int) -> tuple[str, float]:
        decided = gittins.decide(state, contexts[number], arms, float(TAUGHT + number), f"c{number}")
        return arms[decided.chosen][0], decided.propensity

    return choose_one


def of_vw(plan: Plan, contexts: list[dict[str, Any]], seed: int) -> Chooser:
    """Return VW."""
    workspace: Any = Workspace(f"--cb_explore_adf --squarecb -q UA --quiet --random_seed {seed}")
    random = np.random.default_rng(seed)
    offers = list(plan.policy.offers)
    arms = [f"|A {offer}" for offer in offers]
    texts = ["shared |U " + " ".join(_feature(*named) for named in context.items()) for context in contexts]
    for number in range(TAUGHT):
        arm, cost = int(random.integers(len(arms))), -float(random.uniform() < 0.1)
        lines = [texts[number % len(texts)], *arms]
        lines[arm + 1] = f"0:{cost}:{1 / len(arms)} {arms[arm]}"
        workspace.learn(lines)

    def choose_one(number: int) -> tuple[str, float]:
        chance = workspace.predict([texts[number], *arms])
        cumulative = list(accumulate(chance))
        drawn = min(bisect_right(cumulative, random.random() * cumulative[-1]), len(arms) - 1)
        return offers[drawn], chance[drawn]

    return choose_one


def _feature(name: str, value: Any) -> str:
    return f"{name}:{value:.6g}" if isinstance(value, float) else f"{name}={value}"


def measure(offers: int, rounds: int, decisions: int) -> dict[str, Any]:
    """Return by learner the milliseconds a decision, and how many times ours the others take."""
    plan = plan_of(offers)
    known = customers(plan, (rounds + 1) * decisions, seed=31)
    contexts = inputs_of(plan, known)
    choosers = {
        "tact": tact(plan, known, 32),
        "gittins-empty": of_gittins(plan, [{}] * len(contexts), 32, bare=True),
        "gittins-bare": of_gittins(plan, contexts, 32, bare=True),
        "gittins": of_gittins(plan, contexts, 32, bare=False),
        "vw": of_vw(plan, contexts, 32),
    }
    took: dict[str, list[list[float]]] = {name: [] for name in choosers}
    for number in range(rounds + 1):
        span = range(number * decisions, (number + 1) * decisions)
        for name, one in choosers.items():
            spent = []
            for customer in span:
                started = time.perf_counter_ns()
                offer, probability = one(customer)
                spent.append((time.perf_counter_ns() - started) / 1e6)
                assert offer in plan.policy.offers and 0 < probability <= 1  # noqa: PT018  # one wrong answer
            if number:  # the first round warms up
                took[name].append(spent)
    found: dict[str, Any] = {}
    for name, by_round in took.items():
        every = sorted(one for spent in by_round for one in spent)
        ratios = [median(theirs) / median(ours) for theirs, ours in zip(by_round, took["tact"], strict=True)]
        found[name] = {
            "median_ms": median(every),
            "p99_ms": every[int(len(every) * 0.99)],
            "times_tact": median(ratios),
        }
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run all sizes and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--decisions", type=int, default=40, help="of each learner in each round")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    found = {}
    for size in map(int, asked.sizes.split(",")):
        print(f"{size} offers", file=sys.stderr)
        found[size] = measure(size, asked.rounds, asked.decisions)
    if asked.json:
        print(json.dumps({"offers": found}, indent=2))
        return
    print(f"{'ms a decision':14} " + " ".join(f"{f'{size} offers':>24}" for size in found))
    for name in next(iter(found.values())):
        cells = (
            f"{one[name]['median_ms']:.3f} ({one[name]['times_tact']:.1f} x tact)" for one in found.values()
        )
        print(f"{name:14} " + " ".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    main()
