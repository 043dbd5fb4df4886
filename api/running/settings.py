"""Settings of the processes: `TACT_*` environment variables, listed by `tact settings`, and what each may be."""

import ipaddress
import math
import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from engine.kafka.settings import BadKafkaSettings, KafkaSettings

NOTICE_MAX_S: Final = 5.0
DRAIN_S: Final = 10.0
END_S: Final = 14.5
"""How long a stopping API may take, notice and drain together: within 15 s it has ended."""


class Refused(Exception):  # the sentence is what matters
    """A start that cannot be: the sentence names the way out."""


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


def check_host(host: str) -> None:
    """Refuse to listen to the world while no key is configured."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise Refused(
            f"without API keys the server listens on loopback only, not on {host}: use --host 127.0.0.1 and put a "
            "gateway that checks its callers in front"
        )


def store_url() -> str:
    """Return TACT_STORE, or refuse with the way out."""
    url = setting("TACT_STORE")
    if not url:
        raise Refused("TACT_STORE is not set: name a store such as redis://127.0.0.1:6379, or use `tact up`")
    return url


def port_setting() -> int:
    """Return TACT_PORT, or refuse with the way out."""
    text = setting("TACT_PORT")
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise Refused(f"TACT_PORT is '{text}': set it to a port number from 0 to 65535")
    return int(text)


def kafka_settings() -> KafkaSettings | None:
    """Return where Kafka is, None where events go through the store; refuses what cannot be, with the way out."""
    names = ("TACT_KAFKA", "TACT_KAFKA_PARTITIONS", "TACT_KAFKA_COPIES", "TACT_KAFKA_RETENTION")
    if not setting(names[0]):
        return None
    try:
        return KafkaSettings.parse(*map(setting, names))
    except BadKafkaSettings as fault:
        raise Refused(str(fault)) from None


def at_once_setting() -> int:
    """Return TACT_AT_ONCE, or refuse with the way out."""
    text = setting("TACT_AT_ONCE")
    if not (text.isascii() and text.isdigit()):
        raise Refused(f"TACT_AT_ONCE is '{text}': set it to a number of requests, or to 0 for no limit")
    return int(text)


def metrics_port_setting() -> int | None:
    """Return TACT_METRICS_PORT, None where it is not set, or refuse with the way out."""
    text = setting("TACT_METRICS_PORT")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise Refused(
            f"TACT_METRICS_PORT is '{text}': set it to a port number from 1 to 65535, or leave it out"
        )
    return int(text)


def notice_setting() -> float:
    """Return TACT_DRAIN_S, or refuse with the way out."""
    text = setting("TACT_DRAIN_S")
    try:
        notice_s = float(text)
    except ValueError:
        notice_s = math.nan
    if not 0 <= notice_s <= NOTICE_MAX_S:
        raise Refused(
            f"TACT_DRAIN_S is '{text}': set it to a number of seconds from 0 to {NOTICE_MAX_S:g}, as finishing what is "
            f"under way takes up to {DRAIN_S:g} s more, and everything ends within 15 s"
        )
    return notice_s
