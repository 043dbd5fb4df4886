"""Conditions agree with an independent CEL wherever no null and none of our documented kindnesses is involved."""

# ruff: noqa: E501  # a row of a table is one case, and reads best as one line

from collections.abc import Callable
from typing import Any

import cel
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.conditions import ConditionError, Unknown, compile_condition

ENV = {
    "features.i": "int",
    "features.j": "int",
    "features.d": "double",
    "features.e": "double",
    "profile.s": "string",
    "profile.t": "string",
    "profile.b": "bool",
    "profile.l": "list",
    "profile.m": "list",
}

SMALL_INTS = st.integers(-5, 5) | st.sampled_from([2**63 - 1, -(2**63), 2**62])
SMALL_DOUBLES = st.sampled_from([0.0, 0.5, 1.0, -2.5, 3.0, 1e10])
# ASCII: the oracle's size() counts bytes where the standard says characters.
TEXTS = st.sampled_from(["", "a", "ab", "boots", "b"])


@st.composite
def expressions(draw: st.DrawFn, type_: str, depth: int = 3) -> str:
    """Draw the source of an expression of one type; ints and doubles meet only in comparisons."""
    if depth == 0:
        return draw(leaves(type_))

    def inner(wanted: str) -> str:
        return draw(expressions(wanted, depth - 1))

    number = draw(st.sampled_from(["int", "double"]))
    other = draw(st.sampled_from(["int", "double"]))
    scalar = draw(st.sampled_from(["int", "double", "string", "bool"]))
    options = {
        "bool": [
            lambda: f"({inner('bool')} && {inner('bool')})",
            lambda: f"({inner('bool')} || {inner('bool')})",
            lambda: f"!({inner('bool')})",
            lambda: f"({inner(number)} {draw(st.sampled_from(['<', '<=', '>', '>=', '==', '!=']))} {inner(other)})",
            lambda: f"({inner('string')} {draw(st.sampled_from(['<', '>=', '==', '!=']))} {inner('string')})",
            lambda: f"({inner('list')} {draw(st.sampled_from(['==', '!=']))} {inner('list')})",
            lambda: f"({inner('string')} in {inner('list')})",
            lambda: f"{inner('string')}.{draw(st.sampled_from(['startsWith', 'endsWith', 'contains']))}({inner('string')})",
            lambda: f"{inner('string')}.matches('^a?b*$')",
            lambda: f"{inner('list')}.{draw(st.sampled_from(['all', 'exists', 'exists_one']))}(x, x != {inner('string')})",
        ],
        "int": [
            lambda: f"({inner('int')} {draw(st.sampled_from(['+', '-', '*', '/', '%']))} {inner('int')})",
            lambda: f"size({inner('list')})",
            lambda: f"size({inner('string')})",
        ],
        "double": [lambda: f"({inner('double')} {draw(st.sampled_from(['+', '-', '*']))} {inner('double')})"],
        "string": [lambda: f"({inner('string')} + {inner('string')})", lambda: f"{inner('list')}[{inner('int')}]"],
        "list": [
            lambda: f"({inner('list')} + {inner('list')})",
            lambda: f"{inner('list')}.filter(x, x > {inner('string')})",
            lambda: f"{inner('list')}.map(x, x + {inner('string')})",
        ],
    }  # fmt: skip
    choices = [
        *options[type_],
        lambda: f"({inner('bool')} ? {inner(type_)} : {inner(type_)})",
        lambda: draw(leaves(type_)),
    ]
    if type_ == "bool":
        choices.append(lambda: f"({inner(scalar)} == {inner(scalar)})")
    chosen: Callable[[], str] = draw(st.sampled_from(choices))
    return chosen()


def leaves(type_: str) -> st.SearchStrategy[str]:
    return {
        "bool": st.sampled_from(["true", "false", "profile.b"]),
        "int": st.sampled_from(["features.i", "features.j", "0", "1", "-3", "9223372036854775807"]),
        "double": st.sampled_from(["features.d", "features.e", "0.5", "1.0", "-2.5"]),
        "string": st.sampled_from(["profile.s", "profile.t", '"a"', "'boots'", '""']),
        "list": st.sampled_from(["profile.l", "profile.m", '["a", "b"]']),
    }[type_]


SITUATIONS = st.fixed_dictionaries(
    {
        "features.i": SMALL_INTS,
        "features.j": SMALL_INTS,
        "features.d": SMALL_DOUBLES,
        "features.e": SMALL_DOUBLES,
        "profile.s": TEXTS,
        "profile.t": TEXTS,
        "profile.b": st.booleans(),
        "profile.l": st.lists(TEXTS, max_size=3),
        "profile.m": st.lists(TEXTS, max_size=3),
    }
)


def nested(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        root, _, key = name.partition(".")
        result.setdefault(root, {})[key] = value
    return result


def ours(source: str, values: dict[str, Any]) -> bool | str:
    try:
        return compile_condition(source, ENV).evaluate(values)
    except Unknown:
        return "unknown"


def theirs(source: str, values: dict[str, Any]) -> Any:
    try:
        return cel.evaluate(source, nested(values))
    except Exception:  # noqa: BLE001  # whatever the oracle cannot do is an error of CEL
        return "unknown"


@settings(max_examples=400, deadline=None)
@given(expressions("bool"), SITUATIONS)
def test_conditions_agree_with_an_independent_cel(source: str, values: dict[str, Any]) -> None:
    assert ours(source, values) == theirs(source, values)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(expressions("bool"), st.dictionaries(st.sampled_from([*ENV, "context.k"]), ANYTHING))
def test_no_value_makes_a_condition_raise_anything_but_unknown(source: str, values: dict[str, Any]) -> None:
    dynamic = source.replace("features.i", "context.k").replace("profile.s", "context.k")
    assert ours(dynamic, values) in {True, False, "unknown"}


WORDS = st.sampled_from([
    "features.i", "profile.s", "context.k", "true", "null", "1", "2.5", "'a'", "(", ")", "[", "]", "{",
    "}", ",", ".", "?", ":", "+", "-", "*", "/", "%", "!", "&&", "||", "==", "!=", "<", "in", "x",
    ".all(", "size(", "has(", "matches(", "\\", '"', "r'", "=", "&", "0x", "1e9", "\n", "//", "#",
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS | st.text(max_size=2), max_size=12))
def test_no_source_raises_anything_but_a_condition_error(words: list[str]) -> None:
    try:
        condition = compile_condition(" ".join(words), ENV)
    except ConditionError as error:
        mistake = error
    else:
        assert ours(condition.source, {}) in {True, False, "unknown"}
        return
    assert mistake.detail
    assert mistake.fix
