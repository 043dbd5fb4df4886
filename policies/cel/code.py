"""The pieces that expressions are compiled to, and the rules of their types.

Where types are known the closures check nothing but what the types cannot promise: an overflow, a null, a
division by zero. What comes from `context` has the type `dyn` and is checked as it comes.

An integer beside a double counts as a double, in arithmetic as in comparisons: marketers write
`features.spend_30d * 2 > 100`. CEL proper would ask for `2.0`.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final

import msgspec

from policies.cel.syntax import INT_MAX, INT_MIN, ConditionError, Literal, Node
from policies.cel.values import (
    DOUBLE_OPERATIONS,
    INT_OPERATIONS,
    NUMBERS,
    Scope,
    Unknown,
    arithmetic,
    checked,
    kind,
    spend,
    to_double,
)

Values = Mapping[str, Any]
Run = Callable[[Values, Scope], Any]


PYTHON: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "double": (float,),
    "string": (str,),
    "bool": (bool,),
    "list": (list, tuple),
}
"""What values of a type are in Python, most of the time; all else goes through `kind`."""


class Code(msgspec.Struct, frozen=True):
    """A compiled node: its static type, its closure, and how many nodes it has."""

    type: str
    """int, double, string, bool, null, dyn, or list(TYPE)."""
    run: Run
    """Never returns null: raises `Unknown` instead."""
    label: str = "the value"
    """What to call it in a message."""
    nullable: Run | None = None
    """The same, but a null comes out as None."""
    steps: int = 1
    variable: str = ""
    """The dotted name that it reads, where it does nothing else."""


def suggestion(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """Return `did you mean "x"?` for the known name that is nearest, else an empty string."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else ""


def is_list(type_: str) -> bool:
    """Say whether a static type is a list."""
    return type_.startswith("list(")


def member_type(type_: str) -> str:
    """Return the type of a list's members."""
    return type_[5:-1] if is_list(type_) else "dyn"


def comparable(left: str, right: str) -> bool:
    """Say whether values of these types may be compared for equality."""
    if "dyn" in {left, right} or left == right or NUMBERS.issuperset({left, right}):
        return True
    return is_list(left) and is_list(right) and comparable(member_type(left), member_type(right))


def said(type_: str) -> str:
    """Return a type with its article."""
    return f"an {type_}" if type_[0] in "aeiou" else f"a {type_}"


def wrong(detail: str, node: Node, fix: str) -> ConditionError:
    """Return an error that points into the expression."""
    return ConditionError(f"{detail} (character {node.at})", fix)


def constant_code(type_: str, value: Any) -> Code:
    """Return the code of a value that is known now."""
    return Code(type_, lambda _values, _scope: value, label=str(value))


def literal_code(node: Literal) -> Code:
    """Return the code of a literal; raises ConditionError for a number that is too large."""
    value = node.value
    if node.type == "null":

        def null(_: Values, __: Scope) -> Any:
            raise Unknown("null")

        return Code("null", null, "null", lambda _values, _scope: None)
    if node.type == "int" and not INT_MIN <= (value if isinstance(value, int) else 0) <= INT_MAX:
        raise wrong(f"{value} does not fit 64 bits", node, "write a smaller number")
    if isinstance(value, float) and value in {float("inf"), float("-inf")}:
        raise wrong("the number is too large for a double", node, "write a smaller number")
    return constant_code(node.type, value)


def load(name: str, type_: str) -> Code:
    """Return the code that reads a variable; a value of another type than declared is unknown."""

    def nullable(values: Values, _: Scope) -> Any:
        return values.get(name)

    def run_dyn(values: Values, _: Scope) -> Any:
        value = values.get(name)
        if value is None:
            raise Unknown(name)
        return value

    classes = PYTHON.get("list" if is_list(type_) else type_, ())

    def run_typed(values: Values, _: Scope) -> Any:
        value = values.get(name)
        return value if type(value) in classes else conform(value, type_, name)

    return Code(type_, run_dyn if type_ == "dyn" else run_typed, name, nullable, variable=name)


def conform(value: Any, type_: str, label: str) -> Any:
    """Return a value of a static type; an int stands for a double, null and all else are unknown."""
    if value is None:
        raise Unknown(label)
    found = kind(value)
    if type_ == "double" and found == "int":
        return to_double(value)
    if type_ == "dyn" or found == ("list" if is_list(type_) else type_):
        return value
    raise Unknown(f"{label} is not {said(type_)}")


def as_double(code: Code) -> Code:
    """Return code that gives a double where it gave an int."""
    run = code.run
    if code.type != "int":
        return code
    return Code("double", lambda values, scope: to_double(run(values, scope)), code.label, steps=code.steps)


def joined_type(one: str, other: str) -> str:
    """Return the type of `?:` with these branches; empty where they do not fit."""
    if other in {one, "null"}:
        return one
    if one == "null":
        return other
    if NUMBERS.issuperset({one, other}):
        return "double"
    if is_list(one) and is_list(other):
        return "list(dyn)"
    return "dyn" if "dyn" in {one, other} else ""


Operation = Callable[[Any, Any, Scope], Any]


def combine(symbol: str, left: str, right: str, node: Node, said_as: str = "") -> tuple[str, Operation]:
    """Return the type of `left symbol right` by the operands' types, and what it does with their values.

    Raises ConditionError for operands that do not fit.
    """
    types = {left, right}
    if types == {"int"}:
        apply = INT_OPERATIONS[symbol]
        return "int", lambda one, other, _: checked(apply(one, other))
    if NUMBERS.issuperset(types) and symbol != "%":
        apply_double = DOUBLE_OPERATIONS[symbol]
        return "double", lambda one, other, _: apply_double(one, other)
    strings_or_lists = types == {"string"} or (is_list(left) and is_list(right))
    if "dyn" not in types and not (symbol == "+" and strings_or_lists):
        raise wrong(
            f'"{said_as or symbol}" does not fit {said(left)} and {said(right)}',
            node,
            "use numbers, or + between two strings or two lists",
        )

    def apply_dynamic(one: Any, other: Any, scope: Scope) -> Any:
        result = arithmetic(symbol, one, other)
        if isinstance(result, str | list):
            spend(scope, len(result) if isinstance(result, list) else len(result) >> 6)
        return result

    return "dyn" if "dyn" in types else left if len(types) == 1 else "list(dyn)", apply_dynamic
