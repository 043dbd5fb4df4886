"""CEL conditions, compiled once and type-checked against the catalogue.

What holds: `x == null`, `x != null` and `has(x)` test for null; any other use of null, and any evaluation
that fails, is unknown. `&&`, `||`, `all` and `exists` decide in spite of an unknown part where the other
parts decide; `?:` evaluates only its branch. Evaluating takes a bounded number of steps and raises nothing
but `Unknown`.
"""

from collections.abc import Mapping
from typing import Any, Final

from policies.cel.code import Run, said
from policies.cel.compile import Compiler
from policies.cel.functions import call
from policies.cel.syntax import ConditionError, parse
from policies.cel.values import Scope, Unknown
from policies.priority import Priority, compile_priority

__all__ = ["Condition", "ConditionError", "Priority", "Unknown", "compile_condition", "compile_priority"]

STEP_BUDGET: Final = 100_000
"""Steps of one evaluation: about ten milliseconds at worst."""


class Condition:
    """A compiled CEL expression of type bool; made by `compile_condition`, equal by its source."""

    __slots__ = ("_blank", "_run", "names", "source")

    def __init__(self, source: str, names: tuple[str, ...], run: Run, slots: int) -> None:
        self.source = source
        self.names = names
        """The dotted names that it reads, in order of appearance."""
        self._run = run
        self._blank: Scope = [STEP_BUDGET, *[None] * (slots - 1)]

    def evaluate(self, values: Mapping[str, Any]) -> bool:
        """Evaluate with flat dotted names (`features.views_7d`; missing: null); raises `Unknown`."""
        holds: bool = self._run(values, self._blank.copy())
        return holds

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"Condition({self.source!r})"


def compile_condition(
    source: str, env: Mapping[str, str], *, open_roots: frozenset[str] = frozenset()
) -> Condition:
    """Compile a condition against the types of its names.

    `env` maps dotted names to int, double, string, bool, list (of strings) or dyn; `profile.open_cases`
    (int) and `profile.timezone` (string) are known anyway, so is any key under `context` and `open_roots`.
    Raises ConditionError for a source that is too long, cannot be read, names what is not declared, or has
    types that do not fit.
    """
    compiler = Compiler(env, open_roots, call)
    code = compiler.code(parse(source))
    if code.type != "bool":
        raise ConditionError(
            f"the condition is {said(code.type)}, it must be true or false", "compare it with something"
        )
    return Condition(source, tuple(compiler.names), code.run, compiler.slots)
