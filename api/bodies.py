"""Bodies of requests: bytes in, checked values out, or one problem that names the fix.

Strict on purpose: duplicate keys, NaN, infinities, deep nesting, lone surrogates and other encodings than UTF-8
are refused before anything is looked up, and nothing is coerced.
"""

import json
import math
import re
import zlib
from typing import Any, Final, TypeVar

import msgspec

from api.problems import Problem
from engine.services.requests import CheckRow, DecideRequest

JSON_MAX: Final = 10 * 1024 * 1024
DECIDE_MAX: Final = 256 * 1024
LINE_MAX: Final = 64 * 1024
NESTING_MAX: Final = 64

T = TypeVar("T")
_DECIDE: Final = msgspec.json.Decoder(DecideRequest)
_CHECK_ROW: Final = msgspec.json.Decoder(CheckRow)
_ANY_PACKING: Final = 47
"""zlib's window bits for gzip and zlib alike, told apart by their first bytes."""
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


class _Refused(ValueError):
    """What the JSON of the standard library would let through."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"the key '{twice}' is there twice: send it once")
    return made


def _constant(name: str) -> Any:
    raise _Refused(f"{name} is no JSON number: send a finite number or null")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Refused(f"the number {text[:40]} is too large: send a finite number")
    return number


def _int(text: str) -> int:
    if len(text) > 40:
        raise _Refused("a whole number has more than 40 digits: send a smaller one")
    return int(text)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
)


def parse_json(raw: bytes) -> Any:
    """Return the value of a JSON text; raises Problem 400 with the way out."""
    try:
        text = raw.decode("utf-8")
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise Problem(
            400, "malformed-body", f"the body is not UTF-8 (byte {error.start}): send UTF-8"
        ) from None
    except _Refused as error:
        raise Problem(400, "malformed-body", str(error)) from None
    except json.JSONDecodeError as error:
        raise Problem(
            400,
            "malformed-body",
            f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})",
        ) from None
    except RecursionError:
        raise Problem(400, "malformed-body", _too_deep()) from None
    # Brackets bound the nesting from above: almost every body needs no further look.
    if text.count("{") + text.count("[") > NESTING_MAX and _depth(value) > NESTING_MAX:
        raise Problem(400, "malformed-body", _too_deep())
    if _SURROGATE.search(text) is not None:
        _refuse_surrogates(value)
    return value


def decide_request(raw: bytes) -> DecideRequest:
    """Return the request of `POST /v1/decide`; raises Problem as `parse_json` and `convert` do.

    The fast decoder refuses all that those refuse, but for a key that is there twice. Each key has its colon: where
    there are no more colons than there are keys in the result, no key was there twice.
    """
    try:
        request = _DECIDE.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return convert(parse_json(raw), DecideRequest)  # says what is wrong, and how to mend it
    keys = 1 + len(request.context) + len(request.identities or ())
    keys += bool(request.context) + bool(request.identities) + bool(request.exclude)
    keys += (request.customer_id is not None) + (request.limit is not None)
    keys += request.preview + request.explain
    return request if raw.count(b":") == keys else convert(parse_json(raw), DecideRequest)


def check_row(raw: bytes) -> CheckRow | None:
    """Return a line of a streamed check, read as fast as `decide_request`; None where it needs a closer look."""
    try:
        row = _CHECK_ROW.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    keys = 2 + (row.category is not None) + (row.offer is not None)
    return row if raw.count(b":") == keys else None


def _too_deep() -> str:
    return f"the body is nested more than {NESTING_MAX} levels deep: flatten it"


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level := [part for part in level if isinstance(part, dict | list)]:
        deepest += 1
        if deepest > NESTING_MAX:
            break
        level = [inner for part in level for inner in (part.values() if isinstance(part, dict) else part)]
    return deepest


def _refuse_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Problem(
            400, "malformed-body", "a string holds half of a surrogate pair: send whole characters"
        ) from None


def convert(value: Any, type_: type[T], *, at: str = "") -> T:
    """Return the value as the type, strictly; raises Problem 422 with a JSON pointer below `at`."""
    try:
        return msgspec.convert(value, type_, strict=True)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `")
        pointer = at + _pointer(path.removesuffix("`")) + _named(detail)
        raise Problem(422, "invalid-request", _fix(detail), errors=[(pointer, _fix(detail))]) from None


def _pointer(path: str) -> str:
    """Turn `$.customer_ids[3]` into `/customer_ids/3`; the keys of free dicts are not named by the decoder."""
    parts = re.findall(r"\.([A-Za-z0-9_]+)|\[(\d+|\.\.\.)\]", path.replace("key in ", ""))
    return "".join(f"/{name or number}" for name, number in parts if number != "...")


def _named(detail: str) -> str:
    """Return the step to a field that is unknown or missing: the decoder's path ends at the object around it."""
    field = re.fullmatch(r"Object (?:contains unknown|missing required) field `(.*)`", detail, re.DOTALL)
    return "" if field is None else "/" + field[1].replace("~", "~0").replace("/", "~1")


def _fix(detail: str) -> str:
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", detail, re.DOTALL)
    if unknown is not None:
        return f"there is no field '{unknown[1]}' here: remove it or mend its name"
    missing = re.fullmatch(r"Object missing required field `(.*)`", detail, re.DOTALL)
    if missing is not None:
        return f"the field '{missing[1]}' is missing: add it"
    if "matching regex" in detail:
        return "an id is 1 to 128 characters, not blank, without control characters"
    return detail[0].lower() + detail[1:].replace("`", "'")


class Inflater:
    """Takes the pieces of a body as they come, inflated where it was packed, up to a limit."""

    def __init__(self, encoding: str, limit: int) -> None:
        """Take the Content-Encoding (empty, identity, gzip or deflate) and a limit in bytes."""
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise Problem(
                415, "unsupported-media-type", f"Content-Encoding '{encoding}' is not understood: send gzip"
            )
        self._packed = zlib.decompressobj(wbits=_ANY_PACKING) if encoding not in ("", "identity") else None
        self._left = limit
        self._limit = limit

    def feed(self, piece: bytes) -> bytes:
        """Return the plain bytes of the next piece; raises Problem 413 beyond the limit."""
        if self._packed is not None:
            piece = self._inflated(self._packed, piece)
        self._left -= len(piece)
        if self._left < 0:
            raise too_large(self._limit)
        return piece

    def _inflated(self, packed: "zlib._Decompress", piece: bytes) -> bytes:
        """Inflate up to one byte over the limit; packed parts may follow each other, as `cat a.gz b.gz` makes them."""
        parts, room = [], self._left + 1
        try:
            while piece and room > 0:
                if packed.eof:
                    packed = self._packed = zlib.decompressobj(wbits=_ANY_PACKING)
                parts.append(packed.decompress(piece, room))
                room -= len(parts[-1])
                piece = packed.unused_data
        except zlib.error:
            raise Problem(
                400, "malformed-body", "the body cannot be inflated: check its Content-Encoding"
            ) from None
        return b"".join(parts)

    def end(self) -> None:
        """Check that a packed body came to its end."""
        if self._packed is not None and not self._packed.eof:
            raise Problem(400, "malformed-body", "the packed body is cut short: send all of it")


def too_large(limit: int) -> Problem:
    """Return the problem of a body over its limit (bytes)."""
    return Problem(413, "body-too-large", f"the body is over {limit // 1024} KB: send it in smaller parts")
