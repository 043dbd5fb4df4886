"""The functions, string methods, conversions and list macros of conditions.

`all` and `exists` absorb unknowns as `&&` and `||` do; the other macros do not. Patterns of `matches` are
RE2, whose time is linear in the text.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import re2

from policies.cel.code import Code, Run, Values, is_list, member_type, said, suggestion, wrong
from policies.cel.compile import Compiler
from policies.cel.syntax import Call, Literal, Name, Node
from policies.cel.values import NUMBERS, Scope, Unknown, checked, kind, spend, to_double

STRING_METHODS: Final[dict[str, Callable[[str, str], bool]]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda text, part: part in text,
}
MACROS: Final = ("all", "exists", "exists_one", "map", "filter")
METHODS: Final = [*STRING_METHODS, "matches", "size", *MACROS]
FUNCTIONS: Final = ["has", "size", "int", "double", "string"]
NUMBER_TEXT: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
WHOLE_TEXT: Final = re.compile(r"-?[0-9]{1,19}")
Members = Callable[[Values, Scope], Sequence[Any]]
"""Gives the list that a macro walks."""
DYNAMIC_PATTERN_STEPS: Final = 500
"""What compiling a pattern costs at evaluation."""


def call(compiler: Compiler, node: Call) -> Code:
    """Compile a call; raises ConditionError for an unknown function or arguments that do not fit."""
    name, target = node.function, node.target
    if target is not None and name in MACROS:
        return _macro(compiler, node, target)
    if target is not None and name in METHODS:
        _expect(node, 0 if name == "size" else 1)
        if name == "size":
            return _size(compiler, target)
        return _matches(compiler, node, target) if name == "matches" else _text_test(compiler, node, target)
    if target is None and name in FUNCTIONS:
        _expect(node, 1)
        argument = node.arguments[0]
        if name == "has":
            return _has(compiler, argument)
        return _size(compiler, argument) if name == "size" else _convert(compiler, name, argument)
    known = METHODS if target is not None else FUNCTIONS
    what = "method" if target is not None else "function"
    fix = suggestion(name, known) or "the " + what + "s are " + ", ".join(known)
    raise wrong(f'unknown {what} "{name}"', node, fix)


def _expect(node: Call, count: int) -> None:
    if len(node.arguments) != count:
        raise wrong(
            f"{node.function} takes {count} argument{'s' * (count != 1)}, not {len(node.arguments)}",
            node,
            "give it what it takes",
        )


def _has(compiler: Compiler, argument: Node) -> Code:
    code = compiler.code(argument)
    nullable = code.nullable
    if nullable is None:
        raise wrong("has() needs a name", argument, "write has(profile.NAME)")
    return Code("bool", lambda values, scope: nullable(values, scope) is not None, steps=code.steps + 1)


def _size(compiler: Compiler, argument: Node) -> Code:
    code = compiler.code(argument)
    if not (is_list(code.type) or code.type in {"string", "dyn"}):
        raise wrong(
            f"size needs a string or a list, not {said(code.type)}", argument, "compare the number itself"
        )
    run_argument, label = code.run, code.label

    def run(values: Values, scope: Scope) -> int:
        value = run_argument(values, scope)
        if kind(value) in {"string", "list", "map"}:
            return len(value)
        raise Unknown(f"{label} has no size")

    return Code("int", run, "the size", steps=code.steps + 1)


def _text_test(compiler: Compiler, node: Call, target: Node) -> Code:
    text_code, part_code = compiler.code(target), compiler.code(node.arguments[0])
    text = compiler.need(text_code, "string", node, node.function)
    part = compiler.need(part_code, "string", node, node.function)
    test = STRING_METHODS[node.function]

    def run(values: Values, scope: Scope) -> bool:
        haystack = text(values, scope)
        spend(scope, len(haystack) >> 6)
        return test(haystack, part(values, scope))

    return Code("bool", run, steps=text_code.steps + part_code.steps + 1)


def _pattern(text: str) -> Callable[[str], Any]:
    """Return the search of an RE2 pattern; raises re2.error or UnicodeError for a text that is none."""
    options = re2.Options()
    options.log_errors = False
    search: Callable[[str], Any] = re2.compile(text, options).search
    return search


def _reason(error: Exception) -> str:
    """Return what RE2 says, which it says in bytes."""
    reason = error.args[0] if error.args else ""
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


def _matches(compiler: Compiler, node: Call, target: Node) -> Code:
    text_code, argument = compiler.code(target), node.arguments[0]
    text = compiler.need(text_code, "string", node, "matches")
    pattern_code = compiler.code(argument)
    pattern = compiler.need(pattern_code, "string", node, "matches")
    constant: Callable[[str], Any] | None = None
    if isinstance(argument, Literal):
        try:
            constant = _pattern(str(argument.value))
        except (re2.error, UnicodeError) as error:
            raise wrong(
                f'"{argument.value}" is no pattern: {_reason(error)}',
                argument,
                "write an RE2 regular expression",
            ) from None

    def run(values: Values, scope: Scope) -> bool:
        haystack = text(values, scope)
        spend(scope, len(haystack) >> 4)
        try:
            if constant is not None:
                return constant(haystack) is not None
            spend(scope, DYNAMIC_PATTERN_STEPS)
            return _pattern(pattern(values, scope))(haystack) is not None
        except (re2.error, UnicodeError):
            raise Unknown("matches failed") from None

    return Code("bool", run, steps=text_code.steps + pattern_code.steps + 1)


# ---------------------------------------------------------------------- conversions


def _to_int(value: Any) -> int:
    of = kind(value)
    if of == "int":
        return checked(value)
    if of == "double" and abs(value) < 2**63:
        return int(value)
    if of == "string" and WHOLE_TEXT.fullmatch(value):
        return checked(int(value))
    raise Unknown(f"int() of {said(of)}")


def _to_double(value: Any) -> float:
    if kind(value) in NUMBERS:
        return to_double(value)
    if isinstance(value, str) and NUMBER_TEXT.fullmatch(value):
        return float(value)
    raise Unknown(f"double() of {said(kind(value))}")


def _to_string(value: Any) -> str:
    of = kind(value)
    if of == "string":
        return str(value)
    if of == "bool":
        return "true" if value else "false"
    if of in NUMBERS:
        whole = of == "int" or (abs(value) < 1e15 and value == int(value))
        return str(int(value)) if whole else repr(float(value))
    raise Unknown(f"string() of {said(of)}")


CONVERSIONS: Final[dict[str, tuple[Callable[[Any], Any], frozenset[str]]]] = {
    "int": (_to_int, frozenset({"int", "double", "string", "dyn"})),
    "double": (_to_double, frozenset({"int", "double", "string", "dyn"})),
    "string": (_to_string, frozenset({"int", "double", "string", "bool", "dyn"})),
}


def _convert(compiler: Compiler, name: str, argument: Node) -> Code:
    code = compiler.code(argument)
    convert, accepted = CONVERSIONS[name]
    if code.type not in accepted:
        raise wrong(f"{name}() does not take {said(code.type)}", argument, "give it a number or a string")
    run = code.run
    return Code(name, lambda values, scope: convert(run(values, scope)), code.label, steps=code.steps + 1)


# ---------------------------------------------------------------------- macros


def _macro(compiler: Compiler, node: Call, target: Node) -> Code:
    name, arguments = node.function, node.arguments
    wanted = (2, 3) if name == "map" else (2,)
    if len(arguments) not in wanted or not isinstance(arguments[0], Name):
        raise wrong(f"{name} takes a variable and an expression", node, f'write LIST.{name}(x, x != "")')
    variable = arguments[0].name
    if variable in {"features", "profile", "context"}:
        raise wrong(f'"{variable}" cannot be a variable', node, "name it x")
    over = compiler.code(target)
    if not is_list(over.type) and over.type != "dyn":
        raise wrong(f"{name} needs a list, not {said(over.type)}", node, "call it on a list")
    slot = compiler.slots
    compiler.slots += 1
    outer = compiler.locals
    compiler.locals = {**outer, variable: (slot, member_type(over.type))}
    bodies = [compiler.code(argument) for argument in arguments[1:]]
    runs = [
        compiler.need(body, "bool", node, name) if name != "map" or place < len(bodies) - 1 else body.run
        for place, body in enumerate(bodies)
    ]
    compiler.locals = outer
    cost = 1 + sum(body.steps for body in bodies)
    members = _members(over, cost)
    steps = over.steps + cost
    if name in {"all", "exists"}:
        return Code("bool", _quantifier(members, runs[0], slot, deciding=name == "exists"), steps=steps)
    if name == "exists_one":
        return Code("bool", _exactly_one(members, runs[0], slot), steps=steps)
    if name == "filter":
        return Code(
            over.type if is_list(over.type) else "list(dyn)",
            _mapped(members, None, runs[0], slot),
            "a list",
            steps=steps,
        )
    condition = runs[0] if len(runs) == 2 else None
    return Code(
        f"list({bodies[-1].type})", _mapped(members, runs[-1], condition, slot), "a list", steps=steps
    )


def _members(over: Code, cost: int) -> Members:
    """Return a closure that gives the list to walk, having paid for the whole walk."""
    run, label = over.run, over.label

    def members(values: Values, scope: Scope) -> Sequence[Any]:
        value = run(values, scope)
        of = kind(value)
        if of not in {"list", "map"}:
            raise Unknown(f"{label} is not a list")
        spend(scope, cost * len(value))
        return list(value) if of == "map" else value

    return members


def _quantifier(members: Members, body: Run, slot: int, *, deciding: bool) -> Run:
    def run(values: Values, scope: Scope) -> bool:
        unknown = None
        for member in members(values, scope):
            scope[slot] = member
            try:
                if body(values, scope) == deciding:
                    return deciding
            except Unknown as found:
                unknown = unknown or found
        if unknown is not None:
            raise unknown
        return not deciding

    return run


def _exactly_one(members: Members, body: Run, slot: int) -> Run:
    def run(values: Values, scope: Scope) -> bool:
        found = 0
        for member in members(values, scope):
            scope[slot] = member
            found += body(values, scope)
        return found == 1

    return run


def _mapped(members: Members, body: Run | None, condition: Run | None, slot: int) -> Run:
    def run(values: Values, scope: Scope) -> list[Any]:
        result = []
        for member in members(values, scope):
            scope[slot] = member
            if condition is None or condition(values, scope):
                result.append(member if body is None else body(values, scope))
        return result

    return run
