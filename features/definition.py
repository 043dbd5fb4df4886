"""A feature's definition: one line of features.yaml as a frozen value."""

import builtins
from typing import Final, Literal

import msgspec

Kind = Literal["count", "sum", "mean", "rate", "since", "last", "top", "distinct"]
CelType = Literal["int", "double", "string", "bool", "list"]

CEL_TYPES: Final[dict[Kind, CelType]] = {
    "count": "int",
    "sum": "double",
    "mean": "double",
    "rate": "double",
    "since": "double",
    "last": "string",
    "top": "list",
    "distinct": "int",
}


class FeatureDef(msgspec.Struct, frozen=True):
    """One feature, checked. Durations are milliseconds; 0 means that the kind has none."""

    name: str
    kind: Kind
    of: tuple[str, ...]
    """Event types that feed it; for `rate` the hits."""
    per: tuple[str, ...] = ()
    """For `rate`: the trials."""
    property: str = ""
    """The event property that is summed, averaged, kept or counted; empty for count, rate and since."""
    within_ms: int = 0
    half_life_ms: int = 0
    prior_hits: float = 0.0
    prior_trials: float = 0.0
    keep: int = 0
    """For `top`: how many values are returned."""

    @builtins.property
    def cel_type(self) -> CelType:
        """The type that conditions see."""
        return CEL_TYPES[self.kind]
