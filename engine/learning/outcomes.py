"""The fold of the trail into models: each decision joins its outcomes once, by its own recorded inputs (G15).

What holds: the models are a function of the steps in their order, and of nothing else; no clock, no randomness. A
message that was delivered, or seen where its channel tells what was seen, is learned as an assumed "no"; a yes
within the attribution window takes that back and is learned in its place, once an offer; what was released, or never
confirmed, is learned as nothing at all. A model of values learns the first amount that a yes tells of, once an offer.
After the window a decision is closed: its "no" is final, and what comes later is not its doing.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from engine.judging.trail import CONFIRMED, MADE, OUTCOME, RELEASED, SEEN, YES, Outcome, Step
from engine.learning.hybrid import Hybrid, Setting
from engine.learning.inputs import Context
from engine.learning.river_head import RiverHead
from policies.model import VALUE, Model, Offer, PolicySet

OPEN_MAX: Final = 250_000
"""Decisions that are remembered until their window ends, as a checkpoint holds them all; of more the oldest close."""


RARE: Final = 0.001
"""Where models of other events than accepts start, unless `prior` says otherwise."""

Head = Hybrid | RiverHead


class Case(msgspec.Struct, frozen=True):
    """A decision as it is learned from: what it offered, to whom, and under which policy set."""

    at: int
    """When it was made (ms)."""
    channel: str
    offers: tuple[str, ...]
    waits: bool
    """It is a reservation: nothing has happened before its confirm."""
    policy: PolicySet
    contexts: Mapping[str, Context]
    """Inputs by head."""


Find = Callable[[Step], Case | None]
"""Returns the decision of a step; None where it is not kept any more."""


class Open(msgspec.Struct, array_like=True):
    """A decision whose window has not passed."""

    made: int
    until: int
    learned: bool = False
    expected: dict[str, list[float]] = {}
    """By head, for each offer what was expected when the "no" was assumed."""
    yes: dict[str, list[int]] = {}
    """By head, the offers (by place) whose yes, or whose amount, was learned."""


class Notes(msgspec.Struct, array_like=True):
    """What a checkpoint keeps beside the models."""

    open: dict[str, Open] = {}
    reporting: list[str] = []
    policies: list[str] = []
    answered: bool = False
    """Whether anybody has ever said yes: before that all that was learned is assumed."""


class Learning:
    """The models and all that they have yet to hear of."""

    def __init__(self, heads: dict[str, Head] | None = None, notes: Notes | None = None) -> None:
        """Start with nothing, or go on from a checkpoint."""
        self.heads = heads or {}
        self.notes = notes or Notes()

    def take(self, step: Step, at: int, find: Find) -> bool:
        """Take one step in, that was written at `at` (ms); say whether any model learned."""
        self._close(at)
        key = step.tag + step.uid
        if step.kind == MADE:
            return self._made(key, find(step))
        known = self.notes.open.get(key)
        if known is None:
            return False
        if step.kind == RELEASED:
            del self.notes.open[key]
            return False
        case = find(step)
        if case is None:
            return False
        self._know(case.policy)
        if step.kind == CONFIRMED:
            return case.channel not in self.notes.reporting and self._assume(known, case)
        assert step.kind == OUTCOME and step.outcome is not None  # noqa: S101, PT018  # there is no other kind
        return self._outcome(known, case, step.outcome)

    def _made(self, key: str, case: Case | None) -> bool:
        if case is None or not case.offers:
            return False
        self._know(case.policy)
        known = self.notes.open[key] = Open(case.at, case.at + case.policy.attribution.accept_ms)
        if case.waits or case.channel in self.notes.reporting:
            return False
        return self._assume(known, case)

    def _outcome(self, known: Open, case: Case, outcome: Outcome) -> bool:
        reporting = self.notes.reporting
        if outcome.type == "impression" and case.channel not in reporting:
            reporting.append(case.channel)
        if outcome.at > known.until:
            return False
        learned = outcome.type in SEEN and self._assume(known, case)
        for model in case.policy.models:
            if outcome.type not in _positives(model):
                continue
            learned = self._assume(known, case) or learned
            place = _place(case, outcome)
            yes = known.yes.setdefault(model.head, [])
            if place is None or place in yes:
                continue
            if model.role == "value" and outcome.amount is None:
                continue
            yes.append(place)
            self._learn_yes(model, known, case, place, outcome.amount)
            learned = True
        return learned

    def _learn_yes(self, model: Model, known: Open, case: Case, place: int, amount: float | None) -> None:
        """Learn what came in the place of the assumed "no", or the amount."""
        head, context, offer = self.heads[model.head], case.contexts[model.name], case.offers[place]
        if model.role == "value" and amount is not None:
            expected, came = head.learn(context, offer, amount, case.at), amount
        else:
            self.notes.answered |= model.role == "accept"
            head.take_back(context, offer, 0.0, 1.0)
            expected, came = known.expected.get(model.head, [math.nan] * (place + 1))[place], 1.0
        if model.drift and not math.isnan(expected):
            head.check(expected, came)

    def _assume(self, known: Open, case: Case) -> bool:
        """Learn a "no" for everything that the message offered, unless that was done before."""
        if known.learned:
            return False
        known.learned = True
        for model in case.policy.models:
            if model.role == "value":
                continue  # silence says nothing of what a yes is worth
            head, context = self.heads[model.head], case.contexts[model.name]
            expected = [head.learn(context, offer, 0.0, case.at) for offer in case.offers]
            if model.drift:
                known.expected[model.head] = expected
        return True

    def _close(self, at: int) -> None:
        """Close the decisions whose window had passed at `at` (ms): what was assumed of them is final."""
        opened = self.notes.open
        while opened:
            key, known = next(iter(opened.items()))
            if known.until >= at and len(opened) <= OPEN_MAX:
                break
            del opened[key]
            for name, expected in known.expected.items():
                yes = known.yes.get(name, ())
                for place, probability in enumerate(expected):
                    if place not in yes and name in self.heads:
                        self.heads[name].check(probability, 0.0)

    def _know(self, policy: PolicySet) -> None:
        """Have a head for each model of the policy set, and all of its offers in each."""
        known = policy.version in self.notes.policies
        if not known:
            self.notes.policies.append(policy.version)
        for model in policy.models:
            fresh = model.head not in self.heads
            head = self.heads[model.head] if not fresh else new_head(model, policy)
            self.heads[model.head] = head
            if fresh or not known:
                head.add_offers(
                    {offer.id: start_of(model, offer) for offer in policy.offers.values()},
                    {
                        offer.id: {"category": offer.category, **offer.attributes}
                        for offer in policy.offers.values()
                    },
                )
            half_life = model.half_life_ms or None
            if isinstance(head, Hybrid) and head.setting.half_life_ms != half_life:
                head.setting = replace(head.setting, half_life_ms=half_life)


def _positives(model: Model) -> frozenset[str]:
    """Return the events that are a yes to a model: to one of accepts, more than the event of that name."""
    return frozenset().union(*(YES if event in ("accept", VALUE) else {event} for event in model.predicts))


def _place(case: Case, outcome: Outcome) -> int | None:
    """Return which of the message's offers an outcome is about; None where it does not say which of several."""
    if outcome.offer is not None:
        return case.offers.index(outcome.offer) if outcome.offer in case.offers else None
    return 0 if len(case.offers) == 1 else None


def new_head(model: Model, policy: PolicySet) -> Head:
    """Return a head that has learned nothing, as the model asks for it."""
    if model.learner:
        return RiverHead(model.learner, model.parameters)
    if model.role != "value":
        return Hybrid(Setting(half_life_ms=model.half_life_ms or None))
    # Deviations are in proportion to what offers are worth, whatever the currency.
    values = [offer.value for offer in policy.offers.values() if offer.value]
    unit = math.sqrt(sum(value**2 for value in values) / len(values)) if values else 1.0
    return Hybrid(
        Setting(
            family="gaussian",
            bias=unit,
            inputs=unit,
            shared=unit,
            noise=unit,
            half_life_ms=model.half_life_ms or None,
        )
    )


def start_of(model: Model, offer: Offer) -> float:
    """Return where an offer starts in a head: a logit, or a value."""
    if model.role == "value":
        return offer.value
    prior = model.prior or (offer.prior if model.role == "accept" else RARE)
    prior = min(max(prior, 1e-6), 1 - 1e-6)
    return math.log(prior / (1 - prior))
