"""Conditions mean what CEL means, null included, and never raise anything but Unknown."""

from typing import Any

import pytest

from policies.conditions import ConditionError, Unknown, compile_condition

ENV = {
    "features.views": "int",
    "features.spend": "double",
    "features.interests": "list",
    "features.since": "double",
    "features.first-line": "string",
    "profile.owned": "list",
    "profile.tier": "string",
    "profile.nick": "string",
    "profile.vip": "bool",
}
VALUES: dict[str, Any] = {
    "features.views": 3,
    "features.spend": 2.5,
    "features.interests": ("boots", "ski"),
    "features.since": None,
    "features.first-line": "coats",
    "profile.owned": ["boots", "hat"],
    "profile.tier": "gold",
    "profile.vip": True,
    "profile.open_cases": 1,
    "profile.timezone": "Europe/London",
    "context.device": "mobile",
    "context.n": 3,
    "context.ratio": 0.5,
    "context.cart": {"total": 5.5, "lines": ["a", None], "flag": True},
    "context.big": 2**63,
}


def judge(source: str) -> bool | str:
    """Return the verdict, or what was unknown."""
    try:
        return compile_condition(source, ENV).evaluate(VALUES)
    except Unknown as unknown:
        return unknown.name


TRUE = [
    # the contract's own
    'features.views >= 1 && !("shoes" in profile.owned)',
    "profile.open_cases > 0",
    "features.views > 2.5",
    "features.spend < 3",
    # null
    "profile.nick == null",
    "null == profile.nick",
    "profile.tier != null",
    "has(profile.tier)",
    "!has(profile.nick)",
    "context.nothing == null",
    'context["nothing"] == null',
    "context.cart.nothing == null",
    "context.cart.lines[1] == null",
    "null == null",
    "(profile.vip ? profile.nick : profile.tier) == null",
    "context.cart.lines.exists(x, x == null)",
    # absorption, in both orders
    'profile.nick == "x" || true',
    'true || profile.nick == "x"',
    '!(profile.nick == "x" && false)',
    '!(false && profile.nick == "x")',
    '["x", "y"].exists(x, x == profile.nick || x == "y")',
    '!["x", "y"].all(x, x == "y" && profile.nick == "z")',
    "1 / 0 == 1 || features.views == 3",
    # only the chosen branch
    "profile.vip ? true : 1 / 0 == 1",
    # arithmetic
    "7 / -2 == -3",
    "-7 % 3 == -1",
    "features.spend * 2 == 5.0",
    "features.views + 0.5 == 3.5",
    "1 + 2 * 3 - 4 == 3",
    "-features.views == -3",
    "-(-9223372036854775807 - 1) == 0 || true",
    "0x10 == 16",
    "1e2 == 100",
    '"a" + "b" == "ab"',
    '["a"] + ["b"] == ["a", "b"]',
    # comparisons
    '"a" < "b"',
    "false < true",
    "[1, 2.0] == [1.0, 2]",
    "context.n == 3.0",
    'context.n != "3"',
    "context.cart.flag != 1",
    "!(context.n in [true])",
    "context.n + 1 > context.ratio",
    # membership and indexing
    'profile.tier in ["silver", "gold"]',
    '"total" in context.cart',
    'profile.owned[1] == "hat"',
    'features["first-line"] == "coats"',
    "context.cart.total > 5",
    'context.cart["total"] > 5',
    # strings and sizes
    'context.device.startsWith("mob") && context.device.endsWith("ile") && context.device.contains("obi")',
    'profile.tier.matches("^g.l")',
    'profile.tier.matches(r"\\x67" + "old")',
    "size(profile.owned) == 2 && profile.owned.size() == 2 && size('h\u00e9') == 2",
    "\"it's\" == 'it\\'s'",
    "'''a\nb''' == \"a\\nb\"",
    'r"\\d" == "\\\\d"',
    '"\\u00e9\\x41\\101" == "\u00e9AA"',
    # macros
    'profile.owned.all(x, x != "ski")',
    "features.interests.exists(x, x in profile.owned)",
    "[1, 2, 3].exists_one(x, x > 2)",
    "[1, 2, 3].map(x, x * 2) == [2, 4, 6]",
    "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
    "[1, 2, 3].filter(x, x > 1) == [2, 3]",
    "[1, 2].map(x, [1, 2].map(y, x * y)) == [[1, 2], [2, 4]]",
    "context.cart.exists(key, key == 'total')",
    # conversions
    "int(2.9) == 2 && int(-2.9) == -2 && int('12') == 12",
    "double(2) == 2.0 && double('1.5') == 1.5",
    "string(12) == '12' && string(1.5) == '1.5' && string(true) == 'true' && string(2.0) == '2'",
    "true // a comment",
]  # fmt: skip


@pytest.mark.parametrize("source", TRUE)
def test_this_holds(source: str) -> None:
    assert judge(source) is True


UNKNOWN = [
    ('profile.nick == "x"', "profile.nick"),
    ("features.since > 5.0", "features.since"),
    ("!(features.since > 5.0)", "features.since"),
    ('profile.nick == "x" && true', "profile.nick"),
    ('false || profile.nick == "x"', "profile.nick"),
    ('profile.nick == "x" ? true : true', "profile.nick"),
    ('context.nothing == "x"', "context.nothing"),
    ("context.cart.nothing > 1", "context.cart.nothing"),
    ('profile.nick in ["x"]', "profile.nick"),
    ("context.cart.lines.all(x, x == 'a')", "x"),
    ("1 / 0 == 1", "division by zero"),
    ("1 % 0 == 1", "division by zero"),
    ("1.0 / 0.0 > 1.0", "division by zero"),
    ("9223372036854775807 + 1 > 0", "integer overflow"),
    ("-9223372036854775808 / -1 > 0", "integer overflow"),
    ("context.big + 1 > 0", "integer overflow"),
    ("profile.owned[2] == 'x'", "index out of range"),
    ("profile.owned[-1] == 'x'", "index out of range"),
    ("context.device > 1", "string > int"),
    ("context.device + 1 == 2", "string + int"),
    ("context.n && true", "context.n is not a bool"),
    ("context.n.startsWith('a')", "context.n is not a string"),
    ("int('12a') == 1", "int() of a string"),
    ("int(1e300) == 1", "int() of a double"),
    ("[1, 2].exists_one(x, x / 0 == 1)", "division by zero"),
    ("profile.tier.matches('(' + '')", "matches failed"),
]


@pytest.mark.parametrize(("source", "name"), UNKNOWN)
def test_this_is_unknown_and_says_what(source: str, name: str) -> None:
    assert judge(source) == name


MISTAKES = [
    ("features.vews > 1", 'unknown feature "vews"', 'did you mean "views"?'),
    ("profile.tir == null", 'unknown profile field "tir"', 'did you mean "tier"?'),
    ("profle.tier == null", 'unknown name "profle"', 'did you mean "profile"?'),
    ("has(profile.nope)", 'unknown profile field "nope"', "declare it in profile.yaml"),
    ("boots in profile.owned", 'unknown name "boots"', "texts stand in quotes"),
    ("features.views", "an int, it must be true or false", "compare"),
    ("context.vip", "a dyn, it must be true or false", "compare"),
    ("null", "a null", "compare"),
    ('features.views == "3"', "never equal", "one type"),
    ('features.views < "3"', "no order", "numbers"),
    ("profile.tier > null", "no order", "numbers"),
    ("profile.owned < profile.owned", "no order", "numbers"),
    ("3 in profile.owned", "never in", "member"),
    ('"a" in "abc"', "in needs a list", "[a, b]"),
    ("profile.tier && true", "&& needs a bool", "give it"),
    ("!features.views", "! needs a bool", "give it"),
    ("features.spend % 2.0 == 1.0", '"%" does not fit', "numbers"),
    ('profile.tier - "a" == "b"', '"-" does not fit', "numbers"),
    ("profile.vip ? 1 : 'a'", "branches", "same type"),
    ("features.views.startsWith('a')", "startsWith needs a string", "give it"),
    ("profile.tier.starsWith('a')", "unknown method", "startsWith"),
    ("length(profile.owned) > 1", "unknown function", "size"),
    ("size(profile.vip) == 1", "size needs", "number"),
    ("size() == 1", "takes 1 argument", "takes"),
    ("profile.tier.matches('(')", "is no pattern", "RE2"),
    ("profile.owned.all(x)", "takes a variable", "LIST.all"),
    ("profile.tier.all(x, true)", "needs a list", "list"),
    ("profile.owned.all(profile, true)", "cannot be a variable", "x"),
    ("[null] == []", "cannot hold null", "== null"),
    ("has(1)", "needs a name", "has("),
    ("profile == null", "alone is no value", "profile.NAME"),
    ("context[profile.tier] == 1", "quoted name", "context["),
    ("profile.tier.first == 'a'", "has no members", "lists"),
    ("profile.owned['a'] == 'a'", "no place", "whole numbers"),
    ("9223372036854775808 > 0", "64 bits", "smaller"),
    ("1e999 > 0.0", "too large", "smaller"),
    ("features.views = 3", "unexpected", "=="),
    ("true and true", "unexpected", "&&"),
    ("true or true", "unexpected", "||"),
    ("(true", "ends too early", "close"),
    ("", "empty", "write a condition"),
    ("'abc", "unexpected", "close the quoted"),
    (r"'\q' == 'q'", "unknown escape", "backslash"),
    (r"'\ud800' == 'q'", "unknown escape", "backslash"),
    ("{} == {}", "unexpected", "maps"),
    ("1u == 1u", "unexpected", "check"),
    ("__import__('os')", "unknown function", "functions"),
    ("profile.tier.__class__ == 'a'", "has no members", "lists"),
    ("(" * 33 + "true" + ")" * 33, "deeper than 32", "split"),
    ("!" * 33 + "true", "deeper than 32", "split"),
    ("true" + " " * 4093, "4097 characters", "split"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "detail", "fix"), MISTAKES)
def test_a_mistake_says_what_is_wrong_and_how_to_mend_it(source: str, detail: str, fix: str) -> None:
    with pytest.raises(ConditionError) as caught:
        compile_condition(source, ENV)
    assert detail in caught.value.detail
    assert fix in caught.value.fix


def test_a_condition_knows_the_names_that_it_reads() -> None:
    condition = compile_condition('features.views > 1 && context["a b"] == 1 && has(profile.tier)', ENV)
    assert condition.names == ("features.views", "context.a b", "profile.tier")


def test_long_chains_are_no_nesting() -> None:
    chain = " || ".join(f'profile.tier == "{n}"' for n in range(150))
    assert judge(chain) is False
    assert judge("+".join("1" * 2000) + " == 2000") is True


def test_a_value_of_another_type_than_declared_is_unknown() -> None:
    condition = compile_condition("features.views > 1", ENV)
    with pytest.raises(Unknown, match=r"features\.views is not an int"):
        condition.evaluate({"features.views": "3"})


def test_whole_numbers_stand_for_doubles() -> None:
    assert compile_condition("features.spend / 2 > 1.4", ENV).evaluate({"features.spend": 3})


def test_any_name_is_known_under_an_open_root() -> None:
    condition = compile_condition("features.new > 1", {}, open_roots=frozenset({"features"}))
    assert condition.evaluate({"features.new": 2})


@pytest.mark.parametrize(
    "source",
    [
        "profile.owned.all(a, profile.owned.all(b, profile.owned.all(c, a + b + c != '')))",
        "profile.owned.map(a, profile.owned.map(b, [a, b])) == []",
        "profile.owned.exists(a, profile.owned == [])",
    ],
)
def test_no_condition_runs_for_ever(source: str) -> None:
    condition = compile_condition(source, ENV)
    with pytest.raises(Unknown, match="step budget"):
        condition.evaluate({"profile.owned": ["x"] * 1000})


def test_evaluations_share_nothing() -> None:
    condition = compile_condition('profile.owned.exists(x, x == "a")', ENV)
    verdicts = [condition.evaluate({"profile.owned": ["a"] * 10_000}) for _ in range(30)]
    assert verdicts == [True] * 30
