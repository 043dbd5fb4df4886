"""contact_policy.yaml: caps, gaps and suppressions, each by a name of its own."""

from typing import Any, Final, get_args

from policies.model import RESERVED_NAMES, After, Calendar, Cap, Suppression, When
from policies.reading.channels import kind_of
from policies.reading.offers import unique
from policies.reading.survey import FILES, Reading
from policies.reading.values import DURATION, Value

CALENDARS: Final[tuple[Calendar, ...]] = get_args(Calendar)
LONGEST_MS: Final[dict[Calendar, int]] = {"day": 86_400_000, "week": 7 * 86_400_000, "month": 31 * 86_400_000}
"""How far back a calendar window looks."""
MAX_COUNT: Final = 1_000_000
ATTRIBUTE: Final = "attribute."
WHEN_KEYS: Final = ("kind", "channel", "category", "offer")
EACH: Final = ("offer", "category", "channel")


def read_rules(reading: Reading, root: Value) -> tuple[tuple[Cap, ...], tuple[Suppression, ...]]:
    """Return caps (gaps among them) and suppressions, in file order."""
    fields = root.fields(FILES["contact_policy.yaml"])
    caps, suppressions = fields.get("caps"), fields.get("suppressions")
    lines: dict[str, int] = {}
    return (
        tuple(_cap(reading, value, lines) for value in (caps.members() if caps else [])),
        tuple(
            _suppression(reading, value, lines) for value in (suppressions.members() if suppressions else [])
        ),
    )


def _rule_name(value: Value, lines: dict[str, int]) -> str | None:
    name = unique(value, lines, "the name")
    if name in RESERVED_NAMES:
        value.fail(f'"{name}" is a reason of its own, no rule may bear it', "give the rule another name")
        return None
    return name


def _beyond(value: Value, length_ms: int, kept_ms: int, what: str) -> bool:
    """Report a rule or feature that looks back further than facts are kept."""
    if length_ms <= kept_ms:
        return False
    value.fail(
        f"looks back further than keep.{what} in policy.yaml", f"shorten it, or keep {what} for longer"
    )
    return True


def _cap(reading: Reading, value: Value, lines: dict[str, int]) -> Cap:
    keys = ("name", "max", "per", "gap", "when", "each")
    fields = value.fields(keys, required=("name",))
    name = fields.read("name", lambda member: _rule_name(member, lines), "")
    gap, per, most = fields.get("gap"), fields.get("per"), fields.get("max")
    length: dict[str, Any] = {}
    if gap is not None and (per is not None or most is not None):
        value.fail("a rule has either a gap, or max and per", "keep one of the two")
    elif gap is not None:
        gap_ms = gap.duration()
        if gap_ms is not None and not _beyond(gap, gap_ms, reading.keep.contacts_ms, "contacts"):
            length = {"gap_ms": gap_ms}
    elif per is None or most is None:
        missing = "max and per, or gap," if per is most else "per" if per is None else "max"
        value.fail(f"{missing} is missing", "write max: 1, per: 24h, or gap: 4h", value.entry_line)
        for member in (per, most):
            if member is not None:
                _ = _per(reading, member) if member is per else member.whole(1, MAX_COUNT)
    else:
        length = {"max": most.whole(1, MAX_COUNT) or 1, **_per(reading, per)}
    return Cap(
        name=name,
        when=fields.maybe("when", lambda when: read_when(reading, when)) or When(),
        each=fields.read("each", lambda each: _each(reading, each), ""),
        **length,
    )


def _per(reading: Reading, value: Value) -> dict[str, Any]:
    text = value.plain()
    if text is not None and not DURATION.fullmatch(text) and not text[:1].isdigit():
        word = value.choice(CALENDARS, "a duration, day, week or month")
        calendar = next((known for known in CALENDARS if known == word), None)
        if calendar is not None:
            _beyond(value, LONGEST_MS[calendar], reading.keep.contacts_ms, "contacts")
        return {"calendar": calendar}
    per_ms = value.duration()
    if per_ms is not None:
        _beyond(value, per_ms, reading.keep.contacts_ms, "contacts")
    return {"per_ms": per_ms or 0}


def _known_attribute(reading: Reading, value: Value, text: str, line: int = 0) -> bool:
    attribute, known = text.removeprefix(ATTRIBUTE), reading.names.attributes
    if known is None or attribute in known:
        return True
    value.fail(f'no offer has an attribute "{attribute}"', value.near(attribute, known), line)
    return False


def _each(reading: Reading, value: Value) -> str | None:
    text = value.text("what to count by")
    if text is None or text in EACH:
        return text
    if text.startswith(ATTRIBUTE):
        return text if _known_attribute(reading, value, text) else None
    value.fail(f'cannot count by "{text}"', value.near(text, [*EACH, "attribute.NAME"]))
    return None


def read_when(reading: Reading, value: Value) -> When:
    """Return what a rule looks at."""
    names = reading.names
    attributes = [key for key in (value.table() or {}) if key.startswith(ATTRIBUTE)]
    fields = value.fields((*WHEN_KEYS, *attributes))
    found = []
    for key in attributes:
        member = fields.values[key]
        if _known_attribute(reading, member, key, member.entry_line):
            scalars = [one.scalar() for one in member.one_or_many()]
            found.append((key.removeprefix(ATTRIBUTE), frozenset(one for one in scalars if one is not None)))

    def some(key: str, read: Any) -> frozenset[str]:
        member = fields.get(key)
        texts = [read(one) for one in member.one_or_many()] if member is not None else []
        return frozenset(text for text in texts if text is not None)

    return When(
        kind=some("kind", kind_of),
        channel=some("channel", lambda one: one.reference(names.channels, "a channel", "channels.yaml")),
        category=some("category", lambda one: one.reference(names.categories, "a category", "offers.yaml")),
        offer=some("offer", lambda one: one.reference(names.offers, "an offer", "offers.yaml")),
        attributes=tuple(found),
    )


def _suppression(reading: Reading, value: Value, lines: dict[str, int]) -> Suppression:
    fields = value.fields(("name", "after", "for", "while", "when"), required=("name",))
    name = fields.read("name", lambda member: _rule_name(member, lines), "")
    after, duration, while_ = fields.get("after"), fields.get("for"), fields.get("while")
    if (after is None) == (while_ is None):
        what = "neither" if after is None else "both"
        value.fail(
            f"a suppression has either after or while, this one has {what}", "write exactly one of them"
        )
    elif after is not None and duration is None:
        value.fail("after needs for: how long the block lasts", "add for: 30d", value.entry_line)
    elif while_ is not None and duration is not None:
        duration.fail("while blocks as long as its condition is true, it takes no for", "remove for")
    for_ms = (duration.duration() or 0) if duration is not None and after is not None else 0
    started = _after(reading, after) if after is not None else None
    if duration is not None and for_ms and started is not None:
        _beyond(duration, for_ms + started.within_ms, reading.keep.events_ms, "events")
    condition = reading.condition(while_) if while_ is not None else None
    if (
        while_ is not None
        and condition is not None
        and any(n.startswith("context.") for n in condition.names)
    ):
        while_.warn(
            "context is unknown when contacts are checked and confirmed, so the rule blocks there",
            "use profile and features",
        )
    when = fields.maybe("when", lambda member: read_when(reading, member)) or When()
    return Suppression(name=name, when=when, after=started, for_ms=for_ms, while_=condition)


def _after(reading: Reading, value: Value) -> After:
    fields = value.fields(("event", "same", "count", "within"), required=("event",))
    same = fields.maybe("same", lambda member: member.choice(("offer",), "what the events share"))
    count = fields.read("count", lambda member: member.whole(1, MAX_COUNT), 1)
    within = fields.get("within")
    if within is not None and "count" not in fields:
        within.warn("within says nothing without a count above 1", "add count: 2, or remove within")
    return After(
        event=fields.read("event", reading.event_type, ""),
        same_offer=same == "offer",
        count=count,
        within_ms=(within.duration() or 0) if within is not None else 0,
    )
