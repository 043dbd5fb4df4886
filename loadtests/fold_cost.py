"""Microseconds per fold, encode, decode and read of one customer: `python -m loadtests.fold_cost`."""

import time
from collections.abc import Callable

from features import codec
from features.catalogue import Catalogue
from features.definition import FeatureDef
from features.event import Event, decode_event, encode_event, format_time, parse_event, parse_time
from features.facts import Contact, Dated, Facts, Item
from features.fold import apply
from features.state import Customer, FeatureState

DAY_MS = 86_400_000
NOW = parse_time("2026-11-21T10:00:00Z")
REPEATS = 7
CALLS = 2000


def definitions() -> list[FeatureDef]:
    views, buys = ("page_view",), ("purchase", "store_purchase")
    return [
        *(FeatureDef(f"views_{n}d", "count", views, within_ms=n * DAY_MS) for n in (1, 7, 30, 90)),
        *(FeatureDef(f"clicks_{n}d", "count", ("click",), within_ms=n * DAY_MS) for n in (1, 7, 30)),
        FeatureDef("spend_30d", "sum", buys, property="amount", within_ms=30 * DAY_MS),
        FeatureDef("spend_90d", "sum", buys, property="amount", within_ms=90 * DAY_MS),
        FeatureDef("avg_basket", "mean", buys, property="amount", within_ms=90 * DAY_MS),
        FeatureDef(
            "open_rate",
            "rate",
            ("email_open",),
            per=("email_delivered",),
            half_life_ms=30 * DAY_MS,
            prior_hits=1,
            prior_trials=5,
        ),
        *(
            FeatureDef(f"since_{name}", "since", (name,))
            for name in ("store_scan", "purchase", "page_view", "email_open")
        ),
        FeatureDef("last_category", "last", views, property="category"),
        FeatureDef("last_device", "last", views, property="device"),
        FeatureDef("interests", "top", views, property="category", half_life_ms=14 * DAY_MS, keep=5),
        FeatureDef("sessions_30d", "distinct", views, property="session_id", within_ms=30 * DAY_MS),
        FeatureDef("products_7d", "distinct", views, property="product", within_ms=7 * DAY_MS),
    ]


def events() -> list[Event]:
    types = ["page_view"] * 8 + ["click", "email_delivered", "email_open", "purchase"]
    return [
        parse_event(
            {
                "event_id": f"e-{index}",
                "type": types[index % len(types)],
                "customer_id": "c1",
                "occurred_at": format_time(NOW - (60 - index) * DAY_MS // 3),
                "channel": "web",
                "properties": {
                    "category": ("boots", "hats", "coats")[index % 3],
                    "amount": 12.5 + index,
                    "session_id": f"s{index // 4}",
                    "device": "mobile",
                    "product": f"p{index % 9}",
                },
            },
            now=NOW,
            made_id="",
        )
        for index in range(60)
    ]


def facts() -> Facts:
    return Facts(
        customer_id="customer-1",
        version=17,
        high_water=NOW,
        since=NOW - 90 * DAY_MS,
        contacts=tuple(
            Contact(
                f"AbCd-_012{index:03d}",
                NOW - (10 - index) * 3 * DAY_MS + 12_345 * index,
                ("email", "push")[index % 2],
                (Item(f"offer-{index % 5}", ("promotion", "service")[index % 2]),),
            )
            for index in range(10)
        ),
        consent={"marketing_email": Dated("granted", NOW - 50 * DAY_MS)},
        profile={
            "timezone": Dated("Europe/London", NOW - 80 * DAY_MS),
            "tier": Dated("gold", NOW - 70 * DAY_MS),
        },
    )


def cost_us(call: Callable[[], object]) -> float:
    """Return the least of several means: what the call costs when nothing else runs."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        best = min(best, (time.perf_counter_ns() - start) / CALLS / 1000)
    return best


def main() -> None:
    catalogue = Catalogue(definitions())
    stream = events()
    customer = Customer(facts())

    def folded(start: Customer, event: Event) -> Customer:
        return apply(
            catalogue,
            start,
            event,
            mark_types=frozenset({"complaint"}),
            keep_ms=400 * DAY_MS,
            question_fields={},
            channel_purposes={"email": "marketing_email"},
        )

    state = FeatureState()
    for event in stream:
        customer = folded(customer, event)
        state = catalogue.fold(state, event)
    view = stream[-5]
    assert view.type == "page_view"
    fresh = Event("fresh", view.type, "c1", NOW, NOW, properties=view.properties)
    facts_blob = codec.encode_facts(customer.facts)
    state_blob = codec.encode_state(customer.state, 1)
    seen_blob = codec.encode_seen(customer.seen)
    raw = {
        "event_id": "e-1",
        "type": "page_view",
        "customer_id": "c1",
        "occurred_at": "2026-11-21T10:00:00Z",
        "properties": {"category": "boots", "amount": 12.5},
    }
    journal_blob = encode_event(fresh)
    names = catalogue.names()
    lines: list[tuple[str, Callable[[], object]]] = [
        ("parse_time", lambda: parse_time("2026-11-21T10:00:00.123Z")),
        ("format_time", lambda: format_time(NOW)),
        ("parse_event", lambda: parse_event(raw, now=NOW, made_id="")),
        ("encode_event", lambda: encode_event(fresh)),
        ("decode_event", lambda: decode_event(journal_blob)),
        ("apply, a page view feeding 12 features", lambda: folded(customer, fresh)),
        ("the same, features only", lambda: catalogue.fold(customer.state, fresh)),
        ("apply, seen before", lambda: folded(customer, stream[7])),
        ("read, all 20 features", lambda: catalogue.read(customer.state, None, NOW)),
        *(
            (f"read, {name}", lambda name=name: catalogue.read(customer.state, (name,), NOW))
            for name in names
        ),
        ("encode_facts, 10 contacts", lambda: codec.encode_facts(customer.facts)),
        ("decode_facts, 10 contacts", lambda: codec.decode_facts(facts_blob)),
        ("encode_state, 20 features", lambda: codec.encode_state(customer.state, 1)),
        ("decode_state, 20 features", lambda: codec.decode_state(state_blob)),
        ("encode_seen, 60 events", lambda: codec.encode_seen(customer.seen)),
        ("decode_seen, 60 events", lambda: codec.decode_seen(seen_blob)),
    ]
    print(f"bytes: facts {len(facts_blob)}, state {len(state_blob)}, seen {len(seen_blob)}")
    for name, call in lines:
        print(f"{cost_us(call):8.2f} us  {name}")


if __name__ == "__main__":
    main()
