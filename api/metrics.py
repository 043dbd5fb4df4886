"""What an operator reads: counts and latencies of this process, for Prometheus."""

from collections import Counter as Tally
from typing import Final

from prometheus_client import Counter, Histogram, generate_latest

REQUESTS: Final = Counter("tact_requests_total", "Answers by route and status", ["route", "status"])
LATENCY: Final = Histogram(
    "tact_request_seconds",
    "Time from a request's arrival to its answer, by route",
    ["route"],
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0),
)
_seen: Final[Tally[tuple[str, int]]] = Tally()
"""Counted without a look-up of labels per request; folded into the counters when somebody reads them."""


_latency: Final[dict[str, Histogram]] = {}


def observe(route: str, status: int, seconds: float) -> None:
    """Count one answer and how long it took."""
    _seen[route, status] += 1
    latency = _latency.get(route)
    if latency is None:
        latency = _latency[route] = LATENCY.labels(route)
    latency.observe(seconds)


def render() -> bytes:
    """Return the text that Prometheus reads."""
    for (route, status), count in _seen.items():
        REQUESTS.labels(route, str(status)).inc(count)
    _seen.clear()
    return generate_latest()
