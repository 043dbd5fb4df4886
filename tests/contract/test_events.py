"""`POST /v1/events` and the quarantine: accepted is durable, each event counts once, in any order."""

from datetime import datetime, timedelta
from functools import partial
from itertools import permutations
from typing import Any

import pytest

from features.event import TYPES
from tests.contract.client import Api, customer, eventually, rfc
from tests.contract.conftest import Fresh

NEEDS: dict[str, dict[str, Any]] = {
    "consent_changed": {"properties": {"marketing_sms": "granted"}},
    "profile_updated": {"properties": {"tier": "gold"}},
    "case_opened": {"properties": {"case_id": "k"}},
    "case_closed": {"properties": {"case_id": "k"}},
    "answer": {"properties": {"question": "q", "answer": "a"}},
    "accept": {"offer": "boots"},
    "reject": {"offer": "boots"},
}


def views(tact: Api, who: str) -> int:
    """Return how many page views were folded."""
    reply = tact.call("GET", customer(who))
    counted: int = reply.json["features"]["views_7d"]["value"] if reply.status == 200 else 0
    return counted


def folded(tact: Api, who: str, count: int) -> None:
    """Wait until so many page views were folded."""
    eventually(lambda: views(tact, who), lambda seen: seen == count)


def view(who: str, **more: Any) -> dict[str, Any]:
    """Return a page view."""
    return {"type": "page_view", "customer_id": who} | more


def test_one_event_is_one_object(tact: Api, fresh: Fresh, started: datetime) -> None:
    who, at = fresh(), rfc(started)
    event = {
        "event_id": fresh("e"),
        "type": "page_view",
        "customer_id": who,
        "occurred_at": at,
        "channel": "web",
        "decision_id": None,
        "offer": None,
        "properties": {"category": "boots", "amount": 12.5},
    }
    assert tact.post("/v1/events", event, 202) == {"accepted": 1, "rejected": []}
    folded(tact, who, 1)
    known = tact.customer(who)
    assert known["as_of"] == at
    assert known["features"]["last_category"]["value"] == "boots"


def test_the_valid_events_of_an_array_are_taken_and_the_others_named_by_index(
    tact: Api, fresh: Fresh
) -> None:
    who = fresh()
    events = [view(who), {"type": "nonsense", "customer_id": who}, view(who), 7, {"type": "page_view"}]
    said = tact.post("/v1/events", events, 202)
    assert said["accepted"] == 2
    assert [entry["index"] for entry in said["rejected"]] == [1, 3, 4]
    assert all(entry.keys() == {"index", "detail"} and entry["detail"] for entry in said["rejected"])
    folded(tact, who, 2)


def test_the_lines_of_a_stream_are_counted_from_nought_and_blank_ones_passed_over(
    tact: Api, fresh: Fresh
) -> None:
    who = fresh()
    rows = [view(who), b"{broken", b"", view(who), b'{"a": NaN}', b'"' + b"x" * 65_536 + b'"', view(who)]
    answer = tact.stream("/v1/events", rows)
    assert answer.status == 202
    assert answer.json["accepted"] == 3
    assert [entry["index"] for entry in answer.json["rejected"]] == [1, 3, 4]
    folded(tact, who, 3)


def test_a_packed_stream_counts_whole_even_in_several_parts(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    assert tact.stream("/v1/events", [view(who)] * 3_000, packed=True).json["accepted"] == 3_000
    folded(tact, who, 3_000)


@pytest.mark.parametrize("body", [[], [1] * 1_001, [[]], [None], None, "x", 3, {}])
def test_422_when_none_is_valid(tact: Api, body: Any) -> None:
    raw = b"null" if body is None else None
    refused = tact.send("POST", "/v1/events", raw) if raw else tact.call("POST", "/v1/events", body)
    assert (refused.status, refused.media) == (422, "application/problem+json")


def test_the_pointer_of_a_single_event_is_its_own_and_that_of_a_row_begins_with_its_index(tact: Api) -> None:
    bad = {"type": "page_view", "customer_id": 7}
    (alone,) = tact.call("POST", "/v1/events", bad).json["errors"]
    assert alone["pointer"] == "/customer_id"
    (row,) = tact.call("POST", "/v1/events", [bad]).json["errors"]
    assert row["pointer"] == "/0/customer_id"


def test_an_array_holds_a_thousand(tact: Api, fresh: Fresh) -> None:
    assert tact.post("/v1/events", [view(fresh())] * 1_000, 202)["accepted"] == 1_000


# ---------------------------------------------------------------------- what an event is


@pytest.mark.parametrize("type_", [*sorted(TYPES), "x_own", "x_1"])
def test_every_type_is_taken(tact: Api, fresh: Fresh, type_: str) -> None:
    tact.event(fresh(), type_, **NEEDS.get(type_, {}))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "pageview"},
        {"type": "x_"},
        {"type": "X_OWN"},
        {"type": None},
        {"type": "accept"},
        {"type": "answer"},
        {"type": "case_opened"},
        {"type": "consent_changed"},
        {"type": "consent_changed", "properties": {"marketing_email": "maybe"}},
        {"type": "profile_updated", "properties": {"shoe_size": 9}},
        {"type": "profile_updated", "properties": {"visits": "many"}},
        {"type": "profile_updated", "properties": {"timezone": "Mars/Olympus"}},
        {"customer_id": ""},
        {"customer_id": " \t"},
        {"customer_id": "a\x00b"},
        {"customer_id": "x" * 129},
        {"customer_id": 7},
        {"customer_id": None},
        {"event_id": ""},
        {"event_id": 1},
        {"identities": {"cookie": ""}},
        {"identities": {"cookie": 1}},
        {"identities": []},
        {"occurred_at": "2026-11-21T10:00:00"},
        {"occurred_at": "2026-11-21T10:00:00+01:00"},
        {"occurred_at": 1_763_719_200},
        {"properties": []},
        {"properties": {"a": 2**64}},
        {"surprise": 1},
        {"received_at": 1},
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(tact: Api, fresh: Fresh, change: dict[str, Any]) -> None:
    who = fresh()
    refused = tact.call("POST", "/v1/events", view(who) | change)
    assert (refused.status, refused.media) == (422, "application/problem+json")
    assert refused.json["errors"][0]["detail"]
    assert tact.call("GET", customer(who)).status == 404


def test_more_than_five_minutes_ahead_is_refused_and_less_is_not(
    tact: Api, fresh: Fresh, started: datetime
) -> None:
    who = fresh()
    far = rfc(started + timedelta(hours=1))
    assert tact.call("POST", "/v1/events", view(who, occurred_at=far)).status == 422
    near = rfc(started + timedelta(minutes=4))
    tact.post("/v1/events", view(who, occurred_at=near), 202)


# ---------------------------------------------------------------------- once, in any order


def test_the_same_event_id_counts_once_and_none_counts_again(tact: Api, fresh: Fresh) -> None:
    who, event_id = fresh(), fresh("e")
    for _ in range(3):
        tact.post("/v1/events", [view(who, event_id=event_id)] * 2, 202)
    tact.post("/v1/events", [view(who), view(who)], 202)
    folded(tact, who, 3)


def test_any_order_of_arrival_leads_to_the_same_customer(tact: Api, fresh: Fresh, started: datetime) -> None:
    def at(minutes: int) -> str:
        return rfc(started - timedelta(minutes=minutes))

    events: list[dict[str, Any]] = [
        {"type": "page_view", "occurred_at": at(30), "properties": {"category": "coats"}},
        {"type": "page_view", "occurred_at": at(20), "properties": {"category": "boots"}},
        {"type": "consent_changed", "occurred_at": at(15), "properties": {"marketing_email": "denied"}},
        {"type": "consent_changed", "occurred_at": at(10), "properties": {"marketing_email": "granted"}},
    ]
    seen = []
    for order in permutations(events):
        who = fresh()
        for event in order:
            said = event | {"customer_id": who, "event_id": f"{who}-{events.index(event)}"}
            tact.post("/v1/events", said, 202)
        folded(tact, who, 2)
        known = eventually(partial(tact.customer, who), lambda known: known["as_of"] == at(10))
        seen.append([known["features"], known["consent"], known["as_of"]])
    assert all(state == seen[0] for state in seen)
    assert seen[0][0]["last_category"]["value"] == "boots"
    assert seen[0][1] == {"marketing_email": "granted"}


# ---------------------------------------------------------------------- identities


def test_identities_stand_in_for_the_customer(tact: Api, fresh: Fresh) -> None:
    cookie = fresh("cookie")
    tact.post("/v1/events", {"type": "page_view", "identities": {"cookie": cookie}}, 202)
    derived = tact.post("/v1/decide", {"identities": {"cookie": cookie}, "placement": "home"})["customer_id"]
    folded(tact, derived, 1)


def test_identities_beside_a_customer_link_them_and_bring_what_they_saw(tact: Api, fresh: Fresh) -> None:
    who, cookie = fresh(), fresh("cookie")
    tact.post("/v1/events", {"type": "page_view", "identities": {"cookie": cookie}}, 202)
    tact.post("/v1/events", view(who, identities={"cookie": cookie}), 202)
    folded(tact, who, 2)
    assert tact.customer(who)["aliases"] == [{"kind": "cookie", "value": cookie}]


def test_an_anonymous_event_accepted_before_the_link_was_applied_is_not_lost(tact: Api, fresh: Fresh) -> None:
    """Both are resolved before either is folded; the link comes first, the cookie's event finds its way."""
    who, cookie = fresh(), fresh("cookie")
    events = [
        view(who, identities={"cookie": cookie}),
        {"type": "page_view", "identities": {"cookie": cookie}},
    ]
    assert tact.post("/v1/events", events, 202)["accepted"] == 2
    folded(tact, who, 2)


# ---------------------------------------------------------------------- what events do at once


def test_a_withdrawal_by_event_holds_for_the_very_next_check(tact: Api, fresh: Fresh) -> None:
    for _ in range(5):
        who = fresh()
        tact.grant(who)
        assert tact.check("email", "service", who, reserve=False)[0]["allowed"]
        tact.event(who, "consent_changed", properties={"marketing_email": "denied"})
        (no,) = tact.check("email", "service", who)
        assert [reason["rule"] for reason in no["reasons"]] == ["consent"]


def test_an_unsubscribe_denies_the_purpose_of_its_channel_at_once(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    tact.event(who, "unsubscribe", channel="email")
    assert not tact.check("email", "service", who)[0]["allowed"]
    assert tact.customer(who)["consent"] == {"marketing_email": "denied"}


def test_an_open_case_suppresses_until_it_is_closed(tact: Api, fresh: Fresh) -> None:
    who = fresh()

    def stopped_by() -> list[str]:
        (result,) = tact.check("post", "promotion", who, reserve=False)
        return [reason["rule"] for reason in result.get("reasons", [])]

    tact.event(who, "case_opened", properties={"case_id": "k1"})
    eventually(stopped_by, lambda rules: rules == ["service-first"])
    (no,) = tact.check("post", "promotion", who)
    assert (no["reasons"][0]["reason"], no["eligible_at"]) == ("suppressed", None)
    assert tact.check("post", "service", who, reserve=False)[0]["allowed"]
    (case,) = tact.customer(who)["cases"]
    assert (case["case_id"], case["state"]) == ("k1", "open")
    tact.event(who, "case_closed", properties={"case_id": "k1"})
    eventually(stopped_by, lambda rules: rules == [])


def test_a_response_joins_its_decision_once(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    answer = tact.decide(who, "home", limit=1)
    event = {"event_id": fresh("e"), "type": "accept", "customer_id": who}
    for _ in range(2):
        tact.post("/v1/events", event | {"decision_id": answer["decision_id"]}, 202)
    tact.event(who, "page_view")
    folded(tact, who, 1)
    record = tact.get(f"/v1/decisions/{answer['decision_id']}")
    assert [outcome["type"] for outcome in record["outcomes"]] == ["accept"]


def test_profile_and_answers_come_by_events_too(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.event(
        who, "profile_updated", properties={"tier": "gold", "timezone": "Asia/Tokyo", "owned": ["scarf"]}
    )
    tact.event(who, "answer", properties={"question": "shopping-for", "answer": "family"})
    known = eventually(
        lambda: tact.call("GET", customer(who)),
        lambda reply: reply.status == 200 and reply.json["answers"] == {"shopping-for": "family"},
    ).json
    assert (known["profile"]["tier"], known["profile"]["owned"]) == ("gold", ["scarf"])
    assert known["timezone"] == "Asia/Tokyo"


# ---------------------------------------------------------------------- the quarantine


def held_back(tact: Api, event_id: str) -> list[Any]:
    """Return the quarantine's entries that hold the event."""
    entries, after = [], ""
    while page := tact.get(f"/v1/quarantine?limit=2{after}")["entries"]:
        entries += page
        after = f"&after={page[-1]['entry_id']}"
    return [entry for entry in entries if event_id in [event["event_id"] for event in entry["events"]]]


def test_what_is_too_old_is_quarantined_with_its_reason_and_can_be_replayed(tact: Api, fresh: Fresh) -> None:
    who, event_id = fresh(), fresh("old")
    event = view(who, event_id=event_id, occurred_at="2020-01-01T00:00:00.000Z")
    assert tact.post("/v1/events", event, 202)["accepted"] == 1
    (entry,) = eventually(lambda: held_back(tact, event_id), lambda entries: len(entries) == 1)
    assert entry.keys() == {"entry_id", "reason", "events"}
    assert entry["events"] == [event]
    assert "keep.events" in entry["reason"]
    assert views(tact, who) == 0
    said = tact.post("/v1/quarantine/replay")
    assert said["sent"] >= 1
    again = eventually(
        lambda: held_back(tact, event_id),
        lambda entries: [e["entry_id"] for e in entries] not in ([], [entry["entry_id"]]),
    )
    assert len(again) == 1
