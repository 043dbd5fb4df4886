"""The choice: what is stated as a probability is the chance with which it is drawn.

All draws are from fixed seeds, so a test that passes once passes always; the limits are those of a chi-square
test at one in a hundred thousand.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr  # type: ignore[import-untyped]  # scipy ships no types
from scipy.stats import chi2  # type: ignore[import-untyped]

from engine.judging.choice import (
    EVERYBODY,
    Distribution,
    Pick,
    distribution,
    draw,
    normal_cdf,
    probabilities,
    shortlist,
    uniform,
)
from engine.judging.masks import mask_of
from engine.judging.ranking import Ranking
from engine.judging.scoring import Array, Scores
from policies.model import Arbitration, Exploration
from policies.priority import compile_priority

DRAWS = 20_000
SETTINGS = {
    "two alike": ([1.0, 1.0], [0.3, 0.3]),
    "five, spread": ([0.2, 0.35, 0.3, 0.1, 0.34], [0.05, 0.2, 0.02, 0.3, 0.1]),
    "a clear winner": ([5.0, 1.0, 0.5], [0.4, 0.4, 0.4]),
    "an unsure outsider": ([1.0, 1.1, 0.2], [0.05, 0.05, 2.0]),
    "nothing to explore": ([1.0, 2.0, 3.0, 2.5], [0.0, 0.0, 0.0, 0.0]),
    "some certain, some not": ([1.0, 0.9, 0.8], [0.0, 0.5, 0.0]),
    "below zero": ([-4.0, -4.2, -3.9, -6.0], [0.2, 0.4, 0.1, 1.0]),
}
each_setting = pytest.mark.parametrize("name", SETTINGS)
MANY = Exploration(alpha=0.3, floor=0.02, shortlist=32)


def arrays(name: str) -> tuple[Array, Array]:
    mean, deviation = SETTINGS[name]
    return np.array(mean), np.array(deviation)


def ranked(mean: Sequence[float], deviation: Sequence[float], exploration: Exploration = MANY) -> Ranking:
    priority, count = np.array(mean), len(mean)
    arbitration = Arbitration(compile_priority("propensity"), exploration=exploration)
    scores = Scores(np.stack([priority] * 3))
    return Ranking(
        version="",
        scores=scores,
        priority=priority,
        deviation=np.array(deviation),
        below_threshold=0,
        everyone=(1 << count) - 1,
        arbitration=arbitration,
        levers={},
        learned=False,
        untried=0,
        remembered={},
        packs={},
    )


def ranking(name: str, exploration: Exploration = MANY) -> Ranking:
    return ranked(*SETTINGS[name], exploration)


def over(name: str, exploration: Exploration = MANY) -> Distribution:
    made = ranking(name, exploration)
    return made.distribution(made.everyone, at_random=False)


def picked(made: Ranking, uid: str, slots: int, *, at_random: bool = False) -> list[Pick]:
    return made.choose(made.everyone, uid, slots, at_random=at_random)[1]


def fits(counts: Sequence[int], chance: Sequence[float]) -> bool:
    """Chi-square, rare cells put together; never more than the limit of one in a hundred thousand."""
    total, pairs = sum(counts), sorted(zip(chance, counts, strict=True))
    cells: list[tuple[float, int]] = []
    spare_chance, spare = 0.0, 0
    for share, count in pairs:
        spare_chance, spare = spare_chance + share, spare + count
        if spare_chance * total >= 5:
            cells.append((spare_chance, spare))
            spare_chance, spare = 0.0, 0
    if spare_chance > 0:
        cells.append((spare_chance, spare))
    if len(cells) < 2:
        return True
    statistic = sum((count - share * total) ** 2 / (share * total) for share, count in cells)
    return bool(statistic < chi2.isf(1e-5, len(cells) - 1))


def first_picks(given_over: Distribution) -> list[int]:
    drawn = Counter(draw(given_over, f"d-{number}", 1).place for number in range(DRAWS))
    return [drawn[place] for place in given_over.places]


@each_setting
def test_the_first_rank_is_drawn_with_the_stated_chance(name: str) -> None:
    assert fits(first_picks(over(name)), over(name).chance)


@each_setting
def test_uniform_odds_are_not_what_is_drawn(name: str) -> None:
    """The negative control: the same test rejects 1/n wherever the offers are not alike."""
    given_over = over(name)
    assert fits(first_picks(given_over), [1 / len(given_over.places)] * len(given_over.places)) is (
        name == "two alike"
    )


@each_setting
def test_later_ranks_are_drawn_with_the_stated_chance_given_the_ones_above(name: str) -> None:
    made = ranking(name, Exploration(alpha=0.3, floor=0.2, shortlist=32))
    seen: dict[tuple[int, ...], Counter[int]] = {}
    stated: dict[tuple[int, ...], dict[int, float]] = {}
    for number in range(DRAWS):
        picks = picked(made, f"s-{number}", 3)
        for rank, pick in enumerate(picks):
            above = tuple(earlier.place for earlier in picks[:rank])
            seen.setdefault(above, Counter())[pick.place] += 1
            known = stated.setdefault(above, {})
            assert known.setdefault(pick.place, pick.probability) == pick.probability
    for above, counts in seen.items():
        if counts.total() < 500:
            continue
        left = made.distribution(made.everyone & ~mask_of(above), at_random=False)
        wanted = dict(zip(left.places, left.chance, strict=True))
        assert {place: pytest.approx(wanted[place]) for place in stated[above]} == stated[above]
        assert fits([counts[place] for place in wanted], list(wanted.values()))


def test_a_later_rank_goes_to_the_best_of_those_left_however_clear_the_winner_above() -> None:
    made = ranked([9.0, 4.0, 1.0, 0.0], [0.1] * 4)
    second = Counter(picked(made, f"w-{number}", 2)[1].place for number in range(1000))
    assert second[1] > 970


def test_the_quadrature_agrees_with_a_simulation_for_sharp_and_flat_offers_together() -> None:
    random = np.random.default_rng(11)
    for _ in range(25):
        size = int(random.integers(2, 12))
        mean = random.normal(0, 1, size)
        deviation = random.choice([1e-12, 0.02, 0.1, 0.3, 1.0, 2.0], size=size)
        won = np.bincount(random.normal(mean, deviation, size=(50_000, size)).argmax(axis=1), minlength=size)
        assert probabilities(mean, deviation, 0.0) == pytest.approx(won / 50_000, abs=0.01)


@each_setting
def test_the_quadrature_agrees_with_a_simulation(name: str) -> None:
    mean, deviation = arrays(name)
    sampled = np.random.default_rng(7).normal(mean, deviation, size=(200_000, len(mean)))
    if not deviation.any():
        sampled += np.random.default_rng(8).normal(0, 1e-9, size=sampled.shape)
    won = np.bincount(sampled.argmax(axis=1), minlength=len(mean)) / len(sampled)
    assert probabilities(mean, deviation, 0.0) == pytest.approx(won, abs=0.01)


def test_our_normal_is_the_normal() -> None:
    points = np.linspace(-9, 9, 20_001)
    assert normal_cdf(points.astype(np.float32)) == pytest.approx(ndtr(points), abs=2e-4)
    assert (normal_cdf(np.linspace(-4, 4, 1001, dtype=np.float32)) > 0).all()


def normals(size: int) -> st.SearchStrategy[tuple[list[float], list[float]]]:
    means = st.lists(st.floats(-1e3, 1e3), min_size=size, max_size=size)
    spreads = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e3)), min_size=size, max_size=size)
    return st.tuples(means, spreads)


@given(st.integers(1, 40).flatmap(normals), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_chances_add_up_and_none_is_below_the_floor(
    means_and_spreads: tuple[list[float], list[float]], floor: float
) -> None:
    mean, deviation = (np.array(part) for part in means_and_spreads)
    chance = probabilities(mean, deviation, floor)
    assert chance.sum() == pytest.approx(1)
    assert (chance >= EVERYBODY * floor / len(mean) * (1 - 1e-9)).all()


@given(st.integers(2, 12).flatmap(normals))
@settings(max_examples=100, deadline=None)
def test_the_better_of_two_with_one_deviation_is_never_less_likely(
    means_and_spreads: tuple[list[float], list[float]],
) -> None:
    mean, deviation = np.array(means_and_spreads[0]), np.full(len(means_and_spreads[0]), 1.0)
    chance = probabilities(mean, deviation, 0.0)
    order = np.argsort(mean, kind="stable")
    assert (np.diff(chance[order]) >= -1e-9).all()


@pytest.mark.parametrize("floor", [0.0, 0.02, 0.5, 1.0])
def test_the_floor_is_spread_over_those_that_may_be_the_best_and_a_tenth_over_all(floor: float) -> None:
    near = probabilities(np.array([50.0, 48.0, 0.5]), np.full(3, 0.4), floor)
    far = EVERYBODY / 3 * floor
    tried = (1 - EVERYBODY) / 2 * floor + far
    assert near == pytest.approx([1 - tried - far, tried, far], abs=1e-3)


def test_the_floor_lets_new_offers_be_tried_however_far_they_stand_from_the_best() -> None:
    mean, deviation = np.array([50.0, 48.0, 0.5, 0.4]), np.full(4, 0.4)
    new = np.array([False, False, True, False])
    chance = probabilities(mean, deviation, 0.02, new)
    assert chance[2] == pytest.approx(0.02 * (EVERYBODY / 4 + (1 - EVERYBODY) / 3), abs=1e-6)
    assert chance[3] == pytest.approx(0.02 * EVERYBODY / 4, abs=1e-6)
    assert chance.sum() == pytest.approx(1)


def test_new_offers_find_a_place_on_the_shortlist_but_take_no_more_than_a_quarter_of_it() -> None:
    mean, deviation = np.arange(20.0), np.full(20, 0.1)
    new = np.zeros(20, dtype=bool)
    assert shortlist(mean, deviation, 8, new).tolist() == list(range(12, 20))
    new[[1, 2]] = True
    assert shortlist(mean, deviation, 8, new).tolist() == [1, 2, *range(14, 20)]
    new[:6] = True
    assert shortlist(mean, deviation, 8, new).tolist() == [4, 5, *range(14, 20)]


def test_without_deviation_the_greatest_takes_all_but_the_floor() -> None:
    assert over("nothing to explore").chance == pytest.approx((0.00125, 0.00125, 0.99625, 0.00125), abs=1e-4)


def test_equal_priorities_share_alike() -> None:
    for deviation in (0.0, 0.5):
        chance = probabilities(np.full(7, 2.0), np.full(7, deviation), 0.02)
        assert chance == pytest.approx(np.full(7, 1 / 7))


def test_a_single_candidate_is_certain() -> None:
    alone = ranked([3.0, 1.0], [1.0, 1.0])
    assert alone.choose(0b10, "d", 5, at_random=False)[1] == [(1, 1.0)]


def test_the_shortlist_holds_those_that_could_best_be_the_greatest() -> None:
    mean = np.array([1.0, 5.0, 2.0, 0.0, 4.0])
    deviation = np.array([0.1, 0.1, 2.0, 5.0, 0.1])
    assert shortlist(mean, deviation, 3).tolist() == [1, 2, 3]
    assert shortlist(mean, deviation, 5).tolist() == [0, 1, 2, 3, 4]
    chosen = distribution(mean, deviation, np.arange(5), Exploration(shortlist=3))
    assert chosen.places == [1, 2, 3]
    fewer = distribution(mean, deviation, np.array([0, 2, 3, 4]), Exploration(shortlist=2))
    assert fewer.places == [2, 3]
    assert sum(chosen.chance) == pytest.approx(1)


def test_the_random_group_draws_uniformly() -> None:
    alike = ranked([5.0, 1.0, 2.0, 9.0, 0.0], [0.1] * 5)
    drawn = Counter(picked(alike, f"d-{number}", 1, at_random=True)[0].place for number in range(DRAWS))
    assert fits([drawn[place] for place in range(5)], [0.2] * 5)
    for number in range(50):
        picks = picked(alike, f"r-{number}", 5, at_random=True)
        assert [pick.probability for pick in picks] == pytest.approx([1 / 5, 1 / 4, 1 / 3, 1 / 2, 1])
        assert {pick.place for pick in picks} == {0, 1, 2, 3, 4}


def test_no_offer_takes_two_ranks_and_none_is_left_out() -> None:
    for number in range(200):
        picks = picked(ranking("five, spread"), f"n-{number}", 9)
        assert sorted(pick.place for pick in picks) == [0, 1, 2, 3, 4]


def test_what_has_no_chance_takes_no_rank() -> None:
    certain = Distribution(np.array([0, 1]), np.array([1.0, 0.0]))
    assert [draw(certain, f"c-{number}", 1) for number in range(20)] == [(0, 1.0)] * 20


def test_a_retry_makes_the_same_choice() -> None:
    assert picked(ranking("five, spread"), "same", 3) == picked(ranking("five, spread"), "same", 3)


@pytest.mark.parametrize("purpose", ["rank-1", "rank-2"])
def test_draws_are_even_over_the_unit_interval(purpose: str) -> None:
    drawn = [uniform(f"d-{number}", purpose) for number in range(DRAWS)]
    assert min(drawn) >= 0
    assert max(drawn) < 1
    assert fits(np.histogram(drawn, bins=50, range=(0, 1))[0].tolist(), [0.02] * 50)


def test_ranks_are_drawn_independently() -> None:
    pairs = Counter(
        (int(uniform(f"d-{n}", "rank-1") * 5), int(uniform(f"d-{n}", "rank-2") * 5)) for n in range(DRAWS)
    )
    assert fits([pairs[one, two] for one in range(5) for two in range(5)], [1 / 25] * 25)


def simulated_bias(draws: Callable[[str], int]) -> bool:
    counted = Counter(draws(f"b-{number}") for number in range(DRAWS))
    given_over = over("five, spread")
    return fits([counted[place] for place in given_over.places], given_over.chance)


def test_drawing_the_greatest_of_a_sample_would_not_be_what_is_stated() -> None:
    """A second control: a choice that follows other chances than the stated ones is rejected."""
    mean, _ = arrays("five, spread")
    given_over = over("five, spread")
    assert simulated_bias(lambda uid: draw(given_over, uid, 1).place)
    assert not simulated_bias(lambda uid: int(mean.argmax()) if uniform(uid, "other") < 0.9 else 0)
