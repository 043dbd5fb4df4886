"""YAML text to nodes that remember their line; nothing is converted.

YAML's own constructors never run: a scalar stays the text that was written, with a note whether it was
quoted, so that `no` cannot become false and `1:30` cannot become ninety. Anchors, aliases, tags, duplicate
keys and several documents are mistakes. A file has at most 8 MiB and 32 levels; both are checked before
anything is kept.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import yaml

from policies.model import Problem

MAX_BYTES: Final = 8 * 1024 * 1024
MAX_DEPTH: Final = 32
LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Only its parser is used, for events; libyaml's where PyYAML has it."""

NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
"""The numbers of JSON: no sign of plus, no leading zeros, no underscores."""

_CONVERTED: Final = (
    ("true or false", re.compile(r"yes|no|on|off|true|false", re.IGNORECASE)),
    ("null", re.compile(r"~|null|", re.IGNORECASE)),
    ("a date", re.compile(r"\d{4}-\d{1,2}-\d{1,2}([Tt\s].*)?", re.ASCII)),
    ("a number in base 60", re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.[\d_]*)?", re.ASCII)),
    ("a number", re.compile(r"[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|\d[\d_]*)", re.ASCII)),
    ("a number", re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?", re.ASCII)),
    ("a number", re.compile(r"[-+]?\.inf|\.nan", re.IGNORECASE)),
    ("a merge of another mapping", re.compile(r"<<|=")),
)


def converted(text: str) -> str:
    """Return what YAML makes of a plain scalar (`a number`, `a date`); empty where it stays a text."""
    return next((what for what, pattern in _CONVERTED if pattern.fullmatch(text)), "")


class Node(msgspec.Struct):
    """Something in a file, and the line (from 1) where it begins."""

    line: int


class Scalar(Node):
    """A text as it was written; `plain` if it had no quotes."""

    text: str
    plain: bool


class Listing(Node):
    """A sequence."""

    members: list[Node]


class Entry(msgspec.Struct):
    """A key's line and its value; `spoilt` if the key itself was reported already."""

    line: int
    node: Node
    spoilt: bool = False


class Table(Node):
    """A mapping, in the order of the file."""

    entries: dict[str, Entry]


class Spoilt(Node):
    """Something that was reported already: whoever reads it says nothing more."""


class Report:
    """The mistakes and warnings found so far."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def fail(self, file: str, line: int, field: str, detail: str, fix: str) -> None:
        """Note a mistake."""
        self.problems.append(Problem(file, line, field, detail, fix))

    def warn(self, file: str, line: int, field: str, detail: str, fix: str) -> None:
        """Note something that is allowed, but hardly meant."""
        self.warnings.append(Problem(file, line, field, detail, fix))


def compose(file: str, text: str, report: Report) -> Node | None:
    """Return the only document of a file, None for an empty one; a file that cannot be read is `Spoilt`."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        report.fail(file, 1, "", "the file is larger than 8 MiB", "split or shorten it")
        return Spoilt(1)
    try:
        return _Composer(file, report, yaml.parse(text, Loader=LOADER)).document()
    except _TooDeepError as error:
        report.fail(file, error.line, "", f"more than {MAX_DEPTH} levels of nesting", "flatten it")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        detail = " ".join(part for part in (error.context, error.problem) if part)
        report.fail(file, line, "", f"not YAML: {detail}", _fix(detail))
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        report.fail(file, line, "", "not YAML: a control character", "remove it, keep to plain UTF-8 text")
    except UnicodeError:
        report.fail(file, 1, "", "the file is not UTF-8", "save it as UTF-8")
    return Spoilt(1)


def _fix(detail: str) -> str:
    if "\\t" in detail or "\t" in detail:
        return "indent with spaces, not with tabs"
    return "check quotes, brackets, colons and indentation here and in the line above"


class _TooDeepError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Composer:
    """Makes nodes of one file's events. Depth is bounded, so that recursion is."""

    def __init__(self, file: str, report: Report, events: Iterator[Any]) -> None:
        self.file = file
        self.report = report
        self.events = events
        self.anchors: set[str] = set()

    def document(self) -> Node | None:
        """Return the root of the first document; a second one is a mistake."""
        root = None
        documents = 0
        for event in self.events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents == 2:
                    self.report.fail(self.file, line, "", "a second document", "keep one document a file")
                    return root
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, "", 1)
        empty = isinstance(root, Scalar) and root.plain and not root.text
        return None if empty else root

    def _node(self, event: Any, path: str, depth: int) -> Node:
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise _TooDeepError(line)
        spoilt = self._shortcuts(event, line, path)
        if isinstance(event, yaml.AliasEvent):
            return Spoilt(line)
        if isinstance(event, yaml.ScalarEvent):
            node: Node = Scalar(line, event.value, not event.style)
        elif isinstance(event, yaml.SequenceStartEvent):
            members: list[Node] = []
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                members.append(self._node(inner, f"{path}[{len(members)}]", depth + 1))
            node = Listing(line, members)
        else:
            node = self._table(line, path, depth)
        return Spoilt(line) if spoilt else node

    def _shortcuts(self, event: Any, line: int, path: str) -> bool:
        """Report an anchor, alias or tag; each anchor once, however often it is used."""
        anchor = event.anchor
        if anchor is not None and anchor not in self.anchors:
            self.anchors.add(anchor)
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            self.report.fail(
                self.file,
                line,
                path,
                f'anchors and aliases such as "{sign}{anchor}" are not allowed',
                "write it out",
            )
        tag = getattr(event, "tag", None)
        if tag is None:
            return False
        self.report.fail(self.file, line, path, f'tags such as "{tag}" are not allowed', "remove the tag")
        return True

    def _table(self, line: int, path: str, depth: int) -> Table:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key_line = event.start_mark.line + 1
            key = self._node(event, path, depth + 1)
            spoilt = isinstance(key, Spoilt)
            name = key.text if isinstance(key, Scalar) else ""
            inner = f"{path}.{name}" if path else name
            if isinstance(key, Listing | Table):
                self.report.fail(self.file, key_line, path, "a key must be a text", "write NAME: VALUE")
                spoilt = True
            elif isinstance(key, Scalar) and key.plain and (what := converted(name)):
                detail = f'the key "{name}" without quotes is {what} in YAML'
                self.report.fail(self.file, key_line, inner, detail, f'write "{name}" in quotes')
                spoilt = True
            elif name in entries:
                first = entries[name].line
                detail = f'the key "{name}" is already in line {first}'
                self.report.fail(self.file, key_line, inner, detail, "keep one of the two")
                self._node(next(self.events), inner, depth + 1)
                continue
            value = self._node(next(self.events), inner, depth + 1)
            if name not in entries:
                entries[name] = Entry(key_line, value, spoilt)
        return Table(line, entries)
