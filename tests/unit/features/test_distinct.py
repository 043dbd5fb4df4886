"""The sketch of different values: exact below 4,096, within 5 % beyond, whatever the order and the window."""

import random

import pytest

from features.catalogue import Catalogue
from features.definition import FeatureDef
from features.event import Event
from features.state import FeatureState

HOUR_MS = 3_600_000
START = 1_795_255_200_000
CATALOGUE = Catalogue([FeatureDef("it", "distinct", ("page_view",), property="v", within_ms=24 * HOUR_MS)])


def folded(rows: list[tuple[int, str]]) -> FeatureState:
    state = FeatureState()
    for at, value in rows:
        state = CATALOGUE.fold(state, Event("", "page_view", "c1", at, at, properties={"v": value}))
    return state


def read(state: FeatureState, now: int) -> int:
    value = CATALOGUE.read(state, None, now)["it"]
    assert isinstance(value, int)
    return value


@pytest.mark.parametrize("count", [1, 256, 4000])
def test_counting_is_exact_with_repeats_in_any_order(count: int) -> None:
    rows = [(START + number % 20 * HOUR_MS, f"v{number}") for number in range(count)] * 2
    random.Random(1).shuffle(rows)
    assert read(folded(rows), START + 20 * HOUR_MS) == count


def test_twenty_thousand_are_told_within_five_percent() -> None:
    state = folded([(START, f"v{number}") for number in range(20_000)])
    assert read(state, START) == pytest.approx(20_000, rel=0.05)


def test_many_over_time_are_told_in_every_window_and_exactly_when_few_are_left() -> None:
    """Values of a busy day leave the window one by one: what is left is still known."""
    rows = [(START + number * 24 * HOUR_MS // 6000, f"v{number}") for number in range(6000)]
    shuffled = random.Random(2).sample(rows, len(rows))
    state = folded(rows)
    assert folded(shuffled) == state
    for hours in (24, 30, 36, 44, 47):
        now = START + hours * HOUR_MS
        oldest = (now - 24 * HOUR_MS + 1) // HOUR_MS
        expected = sum(oldest <= at // HOUR_MS for at, _ in rows)
        assert read(state, now) == (pytest.approx(expected, rel=0.05) if expected > 4000 else expected)
