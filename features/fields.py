"""Single values of an event: checked as they came, never coerced, refused with a sentence that names the fix.

A value that passes here can be stored, hashed and shown anywhere: ids have no control characters, numbers are
finite and fit 64 bits, text has no lone surrogates. Nothing behind the edge checks these again.
"""

import functools
import math
import re
import zoneinfo
from collections.abc import Mapping
from typing import Any, Final

import msgspec

PROPERTY_KEYS_MAX: Final = 64
PROPERTIES_BYTES_MAX: Final = 16 * 1024
NESTING_MAX: Final = 16
IDENTITIES_MAX: Final = 16
ANSWER_CHARS_MAX: Final = 1000
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1

_ID: Final = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}")
_LOCAL_ZONES: Final = re.compile(r"(?:posix|right)/.*|posixrules|localtime|Factory")
"""Names that some machines know and others don't: no zone of a customer."""
_TYPE_WORDS: Final = {
    "string": "a string",
    "number": "a number",
    "bool": "true or false",
    "list": "a list of strings",
}


class EventError(ValueError):
    """An event that cannot be accepted: a JSON pointer to the fault and a sentence that names the fix."""

    def __init__(self, pointer: str, detail: str) -> None:
        """Point at the fault (`/occurred_at`) and say how to mend it."""
        super().__init__(detail)
        self.pointer = pointer
        self.detail = detail


def pointer_to(parent: str, key: str | int) -> str:
    """Extend a JSON pointer by one step (RFC 6901); lone surrogates are shown as `?`."""
    step = str(key).replace("~", "~0").replace("/", "~1")
    return f"{parent}/{step.encode('utf-8', 'replace').decode()}"


def check_id(value: object, pointer: str) -> str:
    """Return the value if it is an id; EventError says what is wrong with it."""
    if type(value) is not str:
        raise EventError(pointer, f"must be a string of 1 to 128 characters, not {kind_of(value)}")
    if _ID.fullmatch(value) is not None and not value.isspace():
        return value
    if not value or value.isspace():
        raise EventError(pointer, "must not be blank; give 1 to 128 characters")
    if len(value) > 128:
        raise EventError(pointer, f"has {len(value)} characters; shorten it to at most 128")
    raise EventError(pointer, "contains a control character or half a surrogate pair; remove it")


def kind_of(value: object) -> str:
    """Name the JSON kind of a value, for a sentence."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"


def check_properties(value: object, pointer: str = "/properties") -> dict[str, Any]:
    """Return the properties if they are a small object of storable JSON values; EventError otherwise."""
    if type(value) is not dict:
        raise EventError(pointer, f"must be an object such as {{}}, not {kind_of(value)}")
    if len(value) > PROPERTY_KEYS_MAX:
        raise EventError(pointer, f"has {len(value)} keys; send at most {PROPERTY_KEYS_MAX}")
    _check_json(value, pointer, 0)
    size = len(msgspec.json.encode(value))
    if size > PROPERTIES_BYTES_MAX:
        raise EventError(pointer, f"takes {size} bytes as JSON; send at most {PROPERTIES_BYTES_MAX}")
    return value


def _check_json(value: object, pointer: str, depth: int) -> None:
    kind = type(value)
    if kind is str:
        _check_text(str(value), pointer)
    elif kind is bool or value is None:
        return
    elif isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise EventError(pointer, "is an integer beyond 64 bits; send it as a string")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise EventError(pointer, "must be a finite number; leave the property out when it is unknown")
    elif depth >= NESTING_MAX:
        raise EventError(pointer, f"is nested deeper than {NESTING_MAX} levels; flatten it")
    elif kind is dict and isinstance(value, dict):
        for key, inner in value.items():
            here = pointer_to(pointer, key)
            if type(key) is not str or not key or len(key) > 128:
                raise EventError(here, "has a property name that is not a string of 1 to 128 characters")
            _check_text(key, here)
            _check_json(inner, here, depth + 1)
    elif kind is list and isinstance(value, list):
        for index, inner in enumerate(value):
            _check_json(inner, pointer_to(pointer, index), depth + 1)
    else:
        raise EventError(pointer, f"must be a JSON value, not {kind_of(value)}")


def _check_text(text: str, pointer: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise EventError(pointer, "contains half a surrogate pair; send valid Unicode") from None


def check_consent(properties: Mapping[str, Any], pointer: str = "/properties") -> None:
    """Check {purpose: "granted" | "denied"}, at least one; EventError otherwise."""
    if not properties:
        raise EventError(pointer, 'must name a purpose, such as {"marketing_email": "denied"}')
    for purpose, value in properties.items():
        here = pointer_to(pointer, purpose)
        check_id(purpose, here)
        if value not in {"granted", "denied"} if isinstance(value, str) else True:
            raise EventError(here, 'must be "granted" or "denied"')


def check_profile(
    properties: Mapping[str, Any], declared: Mapping[str, str] | None, pointer: str = "/properties"
) -> None:
    """Check profile fields against their declared types (name to string, number, bool or list).

    Null stands for the default again. With `declared` None only the shapes are checked. EventError names
    the field, and what is declared.
    """
    if not properties:
        raise EventError(pointer, 'must name a field, such as {"timezone": "Europe/London"}')
    for name, value in properties.items():
        here = pointer_to(pointer, name)
        check_id(name, here)
        if name == "timezone":
            if value is not None and not (isinstance(value, str) and is_zone(value)):
                raise EventError(here, "must be an IANA time zone such as Europe/London, or null")
            continue
        if name == "open_cases":
            raise EventError(here, "is counted by Tact itself; send case_opened and case_closed events")
        if declared is not None and name not in declared:
            known = ", ".join(sorted({*declared, "timezone"}))
            raise EventError(here, f"is not declared in profile.yaml; declared are: {known}")
        wanted = None if declared is None else declared[name]
        if value is not None and not _has_type(value, wanted):
            words = _TYPE_WORDS.get(wanted or "", "a string, a number, true or false, a list of strings")
            raise EventError(here, f"must be {words}, or null for the default; it is {kind_of(value)}")


def _has_type(value: object, wanted: str | None) -> bool:
    """Say whether a value has a profile type; None means any of them."""
    if isinstance(value, bool):
        return wanted in {"bool", None}
    if isinstance(value, int | float):
        return wanted in {"number", None}
    if isinstance(value, str):
        return wanted in {"string", None}
    return (
        wanted in {"list", None} and isinstance(value, list) and all(isinstance(item, str) for item in value)
    )


@functools.lru_cache(maxsize=1024)
def is_zone(name: str) -> bool:
    """Say whether a name is an IANA time zone, such as Europe/London, that every machine knows."""
    if len(name) > 64 or not name.isascii() or _LOCAL_ZONES.fullmatch(name):
        return False
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
