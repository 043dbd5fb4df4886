"""A series has one form for one set of events, reaches back so far, and fades as it should."""

import pytest

from features.catalogue import Catalogue
from features.definition import FeatureDef
from features.event import Event
from features.state import FeatureState
from features.windows import HALF_LIVES_MAX, Decay, Window, added, merged, width_ms

DAY_MS = 86_400_000
NOW = 1_795_255_200_000


def test_a_series_runs_from_its_newest_bucket_back() -> None:
    assert added(None, 7, 1, 10) == [7, 1]
    assert added([7, 1], 7, 2, 10) == [7, 3]
    assert added([7, 1], 4, 2, 10) == [7, 1, 0, 0, 2]
    assert added([7, 1, 5], 9, 2, 10) == [9, 2, 0, 1, 5]


def test_what_lies_behind_the_limit_is_dropped_on_either_way() -> None:
    assert added([7, 1], 5, 2, 2) == [7, 1]
    assert added([5, 2], 7, 1, 2) == [7, 1]
    assert added([5, 2, 4], 6, 1, 2) == [6, 1, 2]
    assert added([5, 2], 10**9, 1, 2) == [10**9, 1]


def test_zeros_at_the_end_are_no_part_of_a_series() -> None:
    assert added(None, 7, 0, 10) == [7]
    assert added([7, 1], 4, 0, 10) == [7, 1]
    assert added([7, 1, 2], 6, -2, 10) == [7, 1]
    assert added([5], 7, 1, 10) == [7, 1]
    assert added([5, 0, 3], 7, 1, 4) == [7, 1, 0, 0, 3]
    assert added([5, 0, 3], 7, 1, 3) == [7, 1]


def test_merging_adds_bucket_by_bucket_within_the_limit() -> None:
    assert merged([7, 1, 2], [5, 3, 4], 4) == merged([5, 3, 4], [7, 1, 2], 4) == [7, 1, 2, 3, 4]
    assert merged([7, 1, 2], [5, 3, 4], 3) == [7, 1, 2, 3]
    assert merged([7, 1], [10**9, 3], 3) == [10**9, 3]
    assert merged([7, 1, 2], [7, 1, -2], 3) == [7, 2]
    assert merged([7, 1], None, 3) == merged(None, [7, 1], 3) == [7, 1]
    assert merged(None, None, 3) is None


def test_no_series_is_changed_in_place() -> None:
    one, two = [7, 1, 2], [6, 5]
    added(one, 7, 1, 10)
    added(one, 9, 1, 10)
    merged(one, two, 10)
    assert (one, two) == ([7, 1, 2], [6, 5])


@pytest.mark.parametrize("seconds", [1, 7, 59, 60, 3600, 86_400, 7 * 86_400])
def test_a_width_divides_its_window(seconds: int) -> None:
    within = seconds * 1000
    assert within % width_ms(within) == 0
    assert within // width_ms(within) in {24, 25}


def test_all_time_is_one_bucket() -> None:
    window = Window(0)
    assert (window.index(0), window.index(NOW)) == (0, 0)
    assert window.total([0, 5], NOW) == 5


def test_a_half_life_that_has_not_begun_does_not_weigh() -> None:
    decay = Decay(60_000)
    start = NOW - NOW % 60_000
    series = added(None, decay.index(start), decay.amount(start), decay.limit)
    series = added(series, decay.index(start + 60_000), decay.amount(start + 60_000), decay.limit)
    assert decay.total(series, start) == 1.0
    assert decay.total(series, start + 60_000) == 1.5


def test_without_a_half_life_an_occurrence_weighs_one_for_ever() -> None:
    decay = Decay(0)
    series = added(None, decay.index(NOW), decay.amount(NOW), decay.limit)
    assert decay.total(series, NOW + 400 * DAY_MS) == pytest.approx(1.0, rel=1e-12)


def test_top_forgets_what_lies_sixty_half_lives_behind_its_newest() -> None:
    catalogue = Catalogue([FeatureDef("it", "top", ("page_view",), property="v", half_life_ms=1000, keep=9)])

    def event(at: int, value: str) -> Event:
        return Event("", "page_view", "c1", at, at, properties={"v": value})

    rows = [event(NOW, "old"), event(NOW + 1000, "edge"), event(NOW + (HALF_LIVES_MAX + 1) * 1000, "new")]
    states = []
    for order in (rows, rows[::-1]):
        state = FeatureState()
        for row in order:
            state = catalogue.fold(state, row)
        states.append(state)
    assert states[0] == states[1]
    assert catalogue.read(states[0], None, rows[2].occurred_at) == {"it": ["new", "edge"]}
