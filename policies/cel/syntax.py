"""CEL source to a tree of frozen nodes; nothing is evaluated and no type is known here.

The grammar is `grammar.lark`, parsed by an LALR parser that builds the nodes while it reads, so that
neither a long nor a deeply nested source can exhaust the stack. A source has at most 4096 characters and 32
levels of nesting.
"""

import re
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import msgspec
from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

MAX_LENGTH: Final = 4096
MAX_DEPTH: Final = 32
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1

HINTS: Final = {
    "=": "compare with ==",
    "&": "write && for and",
    "|": "write || for or",
    "and": "write && for and",
    "or": "write || for or",
    "not": "write ! for not",
    "AND": "write && for and",
    "OR": "write || for or",
    "is": "compare with ==",
    "{": "maps are not supported",
    "in": 'write features["in"] for a name that is a word of the language',
}
"""What people write, and what CEL wants instead."""

SIMPLE_ESCAPES: Final = dict(zip("abfnrtv\\?\"'`", "\a\b\f\n\r\t\v\\?\"'`", strict=True))
ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))", re.DOTALL
)


class ConditionError(ValueError):
    """An expression that cannot be used: what is wrong with it, and how to mend it."""

    def __init__(self, detail: str, fix: str) -> None:
        """Say what is wrong and how to mend it."""
        super().__init__(f"{detail}; {fix}")
        self.detail = detail
        self.fix = fix


class Node(msgspec.Struct, frozen=True):
    """A part of an expression: the character where it begins (from 1) and its levels of nesting."""

    at: int
    depth: int


class Literal(Node, frozen=True):
    """A number, string, bool or null; `type` is its CEL type."""

    type: str
    value: int | float | str | bool | None


class Name(Node, frozen=True):
    """A bare identifier."""

    name: str


class Select(Node, frozen=True):
    """`target.field`."""

    target: Node
    field: str


class Index(Node, frozen=True):
    """`target[key]`."""

    target: Node
    key: Node


class Call(Node, frozen=True):
    """`function(arguments)`, or `target.function(arguments)`."""

    function: str
    target: Node | None
    arguments: tuple[Node, ...]


class Logic(Node, frozen=True):
    """A chain of `&&` or of `||`."""

    operator: str
    parts: tuple[Node, ...]


class Relation(Node, frozen=True):
    """A comparison or `in`."""

    operator: str
    left: Node
    right: Node


class Chain(Node, frozen=True):
    """A left-to-right chain of `+ -` or of `* / %`: the first operand, then operators and operands."""

    first: Node
    rest: tuple[tuple[str, Node], ...]


class Invert(Node, frozen=True):
    """`!operand`."""

    operand: Node


class Negate(Node, frozen=True):
    """`-operand`."""

    operand: Node


class Conditional(Node, frozen=True):
    """`condition ? yes : no`."""

    condition: Node
    yes: Node
    no: Node


class ListLiteral(Node, frozen=True):
    """`[member, …]`."""

    members: tuple[Node, ...]


def _deeper(*parts: Node | None) -> int:
    depth = 1 + max((part.depth for part in parts if part is not None), default=0)
    if depth > MAX_DEPTH:
        raise ConditionError(
            f"the expression nests deeper than {MAX_DEPTH} levels", "split it into simpler conditions"
        )
    return depth


def _place(token: Token) -> int:
    return (token.start_pos or 0) + 1


def _unescape(token: Token) -> str:
    """Return the text of a quoted string; raises ConditionError for an escape that CEL does not know."""

    def replace(match: re.Match[str]) -> str:
        two, four, eight, octal, simple = match.groups()
        code = int(two or four or eight or "0", 16) if octal is None else int(octal, 8)
        known = simple is None or simple in SIMPLE_ESCAPES
        if not known or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise ConditionError(
                f'unknown escape "{match[0]}" in a string (character {_place(token)})',
                'write \\\\ for a backslash, or a raw string such as r"\\d"',
            )
        return chr(code) if simple is None else SIMPLE_ESCAPES[simple]

    return ESCAPE.sub(replace, _unquote(token))


def _unquote(quoted: str) -> str:
    width = 3 if quoted[:3] in {'"""', "'''"} else 1
    return quoted[width:-width]


@v_args(inline=True)
class _Builder(Transformer[Token, Node]):
    """The callbacks of the grammar's rules."""

    def start(self, expr: Node) -> Node:
        return expr

    def conditional(self, condition: Node, yes: Node, no: Node) -> Node:
        return Conditional(condition.at, _deeper(condition, yes, no), condition, yes, no)

    def disjunction(self, *parts: Node) -> Node:
        return Logic(parts[0].at, _deeper(*parts), "||", parts)

    def conjunction(self, *parts: Node) -> Node:
        return Logic(parts[0].at, _deeper(*parts), "&&", parts)

    def relation(self, left: Node, operator: Token, right: Node) -> Node:
        return Relation(left.at, _deeper(left, right), str(operator), left, right)

    def chain(self, first: Node, *rest: Any) -> Node:
        pairs = tuple((str(rest[i]), rest[i + 1]) for i in range(0, len(rest), 2))
        return Chain(first.at, _deeper(first, *(node for _, node in pairs)), first, pairs)

    def invert(self, operator: Token, operand: Node) -> Node:
        return Invert(_place(operator), _deeper(operand), operand)

    def negate(self, operator: Token, operand: Node) -> Node:
        if isinstance(operand, Literal) and isinstance(operand.value, int | float) and operand.type != "bool":
            return Literal(_place(operator), 1, operand.type, -operand.value)
        return Negate(_place(operator), _deeper(operand), operand)

    def select(self, target: Node, field: Token) -> Node:
        return Select(target.at, _deeper(target), target, str(field))

    def method(self, target: Node, function: Token, arguments: tuple[Node, ...] | None) -> Node:
        arguments = arguments or ()
        return Call(target.at, _deeper(target, *arguments), str(function), target, arguments)

    def index(self, target: Node, key: Node) -> Node:
        return Index(target.at, _deeper(target, key), target, key)

    def name(self, token: Token) -> Node:
        return Name(_place(token), 1, str(token))

    def call(self, function: Token, arguments: tuple[Node, ...] | None) -> Node:
        arguments = arguments or ()
        return Call(_place(function), _deeper(*arguments), str(function), None, arguments)

    def group(self, expr: Node) -> Node:
        return msgspec.structs.replace(expr, depth=_deeper(expr))

    def list_literal(self, bracket: Token, arguments: tuple[Node, ...] | None) -> Node:
        arguments = arguments or ()
        return ListLiteral(_place(bracket), _deeper(*arguments), arguments)

    def arguments(self, *parts: Node) -> tuple[Node, ...]:
        return parts

    members = arguments

    def integer(self, token: Token) -> Node:
        value = int(token, 16) if token[:2] in {"0x", "0X"} else int(token)
        # One more than the largest is let through here: it may stand behind a minus.
        return Literal(_place(token), 1, "int", value)

    def double(self, token: Token) -> Node:
        return Literal(_place(token), 1, "double", float(token))

    def string(self, token: Token) -> Node:
        return Literal(_place(token), 1, "string", _unescape(token))

    def raw(self, token: Token) -> Node:
        return Literal(_place(token), 1, "string", _unquote(token[1:]))

    def true(self, token: Token) -> Node:
        return Literal(_place(token), 1, "bool", True)

    def false(self, token: Token) -> Node:
        return Literal(_place(token), 1, "bool", False)

    def null(self, token: Token) -> Node:
        return Literal(_place(token), 1, "null", None)


@lru_cache(maxsize=1)
def _parser() -> Lark:
    grammar = resources.files("policies.cel").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", transformer=_Builder(), maybe_placeholders=True)


def parse(source: str) -> Node:
    """Return the tree of a CEL expression; raises ConditionError for a source that cannot be read."""
    if len(source) > MAX_LENGTH:
        raise ConditionError(
            f"the expression has {len(source)} characters, at most {MAX_LENGTH} are allowed",
            "split it into simpler conditions",
        )
    if not source.strip():
        raise ConditionError("the expression is empty", "write a condition such as features.views_7d >= 1")
    try:
        tree = _parser().parse(source)
    except UnexpectedInput as error:
        raise _syntax_error(source, error) from None
    assert isinstance(tree, Node)  # noqa: S101  # the embedded transformer makes nodes, not lark trees
    return tree


def _syntax_error(source: str, error: UnexpectedInput) -> ConditionError:
    if isinstance(error, UnexpectedCharacters):
        position = error.pos_in_stream or 0
        found = source[position]
        place = f'unexpected "{found}" at character {position + 1}'
        quote = "close the quoted string" if found in "\"'" else "check the spelling there"
        return ConditionError(place, HINTS.get(found, quote))
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        place = f'unexpected "{error.token}" at character {_place(error.token)}'
        return ConditionError(
            place, HINTS.get(str(error.token), "check the operators and brackets before it")
        )
    return ConditionError("the expression ends too early", "complete it, and close every bracket and quote")
