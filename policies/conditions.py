"""CEL conditions, compiled once and type-checked against the catalogue (interface; body to be written)."""

from collections.abc import Mapping
from typing import Any


class Unknown(Exception):  # noqa: N818  # it is a verdict, not an error
    """The condition cannot be known: a null was used, or an evaluation failed."""

    def __init__(self, name: str) -> None:
        """Name what was null (`profile.tier`), or say what failed (`division by zero`)."""
        super().__init__(name)
        self.name = name


class Condition:
    """A compiled CEL expression of type bool."""

    source: str
    names: tuple[str, ...]

    def evaluate(self, values: Mapping[str, Any]) -> bool:
        """Evaluate with flat dotted names (`features.views_7d`); raises `Unknown`."""
        raise NotImplementedError


class Priority:
    """The arbitration expression over arrays."""

    source: str
    names: tuple[str, ...]

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Evaluate with arrays or numbers for `propensity`, `value`, `weight`, `channel_cost`."""
        raise NotImplementedError
