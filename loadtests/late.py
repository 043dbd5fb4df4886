"""What late answers cost: `python -m loadtests.late [--seeds 5] [--decisions 10000] [--worlds rare,often] [--json]`.

Made-up worlds with a known truth: three offers with tastes of their own over four inputs, sent by chance, so that every
way of learning sees the same. Some sends are never delivered (censored). A yes comes at once, or days later, sometimes
only after the seven days within which it counts. The marketer's priors are half of the truth. In `rare` about one in
nine accepts, in `often` three in ten. The ways differ in what they learn, and when:

- `take-back`: what Tact does. The steps go through `engine.learning.outcomes.Learning`, as the trail brings them: an
  assumed "no" at the confirm, taken back by a yes within the window.
- `waiting`: yes and no are learned when the window ends.
- `yes-first`: a yes is learned when it comes, a no when the window ends.
- `on-top`: a no at once; a late yes is learned on top of it, whenever it comes.
- `dropped`: a no at once, and a late yes is not learned.
- `censored-no`: as `take-back`, but what was never delivered is learned as a no.
- `undelayed`: is told at the confirm what will come: nobody can be, but it is what lateness is measured by.

Log-loss is that of the probability stated at the decision, before anything of it is learned, in expectation over the
true chance of a yes within the window, given delivery; the oracle states that chance. Means are over all decisions from
the first, and over the last half; intervals are Student's t over seeds, and `worse` is the difference to `take-back`,
seed by seed.
"""

import argparse
import json
import math
import sys
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.judging.trail import CONFIRMED, MADE, OUTCOME, RELEASED, Outcome, Step
from engine.learning.hybrid import Hybrid
from engine.learning.outcomes import Case, Learning
from loadtests.bandits.worlds import Array
from loadtests.worlds import interval
from policies.loader import load_files
from policies.model import PolicySet

WAYS: Final = ("undelayed", "take-back", "waiting", "yes-first", "on-top", "dropped", "censored-no")
WINDOW_MS: Final = 7 * 86_400_000
PAUSE_MS: Final = 1_200_000
"""Between two decisions: the window is some 500 of them."""
AT_ONCE: Final = 0.4
"""Of the yeses, those that come with the decision; the others take half a window on average."""
CENSORED: Final = 0.15
OFFERS: Final = 3
INPUTS: Final = 4
YES: Final = "yes"
ENDED: Final = "ended"
TAG: Final = "0" * 16


class World(NamedTuple):
    """How readily offers are accepted, and what the marketer expects."""

    level: float
    """Logit at which an offer of no special appeal is accepted by an average customer."""
    prior: float


WORLDS: Final = {"rare": World(-2.6, 0.05), "often": World(-1.0, 0.15)}


class Sends(NamedTuple):
    """What was sent to whom, one entry a decision, and what became of it."""

    prior: float
    contexts: list[dict[str, float]]
    offer: NDArray[np.int64]
    delivered: NDArray[np.bool_]
    answered_ms: NDArray[np.int64]
    """How long after the decision a yes comes; -1 for none."""
    chance: Array
    """The true chance of a yes within the window, given delivery."""


class Happening(NamedTuple):
    """One moment of one decision: made, confirmed, released, a yes, or the end of its window."""

    at: int
    decision: int
    kind: str


def sends(world: World, seed: int, decisions: int) -> Sends:
    """Return a world's sends; all of it is drawn from the seed."""
    random = np.random.default_rng((seed, 21))
    inputs = random.normal(size=(decisions, INPUTS))
    weights, own = random.normal(size=(INPUTS, OFFERS)) * 0.7, random.normal(size=OFFERS) * 0.4
    offer = random.integers(OFFERS, size=decisions)
    logit = (world.level + inputs @ weights + own)[np.arange(decisions), offer]
    accept = 1 / (1 + np.exp(-logit))
    delay = random.exponential(WINDOW_MS / 2, size=decisions).astype(np.int64) + PAUSE_MS
    delay[random.uniform(size=decisions) < AT_ONCE] = 2
    delivered = random.uniform(size=decisions) >= CENSORED
    answered = np.where(delivered & (random.uniform(size=decisions) < accept), delay, -1)
    in_time = AT_ONCE + (1 - AT_ONCE) * (1 - math.exp(-2 * (WINDOW_MS - PAUSE_MS) / WINDOW_MS))
    contexts = [{f"x{number}": value for number, value in enumerate(row)} for row in inputs.tolist()]
    return Sends(world.prior, contexts, offer, delivered, answered, accept * in_time)


def happenings(sent: Sends) -> list[Happening]:
    """Return all moments up to the last decision, in the order of time."""
    found = []
    last = PAUSE_MS * len(sent.offer)
    for decision, (delivered, answered) in enumerate(
        zip(sent.delivered.tolist(), sent.answered_ms.tolist(), strict=True)
    ):
        at = PAUSE_MS * decision
        found.append(Happening(at, decision, MADE))
        found.append(Happening(at + 1, decision, CONFIRMED if delivered else RELEASED))
        if answered >= 0:
            found.append(Happening(at + answered, decision, YES))
        if delivered:
            found.append(Happening(at + WINDOW_MS, decision, ENDED))
    return sorted(one for one in found if one.at < last)


def policy_set(prior: float) -> PolicySet:
    """Return the policy set under which was decided: one model of accepts, and offers without attributes."""
    lines = (
        f"  - {{id: o{place}, category: any, placements: [mail], prior: {prior:.0%}}}\n"
        for place in range(OFFERS)
    )
    return load_files(
        {
            "policy.yaml": "policy: late\ntimezone: UTC\nattribution: {impression: 1h, accept: 7d}\n",
            "channels.yaml": "channels:\n  email: {kind: outbound}\n"
            "placements:\n  mail: {channel: email, slots: 1}\n",
            "offers.yaml": "categories: {any: {}}\noffers:\n" + "".join(lines),
        }
    ).policy


class TakeBack:
    """The engine's own fold of the trail."""

    def __init__(self, sent: Sends, *, censored_is_no: bool = False) -> None:
        self.sent = sent
        self.learning = Learning()
        self.policy = policy_set(sent.prior)
        self.censored_is_no = censored_is_no

    def take(self, one: Happening) -> None:
        """Take a moment in, as a step of the trail."""
        if one.kind == ENDED:
            return  # the fold knows by itself
        kind = OUTCOME if one.kind == YES else one.kind
        if kind == RELEASED and self.censored_is_no:
            kind = CONFIRMED
        outcome = Outcome("accept", one.at, None) if kind == OUTCOME else None
        self.learning.take(Step(kind, TAG, f"{one.decision:012}", outcome), one.at, self._find)

    def _find(self, step: Step) -> Case:
        decision = int(step.uid)
        context = self.sent.contexts[decision]
        return Case(
            at=PAUSE_MS * decision,
            channel="email",
            offers=(f"o{self.sent.offer[decision]}",),
            waits=True,
            policy=self.policy,
            contexts={model.name: context for model in self.policy.models},
        )

    def states(self, decision: int) -> float:
        """Return the probability of the decision's offer."""
        (head,) = self.learning.heads.values()
        assert isinstance(head, Hybrid)
        return _probability(head, self.sent, decision)


class Plain:
    """The same model, told in another way."""

    def __init__(self, sent: Sends, way: str) -> None:
        self.sent, self.way = sent, way
        self.model = Hybrid()
        start = math.log(sent.prior / (1 - sent.prior))
        offers = [f"o{place}" for place in range(OFFERS)]
        self.model.add_offers(dict.fromkeys(offers, start), {offer: {"category": "any"} for offer in offers})

    def take(self, one: Happening) -> None:
        """Learn what this way learns at this moment."""
        answered = int(self.sent.answered_ms[one.decision])
        counts = 0 <= answered <= WINDOW_MS
        if self.way in ("waiting", "yes-first"):
            if one.kind == ENDED and not (counts and self.way == "yes-first"):
                self._learn(one, float(counts))
            elif one.kind == YES and counts and self.way == "yes-first":
                self._learn(one, 1.0)
        elif one.kind == CONFIRMED:
            self._learn(one, float(counts if self.way == "undelayed" else 0 <= answered < PAUSE_MS))
        elif one.kind == YES and answered >= PAUSE_MS and self.way == "on-top":
            self._learn(one, 1.0)

    def _learn(self, one: Happening, outcome: float) -> None:
        context = self.sent.contexts[one.decision]
        self.model.learn(context, f"o{self.sent.offer[one.decision]}", outcome, one.at)

    def states(self, decision: int) -> float:
        """Return the probability of the decision's offer."""
        return _probability(self.model, self.sent, decision)


def _probability(model: Hybrid, sent: Sends, decision: int) -> float:
    mean, _ = model.predict(sent.contexts[decision], f"o{sent.offer[decision]}")
    return 1 / (1 + math.exp(-mean))


def learner(way: str, sent: Sends) -> TakeBack | Plain:
    """Return who learns in one way."""
    if way in ("take-back", "censored-no"):
        return TakeBack(sent, censored_is_no=way == "censored-no")
    return Plain(sent, way)


def losses(way: str, sent: Sends) -> Array:
    """Return the log-loss of each stated probability; nan where nothing was delivered."""
    who = learner(way, sent)
    found = np.full(len(sent.offer), np.nan)
    for one in happenings(sent):
        who.take(one)
        if one.kind == MADE and sent.delivered[one.decision]:  # nothing of it is learned before its confirm
            chance = float(sent.chance[one.decision])
            found[one.decision] = log_loss(chance, who.states(one.decision))
    return found


def log_loss(chance: float, stated: float) -> float:
    """Return the expected log-loss of a stated probability, given the true chance."""
    return -(chance * math.log(stated) + (1 - chance) * math.log1p(-stated))


def oracle(sent: Sends) -> Array:
    """Return the log-loss of who knows every chance; nan where nothing was delivered."""
    found = [log_loss(chance, chance) for chance in sent.chance.tolist()]
    return np.where(sent.delivered, found, np.nan)


def measure(world: World, seeds: int, decisions: int) -> dict[str, Any]:
    """Return by way the mean log-loss with its interval, and how much worse than `take-back` it is."""
    drawn = [sends(world, seed, decisions) for seed in range(seeds)]
    by_way = {"oracle": [oracle(sent) for sent in drawn]}
    for way in WAYS:
        by_way[way] = [losses(way, sent) for sent in drawn]
        print(f"{way}: {' '.join(f'{np.nanmean(one):.4f}' for one in by_way[way])}", file=sys.stderr)
    found: dict[str, Any] = {}
    for part, begin in (("whole", 0), ("last_half", decisions // 2)):
        means = {way: [float(np.nanmean(one[begin:])) for one in each] for way, each in by_way.items()}
        for way, each in means.items():
            worse = [one - ours for one, ours in zip(each, means["take-back"], strict=True)]
            found.setdefault(way, {})[part] = {**interval(each), "worse": interval(worse), "each": each}
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run all ways in the worlds and print a table for each, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    unknown = set(asked.worlds.split(",")) - set(WORLDS)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}: choose among {', '.join(WORLDS)}")
    print(f"{asked.seeds} seeds, 0 to {asked.seeds - 1}; {asked.decisions} decisions each", file=sys.stderr)
    found = {name: measure(WORLDS[name], asked.seeds, asked.decisions) for name in asked.worlds.split(",")}
    if asked.json:
        print(json.dumps({"worlds": found}, indent=2))
        return
    for name, by_way in found.items():
        print(f"{name:12} {'log-loss':>16} {'worse':>16} {'last half':>16} {'worse':>16}")
        for way, one in by_way.items():
            parts = [part for half in (one["whole"], one["last_half"]) for part in (half, half["worse"])]
            cells = (f"{part['mean']:.4f} ± {part['half_width'] or 0:.4f}" for part in parts)
            print(f"{way:12} " + " ".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
