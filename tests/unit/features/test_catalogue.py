"""Features by name: what they read, how they are described, and what a changed catalogue keeps."""

import sys
from typing import Any

import pytest

from features import codec
from features.catalogue import Catalogue, migrate
from features.definition import FeatureDef
from features.event import Event, parse_time
from features.state import FeatureState

DAY_MS = 86_400_000
NOW = parse_time("2026-11-21T10:00:00Z")
VIEWS = ("page_view",)
BUYS = ("purchase", "store_purchase")

ALL = [
    FeatureDef("views_7d", "count", VIEWS, within_ms=7 * DAY_MS),
    FeatureDef("spend_30d", "sum", BUYS, property="amount", within_ms=30 * DAY_MS),
    FeatureDef("avg_basket", "mean", BUYS, property="amount", within_ms=90 * DAY_MS),
    FeatureDef(
        "open_rate",
        "rate",
        ("email_open",),
        per=("email_delivered",),
        half_life_ms=30 * DAY_MS,
        prior_hits=1,
        prior_trials=5,
    ),
    FeatureDef("since_store", "since", ("store_scan",)),
    FeatureDef("last_category", "last", VIEWS, property="category"),
    FeatureDef("interests", "top", VIEWS, property="category", half_life_ms=14 * DAY_MS, keep=5),
    FeatureDef("sessions", "distinct", VIEWS, property="session_id", within_ms=36 * 3_600_000),
]


def event(type_: str, at: int = NOW, **properties: Any) -> Event:
    return Event("e", type_, "c1", at, NOW, properties=properties)


def folded(catalogue: Catalogue, *events: Event, state: FeatureState | None = None) -> FeatureState:
    out = state or FeatureState()
    for one in events:
        out = catalogue.fold(out, one)
    return out


def test_features_of_nothing_are_what_the_contract_says() -> None:
    assert Catalogue(ALL).read(FeatureState(), None, NOW) == {
        "views_7d": 0,
        "spend_30d": 0.0,
        "avg_basket": None,
        "open_rate": 0.2,
        "since_store": None,
        "last_category": None,
        "interests": [],
        "sessions": 0,
    }


def test_each_event_feeds_the_features_of_its_type() -> None:
    catalogue = Catalogue(ALL)
    state = folded(
        catalogue,
        event("page_view", category="boots", session_id="s1"),
        event("page_view", NOW - DAY_MS, category="hats", session_id="s1"),
        event("page_view", NOW - 8 * DAY_MS, category="hats", session_id="s2"),
        event("purchase", amount=10),
        event("store_purchase", amount=0.1),
        event("email_delivered"),
        event("email_open"),
        event("store_scan", NOW - 1500),
        event("call"),
    )
    assert catalogue.read(state, None, NOW) == {
        "views_7d": 2,
        "spend_30d": 10.1,
        "avg_basket": 5.05,
        "open_rate": pytest.approx(2 / 6, rel=1e-9),
        "since_store": 1.5,
        "last_category": "boots",
        "interests": ["hats", "boots"],
        "sessions": 1,
    }
    assert state.as_of == NOW


def test_a_feature_fades_while_nothing_happens() -> None:
    catalogue = Catalogue(ALL)
    state = folded(catalogue, event("page_view", category="boots"), event("email_open"))
    later = catalogue.read(state, ("views_7d", "open_rate"), NOW + 30 * DAY_MS)
    assert later == {"views_7d": 0, "open_rate": pytest.approx(1.5 / 5, rel=1e-9)}


def test_values_are_of_the_type_that_conditions_see() -> None:
    catalogue = Catalogue(ALL)
    state = folded(catalogue, event("purchase", amount=10), event("page_view", session_id="s"))
    values = catalogue.read(state, None, NOW)
    assert [type(values[name]) for name in ("views_7d", "spend_30d", "avg_basket", "sessions")] == [
        int,
        float,
        float,
        int,
    ]


@pytest.mark.parametrize("amount", [True, "12", None, [1], {"a": 1}])
def test_what_is_no_number_does_not_count(amount: object) -> None:
    catalogue = Catalogue(ALL)
    state = folded(catalogue, event("purchase", amount=amount), event("purchase"))
    assert catalogue.read(state, ("spend_30d", "avg_basket"), NOW) == {"spend_30d": 0.0, "avg_basket": None}


@pytest.mark.parametrize("word", [True, 12, None, ["boots"], {}])
def test_what_is_no_string_is_neither_last_nor_top(word: object) -> None:
    catalogue = Catalogue(ALL)
    state = folded(catalogue, event("page_view", category=word))
    assert catalogue.read(state, ("last_category", "interests"), NOW) == {
        "last_category": None,
        "interests": [],
    }


def test_distinct_tells_types_apart_but_not_two_spellings_of_a_number() -> None:
    catalogue = Catalogue(ALL)
    values: list[Any] = [1, 1.0, "1", True, "true", 1.5, None, [1], {}]
    state = folded(catalogue, *(event("page_view", session_id=value) for value in values))
    assert catalogue.read(state, ("sessions",), NOW) == {"sessions": 5}


def test_huge_amounts_add_up_exactly_and_survive_the_store() -> None:
    catalogue = Catalogue(ALL)
    state = folded(catalogue, *(event("purchase", amount=amount) for amount in (1e300, 7, -1e300, 2**63 - 1)))
    state, _ = codec.decode_state(codec.encode_state(state, 1))
    assert catalogue.read(state, ("spend_30d",), NOW) == {"spend_30d": float(2**63 + 6)}


def test_a_sum_beyond_floating_point_is_the_greatest_number() -> None:
    catalogue = Catalogue(ALL)
    most = sys.float_info.max
    assert catalogue.read(folded(catalogue, *[event("purchase", amount=most)] * 3), ("spend_30d",), NOW) == {
        "spend_30d": most
    }
    assert catalogue.read(folded(catalogue, *[event("purchase", amount=-most)] * 3), ("spend_30d",), NOW) == {
        "spend_30d": -most
    }


def test_what_happens_after_the_reading_does_not_count_yet() -> None:
    catalogue = Catalogue([FeatureDef("hour", "count", VIEWS, within_ms=3_600_000), ALL[4]])
    state = folded(catalogue, event("page_view", NOW + 200_000), event("store_scan", NOW + 200_000))
    assert catalogue.read(state, None, NOW) == {"hour": 0, "since_store": 0.0}
    assert catalogue.read(state, None, NOW + 200_000) == {"hour": 1, "since_store": 0.0}


def test_a_window_bounds_last_and_since_too() -> None:
    catalogue = Catalogue(
        [
            FeatureDef("last", "last", VIEWS, property="category", within_ms=DAY_MS),
            FeatureDef("since", "since", VIEWS, within_ms=DAY_MS),
        ]
    )
    state = folded(catalogue, event("page_view", category="boots"))
    assert catalogue.read(state, None, NOW + DAY_MS - 1) == {"last": "boots", "since": 86_399.999}
    assert catalogue.read(state, None, NOW + DAY_MS) == {"last": None, "since": None}


def test_a_rate_without_prior_and_trials_is_null() -> None:
    catalogue = Catalogue([FeatureDef("rate", "rate", ("click",), per=VIEWS, half_life_ms=DAY_MS)])
    assert catalogue.read(folded(catalogue, event("click")), None, NOW) == {"rate": None}


def test_only_the_named_features_are_read() -> None:
    assert Catalogue(ALL).read(FeatureState(), ("sessions",), NOW) == {"sessions": 0}
    with pytest.raises(KeyError):
        Catalogue(ALL).read(FeatureState(), ("nope",), NOW)


def test_definitions_are_in_words() -> None:
    catalogue = Catalogue(ALL)
    assert [catalogue.definition(name) for name in catalogue.names()] == [
        "count of page_view within 7d",
        "sum of amount of purchase, store_purchase within 30d",
        "mean of amount of purchase, store_purchase within 90d",
        "rate of email_open per email_delivered, half-life 30d, prior 1 of 5",
        "seconds since store_scan",
        "last category of page_view",
        "top 5 of category of page_view, half-life 14d",
        "distinct session_id of page_view within 36h",
    ]


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="same name"):
        Catalogue([ALL[0], ALL[0]])


def test_the_catalogue_knows_what_feeds_it() -> None:
    assert Catalogue(ALL[:2]).event_types == {"page_view", "purchase", "store_purchase"}


def test_a_state_of_another_catalogue_is_never_misread() -> None:
    old, new = Catalogue(ALL), Catalogue(ALL[1:])
    state = folded(old, event("page_view"))
    for misuse in (
        lambda: new.read(state, None, NOW),
        lambda: new.fold(state, event("page_view")),
        lambda: new.merge(state, FeatureState()),
        lambda: migrate(state, new, Catalogue(ALL[2:])),
    ):
        with pytest.raises(ValueError, match="another catalogue"):
            misuse()


def test_equal_meanings_have_equal_ids() -> None:
    ids = [
        Catalogue([definition]).id
        for definition in (
            FeatureDef("a", "count", ("x_a", "x_b"), within_ms=1000),
            FeatureDef("a", "count", ("x_b", "x_a"), within_ms=1000),
            FeatureDef("b", "count", ("x_a", "x_b"), within_ms=1000),
            FeatureDef("a", "count", ("x_a", "x_b"), within_ms=2000),
        )
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_migration_keeps_what_means_the_same() -> None:
    old = Catalogue(ALL)
    state = folded(old, event("page_view", category="boots", session_id="s"), event("email_open"))
    of_clicks = FeatureDef("views_7d", "count", ("click",), within_ms=7 * DAY_MS)
    other_prior = FeatureDef(
        "open_rate",
        "rate",
        ("email_open",),
        per=("email_delivered",),
        half_life_ms=30 * DAY_MS,
        prior_trials=4,
    )
    new = Catalogue([ALL[7], of_clicks, other_prior, FeatureDef("fresh", "count", VIEWS), ALL[5]])
    assert new.read(migrate(state, old, new), None, NOW) == {
        "sessions": 1,
        "views_7d": 0,
        "open_rate": pytest.approx(1 / 4),
        "fresh": 0,
        "last_category": "boots",
    }
    assert migrate(state, old, new).as_of == NOW
    assert migrate(state, old, old) is state


def test_an_empty_state_belongs_to_every_catalogue() -> None:
    old, new = Catalogue(ALL), Catalogue(ALL[1:])
    assert new.read(migrate(FeatureState(), old, new), ("sessions",), NOW) == {"sessions": 0}


def test_top_keeps_the_newest_strings_when_there_are_too_many() -> None:
    catalogue = Catalogue([ALL[6]])
    many = [event("page_view", NOW - 40 * DAY_MS, category=f"old-{n}") for n in range(600)]
    state = folded(catalogue, *many, event("page_view", category="boots"))
    (weights,) = state.values
    assert len(weights) == 512
    assert catalogue.read(state, None, NOW)["interests"][0:1] == ["boots"]  # type: ignore[index]


def test_top_passes_very_long_strings_over() -> None:
    catalogue = Catalogue([ALL[6]])
    state = folded(catalogue, event("page_view", category="x" * 257), event("page_view", category="y" * 256))
    assert catalogue.read(state, None, NOW) == {"interests": ["y" * 256]}


def test_top_forgets_a_string_that_a_newer_one_has_left_behind_whole() -> None:
    """Its window began and ended before the newest one's: nothing of it may stay, not even zeros."""
    catalogue = Catalogue([ALL[6]])
    past = [event("page_view", NOW - days * DAY_MS, category="old") for days in (900 + 14 * 50, 900)]
    state = folded(catalogue, *past, event("page_view", category="boots"))
    assert list(state.values[0]) == ["boots"]
