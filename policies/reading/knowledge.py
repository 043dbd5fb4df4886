"""features.yaml, profile.yaml and questions.yaml: what is known and asked."""

from typing import Any, Final, get_args

from features.definition import FeatureDef
from features.definition import Kind as FeatureKind
from policies.model import Field, FieldType, Question
from policies.reading.names import near
from policies.reading.offers import unique
from policies.reading.survey import FILES, Reading
from policies.reading.values import Value

FEATURE_KINDS: Final[tuple[FeatureKind, ...]] = get_args(FeatureKind)
SHAPES: Final[dict[FeatureKind, tuple[str, ...]]] = {
    "count": ("within",),
    "sum": ("of", "within"),
    "mean": ("of", "within"),
    "rate": ("per", "half_life", "prior"),
    "since": (),
    "last": ("of",),
    "top": ("of", "half_life", "keep"),
    "distinct": ("of", "within"),
}
"""What each kind of feature takes besides its own key."""
OF_EVENTS: Final = frozenset({"count", "rate", "since"})
"""Kinds whose own key lists events; that of the others names an event property."""
DEFAULT_KEEP: Final = 5
MAX_TOP: Final = 100
FIELD_TYPES: Final[tuple[FieldType, ...]] = get_args(FieldType)
FIELD_CEL: Final[dict[FieldType, str]] = {
    "string": "string",
    "number": "double",
    "bool": "bool",
    "list": "list",
}
BUILT_IN_FIELDS: Final = ("open_cases", "timezone")


def read_features(reading: Reading, root: Value) -> tuple[FeatureDef, ...]:
    """Return the features in file order; leaves their types in the reading."""
    section = root.fields(FILES["features.yaml"]).get("features")
    found = []
    for name, value in (section.named() if section else {}).items():
        feature = _feature(reading, name, value)
        reading.env[f"features.{name}"] = feature.cel_type if feature else "dyn"
        if feature:
            found.append(feature)
    return tuple(found)


def _feature(reading: Reading, name: str, value: Value) -> FeatureDef | None:
    entries = value.table()
    if entries is None:
        return None
    kinds = [kind for kind in FEATURE_KINDS if kind in entries]
    if len(kinds) != 1:
        detail = "one kind only: " + " or ".join(kinds) if kinds else f"its kind is missing{_meant(entries)}"
        value.fail(detail, "write one of " + ", ".join(FEATURE_KINDS), value.entry_line)
        return None
    kind = kinds[0]
    takes = SHAPES[kind]
    fields = value.fields((kind, *takes), required=[key for key in ("of", "per") if key in takes])
    own = fields.values[kind]
    events, name_of = (
        (own, "") if kind in OF_EVENTS else (fields.get("of"), own.name("an event property") or "")
    )
    within = fields.get("within")
    _window_given(value, kind, takes, given=within is not None or fields.get("half_life") is not None)
    within_ms = (within.duration() or 0) if within is not None else 0
    if within is not None and within_ms > reading.keep.events_ms:
        within.fail(
            "looks back further than keep.events in policy.yaml", "shorten it, or keep events for longer"
        )
    hits, trials = fields.read("prior", _prior, (0.0, 0.0))
    return FeatureDef(
        name=name,
        kind=kind,
        of=(reading.event_types(events) or ()) if events is not None else (),
        per=fields.read("per", reading.event_types, ()),
        property=name_of,
        within_ms=within_ms,
        half_life_ms=fields.read("half_life", Value.duration, 0),
        prior_hits=hits,
        prior_trials=trials,
        keep=fields.read("keep", lambda keep: keep.whole(1, MAX_TOP), DEFAULT_KEEP) if kind == "top" else 0,
    )


def _meant(entries: Any) -> str:
    hints = [near(key, FEATURE_KINDS) for key in entries]
    return next((f", {hint}" for hint in hints if hint.startswith("did you")), "")


def _window_given(value: Value, kind: str, takes: tuple[str, ...], *, given: bool) -> None:
    key = next((key for key in ("within", "half_life") if key in takes), None)
    if key is not None and not given and not _misspelt(value, takes):
        value.fail(f"{kind} needs {key}", f"add {key}: 30d", value.entry_line)


def _misspelt(value: Value, takes: tuple[str, ...]) -> bool:
    """Say whether a key that looks like a window was reported as unknown already."""
    return any(
        hint in {'did you mean "within"?', 'did you mean "half_life"?'}
        for hint in (near(key, takes) for key in (value.table() or {}) if key not in takes)
    )


def _prior(value: Value) -> tuple[float, float] | None:
    fields = value.fields(("hits", "trials"), required=("hits", "trials"))
    hits = fields.maybe("hits", lambda number: number.number(0))
    trials = fields.maybe("trials", lambda number: number.number(above=0))
    if hits is None or trials is None:
        return None
    if hits > trials:
        value.fail("prior has more hits than trials", "write as many trials as hits, or more")
    return hits, trials


def read_profile(reading: Reading, root: Value) -> dict[str, Field]:
    """Return the declared profile fields; leaves their types in the reading."""
    section = root.fields(FILES["profile.yaml"]).get("profile")
    found = {}
    for name, value in (section.named() if section else {}).items():
        if name in BUILT_IN_FIELDS:
            value.fail(f'"{name}" is built in and needs no declaration', "remove it", value.entry_line)
            continue
        field = _field(name, value)
        reading.env[f"profile.{name}"] = FIELD_CEL[field.type] if field else "dyn"
        if field:
            found[name] = field
    return found


def _field(name: str, value: Value) -> Field | None:
    fields = value.fields(("type", "default"), required=("type",))
    word = fields.maybe("type", lambda member: member.choice(FIELD_TYPES, "a type of profile fields"))
    type_ = next((known for known in FIELD_TYPES if known == word), None)
    if type_ is None:
        return None
    return Field(name, type_, fields.maybe("default", lambda member: field_value(member, type_)))


def field_value(value: Value, type_: FieldType) -> Any:
    """Return a value of a profile field's type, None for null."""
    if value.is_null:
        return None
    if type_ == "string":
        return value.text()
    if type_ == "number":
        return value.number()
    if type_ == "bool":
        return value.flag()
    texts = [member.text() for member in value.members()]
    return tuple(text for text in texts if text is not None)


def read_questions(reading: Reading, root: Value, profile: dict[str, Field]) -> tuple[Question, ...]:
    """Return the questions in file order."""
    section = root.fields(FILES["questions.yaml"]).get("questions")
    lines: dict[str, int] = {}
    return tuple(
        _question(reading, value, profile, lines) for value in (section.members() if section else [])
    )


def _question(reading: Reading, value: Value, profile: dict[str, Field], lines: dict[str, int]) -> Question:
    keys = ("id", "ask", "answers", "placements", "sets")
    fields = value.fields(keys, required=("id", "ask", "answers", "placements"))
    return Question(
        id=fields.read("id", lambda id_: unique(id_, lines, "the id"), ""),
        ask=fields.read("ask", _sentence, ""),
        answers=fields.read("answers", _answers, ()),
        placements=fields.read("placements", lambda member: _asked_at(reading, member), ()),
        sets=fields.read("sets", lambda member: _sets(reading, member, profile), ""),
    )


def _sentence(value: Value) -> str | None:
    text = value.text("a question")
    if text is not None and not text.strip():
        value.fail("the question is empty", "write what the customer is asked")
    return text


def _answers(value: Value) -> tuple[str, ...]:
    lines: dict[str, int] = {}
    found = [unique(member, lines, "the answer") for member in value.members(some=True)]
    return tuple(text for text in found if text is not None)


def _asked_at(reading: Reading, value: Value) -> tuple[str, ...]:
    known = reading.names.placements
    found = [member.reference(known, "a placement", "channels.yaml") for member in value.members(some=True)]
    return tuple(dict.fromkeys(text for text in found if text is not None))


def _sets(reading: Reading, value: Value, profile: dict[str, Field]) -> str | None:
    text = value.text("a profile field", "write profile.NAME")
    if text is None:
        return None
    root, _, name = text.partition(".")
    known = reading.names.profile
    if root != "profile" or not name:
        value.fail(f'"{text}" is no profile field', f"write profile.{name or text}")
        return None
    if known is not None and name not in known:
        value.fail(
            f'unknown profile field "{name}"',
            value.near(name, known) if known else "declare it in profile.yaml",
        )
        return None
    field = profile.get(name)
    if field is not None and field.type != "string":
        value.fail(
            f'an answer is a string, the field "{name}" is a {field.type}', "name a field of type string"
        )
        return None
    return name
