"""A launch midway: a new offer starts at its prior, is tried, and is taken up or given up by what comes of it."""

from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest

from engine.judging.choice import EVERYBODY, draw
from engine.judging.plan import compile_plan
from engine.judging.ranking import rank
from engine.judging.scoring import scores_of
from engine.judging.trail import MADE, OUTCOME, Outcome, Step
from engine.learning.levers import compile_head
from engine.learning.outcomes import Case, Learning
from policies.loader import load_files
from policies.model import PolicySet

TAG = "t" * 16
OLD = {"boots": 0.10, "socks": 0.06, "hats": 0.03}
"""Offer to its true rate; the context shifts it a little. All start at 10%, so that a launch may well be the best:
what can't be, by its own prior, gets no more than its share of the floor."""
OFFER = "  - {{id: {0}, category: promotion, placements: [home], value: 1, prior: 10%, attributes: {{line: {1}}}}}\n"
HYBRID = "models:\n  accept: {predicts: accept}\n"
RIVER = (
    "models:\n  accept: {predicts: accept, learner: river.linear_model.LogisticRegression, "
    "parameters: {optimizer: {river.optim.AdaGrad: {lr: 0.1}}}}\n"
)


def policy_of(*offers: str, models: str = HYBRID) -> PolicySet:
    listed = "".join(OFFER.format(offer, "x" if place % 2 else "y") for place, offer in enumerate(offers))
    return load_files(
        {
            "policy.yaml": "policy: launch\ntimezone: UTC\narbitration: {priority: propensity}\n"
            "attribution: {impression: 1h, accept: 1h}\n",
            "channels.yaml": "channels:\n  web: {kind: inbound}\nplacements:\n  home: {channel: web}\n",
            "offers.yaml": "categories: {promotion: {}}\noffers:\n" + listed,
            "models.yaml": models,
        }
    ).policy


class Shown(NamedTuple):
    """One decision: what was chosen, and every offer's chance of it."""

    offer: str
    chances: dict[str, float]


class Market:
    """One learner that goes on while policy sets change, and customers who answer by true rates."""

    def __init__(self, policy: PolicySet, rates: dict[str, float], seed: int) -> None:
        self.learning, self.random, self.rates = Learning(), Random(seed), rates
        self.at = 0
        self.activate(policy)

    def activate(self, policy: PolicySet) -> None:
        self.plan = compile_plan(policy)
        self.placement = self.plan.placements["home"]

    def context(self) -> dict[str, Any]:
        return {"placement": "home", "features.rich": self.random.choice(["yes", "no"])}

    def logits(self, context: dict[str, Any]) -> dict[str, tuple[float, float]]:
        """Mean and deviation of every offer, as serving has them."""
        offers = [offer.id for offer in self.placement.offers]
        places = [self.plan.snapshot.offers[offer] for offer in offers]
        starts = self.plan.snapshot.mean[places], self.plan.snapshot.deviation[places]
        head = self.learning.heads.get(self.plan.policy.models[0].head)
        if head is None:
            return dict(zip(offers, zip(*(start.tolist() for start in starts), strict=True), strict=True))
        compiled = compile_head(head, offers, starts)
        mean, deviation = compiled.predict(compiled.encode(context))
        return dict(zip(offers, zip(mean.tolist(), deviation.tolist(), strict=True), strict=True))

    def decide(self) -> Shown:
        self.at += 60_000
        context = self.context()
        arbitration, everyone = self.plan.policy.arbitration, self.placement.everyone
        seen = self.logits(context)
        mean, deviation = (np.array(part) for part in zip(*seen.values(), strict=True))
        scores = scores_of(mean, arbitration.exploration.alpha * deviation)
        over = rank("1", scores, self.placement.levers, arbitration, everyone).distribution(
            everyone, at_random=False
        )
        uid = f"{self.at:012d}"
        offer = self.placement.offers[draw(over, uid, 1).place].id
        case = Case(self.at, "web", (offer,), False, self.plan.policy, {"accept": context})
        self.learning.take(Step(MADE, TAG, uid), self.at, lambda _: case)
        shift = 1.2 if context["features.rich"] == "yes" else 0.8
        if self.random.random() < self.rates[offer] * shift:
            came = Outcome("accept", self.at, offer)
            self.learning.take(Step(OUTCOME, TAG, uid, came), self.at, lambda _: case)
        chances = {
            self.placement.offers[place].id: chance
            for place, chance in zip(over.places, over.chance, strict=True)
        }
        return Shown(offer, chances)


def chance_of(logit: float) -> float:
    return 1 / (1 + float(np.exp(-logit)))


@pytest.mark.parametrize("models", [HYBRID, RIVER], ids=["hybrid", "river"])
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("rate", "good"), [(0.30, True), (0.005, False)])
def test_a_launch_starts_at_its_prior_is_tried_and_gets_what_it_deserves(
    models: str, seed: int, rate: float, good: bool
) -> None:
    market = Market(policy_of(*OLD, models=models), OLD | {"new": rate}, seed)
    for _ in range(600):
        market.decide()
    before = market.logits({"placement": "home", "features.rich": "yes"})
    market.activate(policy_of(*OLD, "new", models=models))
    after = market.logits({"placement": "home", "features.rich": "yes"})
    assert chance_of(after["new"][0]) == pytest.approx(0.1, rel=1e-3)
    assert [after[offer] for offer in OLD] == [pytest.approx(before[offer]) for offer in OLD]
    shown = [market.decide() for _ in range(900)]
    assert "new" in [one.offer for one in shown[:20]]
    last = shown[-200:]
    share = float(np.mean([one.chances["new"] for one in last]))
    if good:
        assert share > 0.8
    else:
        floor = market.plan.policy.arbitration.exploration.floor
        # A prior is worth a hundred outcomes to a classifier of River, so it is given up more slowly.
        assert share <= (floor if models is HYBRID else 0.1)
        assert min(one.chances["new"] for one in last) >= floor * EVERYBODY / 4 * 0.999


@pytest.mark.parametrize("models", [HYBRID, RIVER], ids=["hybrid", "river"])
def test_no_change_of_the_policy_set_resets_what_was_learned(models: str) -> None:
    market = Market(policy_of(*OLD, "gone", models=models), OLD | {"gone": 0.2}, seed=5)
    for _ in range(800):
        market.decide()
    asked = {"placement": "home", "features.rich": "yes"}
    before = market.logits(asked)
    head = market.learning.heads[market.plan.policy.models[0].head]
    learned = head.outcomes.sum()
    # Removed: it is known no more to serving, and the others are as they were.
    market.activate(policy_of(*OLD, models=models))
    assert market.logits(asked) == {offer: pytest.approx(before[offer]) for offer in OLD}
    market.decide()
    # A feature comes, and goes: without it all is as it was.
    with_city = {**asked, "features.city": "Leeds"}
    here = market.logits(asked)
    head.learn(with_city, "hats", 0.0)
    assert market.logits(with_city)["hats"] != market.logits(asked)["hats"]
    assert market.logits(asked)["boots"] == pytest.approx(here["boots"], rel=0.02)
    # Back again, with another prior that no longer counts: it goes on from what it had learned.
    market.activate(policy_of(*OLD, "gone", models=models))
    assert market.learning.heads[market.plan.policy.models[0].head] is head
    assert market.logits(asked)["gone"] == pytest.approx(before["gone"], rel=0.1)
    assert head.outcomes.sum() == learned + 2
