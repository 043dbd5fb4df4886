"""Nodes to checked values: each reader returns the value, or None after it has reported what is wrong.

Nothing is coerced. A number is a plain scalar that JSON would take for one, true and false are the only truth
values, and where a text is wanted, whatever YAML would convert must stand in quotes.
"""

import re
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final, TypeVar

from policies.reading.names import listed, name_fault, near
from policies.reading.nodes import NUMBER, Entry, Listing, Node, Report, Scalar, Spoilt, Table, converted

T = TypeVar("T")

UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
DURATION: Final = re.compile(r"([1-9][0-9]{0,8})([smhdw])")
MAX_DURATION_MS: Final = 36_525 * 86_400_000
"""A century: longer than any fact is kept."""
SHARE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%")
CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
INSTANT: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?Z")
WHOLE: Final = re.compile(r"-?(0|[1-9][0-9]*)")
MICRO: Final = 1_000_000
MAX_HINTS: Final = 200
"""Mistakes after which nobody is asked what was meant: the search is slow, and a hint no longer helps."""
MAX_MONEY: Final = 1_000_000_000
"""In units of the currency: its micro-units are exact in a double, which the store's scripts count in."""


def instant_ms(text: str) -> int | None:
    """Return an RFC 3339 time that ends in Z as milliseconds since the epoch, None for anything else."""
    match = INSTANT.fullmatch(text)
    if match is None:
        return None
    try:
        moment = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.timestamp()) * 1000 + int(((match[2] or "") + "000")[:3])


class Value:
    """A node, the path that leads to it, and where to report."""

    __slots__ = ("entry_line", "field", "file", "node", "report")

    def __init__(self, node: Node, field: str, entry_line: int, file: str, report: Report) -> None:
        self.node = node
        self.field = field
        self.entry_line = entry_line
        """The line of its key, for what is missing in it."""
        self.file = file
        self.report = report

    def fail(self, detail: str, fix: str, line: int = 0) -> None:
        """Report a mistake of this value."""
        self.report.fail(self.file, line or self.node.line, self.field, detail, fix)

    def warn(self, detail: str, fix: str) -> None:
        """Report something that is allowed, but hardly meant."""
        self.report.warn(self.file, self.node.line, self.field, detail, fix)

    def near(self, name: str, known: Iterable[str]) -> str:
        """Say what was meant by a name; after many mistakes, only which names are known."""
        return near(name, known) if len(self.report.problems) < MAX_HINTS else listed(known)

    def inner(self, key: str, entry: Entry) -> "Value":
        """Return the value of a key."""
        return Value(
            entry.node, f"{self.field}.{key}" if self.field else key, entry.line, self.file, self.report
        )

    # ------------------------------------------------------------------ mappings and lists

    def table(self, what: str = "a mapping") -> dict[str, Entry] | None:
        """Return the entries of a mapping."""
        if isinstance(self.node, Table):
            return self.node.entries
        self._not(what, "write KEY: VALUE pairs")
        return None

    def fields(self, known: Collection[str], required: Collection[str] = ()) -> "Fields":
        """Return the entries of a mapping of known keys; unknown and missing ones are reported."""
        entries = self.table()
        if entries is None:
            return Fields({})
        missing = set(required) - entries.keys()
        for key, entry in entries.items():
            if key in known or entry.spoilt:
                continue
            if missing:
                close = get_close_matches(key, sorted(known), n=1)
                missing.difference_update(close)  # the misspelt key is the one that is missing
            self.inner(key, entry).fail(f'unknown key "{key}"', self.near(key, known), entry.line)
        for key in sorted(missing):
            field = f"{self.field}.{key}" if self.field else key
            self.report.fail(self.file, self.entry_line, field, f'"{key}" is missing', f"add {key}: …")
        return Fields({key: self.inner(key, entry) for key, entry in entries.items() if key in known})

    def named(self) -> "dict[str, Value]":
        """Return the entries of a mapping from names of one's own; names that cannot be are reported."""
        result = {}
        for name, entry in (self.table() or {}).items():
            value = self.inner(name, entry)
            fault = name_fault(name)
            if fault and not entry.spoilt:
                value.fail(f"the name {fault}", "use 1 to 128 visible characters", entry.line)
            result[name] = value
        return result

    def members(self, *, some: bool = False) -> "list[Value]":
        """Return the members of a list; with `some`, an empty one is a mistake."""
        if not isinstance(self.node, Listing):
            self._not("a list", "write [a, b], or one - ITEM a line")
            return []
        if some and not self.node.members:
            self.fail("the list is empty", "name at least one")
        return [
            Value(node, f"{self.field}[{place}]", node.line, self.file, self.report)
            for place, node in enumerate(self.node.members)
        ]

    def one_or_many(self) -> "list[Value]":
        """Return the members of a list, or the value itself."""
        return self.members(some=True) if isinstance(self.node, Listing) else [self]

    # ------------------------------------------------------------------ scalars

    def _not(self, what: str, fix: str) -> None:
        node = self.node
        if isinstance(node, Spoilt):
            return
        if isinstance(node, Scalar):
            got = "nothing" if node.plain and not node.text else f'"{node.text[:60]}"'
        else:
            got = "a list" if isinstance(node, Listing) else "a mapping"
        self.fail(f"must be {what}, not {got}", fix)

    def plain(self) -> str | None:
        """Return the text of a scalar without quotes."""
        return self.node.text if isinstance(self.node, Scalar) and self.node.plain else None

    @property
    def is_null(self) -> bool:
        """Whether this is a plain `null`, or nothing."""
        return self.plain() in {"", "null"}

    def text(self, what: str = "a text", fix: str = "write a text") -> str | None:
        """Return a text; a plain one that YAML would convert must be quoted."""
        if not isinstance(self.node, Scalar):
            self._not(what, fix)
            return None
        text = self.node.text
        if self.node.plain and (made := converted(text)):
            if not text:
                self._not(what, fix)
                return None
            self.fail(
                f'"{text}" without quotes is {made} in YAML, {what} is wanted', f'write "{text}" in quotes'
            )
            return None
        return text

    def name(self, what: str = "a name") -> str | None:
        """Return a name of 1 to 128 characters, not blank, without control characters."""
        text = self.text(what)
        fault = name_fault(text) if text is not None else ""
        if fault:
            self.fail(f"{what} {fault}", "use 1 to 128 visible characters")
            return None
        return text

    def choice(self, options: Collection[str], what: str) -> str | None:
        """Return one of a few words."""
        text = self.text(what)
        if text is not None and text not in options:
            self.fail(f'"{text}" is not {what}', self.near(text, options))
            return None
        return text

    def reference(self, known: Collection[str] | None, what: str, file: str) -> str | None:
        """Return a name that is declared elsewhere; any, where `known` is None: its file is unreadable."""
        text = self.text(f"the name of {what}")
        if text is not None and known is not None and text not in known:
            article, _, noun = what.partition(" ")
            fix = self.near(text, known)
            self.fail(
                f'unknown {noun or article} "{text}"', fix if "did you" in fix else f"declare it in {file}"
            )
            return None
        return text

    def number(self, least: float | None = None, *, above: float | None = None) -> float | None:
        """Return a finite number, at least `least`, or more than `above`."""
        text = self.plain()
        if text is None or not NUMBER.fullmatch(text):
            self._not("a number", "write a number such as 0.5, without quotes")
            return None
        value = float(text)
        if abs(value) == float("inf"):
            self.fail("the number is too large", "write a smaller number")
        elif least is not None and value < least:
            self.fail(f"must be at least {least:g}, not {text}", f"write {least:g} or more")
        elif above is not None and value <= above:
            self.fail(f"must be more than {above:g}, not {text}", f"write more than {above:g}")
        else:
            return value
        return None

    def whole(self, least: int, most: int = 2**53) -> int | None:
        """Return a whole number in a range."""
        text = self.plain()
        if text is None or not WHOLE.fullmatch(text) or len(text) > 20:
            self._not("a whole number", f"write a whole number such as {max(least, 1)}")
            return None
        value = int(text)
        if not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most}"
            self.fail(f"must be {bound}, not {text}", f"write a number from {least} to {most}")
            return None
        return value

    def flag(self) -> bool | None:
        """Return true or false."""
        text = self.plain()
        if text in {"true", "false"}:
            return text == "true"
        self._not("true or false", "write true or false")
        return None

    def duration(self) -> int | None:
        """Return a duration in milliseconds."""
        node = self.node
        match = DURATION.fullmatch(node.text) if isinstance(node, Scalar) else None
        if match is None:
            self._not("a duration", "write a whole number above 0 and one of s m h d w, such as 7d")
            return None
        value = int(match[1]) * UNITS_MS[match[2]]
        if value > MAX_DURATION_MS:
            self.fail("the duration is longer than a century", "write a shorter one")
            return None
        return value

    def share(self) -> float | None:
        """Return a percentage as a fraction of 1."""
        node = self.node
        match = SHARE.fullmatch(node.text) if isinstance(node, Scalar) else None
        if match is None:
            self._not("a percentage", "write a number from 0 to 100 and %, such as 5%")
            return None
        value = Decimal(match[1]) / 100
        if value > 1:
            self.fail(f"must be at most 100%, not {match[0]}", "write a number from 0 to 100 and %")
            return None
        return float(value)

    def clock(self) -> int | None:
        """Return a time of day as minutes after midnight."""
        node = self.node
        if isinstance(node, Scalar) and CLOCK.fullmatch(node.text):
            if node.plain:
                self.fail(f"{node.text} without quotes is a number in YAML", f'write "{node.text}" in quotes')
                return None
            return int(node.text[:2]) * 60 + int(node.text[3:])
        self._not("a time of day", 'write "HH:MM" in quotes, from "00:00" to "23:59"')
        return None

    def day(self) -> date | None:
        """Return a date."""
        node = self.node
        if isinstance(node, Scalar) and DAY.fullmatch(node.text):
            try:
                return date.fromisoformat(node.text)
            except ValueError:
                self.fail(f"{node.text} is not in the calendar", "write a date that exists")
                return None
        self._not("a date", "write YYYY-MM-DD, such as 2026-11-01")
        return None

    def instant(self) -> int | None:
        """Return a moment in milliseconds since the epoch."""
        node = self.node
        value = instant_ms(node.text) if isinstance(node, Scalar) else None
        if value is None:
            self._not("a time in UTC", "write it with a Z at the end, such as 2026-11-21T22:30:00Z")
            return None
        return value

    def money_micro(self) -> int | None:
        """Return an amount above 0 in micro-units of the currency."""
        text = self.plain()
        if text is None or not NUMBER.fullmatch(text) or len(text) > 40:
            self._not("an amount of money", "write a number such as 5000.00, without quotes")
            return None
        amount = Decimal(text)
        if not 0 < amount <= MAX_MONEY:
            self.fail(f"must be more than 0 and at most {MAX_MONEY}, not {text}", "write another amount")
            return None
        micro = amount * MICRO
        if micro != micro.to_integral_value():
            self.fail(f"{text} has more than 6 decimals", "round it to 6 decimals")
            return None
        return int(micro)

    def json(self, *, times: bool = False) -> Any:
        """Return any JSON value; what YAML would convert must be quoted, times too unless `times`."""
        node = self.node
        if isinstance(node, Table):
            return {key: self.inner(key, entry).json(times=times) for key, entry in node.entries.items()}
        if isinstance(node, Listing):
            return [member.json(times=times) for member in self.members()]
        text = self.plain()
        if text is None:
            return self.text()
        if times and INSTANT.fullmatch(text):
            return text
        if self.is_null:
            return None
        if text in {"true", "false"}:
            return text == "true"
        if NUMBER.fullmatch(text):
            return int(text) if WHOLE.fullmatch(text) and len(text) < 19 else self.number()
        return self.text()

    def scalar(self) -> str | float | bool | None:
        """Return a text, number or truth value."""
        if not isinstance(self.node, Scalar) or self.is_null:
            self._not("a text, a number, true or false", "write one value")
            return None
        value = self.json()
        if isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        return value if isinstance(value, str | float | bool) else None


class Fields:
    """The known entries of one mapping."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, Value]) -> None:
        self.values = values

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def __getitem__(self, key: str) -> Value:
        return self.values[key]

    def get(self, key: str) -> Value | None:
        """Return an entry, None where there is none."""
        return self.values.get(key)

    def read(self, key: str, reader: Callable[[Value], T | None], default: T) -> T:
        """Return what the reader makes of an entry; the default where there is none, or it was reported."""
        value = self.values.get(key)
        result = reader(value) if value is not None else None
        return default if result is None else result

    def maybe(self, key: str, reader: Callable[[Value], T | None]) -> T | None:
        """Return what the reader makes of an entry, None where there is none, or it was reported."""
        value = self.values.get(key)
        return reader(value) if value is not None else None
