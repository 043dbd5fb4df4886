"""What an operator reads: counts and latencies of this process, for Prometheus.

What is counted are plain numbers (`engine.measures`, and the requests here): no lock, no look-up of labels. They
become metrics when somebody reads them, which another thread may do: each dictionary is copied in one step. Labels hold
routes, reasons and names of the policy, so their number is bounded and none of them is a person.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.measures import FoldMeasures, FollowMeasures, Histogram, JudgingMeasures, StoreMeasures

BOUNDS_S: Final = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
_answers: Final[Tally[tuple[str, int]]] = Tally()
_latencies: Final[dict[str, Histogram]] = {}
_refusals: Final[Tally[str]] = Tally({"overloaded": 0})
_events: Final[Tally[str]] = Tally({"accepted": 0, "rejected": 0})

Source = Callable[[], Iterable[Metric]]


def count_refusal() -> None:
    """Count one request that was refused because too many were being worked on."""
    _refusals["overloaded"] += 1


def count_events(result: str, number: int = 1) -> None:
    """Count events that were `accepted`, which is to say durable, or `rejected`."""
    _events[result] += number


def observe(route: str, status: int, seconds: float) -> None:
    """Count one answer and how long it took."""
    _answers[route, status] += 1
    held = _latencies.get(route)
    if held is None:
        held = _latencies[route] = Histogram(BOUNDS_S)
    held.observe(seconds)


class Page(Collector):
    """The metrics of some sources."""

    def __init__(self, *sources: Source) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        for source in self._sources:
            yield from source()


def render(judging: JudgingMeasures, store: StoreMeasures) -> bytes:
    """Return what Prometheus reads from an API process."""
    page = Page(of_requests, lambda: of_judging(judging), lambda: of_store(store))
    return generate_latest() + generate_latest(page)


def of_requests() -> Iterator[Metric]:
    """Yield the metrics of all requests and events so far."""
    yield _counter("tact_requests", "Answers to requests", ["route", "status"], _answers)
    yield _histograms(
        "tact_request_seconds", "Time from a request's arrival to its answer", "route", _latencies
    )
    yield _counter(
        "tact_refused",
        "Requests answered 503 unread, because too many were being worked on",
        ["reason"],
        _refusals,
    )
    yield _counter("tact_events", "Events received: accepted ones are durable", ["result"], _events)


def of_judging(measures: JudgingMeasures) -> Iterator[Metric]:
    """Yield the metrics of decisions, checks and confirms."""
    yield _counter(
        "tact_commits",
        "Commits by how often they were judged: more than once where another process came first",
        ["judgements"],
        measures.judgements,
    )
    yield _counter("tact_decisions", "Decisions, previews left out", ["action", "reason"], measures.decisions)
    yield _counter("tact_checks", "Customers asked about in checks", ["allowed"], measures.checks)
    yield _counter(
        "tact_rule_refusals",
        "Decisions, checks and confirms in which a rule stood in the way of an offer or message",
        ["asked", "rule"],
        measures.refusals,
    )
    yield _counter(
        "tact_overruns", "Contacts reported from outside that broke a rule", ["rule"], measures.overruns
    )


def of_store(measures: StoreMeasures) -> Iterator[Metric]:
    """Yield the metrics of the connection to the store."""
    yield CounterMetricFamily("tact_store_round_trips", "Calls to the store", measures.calls)
    yield CounterMetricFamily(
        "tact_store_writes", "Writes to the store's socket: calls of one moment share one", measures.writes
    )
    yield _counter("tact_store_failures", "Calls to the store that failed", ["reason"], measures.failures)
    yield CounterMetricFamily(
        "tact_store_redials", "Attempts to connect to the store again", measures.redials
    )


def of_folding(measures: FoldMeasures) -> Iterator[Metric]:
    """Yield the metrics of a feature worker."""
    yield _histograms("tact_fold_batch_events", "Events folded together", "", {"": measures.batches})
    yield _histograms(
        "tact_event_visible_seconds",
        "Time until an event's features could be read, since it was accepted and since it occurred",
        "since",
        {"accepted": measures.visible, "occurred": measures.visible_since_occurred},
    )
    yield _counter(
        "tact_quarantined", "Events and entries put into the quarantine", ["kind"], measures.quarantined
    )
    yield CounterMetricFamily(
        "tact_folded_again",
        "Customers folded once more, since another writer came first or they were merged meanwhile",
        measures.again,
    )
    lag = GaugeMetricFamily("tact_lag_entries", "Entries that wait to be folded", labels=["source"])
    for source, entries in dict(measures.lag).items():
        lag.add_metric([source], entries)
    yield lag


def of_following(measures: FollowMeasures) -> Iterator[Metric]:
    """Yield the metrics of a follower of the trail."""
    yield CounterMetricFamily("tact_trail_steps", "Steps of the trail taken in", measures.steps)
    yield GaugeMetricFamily(
        "tact_trail_lag_seconds",
        "Age of the newest moment up to which all steps are taken in",
        max(0.0, time.time() - measures.taken_until_s),
    )
    yield _counter(
        "tact_follower_errors", "What went wrong while following the trail", ["where"], measures.errors
    )


def _counter(name: str, said: str, labels: list[str], counts: Mapping[Any, int]) -> Metric:
    """Make a metric of counts by a label's value, or by a tuple of them."""
    family = CounterMetricFamily(name, said, labels=labels)
    for key, number in sorted(dict(counts).items(), key=str):
        family.add_metric([_label(value) for value in (key if isinstance(key, tuple) else (key,))], number)
    return family


def _label(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _histograms(name: str, said: str, label: str, by_label: Mapping[str, Histogram]) -> Metric:
    """Make a metric of histograms, one for each value of the label; of a single one where the label is empty."""
    family = HistogramMetricFamily(name, said, labels=[label] if label else [])
    for value, held in dict(by_label).items():
        bounds = [*map(str, held.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(list(held.counts)), strict=True))
        family.add_metric([value] if label else [], buckets, held.total)
    return family
