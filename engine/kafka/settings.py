"""Where Kafka is and how its topic is to be, taken apart and checked; known without loading a client."""

import re
from typing import Final, NamedTuple

_BROKER: Final = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([hdw])")
_UNITS_MS: Final = {"h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class BadKafkaSettings(ValueError):
    """A setting is not what it should be; the message says which and how it is written."""


class KafkaSettings(NamedTuple):
    """Where Kafka is and how the topic is to be."""

    brokers: tuple[str, ...]
    """host:port."""
    partitions: int
    copies: int
    retention_ms: int

    @property
    def bootstrap(self) -> str:
        """Return the brokers as clients take them."""
        return ",".join(self.brokers)

    @classmethod
    def parse(cls, brokers: str, partitions: str, copies: str, retention: str) -> "KafkaSettings":
        """Read the settings TACT_KAFKA, …_PARTITIONS, …_COPIES and …_RETENTION; BadKafkaSettings."""
        places = tuple(place.strip() for place in brokers.split(","))
        for place in places:
            found = _BROKER.fullmatch(place)
            if found is None or not 0 < int(found[2]) < 65536:
                raise BadKafkaSettings(
                    f"TACT_KAFKA names {place!r}: write each broker as host:port, with commas between them"
                )
        length = _DURATION.fullmatch(retention)
        if length is None:
            raise BadKafkaSettings(
                f"TACT_KAFKA_RETENTION is {retention!r}: write a whole number and one of h d w, such as 7d"
            )
        return cls(
            places,
            _number("TACT_KAFKA_PARTITIONS", partitions, 1024),
            _number("TACT_KAFKA_COPIES", copies, 9),
            int(length[1]) * _UNITS_MS[length[2]],
        )


def _number(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= most):
        raise BadKafkaSettings(f"{name} is {text!r}: write a whole number from 1 to {most}")
    return int(text)
