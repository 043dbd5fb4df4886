"""The arbitration expression: what offers are ranked by, over numpy arrays.

All values are doubles. A priority that is not finite, because something was divided by zero or grew beyond
all bounds, is minus infinity: such an offer never beats silence. Only the chosen branch of `?:` counts in
this.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policies.cel.syntax import (
    Chain,
    Conditional,
    ConditionError,
    Invert,
    Literal,
    Logic,
    Name,
    Negate,
    Node,
    Relation,
    parse,
)

VARIABLES: Final = ("propensity", "value", "weight", "channel_cost", "opt_out")
"""What an expression may read; `opt_out` is the chance that a contact makes the customer ask for no more."""

Array = NDArray[np.float64]
Run = Callable[[Mapping[str, Any]], Any]
"""Returns an array or a number; nan stands for what cannot be worked out. Truth is 1, falsehood 0."""


class Priority:
    """The arbitration expression over arrays; made by `compile_priority`, equal by its source."""

    __slots__ = ("_run", "names", "source")

    def __init__(self, source: str, names: tuple[str, ...], run: Run) -> None:
        self.source = source
        self.names = names
        """The variables that it reads."""
        self._run = run

    def evaluate(self, values: Mapping[str, Any], shape: tuple[int, ...] | None = None) -> Any:
        """Evaluate with arrays or numbers for the variables; returns an array of their common shape.

        Who knows that shape tells it, and saves finding it out.
        """
        with np.errstate(all="ignore"):
            result: Array = np.asarray(self._run(values), dtype=np.float64)
            whole = isfinite(result.sum())  # one pass; a sum is not finite where a part is not
        if not whole:
            result = np.where(np.isfinite(result), result, -np.inf)
        if shape is None:
            shape = np.broadcast_shapes(*[np.shape(value) for value in values.values()])
        return result if result.shape == shape else np.broadcast_to(result, shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Priority) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"Priority({self.source!r})"


def compile_priority(source: str) -> Priority:
    """Compile the arbitration expression; raises ConditionError for one that is not a number."""
    names: dict[str, None] = {}
    is_number, run = _compile(parse(source), names)
    if not is_number:
        raise ConditionError("the priority is true or false, it must be a number", "write condition ? 1 : 0")
    return Priority(source, tuple(names), run)


def _divide(left: Any, right: Any) -> Any:
    # The divisor is replaced where it is zero: a plain 0.0 / 0.0 raises outside numpy, and x / 0 must be nan.
    return np.divide(left, np.where(np.equal(right, 0), np.nan, right))


OPERATIONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": _divide,
}
COMPARISONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


def _compile(node: Node, names: dict[str, None]) -> tuple[bool, Run]:
    """Return whether a node is a number (else a truth value), and its closure."""
    match node:
        case Literal(type="int" | "double", value=value):
            return True, _number(value, node)
        case Literal(type="bool", value=value):
            return False, lambda _: float(bool(value))
        case Name(name=name):
            return True, _variable(name, node, names)
        case Negate(operand=operand):
            inner = _wanted(operand, names, number=True)
            return True, lambda values: np.negative(inner(values))
        case Invert(operand=operand):
            inner = _wanted(operand, names, number=False)
            return False, lambda values: 1.0 - inner(values)
        case Chain():
            return True, _chain(node, names)
        case Relation(operator=operator) if operator in COMPARISONS:
            return False, _comparison(node, names)
        case Logic():
            return False, _logic(node, names)
        case Conditional():
            return _conditional(node, names)
    raise ConditionError(
        f"only numbers, + - * /, comparisons and ?: can be used in a priority (character {node.at})",
        "write an expression such as propensity * value * weight - channel_cost",
    )


def _wanted(node: Node, names: dict[str, None], *, number: bool) -> Run:
    is_number, run = _compile(node, names)
    if is_number is not number:
        wanted, got = ("a number", "true or false") if number else ("true or false", "a number")
        raise ConditionError(f"{wanted} is needed, not {got} (character {node.at})", "use ?: or a comparison")
    return run


def _number(value: Any, node: Node) -> Run:
    number = float(value)
    if not np.isfinite(number):
        raise ConditionError(f"the number is too large (character {node.at})", "write a smaller number")
    return lambda _: number


def _variable(name: str, node: Node, names: dict[str, None]) -> Run:
    if name not in VARIABLES:
        near = get_close_matches(name, VARIABLES, n=1)
        fix = f'did you mean "{near[0]}"?' if near else "the variables are " + ", ".join(VARIABLES)
        raise ConditionError(f'unknown variable "{name}" (character {node.at})', fix)
    names[name] = None
    return lambda values: values[name]


def _chain(node: Chain, names: dict[str, None]) -> Run:
    first = _wanted(node.first, names, number=True)
    rest = []
    for operator, operand in node.rest:
        if operator not in OPERATIONS:
            raise ConditionError(f'"{operator}" cannot be used in a priority', "use + - * / and ?:")
        rest.append((OPERATIONS[operator], _wanted(operand, names, number=True)))

    def run(values: Mapping[str, Any]) -> Any:
        result = first(values)
        for apply, operand_run in rest:
            result = apply(result, operand_run(values))
        return result

    return run


def _comparison(node: Relation, names: dict[str, None]) -> Run:
    left, right = _wanted(node.left, names, number=True), _wanted(node.right, names, number=True)
    compare = COMPARISONS[node.operator]

    def run(values: Mapping[str, Any]) -> Any:
        one, other = left(values), right(values)
        return np.where(np.isnan(one) | np.isnan(other), np.nan, compare(one, other))

    return run


def _logic(node: Logic, names: dict[str, None]) -> Run:
    parts = [_wanted(part, names, number=False) for part in node.parts]
    deciding = 1.0 if node.operator == "||" else 0.0

    def run(values: Mapping[str, Any]) -> Any:
        results = [part(values) for part in parts]
        decided = np.any(np.broadcast_arrays(*[np.equal(result, deciding) for result in results]), axis=0)
        unknown = np.any(np.broadcast_arrays(*[np.isnan(result) for result in results]), axis=0)
        return np.where(decided, deciding, np.where(unknown, np.nan, 1.0 - deciding))

    return run


def _conditional(node: Conditional, names: dict[str, None]) -> tuple[bool, Run]:
    test = _wanted(node.condition, names, number=False)
    is_number, yes = _compile(node.yes, names)
    no = _wanted(node.no, names, number=is_number)

    def run(values: Mapping[str, Any]) -> Any:
        chosen = test(values)
        return np.where(np.isnan(chosen), np.nan, np.where(np.equal(chosen, 1.0), yes(values), no(values)))

    return is_number, run
