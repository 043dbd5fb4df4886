"""Windows, half-lives and the rest, against a plain recomputation from the list of events."""

import math
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalogue import Catalogue
from features.definition import FeatureDef
from features.event import Event
from features.state import FeatureState
from features.windows import units, width_ms

START = 1_795_255_200_000
AHEAD_MS = 300_000
SECOND_MS, DAY_MS = 1000, 86_400_000

withins = st.one_of(
    st.sampled_from([7 * DAY_MS, DAY_MS, 3_600_000, 60_000, 1000]),
    st.integers(1, 40 * 86_400).map(lambda seconds: seconds * SECOND_MS),
)
amounts = st.integers(-1000, 1000)


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], int]:
    """Draw a window, (time, amount) pairs on and around its edges, and a moment of reading."""
    within = draw(withins)
    newest = START + draw(st.integers(0, 10**7))
    edges = st.sampled_from([0, 1, within - 1, within, within + 1, within // 24, within - within // 24])
    ages = st.lists(st.tuples(st.one_of(edges, st.integers(0, 2 * within)), amounts), min_size=1, max_size=12)
    events = [(newest - age, amount) for age, amount in draw(ages)]
    now = max(at for at, _ in events) + draw(
        st.one_of(st.integers(-AHEAD_MS, 0), edges, st.integers(0, 2 * within))
    )
    return within, events, now


def read(definition: FeatureDef, rows: list[tuple[int, dict[str, Any]]], now: int) -> Any:
    catalogue = Catalogue([definition])
    state = FeatureState()
    for at, properties in rows:
        state = catalogue.fold(state, Event("", "page_view", "c1", at, at, properties=properties))
    return catalogue.read(state, ("it",), now)["it"]


def touched(within: int, events: list[tuple[int, int]], now: int) -> list[int]:
    """Return the amounts in every bucket that may hold a moment of (now - within, now]."""
    width = width_ms(within)
    return [a for at, a in events if (now - within + 1) // width <= at // width <= now // width]


@settings(max_examples=400, deadline=None)
@given(cases())
def test_a_count_takes_the_buckets_that_the_window_touches(
    case: tuple[int, list[tuple[int, int]], int],
) -> None:
    within, events, now = case
    value = read(
        FeatureDef("it", "count", ("page_view",), within_ms=within), [(at, {}) for at, _ in events], now
    )
    width = width_ms(within)
    assert value == len(touched(*case))
    assert value >= sum(now - within < at <= now for at, _ in events)
    if max(at for at, _ in events) <= now:
        assert value <= sum(now - within - width < at <= now for at, _ in events)


@settings(max_examples=200, deadline=None)
@given(withins, st.integers(START, START + 10**9))
def test_a_bucket_is_at_most_a_24th_and_both_ends_exceed_by_one_at_most(within: int, now: int) -> None:
    width = width_ms(within)
    first, last = (now - within + 1) // width, now // width
    assert width * 24 <= within
    assert (last - first + 1) * width - within <= width


@settings(max_examples=200, deadline=None)
@given(cases())
def test_sums_and_means_are_exact(case: tuple[int, list[tuple[int, int]], int]) -> None:
    within, events, now = case
    rows = [(at, {"amount": amount / 10}) for at, amount in events]
    inside = touched(*case)
    total = read(FeatureDef("it", "sum", ("page_view",), property="amount", within_ms=within), rows, now)
    mean = read(FeatureDef("it", "mean", ("page_view",), property="amount", within_ms=within), rows, now)
    assert total == sum(inside) / 10
    assert mean == (sum(inside) / (10 * len(inside)) if inside else None)


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_units_are_the_nearest(value: float) -> None:
    top, bottom = value.as_integer_ratio()
    assert abs(units(value) * bottom - top * 10**9) * 2 <= bottom


@settings(max_examples=200, deadline=None)
@given(
    st.integers(60, 100 * 86_400).map(lambda seconds: seconds * SECOND_MS),
    st.lists(st.tuples(st.floats(0, 40), st.booleans()), min_size=1, max_size=12),
    st.floats(0, 40),
)
def test_rates_agree_with_floating_point(
    half_life: int, rows: list[tuple[float, bool]], later: float
) -> None:
    times = [(START - int(age * half_life), hit) for age, hit in rows]
    now = START + int(later * half_life)
    catalogue = Catalogue(
        [
            FeatureDef(
                "it",
                "rate",
                ("click",),
                per=("page_view",),
                half_life_ms=half_life,
                prior_hits=0.25,
                prior_trials=1,
            )
        ]
    )
    state = FeatureState()
    for at, hit in times:
        state = catalogue.fold(state, Event("", "click" if hit else "page_view", "c1", at, at))
    hits = math.fsum(0.5 ** ((now - at) / half_life) for at, hit in times if hit)
    trials = math.fsum(0.5 ** ((now - at) / half_life) for at, hit in times if not hit)
    assert catalogue.read(state, None, now)["it"] == pytest.approx((hits + 0.25) / (trials + 1), rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(0, 40 * DAY_MS)), min_size=1, max_size=20),
    st.integers(0, 40 * DAY_MS),
)
def test_top_is_heaviest_first(rows: list[tuple[str, int]], later: int) -> None:
    half_life = 14 * DAY_MS
    definition = FeatureDef("it", "top", ("page_view",), property="word", half_life_ms=half_life, keep=3)
    now = START + later
    value = read(definition, [(START - age, {"word": word}) for word, age in rows], now)
    weights = {
        word: math.fsum(0.5 ** ((later + age) / half_life) for other, age in rows if other == word)
        for word, _ in rows
    }
    expected = sorted(weights, key=lambda word: -weights[word])[:3]
    assert len(value) == len(expected)
    assert [weights[word] for word in value] == pytest.approx([weights[word] for word in expected], rel=1e-9)


@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from([3, 4096]))
def test_distinct_is_exact_while_the_window_holds_few(
    case: tuple[int, list[tuple[int, int]], int], smallest: int
) -> None:
    within, events, now = case
    definition = FeatureDef("it", "distinct", ("page_view",), property="word", within_ms=within)
    now = max(now, *(at for at, _ in events), 0)
    with patch("features.distinct.SMALLEST", smallest):
        value = read(definition, [(at, {"word": f"w{amount % 9}"}) for at, amount in events], now)
    expected = len({amount % 9 for amount in touched(within, events, now)})
    if expected < smallest:
        assert value == expected
    else:
        assert value >= smallest - 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "c", 1, None])), min_size=1))
def test_last_and_since_go_by_when_it_happened(rows: list[tuple[int, Any]]) -> None:
    now = START + 5000
    facts = [(START + at, {"word": word}) for at, word in rows]
    words = [(at, word) for at, word in rows if isinstance(word, str)]
    last = read(FeatureDef("it", "last", ("page_view",), property="word"), facts, now)
    since = read(FeatureDef("it", "since", ("page_view",)), facts, now)
    assert last == (max(words)[1] if words else None)
    assert since == (5000 - max(at for at, _ in rows)) / 1000
