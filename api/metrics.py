"""What an operator reads: counts and latencies of this process, for Prometheus.

An answer is counted in two dictionaries, without a lock or a look-up of labels; they become metrics when read.
"""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BOUNDS_S: Final = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
_answers: Final[Tally[tuple[str, int]]] = Tally()
_latencies: Final[dict[str, list[float]]] = {}
"""Route to the sum of seconds, then the answers up to each bound, and those beyond."""

_refusals: Final[Tally[str]] = Tally()


def count_refusal() -> None:
    """Count one request that was refused because too many were being worked on."""
    _refusals["overloaded"] += 1


def observe(route: str, status: int, seconds: float) -> None:
    """Count one answer and how long it took."""
    _answers[route, status] += 1
    held = _latencies.get(route)
    if held is None:
        held = _latencies[route] = [0.0] * (len(BOUNDS_S) + 2)
    held[0] += seconds
    held[1 + bisect_left(BOUNDS_S, seconds)] += 1


class _Requests(Collector):
    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all requests so far."""
        requests = CounterMetricFamily(
            "tact_requests", "Answers by route and status", labels=["route", "status"]
        )
        for (route, status), count in _answers.items():
            requests.add_metric([route, str(status)], count)
        yield requests
        took = HistogramMetricFamily(
            "tact_request_seconds", "Time from a request's arrival to its answer, by route", labels=["route"]
        )
        bounds = [*map(str, BOUNDS_S), "+Inf"]
        for route, (total, *counts) in _latencies.items():
            took.add_metric([route], list(zip(bounds, accumulate(counts), strict=True)), total)
        yield took
        refused = CounterMetricFamily(
            "tact_refused",
            "Requests answered 503 unread, because too many were being worked on",
            labels=["reason"],
        )
        refused.add_metric(["overloaded"], _refusals["overloaded"])
        yield refused


REGISTRY.register(_Requests())


def render(judgements: Mapping[int, int]) -> bytes:
    """Return the text that Prometheus reads; `judgements` says how many commits needed how many of them."""
    commits = CounterMetricFamily(
        "tact_commits",
        "Commits by how often they were judged: more than once where another process came first",
        labels=["judgements"],
    )
    for count, number in sorted(judgements.items()):
        commits.add_metric([str(count)], number)
    registry = CollectorRegistry()
    registry.register(_Given(commits))
    return generate_latest() + generate_latest(registry)


class _Given(Collector):
    """Metrics that are made already."""

    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from self._metrics
