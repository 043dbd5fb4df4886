"""What CEL does with values: arithmetic, equality and order, exactly as the language says.

Whatever cannot be done (a null, an overflow, a division by zero, operands that do not fit) is `Unknown`,
never another exception. Integers are 64 bits wide; beside a double an integer counts as a double. A
division by zero is unknown for doubles too, where CEL has an infinity: a rule about money never means that.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from policies.cel.syntax import INT_MAX, INT_MIN


class Unknown(Exception):  # it is a verdict, not an error
    """The condition cannot be known: a null was used, or an evaluation failed."""

    def __init__(self, name: str) -> None:
        """Name what was null (`profile.tier`), or say what failed (`division by zero`)."""
        super().__init__(name)
        self.name = name


Scope = list[Any]
"""The steps that an evaluation has left, then the variables of its macros."""


def spend(scope: Scope, steps: int) -> None:
    """Take steps off the budget of an evaluation."""
    scope[0] -= steps
    if scope[0] < 0:
        raise Unknown("the step budget is spent")


def kind(value: Any) -> str:
    """Return the CEL type of a value that came from outside."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "double"
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return "list"
    return "map" if isinstance(value, Mapping) else "something else"


NUMBERS: Final = frozenset({"int", "double"})


def divide_int(left: int, right: int) -> int:
    """Divide, truncating towards zero."""
    if right == 0:
        raise Unknown("division by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def remainder(left: int, right: int) -> int:
    """Return the remainder, which has the sign of `left`."""
    if right == 0:
        raise Unknown("division by zero")
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


def divide_double(left: float, right: float) -> float:
    """Divide doubles."""
    if right == 0:
        raise Unknown("division by zero")
    return left / right


INT_OPERATIONS: Final[dict[str, Callable[[int, int], int]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": divide_int,
    "%": remainder,
}
DOUBLE_OPERATIONS: Final[dict[str, Callable[[float, float], float]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": divide_double,
}
ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def checked(value: int) -> int:
    """Return an integer that fits 64 bits."""
    if INT_MIN <= value <= INT_MAX:
        return value
    raise Unknown("integer overflow")


def to_double(value: float) -> float:
    """Return a number as a double."""
    try:
        return float(value)
    except OverflowError:
        raise Unknown("a number too large for a double") from None


def arithmetic(symbol: str, left: Any, right: Any) -> Any:
    """Apply `+ - * / %` to values whose types are known only now."""
    kinds = kind(left), kind(right)
    if kinds == ("int", "int"):
        return checked(INT_OPERATIONS[symbol](left, right))
    if NUMBERS.issuperset(kinds) and symbol != "%":
        return DOUBLE_OPERATIONS[symbol](to_double(left), to_double(right))
    if symbol == "+" and kinds == ("string", "string"):
        return left + right
    if symbol == "+" and kinds == ("list", "list"):
        return [*left, *right]
    raise Unknown(f"{kinds[0]} {symbol} {kinds[1]}")


def order(symbol: str, left: Any, right: Any) -> bool:
    """Compare by `< <= > >=` values whose types are known only now."""
    kinds = kind(left), kind(right)
    if NUMBERS.issuperset(kinds) or (kinds[0] == kinds[1] and kinds[0] in {"string", "bool"}):
        return ORDERS[symbol](left, right)
    raise Unknown(f"{kinds[0]} {symbol} {kinds[1]}")


def equal(left: Any, right: Any, scope: Scope) -> bool:
    """Say whether two values are equal: numbers by value, everything else only within its type."""
    kinds = kind(left), kind(right)
    if kinds in {("list", "list"), ("map", "map")}:
        spend(scope, len(left))
        if len(left) != len(right):
            return False
        if kinds[0] == "list":
            return all(equal(one, other, scope) for one, other in zip(left, right, strict=True))
        return all(key in right and equal(value, right[key], scope) for key, value in left.items())
    return (kinds[0] == kinds[1] or NUMBERS.issuperset(kinds)) and bool(left == right)


def contains(member: Any, collection: Any, scope: Scope) -> bool:
    """Say whether a list has a member, or a map a key."""
    kind_of = kind(collection)
    if kind_of == "list":
        spend(scope, len(collection))
        return any(equal(member, other, scope) for other in collection)
    if kind_of == "map":
        return isinstance(member, str) and member in collection
    raise Unknown(f"in {kind_of}")


def pick(collection: Any, key: Any, label: str) -> Any:
    """Return a member of a list by its place (from 0), or of a map by its key; null where a map has none."""
    kind_of = kind(collection)
    if kind_of == "map" and isinstance(key, str):
        return collection.get(key)
    if kind_of == "list" and kind(key) == "int":
        if 0 <= key < len(collection):
            return collection[key]
        raise Unknown("index out of range")
    raise Unknown(label)
