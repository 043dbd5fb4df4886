"""The policy set as frozen values: what the loader makes and everything else reads.

Durations and times are integer milliseconds, money of budgets integer micro-units, shares are fractions of 1.
"""

import json
from datetime import date
from typing import Any, Final, Literal

import msgspec

from features.definition import FeatureDef
from policies.conditions import Condition, Priority

Kind = Literal["inbound", "outbound"]
Calendar = Literal["day", "week", "month"]
FieldType = Literal["string", "number", "bool", "list"]
AttributeValue = str | float | bool

Role = Literal["accept", "value", "opt_out", "other"]

VALUE: Final = "value"
"""What a model of values predicts: no event, but the amount of a yes."""
OPT_OUTS: Final = frozenset({"unsubscribe", "complaint"})
"""Events by which a customer asks not to be contacted."""
RESERVED_NAMES: Final = frozenset({"consent", "quiet_hours", "capacity", "budget", "erased"})
"""Reasons that are no rules; no rule may bear these names."""


class Groups(msgspec.Struct, frozen=True):
    """Shares of customers, sticky by customer."""

    control: float = 0.0
    random: float = 0.0


class Exploration(msgspec.Struct, frozen=True):
    """How widely the choice explores: `alpha` scales uncertainty, `floor` is the mixed-in uniform share."""

    alpha: float = 0.3
    floor: float = 0.02
    shortlist: int = 32


class Arbitration(msgspec.Struct, frozen=True):
    """How offers are ranked."""

    priority: Priority
    threshold: float = 0.0
    exploration: Exploration = Exploration()


class Attribution(msgspec.Struct, frozen=True):
    """How long to wait before silence is a "no"."""

    impression_ms: int = 3_600_000
    accept_ms: int = 7 * 86_400_000


class Keep(msgspec.Struct, frozen=True):
    """How long facts are kept."""

    contacts_ms: int = 400 * 86_400_000
    events_ms: int = 400 * 86_400_000
    decisions_ms: int = 90 * 86_400_000


class QuietHours(msgspec.Struct, frozen=True):
    """Local wall time [from, to), minutes of the day; `from_min` may be after `to_min` (across midnight)."""

    from_min: int
    to_min: int


class Capacity(msgspec.Struct, frozen=True):
    """At most `max` contacts of a channel per calendar period of the policy's (first) zone."""

    max: int
    per: Literal["day"] = "day"


class Channel(msgspec.Struct, frozen=True):
    """A way to reach a customer."""

    name: str
    kind: Kind
    cost: float = 0.0
    consent: str | None = None
    reservation_ttl_ms: int = 1_800_000
    quiet: QuietHours | None = None
    capacity: Capacity | None = None


class Placement(msgspec.Struct, frozen=True):
    """A place that asks: one channel, some slots, and an offer for when the store is away."""

    name: str
    channel: str
    slots: int = 1
    fallback: str | None = None


class Category(msgspec.Struct, frozen=True):
    """A category of offers; the two flags are separate on purpose."""

    name: str
    obeys_caps: bool = True
    counts_toward_caps: bool = True


class Budget(msgspec.Struct, frozen=True):
    """Money for one offer, in micro-units of the policy's currency; `per` is the total or a calendar day."""

    max_micro: int
    cost_per_accept_micro: int
    per: Literal["total", "day"] = "total"


class Offer(msgspec.Struct, frozen=True):
    """Something that may be offered."""

    id: str
    category: str
    placements: tuple[str, ...]
    value: float = 0.0
    weight: float = 1.0
    prior: float = 0.01
    valid_from: date | None = None
    valid_until: date | None = None
    """Whole days of the policy's zone, both included."""
    eligible: Condition | None = None
    attributes: dict[str, AttributeValue] = {}
    budget: Budget | None = None
    content: dict[str, Any] = {}


class When(msgspec.Struct, frozen=True):
    """What a rule looks at; an empty set of a kind means any. One and the same item must meet all of it."""

    kind: frozenset[str] = frozenset()
    channel: frozenset[str] = frozenset()
    category: frozenset[str] = frozenset()
    offer: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, frozenset[AttributeValue]], ...] = ()


class Cap(msgspec.Struct, frozen=True):
    """A limit on contacts: `max` per rolling `per_ms` or per `calendar` period, or a `gap_ms` between two.

    Exactly one of (`per_ms`, `calendar`, `gap_ms`) is set. `each` is "" or "offer", "category", "channel",
    "attribute.NAME".
    """

    name: str
    when: When
    max: int = 0
    per_ms: int = 0
    calendar: Calendar | None = None
    gap_ms: int = 0
    each: str = ""


class After(msgspec.Struct, frozen=True):
    """The events that start a suppression."""

    event: str
    same_offer: bool = False
    count: int = 1
    within_ms: int = 0
    """0: no bound on how far the counted events lie apart."""


class Suppression(msgspec.Struct, frozen=True):
    """A block: for `for_ms` after events, or while a condition is true. One of `after`, `while_` is set."""

    name: str
    when: When
    after: After | None = None
    for_ms: int = 0
    while_: Condition | None = None


class Field(msgspec.Struct, frozen=True):
    """A declared profile field."""

    name: str
    type: FieldType
    default: str | float | bool | tuple[str, ...] | None = None


class Model(msgspec.Struct, frozen=True):
    """What is learned: the events (or the value) that it predicts and the inputs that it reads."""

    name: str
    predicts: tuple[str, ...]
    inputs: tuple[str, ...] = ("features.*", "profile.*", "context.*")
    half_life_ms: int = 0
    prior: float = 0.0
    drift: bool = True
    learner: str = ""
    """A River classifier by its dotted name; empty for the hybrid."""
    parameters: dict[str, Any] = {}
    """Of that classifier: plain values, and objects of River as `{dotted name: parameters}`."""

    @property
    def role(self) -> Role:
        """What the arbitration takes it for."""
        if VALUE in self.predicts:
            return "value"
        if "accept" in self.predicts:
            return "accept"
        return "opt_out" if OPT_OUTS & set(self.predicts) else "other"

    @property
    def head(self) -> str:
        """Under which name it is learned and served: another kind of learner is another head, and resets none."""
        if self.learner:
            given = json.dumps(self.parameters, sort_keys=True)
            return f"{self.name}|{self.learner}|{given}"
        return f"{self.name}|{VALUE}" if self.role == "value" else self.name


class Question(msgspec.Struct, frozen=True):
    """A question to ask once; `sets` names the profile field that the answer fills ("" for none)."""

    id: str
    ask: str
    answers: tuple[str, ...]
    placements: tuple[str, ...]
    sets: str = ""


class PolicySet(msgspec.Struct, frozen=True, kw_only=True):
    """A whole policy set, checked and compiled."""

    version: str
    """`sha256:` and the hash of its files."""
    name: str
    timezones: tuple[str, ...]
    currency: str
    week_starts: int
    """0 is Monday."""
    groups: Groups
    arbitration: Arbitration
    attribution: Attribution
    keep: Keep
    channels: dict[str, Channel]
    placements: dict[str, Placement]
    categories: dict[str, Category]
    offers: dict[str, Offer]
    """In file order."""
    caps: tuple[Cap, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    features: tuple[FeatureDef, ...] = ()
    profile: dict[str, Field] = {}
    models: tuple[Model, ...] = ()
    questions: tuple[Question, ...] = ()
    files: dict[str, str] = {}
    """File name to text, as they were hashed."""

    def model(self, role: Role) -> Model | None:
        """Return the model of a role, the first in the file; None where there is none."""
        return next((model for model in self.models if model.role == role), None)


class Problem(msgspec.Struct, frozen=True, order=True):
    """One mistake in a policy set: where it is, what is wrong, how to fix it."""

    file: str
    line: int
    field: str
    detail: str
    fix: str


class PolicyError(ValueError):
    """A policy set that cannot be used, with every mistake at once."""

    def __init__(self, problems: list[Problem]) -> None:
        """Keep the mistakes in the order of files and lines."""
        super().__init__(f"the policy set has {len(problems)} mistake(s)")
        self.problems = sorted(problems)
