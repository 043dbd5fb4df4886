"""G12 and G13: any order of a customer's events, with any deliveries, leads to the very same records.

The caps of `top` and `distinct` are lowered for half of the cases, so that what is dropped is judged too.
"""

from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from features import codec
from features.catalogue import Catalogue
from features.definition import FeatureDef
from features.event import Event
from features.facts import Dated, Facts
from features.fold import apply
from features.state import Customer, FeatureState

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START = 1_795_255_200_000
TYPES = ("page_view", "purchase")

CATALOGUE = Catalogue(
    [
        FeatureDef("count", "count", TYPES, within_ms=DAY_MS),
        FeatureDef("count_minute", "count", TYPES, within_ms=60_000),
        FeatureDef("count_ever", "count", TYPES),
        FeatureDef("sum", "sum", TYPES, property="amount", within_ms=DAY_MS),
        FeatureDef("mean", "mean", TYPES, property="amount", within_ms=DAY_MS),
        FeatureDef("rate", "rate", ("purchase",), per=TYPES, half_life_ms=HOUR_MS, prior_trials=1),
        FeatureDef("since", "since", TYPES),
        FeatureDef("last", "last", TYPES, property="word"),
        FeatureDef("top", "top", TYPES, property="word", half_life_ms=HOUR_MS, keep=3),
        FeatureDef("distinct", "distinct", TYPES, property="word", within_ms=DAY_MS),
        FeatureDef("distinct_number", "distinct", TYPES, property="amount", within_ms=HOUR_MS),
    ]
)

# Times close together, hours apart and months apart: ties, windows that overlap, windows that don't.
times = st.one_of(
    st.integers(0, 3),
    st.integers(0, 2 * HOUR_MS),
    st.integers(0, 4 * DAY_MS),
    st.integers(0, 600 * DAY_MS),
).map(lambda offset: START + offset)
words = st.sampled_from(["boots", "hats", "coats", "", "é", "z1", "z2", "z3", "z4"])
amounts = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 0.1, -0.1, 12.5, -12.5]),
    st.booleans(),
    st.none(),
)
purposes = st.sampled_from(["marketing_email", "marketing_call"])
feature_bodies: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.tuples(
    st.sampled_from(TYPES),
    st.fixed_dictionaries({"word": st.one_of(words, st.integers(0, 2)), "amount": amounts}),
)
fact_bodies: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.tuples(
        st.just("consent_changed"),
        st.dictionaries(purposes, st.sampled_from(["granted", "denied"]), min_size=1),
    ),
    st.tuples(st.sampled_from(["unsubscribe", "complaint", "reject"]), st.just({})),
    st.tuples(
        st.sampled_from(["case_opened", "case_closed"]),
        st.fixed_dictionaries({"case_id": st.sampled_from(["a", "b"])}),
    ),
    st.tuples(
        st.just("answer"),
        st.fixed_dictionaries({"question": st.sampled_from(["who", "why"]), "answer": words}),
    ),
    st.tuples(
        st.just("profile_updated"),
        st.dictionaries(
            st.sampled_from(["tier", "owned"]),
            st.one_of(words, st.none(), st.booleans(), st.integers(0, 1), st.just(1.0), st.lists(words)),
            min_size=1,
        ),
    ),
)


def event_of(number: int, at: int, body: tuple[str, dict[str, Any]], offer: str | None) -> Event:
    return Event(f"e-{number}", body[0], "c1", at, at + 50, channel="email", offer=offer, properties=body[1])


def streams(
    bodies: st.SearchStrategy[tuple[str, dict[str, Any]]],
) -> st.SearchStrategy[list[Event]]:
    offers = st.sampled_from([None, "winter-boots", "hat"])
    return st.lists(st.tuples(times, bodies, offers), min_size=2, max_size=14).map(
        lambda rows: [event_of(number, *row) for number, row in enumerate(rows)]
    )


feature_streams = streams(feature_bodies)
fact_streams = streams(fact_bodies)
any_streams = st.one_of(feature_streams, fact_streams, streams(st.one_of(feature_bodies, fact_bodies)))


def folded(events: list[Event], start: Customer, keep_ms: int = 700 * DAY_MS) -> Customer:
    for event in events:
        start = apply(
            CATALOGUE,
            start,
            event,
            mark_types=frozenset({"complaint", "reject", "purchase"}),
            keep_ms=keep_ms,
            question_fields={"who": "tier"},
            channel_purposes={"email": "marketing_email"},
        )
    return start


def written(customer: Customer) -> tuple[bytes, bytes, bytes]:
    return (
        codec.encode_facts(customer.facts),
        codec.encode_state(customer.state, 0),
        codec.encode_seen(customer.seen),
    )


@settings(max_examples=250, deadline=None)
@given(any_streams, st.randoms(use_true_random=False), st.booleans(), st.sampled_from([0, START + HOUR_MS]))
def test_any_order_with_any_repeats_gives_the_same_bytes(
    events: list[Event], random: Any, small: bool, erased_at: int
) -> None:
    top, smallest = (3, 3) if small else (512, 4096)
    start = Customer(Facts(customer_id="c1", erased_at=erased_at))
    shuffled = [*events, *random.sample(events, len(events) // 2)]
    random.shuffle(shuffled)
    reordered = random.sample(events, len(events))
    with patch("features.kinds.TOP_CELLS_MAX", top), patch("features.distinct.SMALLEST", smallest):
        assert written(folded(shuffled, start)) == written(folded(events, start))
        # What is older than `keep_ms` is quarantined before it gets here, so it does not come twice.
        short = 30 * DAY_MS
        assert written(folded(reordered, start, short)) == written(folded(events, start, short))


@settings(max_examples=250, deadline=None)
@given(feature_streams, feature_streams, st.booleans())
def test_merging_states_equals_folding_the_union(one: list[Event], two: list[Event], small: bool) -> None:
    top, smallest = (3, 3) if small else (512, 4096)

    def state(events: list[Event]) -> FeatureState:
        out = FeatureState()
        for event in events:
            out = CATALOGUE.fold(out, event)
        return out

    with patch("features.kinds.TOP_CELLS_MAX", top), patch("features.distinct.SMALLEST", smallest):
        together = state([*one, *two])
        assert codec.encode_state(CATALOGUE.merge(state(one), state(two)), 0) == codec.encode_state(
            together, 0
        )
        assert CATALOGUE.merge(state(two), state(one)) == together


@settings(max_examples=100, deadline=None)
@given(any_streams)
def test_a_second_delivery_returns_the_very_same_customer(events: list[Event]) -> None:
    newest = max(events, key=lambda event: event.received_at)
    customer = folded(events, Customer(Facts(customer_id="c1")))
    assert folded([newest], customer) is customer


@settings(max_examples=200, deadline=None)
@given(fact_streams)
def test_facts_are_the_latest_of_everything(events: list[Event]) -> None:
    facts = folded(events, Customer(Facts(customer_id="c1"))).facts
    said = [
        (event.occurred_at, value == "denied", value)
        for event in events
        for purpose, value in (
            event.properties.items()
            if event.type == "consent_changed"
            else [("marketing_email", "denied")]
            if event.type == "unsubscribe"
            else []
        )
        if purpose == "marketing_email"
    ]
    expected = Dated(max(said)[2], max(said)[0]) if said else None
    assert facts.consent.get("marketing_email") == expected
    opened = max(
        (e.occurred_at for e in events if e.properties.get("case_id") == "a" and "opened" in e.type),
        default=0,
    )
    closed = max(
        (e.occurred_at for e in events if e.properties.get("case_id") == "a" and "closed" in e.type),
        default=0,
    )
    assert any(case.case_id == "a" for case in facts.cases) == bool(opened or closed)
    assert sum(case.opened_at > case.closed_at for case in facts.cases if case.case_id == "a") == (
        opened > closed
    )
