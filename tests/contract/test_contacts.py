"""Contacts as a service over HTTP: check, confirm, release, record."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.contract.client import Api, customer, eventually, parse, rfc
from tests.contract.conftest import Fresh
from tests.contract.shop import next_midnight, quiet_end

UNKNOWN = "A" * 28


def to_ms(moment: datetime) -> datetime:
    """Return the moment as an answer gives it back."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def record(tact: Api, who: str, channel: str, category: str, at: datetime | None = None, **more: Any) -> Any:
    """Record a contact that happened elsewhere."""
    body = {"customer_id": who, "channel": channel, "category": category} | more
    return tact.post("/v1/contacts", body | ({"occurred_at": rfc(at)} if at else {}), 201)


def rules(reasons: list[Any]) -> dict[str, Any]:
    """Return when each rule would allow, by its name."""
    assert all(reason.keys() - {"details"} == {"rule", "reason", "eligible_at"} for reason in reasons)
    return {r["rule"]: r["eligible_at"] and parse(r["eligible_at"]) for r in reasons}


def expired(tact: Api, who: str) -> None:
    """Wait until no reservation of the customer is live."""
    eventually(lambda: tact.customer(who)["contacts"], lambda contacts: contacts == [])


# ---------------------------------------------------------------------- check


def test_results_come_in_the_order_of_the_request(tact: Api, fresh: Fresh, started: datetime) -> None:
    free, capped = fresh(), fresh()
    at = to_ms(started - timedelta(hours=1))
    record(tact, capped, "sms", "service", at)
    body = {"channel": "sms", "category": "service", "customer_ids": [capped, free]}
    said = tact.post("/v1/contacts/check", body)
    assert said.keys() == {"policy_version", "results"}
    no, yes = said["results"]
    assert yes.keys() == {"customer_id", "allowed", "reservation_id", "expires_at"}
    assert (yes["customer_id"], yes["allowed"]) == (free, True)
    assert no.keys() == {"customer_id", "allowed", "reasons", "eligible_at"}
    assert (no["customer_id"], no["allowed"]) == (capped, False)
    assert no["reasons"] == [
        {"rule": "sms-gap", "reason": "contact_policy", "eligible_at": rfc(at + timedelta(hours=4))}
    ]
    assert no["eligible_at"] == rfc(at + timedelta(hours=4))


@pytest.mark.parametrize(
    ("channel", "more", "seconds"),
    [
        ("sms", {}, 1800),
        ("push", {}, 90),
        ("sms", {"reservation_ttl_s": 604_800}, 604_800),
        ("sms", {"reservation_ttl_s": 600.25}, 600.25),
        ("sms", {"reservation_ttl_s": 60}, 60),
        ("sms", {"reservation_ttl_s": None}, 1800),
    ],
)
def test_a_reservation_lives_as_long_as_asked_or_as_its_channel_says(
    tact: Api, fresh: Fresh, channel: str, more: dict[str, Any], seconds: float
) -> None:
    who = fresh()
    (result,) = tact.check(channel, "service", who, **more)
    (contact,) = tact.customer(who)["contacts"]
    assert (contact["state"], contact["contact_id"]) == ("reserved", result["reservation_id"])
    assert parse(result["expires_at"]) - parse(contact["at"]) == timedelta(seconds=seconds)


@pytest.mark.parametrize("ttl", [0, 0.999, -1, 604_800.5, 604_801, 10**30, True, "60", [60]])
def test_a_ttl_out_of_bounds_is_never_clamped(tact: Api, fresh: Fresh, ttl: Any) -> None:
    who = fresh()
    body = {"channel": "sms", "category": "service", "customer_ids": [who], "reservation_ttl_s": ttl}
    refused = tact.call("POST", "/v1/contacts/check", body)
    assert (refused.status, refused.media) == (422, "application/problem+json")
    assert refused.json["errors"][0]["pointer"] == "/reservation_ttl_s"
    assert tact.call("GET", customer(who)).status == 404


def test_an_advisory_check_says_so_and_reserves_nothing(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    body = {"channel": "sms", "category": "service", "customer_ids": [who], "reserve": False}
    for _ in range(2):
        said = tact.post("/v1/contacts/check", body)
        assert said["advisory"] is True
        assert said["results"] == [{"customer_id": who, "allowed": True}]
    assert tact.call("GET", customer(who)).status == 404


@pytest.mark.parametrize("reserve", [True, False])
def test_an_id_that_comes_again_in_one_call_is_a_contact_again(
    tact: Api, fresh: Fresh, *, reserve: bool
) -> None:
    who, other = fresh(), fresh()
    results = tact.check("push", "service", who, other, who, who, who, other, reserve=reserve)
    assert [result["allowed"] for result in results] == [True, True, True, True, False, True]
    assert [result["customer_id"] for result in results] == [who, other, who, who, who, other]


def test_capacity_goes_row_by_row_too(tact: Api, fresh: Fresh, started: datetime) -> None:
    who = fresh()
    results = tact.check("call", "service", who, who, who)
    assert [result["allowed"] for result in results] == [True, True, False]
    assert rules(results[2]["reasons"]) == {"capacity": next_midnight(started)}
    assert parse(results[2]["eligible_at"]) == next_midnight(started)
    (other,) = tact.check("call", "service", fresh())
    assert not other["allowed"]
    for result in results[:2]:
        tact.release(result["reservation_id"])
    assert [result["allowed"] for result in tact.check("call", "service", fresh(), fresh())] == [True, True]


def test_no_time_heals_a_missing_consent(tact: Api, fresh: Fresh) -> None:
    (no,) = tact.check("email", "promotion", fresh())
    assert (no["allowed"], no["eligible_at"]) == (False, None)
    assert no["reasons"] == [
        {"rule": "consent", "reason": "consent", "eligible_at": None, "details": "marketing_email"}
    ]


def test_a_category_that_obeys_no_caps_needs_no_consent_and_passes_even_a_denied_one(
    tact: Api, fresh: Fresh
) -> None:
    who = fresh()
    tact.put(f"{customer(who)}/consent", {"marketing_email": "denied"})
    assert [r["allowed"] for r in tact.check("email", "transactional", who, who)] == [True, True]
    (night,) = tact.check("night", "transactional", who)
    assert night["allowed"]


def test_what_does_not_count_toward_caps_leaves_their_room(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    tact.confirm(tact.reserve("email", "transactional", who))
    assert tact.check("email", "promotion", who)[0]["allowed"]


def test_the_time_of_all_rules_at_once_includes_quiet_hours_after_a_caps_end(
    tact: Api, fresh: Fresh, started: datetime
) -> None:
    who, at = fresh(), to_ms(started - timedelta(minutes=30))
    record(tact, who, "night", "service", at)
    (no,) = tact.check("night", "service", who)
    assert rules(no["reasons"]) == {
        "quiet_hours": quiet_end(started),
        "night-daily": at + timedelta(hours=24),
    }
    # 24 hours after the contact it is between 11 and 13 o'clock, so the next day's quiet hours come on top.
    assert parse(no["eligible_at"]) == quiet_end(started) + timedelta(days=1)


def test_each_offer_has_a_count_of_its_own(tact: Api, fresh: Fresh, started: datetime) -> None:
    who, at = fresh(), to_ms(started - timedelta(hours=5))
    record(tact, who, "sms", "promotion", at, offer="boots")
    (boots,) = tact.check("sms", "promotion", who, offer="boots", reserve=False)
    assert rules(boots["reasons"]) == {"sms-offer": at + timedelta(days=7)}
    assert tact.check("sms", "promotion", who, offer="scarf", reserve=False)[0]["allowed"]


def test_a_live_reservation_counts_and_a_released_one_does_not(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    made = tact.reserve("email", "service", who)
    (no,) = tact.check("email", "service", who)
    assert set(rules(no["reasons"])) == {"email-daily"}
    tact.release(made)
    assert tact.check("email", "service", who)[0]["allowed"]


def test_a_reservation_counts_until_it_expires(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    tact.reserve("email", "service", who, reservation_ttl_s=1)
    assert not tact.check("email", "service", who, reserve=False)[0]["allowed"]
    eventually(
        lambda: tact.check("email", "service", who, reserve=False)[0],
        lambda result: bool(result["allowed"]),
    )


def test_the_category_may_be_left_out_where_the_offer_is_named(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    body = {"channel": "sms", "offer": "tips", "customer_ids": [who]}
    assert tact.post("/v1/contacts/check", body)["results"][0]["allowed"]
    (contact,) = tact.customer(who)["contacts"]
    assert contact["items"] == [{"offer": "tips", "category": "service"}]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"channel": "pigeon"}, "/channel"),
        ({"category": "nonsense"}, "/category"),
        ({"offer": "nonsense"}, "/offer"),
        ({"offer": "tips"}, "/category"),
        ({"category": None}, "/category"),
        ({"category": None, "offer": "nonsense"}, "/offer"),
        ({"customer_ids": []}, "/customer_ids"),
        ({"customer_ids": ["a", ""]}, "/customer_ids/1"),
        ({"customer_ids": ["x"] * 10_001}, "/customer_ids"),
        ({"reserve": "true"}, "/reserve"),
        ({"reserve": 1}, "/reserve"),
    ],
)
def test_what_the_policy_does_not_know_is_422(
    tact: Api, fresh: Fresh, change: dict[str, Any], pointer: str
) -> None:
    who = fresh()
    body = {"channel": "sms", "category": "promotion", "customer_ids": [who]} | change
    refused = tact.call("POST", "/v1/contacts/check", body)
    assert (refused.status, refused.media) == (422, "application/problem+json")
    assert refused.json["errors"][0]["pointer"] == pointer
    assert tact.call("GET", customer(who)).status == 404


def test_a_check_takes_ten_thousand_ids(tact: Api, fresh: Fresh) -> None:
    ids = [fresh("bulk") for _ in range(10_000)]
    results = tact.check("post", "service", *ids, reserve=False)
    assert [result["customer_id"] for result in results] == ids
    assert all(result["allowed"] for result in results)


# ---------------------------------------------------------------------- idempotent checks


def test_a_retried_check_makes_no_second_reservation(tact: Api, fresh: Fresh) -> None:
    who, other, key = fresh(), fresh(), fresh("key")
    body = {"channel": "push", "category": "service", "customer_ids": [who, other, who]}
    first = tact.call("POST", "/v1/contacts/check", body, idempotency_key=key)
    again = tact.call("POST", "/v1/contacts/check", body, idempotency_key=key)
    assert "idempotent-replayed" not in first.headers
    assert (again.status, again.raw, again.headers["idempotent-replayed"]) == (200, first.raw, "true")
    assert len(tact.customer(who)["contacts"]) == 2
    changed = body | {"customer_ids": [who]}
    assert tact.call("POST", "/v1/contacts/check", changed, idempotency_key=key).status == 422
    assert len(tact.customer(who)["contacts"]) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "caf\xe9"])
@pytest.mark.parametrize("reserve", [True, False])
def test_a_key_that_cannot_be_one_is_422(tact: Api, fresh: Fresh, key: str, *, reserve: bool) -> None:
    who = fresh()
    body = {"channel": "push", "category": "service", "customer_ids": [who], "reserve": reserve}
    assert tact.call("POST", "/v1/contacts/check", body, idempotency_key=key).status == 422
    assert tact.call("GET", customer(who)).status == 404


@pytest.mark.parametrize("key", ["k", "x" * 200, " !~"])
def test_a_key_is_any_printable_ascii(tact: Api, fresh: Fresh, key: str) -> None:
    body = {"customer_id": fresh(), "placement": "home"}
    tact.post("/v1/decide", body, idempotency_key=fresh() + key)


def test_a_retried_stream_makes_no_second_reservation(tact: Api, fresh: Fresh) -> None:
    who, key = fresh(), fresh("key")
    rows = [{"customer_id": who, "channel": "push", "category": "service"}] * 2
    first = tact.stream("/v1/contacts/check", rows, idempotency_key=key)
    again = tact.stream("/v1/contacts/check", rows, idempotency_key=key)
    assert again.rows == first.rows
    assert len(tact.customer(who)["contacts"]) == 2


def test_a_streams_key_with_another_row_in_its_place_is_an_error_there(tact: Api, fresh: Fresh) -> None:
    who, key = fresh(), fresh("key")
    row = {"customer_id": who, "channel": "push", "category": "service"}
    tact.stream("/v1/contacts/check", [row], idempotency_key=key)
    (said,) = tact.stream("/v1/contacts/check", [row | {"channel": "post"}], idempotency_key=key).rows
    assert said.keys() == {"customer_id", "error"}
    assert len(tact.customer(who)["contacts"]) == 1


# ---------------------------------------------------------------------- streamed checks


def test_a_stream_answers_row_by_row_and_bad_rows_in_their_place(tact: Api, fresh: Fresh) -> None:
    one, two = fresh(), fresh()
    answer = tact.stream(
        "/v1/contacts/check",
        [
            {"customer_id": one, "channel": "sms", "category": "service"},
            b"{not json",
            {"customer_id": two, "channel": "pigeon", "category": "service"},
            b"",
            {"customer_id": one, "channel": "sms", "category": "service"},
            [1],
            b'{"customer_id": "' + b"x" * 65_536 + b'"}',
            {"customer_id": two, "channel": "sms", "offer": "tips"},
            {"customer_id": two, "channel": "sms", "category": "service", "reserve": False},
            b'{"customer_id": "a", "customer_id": "b", "channel": "sms", "category": "service"}',
        ],
    )
    assert (answer.status, answer.media) == (200, "application/x-ndjson")
    rows = answer.rows
    assert [row.get("customer_id") for row in rows] == [one, None, two, one, None, None, two, two, None]
    assert [row.get("allowed") for row in rows] == [True, None, None, False, None, None, True, None, None]
    for row in rows:
        if "allowed" not in row:
            assert row.keys() == {"customer_id", "error"}
            assert row["error"]
    assert rows[0].keys() == {"customer_id", "allowed", "reservation_id", "expires_at"}
    assert len(tact.customer(two)["contacts"]) == 1


def test_a_streams_query_holds_for_all_rows(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    row = {"customer_id": who, "channel": "sms", "category": "service"}
    advisory = tact.stream("/v1/contacts/check?reserve=false", [row, row])
    assert advisory.rows[0] == {"customer_id": who, "allowed": True, "advisory": True}
    assert advisory.rows[1]["allowed"] is False
    assert tact.call("GET", customer(who)).status == 404
    (made,) = tact.stream("/v1/contacts/check?reservation_ttl_s=12.5", [row]).rows
    (contact,) = tact.customer(who)["contacts"]
    assert parse(made["expires_at"]) - parse(contact["at"]) == timedelta(seconds=12.5)


@pytest.mark.parametrize(
    "query",
    [
        *("reserve=maybe", "reserve=", "reserve=true&reserve=true", "reservation_ttl_s=0", "x=1"),
        *("reservation_ttl_s=abc", "reservation_ttl_s=NaN", "reservation_ttl_s=1e999", "reservation_ttl_s="),
        *("reservation_ttl_s=604801", "reservation_ttl_s=true", "reserve"),
    ],
)
def test_a_stream_with_a_bad_query_is_422(tact: Api, fresh: Fresh, query: str) -> None:
    row = {"customer_id": fresh(), "channel": "sms", "category": "service"}
    refused = tact.stream(f"/v1/contacts/check?{query}", [row])
    assert (refused.status, refused.media) == (422, "application/problem+json")


def test_a_long_packed_stream_keeps_its_order(tact: Api, fresh: Fresh) -> None:
    ids = [fresh("row") for _ in range(1_500)]
    rows = [{"customer_id": who, "channel": "post", "category": "service"} for who in ids]
    answer = tact.stream("/v1/contacts/check?reserve=false", rows, packed=True)
    assert [row["customer_id"] for row in answer.rows] == ids


def test_an_empty_stream_has_an_empty_answer(tact: Api) -> None:
    answer = tact.stream("/v1/contacts/check", [])
    assert (answer.status, answer.raw, answer.media) == (200, b"", "application/x-ndjson")


# ---------------------------------------------------------------------- confirm and release


def test_a_confirm_is_the_contact_and_twice_is_the_same_answer(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    made = tact.reserve("sms", "service", who)
    first = tact.confirm(made)
    assert first.status == 200
    assert first.json.keys() == {"reservation_id", "state", "contact_id"}
    assert (first.json["reservation_id"], first.json["state"]) == (made, "confirmed")
    assert tact.confirm(made).raw == first.raw
    (contact,) = tact.customer(who)["contacts"]
    assert (contact["state"], contact["contact_id"]) == ("confirmed", first.json["contact_id"])


def test_releasing_after_a_confirm_is_409(tact: Api, fresh: Fresh) -> None:
    made = tact.reserve("sms", "service", fresh())
    tact.confirm(made)
    refused = tact.release(made)
    assert (refused.status, refused.media) == (409, "application/problem+json")
    assert refused.json["reasons"] == []
    assert tact.confirm(made).status == 200


def test_confirming_after_a_release_is_409(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    made = tact.reserve("sms", "service", who)
    released = tact.release(made)
    assert released.json == {"reservation_id": made, "state": "released"}
    assert tact.release(made).raw == released.raw
    refused = tact.confirm(made)
    assert (refused.status, refused.media) == (409, "application/problem+json")
    assert refused.json["reasons"] == []
    assert tact.customer(who)["contacts"] == []


@pytest.mark.parametrize("unknown", [UNKNOWN, "short", "%2F", "caf%C3%A9", "x" * 128])
@pytest.mark.parametrize("end", ["confirm", "release"])
def test_an_unknown_reservation_is_404(tact: Api, unknown: str, end: str) -> None:
    refused = tact.call("POST", f"/v1/contacts/{unknown}/{end}")
    assert (refused.status, refused.media) == (404, "application/problem+json")


def test_a_confirm_judges_consent_again(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    made = tact.reserve("email", "service", who)
    tact.put(f"{customer(who)}/consent", {"marketing_email": "denied"})
    refused = tact.confirm(made)
    assert refused.status == 409
    assert refused.json["reasons"] == [
        {"rule": "consent", "reason": "consent", "eligible_at": None, "details": "marketing_email"}
    ]
    tact.grant(who)
    assert tact.confirm(made).status == 200


def test_a_confirm_judges_suppressions_again(tact: Api, fresh: Fresh, started: datetime) -> None:
    who, at = fresh(), to_ms(started)
    made = tact.reserve("post", "promotion", who)
    tact.event(who, "complaint", occurred_at=rfc(at))
    eventually(
        lambda: tact.check("post", "promotion", who, reserve=False)[0], lambda result: not result["allowed"]
    )
    refused = tact.confirm(made)
    assert refused.status == 409
    assert rules(refused.json["reasons"]) == {"after-complaint": at + timedelta(days=30)}


def test_the_confirm_of_a_live_reservation_asks_no_cap(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    made = tact.reserve("email", "service", who)
    assert record(tact, who, "email", "service")["rules"] == ["email-daily"]
    assert tact.confirm(made).status == 200


def test_a_late_confirm_is_judged_as_new_and_confirmed(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    made = tact.reserve("email", "service", who, reservation_ttl_s=1)
    expired(tact, who)
    assert tact.confirm(made).json["state"] == "confirmed"
    assert not tact.check("email", "service", who)[0]["allowed"]


def test_a_late_confirm_that_no_longer_fits_is_409_with_the_reasons_of_a_check(
    tact: Api, fresh: Fresh, started: datetime
) -> None:
    who, at = fresh(), to_ms(started)
    tact.grant(who)
    made = tact.reserve("email", "service", who, reservation_ttl_s=1)
    expired(tact, who)
    record(tact, who, "email", "service", at)
    refused = tact.confirm(made)
    assert refused.status == 409
    assert rules(refused.json["reasons"]) == {"email-daily": at + timedelta(hours=24)}
    (one,) = tact.post("/v1/contacts/confirm", {"reservation_ids": [made]})["results"]
    assert one.keys() == {"reservation_id", "state", "detail", "reasons"}
    assert (one["state"], one["reasons"]) == ("refused", refused.json["reasons"])


def test_a_late_confirm_of_several_items_is_refused_whole(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    answer = tact.decide(who, "flash_sale")
    assert {offer["offer"] for offer in answer["offers"]} == {"boots", "tips"}
    expired(tact, who)
    record(tact, who, "flash", "promotion")
    refused = tact.confirm(answer["reservation"]["id"])
    assert refused.status == 409
    assert set(rules(refused.json["reasons"])) == {"flash-promo"}
    assert len(tact.customer(who)["contacts"]) == 1


def test_many_are_confirmed_in_order_with_failures_in_their_place(tact: Api, fresh: Fresh) -> None:
    who, denied = fresh(), fresh()
    tact.grant(denied)
    good, released = tact.reserve("push", "service", who), tact.reserve("push", "service", who)
    refused = tact.reserve("email", "service", denied)
    tact.release(released)
    tact.put(f"{customer(denied)}/consent", {"marketing_email": "denied"})
    ids = [released, good, UNKNOWN, "nonsense", refused, good]
    reply = tact.call("POST", "/v1/contacts/confirm", {"reservation_ids": ids})
    assert (reply.status, reply.json.keys()) == (200, {"results"})
    results = reply.json["results"]
    assert [result["reservation_id"] for result in results] == ids
    states = ["released", "confirmed", "unknown", "unknown", "refused", "confirmed"]
    assert [result["state"] for result in results] == states
    for result in results:
        good_keys, bad_keys = {"contact_id"}, {"detail", "reasons"}
        assert result.keys() - {"reservation_id", "state"} == (
            good_keys if result["state"] == "confirmed" else bad_keys
        )
    assert [reason["rule"] for reason in results[4]["reasons"]] == ["consent"]


# ---------------------------------------------------------------------- record


def test_a_contact_from_elsewhere_counts_at_its_own_time(tact: Api, fresh: Fresh, started: datetime) -> None:
    who, at = fresh(), to_ms(started - timedelta(hours=3))
    first = record(tact, who, "sms", "promotion", at, offer="boots", contact_id=who + "/x")
    assert first == {"contact_id": who + "/x", "overrun": False, "rules": []}
    (contact,) = tact.customer(who)["contacts"]
    assert contact == {
        "contact_id": who + "/x",
        "at": rfc(at),
        "channel": "sms",
        "items": [{"offer": "boots", "category": "promotion"}],
        "state": "confirmed",
    }


def test_the_same_contact_id_counts_once(tact: Api, fresh: Fresh, started: datetime) -> None:
    who = fresh()
    answers = [record(tact, who, "sms", "service", started, contact_id="m-1") for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert len(tact.customer(who)["contacts"]) == 1


def test_an_overrun_counts_and_names_the_rules(tact: Api, fresh: Fresh, started: datetime) -> None:
    who = fresh()
    record(tact, who, "sms", "promotion", started - timedelta(hours=1), offer="boots")
    said = record(tact, who, "sms", "promotion", started, offer="boots")
    assert said["overrun"] is True
    assert set(said["rules"]) == {"sms-gap", "sms-offer"}
    assert len(tact.customer(who)["contacts"]) == 2


def test_without_a_time_it_happened_now(tact: Api, fresh: Fresh, started: datetime) -> None:
    who = fresh()
    record(tact, who, "post", "service")
    (contact,) = tact.customer(who)["contacts"]
    assert to_ms(started) <= parse(contact["at"]) < started + timedelta(minutes=10)


@pytest.mark.parametrize(
    "at",
    [
        *("2026-11-21T10:00:00", "2026-11-21T10:00:00+00:00", "2026-11-21", "yesterday", ""),
        *("2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2199-01-01T00:00:00Z", 1763719200, True),
    ],
)
def test_a_time_that_cannot_be_is_422_and_counts_nothing(tact: Api, fresh: Fresh, at: Any) -> None:
    who = fresh()
    body = {"customer_id": who, "channel": "sms", "category": "service", "occurred_at": at}
    refused = tact.call("POST", "/v1/contacts", body)
    assert (refused.status, refused.media) == (422, "application/problem+json")
    assert refused.json["errors"][0]["pointer"] == "/occurred_at"
    assert tact.call("GET", customer(who)).status == 404


def test_contacts_are_listed_newest_first(tact: Api, fresh: Fresh, started: datetime) -> None:
    who = fresh()
    for hours in (5, 1, 3):
        record(tact, who, "post", "service", started - timedelta(hours=hours), contact_id=f"h{hours}")
    live = tact.reserve("post", "service", who)
    listed = [contact["contact_id"] for contact in tact.customer(who)["contacts"]]
    assert listed == [live, "h1", "h3", "h5"]
