"""Errors as callers see them: RFC 9457 problems with a stable type and a detail that names the fix."""

from collections.abc import Sequence
from typing import Any, Final

import orjson

TYPE_BASE: Final = "urn:tact:problem:"
PROBLEM: Final = b"application/problem+json"
"""The media type."""
_TITLES: Final = {
    400: "The request cannot be read",
    401: "A key is needed",
    403: "The key does not allow this",
    404: "There is no such thing",
    405: "The method does not fit the path",
    408: "The request took too long to arrive",
    409: "It contradicts what has already happened",
    413: "The body is too large",
    415: "The media type is not understood",
    422: "The request says something that cannot be",
    429: "Too many requests",
    500: "Tact has a bug",
    503: "Tact cannot answer now",
}


class Problem(Exception):  # the name of the RFC
    """One refused request."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Sequence[tuple[str, str]] = (),
        extra: dict[str, Any] | None = None,
    ) -> None:
        """`kind` is the stable end of the type; `errors` are (JSON pointer, detail)."""
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = headers
        self.extra = extra or {}

    def body(self) -> bytes:
        """Return the problem as JSON."""
        said: dict[str, Any] = {
            "type": TYPE_BASE + self.kind,
            "title": _TITLES.get(self.status, "Refused"),
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            said["errors"] = [{"pointer": pointer, "detail": detail} for pointer, detail in self.errors]
        return orjson.dumps(said | self.extra)
