"""Settings of the processes: `TACT_*` environment variables, listed by `tact settings`."""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple


class Setting(NamedTuple):
    """One setting: its variable, its default and what it does."""

    name: str
    default: str
    meaning: str


SETTINGS: Final = (
    Setting(
        "TACT_STORE", "", "URL of the Valkey or Redis that holds everything (unix:///path, redis://host:port)"
    ),
    Setting(
        "TACT_HOST", "127.0.0.1", "address that the API listens on; without keys only a loopback address"
    ),
    Setting("TACT_PORT", "8080", "port that the API listens on"),
    Setting(
        "TACT_LISTEN_FD", "", "descriptor of a socket that already listens; set by `tact up` for its children"
    ),
    Setting(
        "TACT_POLICIES",
        "",
        "folder of the policy set that is activated at start where none is active yet",
    ),
    Setting("TACT_DATA", "./var", "folder of the embedded store and of the decision log"),
    Setting(
        "TACT_AT_ONCE",
        "96",
        "requests that one API process works on at a time; one more is answered 503 at once; 0 for no limit",
    ),
    Setting(
        "TACT_KAFKA",
        "",
        "brokers that events go through, host:port[,host:port...]; empty: through the store's own journal",
    ),
    Setting("TACT_KAFKA_PARTITIONS", "16", "partitions of the topic of events; fixed once it is made"),
    Setting("TACT_KAFKA_COPIES", "1", "brokers that keep each event; 3 on a cluster of three or more"),
    Setting(
        "TACT_KAFKA_RETENTION", "7d", "how long Kafka keeps events: the longest that workers may be away"
    ),
    Setting(
        "TACT_WORKER",
        "",
        "name of this feature worker, the same after a restart: it then gets its partitions back at once",
    ),
    Setting("TACT_METRICS_PORT", "", "loopback port on which a worker serves /metrics; empty: none"),
    Setting(
        "TACT_DRAIN_S",
        "0",
        "seconds for which a stopping API says on /readyz that it leaves, still answering, before it goes",
    ),
    Setting("TACT_LOG", "warning", "least level that is logged: debug, info, warning or error"),
)
_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


def setting(name: str, environment: Mapping[str, str] | None = None) -> str:
    """Return a setting's value, its default where the environment says nothing."""
    return (os.environ if environment is None else environment).get(name) or _BY_NAME[name].default
