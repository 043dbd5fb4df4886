"""Where the store is: a redis, rediss, valkey, valkeys or unix URL, taken apart and checked."""

from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_TLS = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}
_EXAMPLE = "Write it like redis://:password@host:6379/0, rediss://host:6380 or unix:///run/valkey.sock?db=0."


class BadStoreUrl(ValueError):  # named like the other operating errors of the store
    """The URL of the store is not one; the message says what is wrong with it and shows a good one."""


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A unix socket path, or host and port; and what AUTH and SELECT need. The password is never shown."""

    path: str | None = None
    host: str = "127.0.0.1"
    port: int = 6379
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> "StoreAddress":
        """Take a URL apart; BadStoreUrl names what is wrong, never the password."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as fault:
            raise BadStoreUrl(f"The store's URL has a bad host or port. {_EXAMPLE}") from fault
        if parts.scheme == "unix":
            return cls._unix(parts)
        if parts.scheme not in _TLS:
            raise BadStoreUrl(f"The store's URL starts with {parts.scheme or 'no scheme'!r}. {_EXAMPLE}")
        if not parts.hostname:
            raise BadStoreUrl(f"The store's URL names no host. {_EXAMPLE}")
        return cls(
            host=parts.hostname,
            port=6379 if port is None else port,
            tls=_TLS[parts.scheme],
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            database=_database(parts, parts.path.strip("/")),
        )

    @classmethod
    def _unix(cls, parts: SplitResult) -> "StoreAddress":
        # unix://:password@/run/valkey.sock puts the password before an empty host
        if parts.hostname or not parts.path.startswith("/"):
            raise BadStoreUrl(
                f"A unix:// URL of the store needs an absolute path (three slashes). {_EXAMPLE}"
            )
        return cls(
            path=unquote(parts.path),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            database=_database(parts, ""),
        )


def _database(parts: SplitResult, named: str) -> int:
    """Take the database number from the path or from ?db=; nothing else may be asked for."""
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key != "db":
            raise BadStoreUrl(f"The store's URL has an unknown setting {key!r}; only db is known. {_EXAMPLE}")
        named = value
    if not named:
        return 0
    if not (named.isascii() and named.isdigit()):
        raise BadStoreUrl(f"The store's URL names database {named!r}, which is not a number. {_EXAMPLE}")
    return int(named)
