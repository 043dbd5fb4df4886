"""What a decision is: the stages in their order, the fate of every candidate, and the record that is kept."""

from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgspec

from engine.judging.choice import Distribution
from engine.judging.masks import Mask
from features.facts import Value


class Stage(IntEnum):
    """The stages in the order of the contract; a candidate's fate is the first that dropped it."""

    NO_CANDIDATES = 0
    NOT_ELIGIBLE = 1
    CONSENT = 2
    QUIET_HOURS = 3
    SUPPRESSED = 4
    CONTACT_POLICY = 5
    BUDGET = 6
    CAPACITY = 7
    BELOW_THRESHOLD = 8
    CHOICE = 9


STAGE_NAMES: Final = tuple(stage.name.lower() for stage in Stage)
STAGE_OF: Final = {name: code for code, name in enumerate(STAGE_NAMES)}


class Ask(msgspec.Struct, frozen=True):
    """What a caller asked: the request, with everything random or timely already an argument."""

    uid: str
    """The decision's id within its customer; draws hash it."""
    placement: str
    limit: int
    context: dict[str, Any] = {}
    exclude: tuple[str, ...] = ()
    control: bool = False
    at_random: bool = False


class Block(NamedTuple):
    """One rule that stopped some candidates."""

    rule: str
    reason: str
    eligible_at: int | None
    details: str
    mask: Mask


class Chosen(msgspec.Struct, frozen=True, array_like=True):
    """One chosen offer and the factors of its choice."""

    offer: str
    rank: int
    category: str
    propensity: float
    value: float
    priority: float
    selection_probability: float


class Decision(msgspec.Struct, frozen=True):
    """The outcome of one run of the core, before anything is committed."""

    action: str
    """offer or none."""
    reason: str | None
    chosen: tuple[Chosen, ...]
    dropped: tuple[tuple[int, Mask], ...]
    """(stage, who was dropped there), in the order of the stages."""
    blocks: tuple[Block, ...]
    nulls: dict[int, str]
    """Eligibility condition (its place in the plan) to the name that was null."""
    considered: Distribution | None
    """What was drawn from; None where nobody came that far."""
    yes_until: int
    """The moment (ms) at which this yes could turn into a no by time alone."""
    model_version: str = ""
    """Of the model that scored; empty where the marketer's priors did."""
    scored: bytes = b""
    """Where a model scored: propensity, low and high of each candidate that came so far, as little-endian float32."""
    untried: Mask = 0
    """Offers of the placement that the model knew too little of: they shared in the floor."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A decision as it is kept: small, and enough to say every offer's fate with its policy version."""

    uid: str
    at: int
    customer_id: str
    placement: str
    channel: str
    limit: int
    context: dict[str, Any]
    exclude: tuple[str, ...]
    action: str
    reason: str | None
    chosen: tuple[Chosen, ...]
    policy_version: str
    model_version: str
    features_as_of: int
    dropped: tuple[tuple[int, bytes], ...]
    """(stage, mask of who was dropped there)."""
    blocks: tuple[tuple[str, str, int | None, str, bytes], ...]
    """rule, reason, eligible_at (ms), details, mask."""
    nulls: dict[int, str]
    places: bytes
    """Places that could be chosen, as little-endian uint16."""
    chance: bytes
    """Their first-rank selection probabilities, as little-endian float32."""
    reserved: bool
    expires_at: int
    group: str = ""
    """control, random or empty."""
    state: bytes = b""
    """The customer's features as they were loaded: models learn from these, whatever they read (G15)."""
    profile: dict[str, Value] = {}
    """The profile as it was, nulls left out."""
    scored: bytes = b""
    """As in `Decision`."""
    untried: bytes = b""
    """As in `Decision`, packed."""
    archived: str = ""
    """Where the whole record is: the file in the decision log that holds it. Empty while this is all of it."""


ENCODER: Final = msgspec.msgpack.Encoder()
DECODER: Final = msgspec.msgpack.Decoder(Record)


def stub(record: Record, archived: str) -> Record:
    """Return what stays in the store of a closed decision: what it offered to whom, and where the rest is.

    Events that name it later need its offers.
    """
    return msgspec.structs.replace(
        record,
        context={},
        exclude=(),
        dropped=(),
        blocks=(),
        nulls={},
        places=b"",
        chance=b"",
        state=b"",
        profile={},
        scored=b"",
        untried=b"",
        archived=archived,
    )
