"""Talks to a running Tact over HTTP, for the commands that take `--url`."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.errors import TactError


class RemoteFailure(TactError):
    """A running Tact said no, or did not answer."""

    def __init__(self, detail: str, body: Any = None) -> None:
        """`body` is the problem that came, where one came."""
        super().__init__(detail)
        self.body = body


def ask(url: str, method: str, path: str, body: Any = None) -> Any:
    """Return the JSON answer of a call; raises RemoteFailure with the way out."""
    with _open(url, method, path, body) as reply, _understood(url, path):
        return json.load(reply)


def lines(url: str, path: str) -> Iterator[Any]:
    """Yield the values of an NDJSON answer."""
    with _open(url, "GET", path, None) as reply, _understood(url, path):
        for line in reply:
            yield json.loads(line)


@contextmanager
def _understood(url: str, path: str) -> Iterator[None]:
    """Turn an answer that breaks off or is not JSON into a RemoteFailure."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise RemoteFailure(f"{url}{path} broke off ({_said(error)}): try again") from None
    except ValueError:
        raise RemoteFailure(f"{url}{path} did not answer JSON: is a Tact running there?") from None


def _said(error: Exception) -> str:
    """Return what an error says, on one line."""
    return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__


def _open(url: str, method: str, path: str, body: Any) -> Any:
    data = None if body is None else json.dumps(body).encode()
    if not url.startswith(("http://", "https://")):
        raise RemoteFailure(f"'{url}' is no URL: write one such as http://127.0.0.1:8080")
    try:
        request = urllib.request.Request(  # noqa: S310  # checked above to be http
            url.rstrip("/") + path, data, {"content-type": "application/json"}, method=method
        )
        return urllib.request.urlopen(request, timeout=60)  # noqa: S310  # as above
    except urllib.error.HTTPError as error:
        raw = error.read()
        try:
            said = json.loads(raw)
            detail = said["detail"]
        except (ValueError, KeyError, TypeError):
            said, detail = None, f"{url}{path} answered {error.code}: is a Tact running there?"
        raise RemoteFailure(detail, said) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise RemoteFailure(
            f"{url} does not answer ({_said(error)}): start it with `tact up`, or mend --url"
        ) from None
