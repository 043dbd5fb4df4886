"""`POST /v1/decide` and the records that it leaves: contract sections 2 and 5."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.contract.client import Api, customer, eventually, parse, rfc
from tests.contract.conftest import Fresh
from tests.contract.shop import next_midnight, quiet_end

KEYS = {
    *("decision_id", "customer_id", "placement", "channel", "action", "reason", "offers", "question"),
    *("reservation", "suppressed", "policy_version", "model_version", "features_as_of", "took_ms"),
}
OFFER_KEYS = {
    *("offer", "rank", "category", "content", "propensity", "value", "priority", "selection_probability"),
}


def recorded(
    tact: Api, who: str, channel: str, at: datetime, category: str = "promotion", **more: Any
) -> Any:
    body = {"customer_id": who, "channel": channel, "category": category, "occurred_at": rfc(at)}
    return tact.post("/v1/contacts", body | more, 201)


def test_an_answer_has_every_key_and_nothing_else(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    answer = tact.decide(who, "home")
    assert answer.keys() == KEYS
    assert (answer["customer_id"], answer["placement"], answer["channel"]) == (who, "home", "web")
    assert (answer["action"], answer["reason"], answer["question"]) == ("offer", None, None)
    assert answer["policy_version"].startswith("sha256:")
    assert answer["took_ms"] > 0
    assert [offer["rank"] for offer in answer["offers"]] == [1, 2]
    for offer in answer["offers"]:
        assert offer.keys() == OFFER_KEYS
        assert 0 < offer["selection_probability"] <= 1
        assert 0 < offer["propensity"] < 1


def test_content_value_and_category_are_the_offers_own(tact: Api, fresh: Fresh) -> None:
    (offer,) = tact.decide(fresh(), "till_once")["offers"]
    assert (offer["offer"], offer["category"], offer["value"]) == ("boots", "promotion", 10)
    assert offer["content"] == {"title": "Warm feet", "url": "/boots"}
    assert offer["selection_probability"] == 1


def test_explain_is_the_only_thing_that_adds_a_trace(tact: Api, fresh: Fresh) -> None:
    assert tact.decide(fresh(), "home", explain=True).keys() == KEYS | {"trace"}


@pytest.mark.parametrize(("limit", "slots"), [(1, 1), (2, 2), (100, 2)])
def test_the_limit_is_capped_by_the_slots(tact: Api, fresh: Fresh, limit: int, slots: int) -> None:
    assert len(tact.decide(fresh(), "home", limit=limit)["offers"]) == slots


# ---------------------------------------------------------------------- the stages


def none(answer: Any) -> Any:
    """Return the reason of an answer that keeps silent."""
    assert (answer["action"], answer["offers"], answer["reservation"]) == ("none", [], None)
    return answer["reason"]


def only(answer: Any) -> Any:
    """Return the one rule that stood in the way."""
    (rule,) = answer["suppressed"]
    assert rule.keys() == {"rule", "offers", "eligible_at"}
    return rule


@pytest.mark.parametrize("placement", ["empty", "attic"])
def test_nothing_valid_is_no_candidates(tact: Api, fresh: Fresh, placement: str) -> None:
    answer = tact.decide(fresh(), placement)
    assert (none(answer), answer["suppressed"]) == ("no_candidates", [])


def test_a_condition_that_does_not_hold_is_not_eligible(tact: Api, fresh: Fresh) -> None:
    answer = tact.decide(fresh(), "members", explain=True)
    assert none(answer) == "not_eligible"
    (fate,) = answer["trace"]
    assert (fate["stage"], fate["verdict"], fate["reason"]) == ("not_eligible", "dropped", "not_eligible")


def test_a_condition_sees_the_features(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    for _ in range(3):
        tact.event(who, "page_view")
    eventually(lambda: tact.decide(who, "members"), lambda answer: answer["action"] == "offer")


def test_unknown_consent_is_a_no_outbound(tact: Api, fresh: Fresh) -> None:
    answer = tact.decide(fresh(), "newsletter", explain=True)
    assert none(answer) == "consent"
    assert only(answer) == {"rule": "consent", "offers": 3, "eligible_at": None}
    (reason,) = answer["trace"][0]["details"]["rules"]
    assert reason == {
        "rule": "consent",
        "reason": "consent",
        "eligible_at": None,
        "details": "marketing_email",
    }


def test_inbound_only_a_denied_consent_stops(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    assert tact.decide(who, "app_home")["action"] == "offer"
    tact.put(f"{customer(who)}/consent", {"marketing_app": "denied"})
    assert none(tact.decide(who, "app_home")) == "consent"


def test_quiet_hours_say_when_they_end(tact: Api, fresh: Fresh, started: datetime) -> None:
    answer = tact.decide(fresh(), "nightly")
    assert none(answer) == "quiet_hours"
    assert parse(only(answer)["eligible_at"]) == quiet_end(started)


def test_two_rejects_suppress_that_offer_alone(tact: Api, fresh: Fresh, started: datetime) -> None:
    who, at = fresh(), rfc(started)
    for _ in range(2):
        tact.event(who, "reject", offer="boots", occurred_at=at)
    answer = eventually(
        lambda: tact.decide(who, "text", preview=True), lambda answer: answer["action"] == "none"
    )
    assert none(answer) == "suppressed"
    assert only(answer)["rule"] == "not-interested"
    assert parse(only(answer)["eligible_at"]) == parse(at) + timedelta(days=60)
    assert "boots" not in [offer["offer"] for offer in tact.decide(who, "home", limit=2)["offers"]]


def test_gaps_and_caps_are_contact_policy_and_every_rule_is_reported(
    tact: Api, fresh: Fresh, started: datetime
) -> None:
    who, at = fresh(), started - timedelta(hours=1)
    recorded(tact, who, "sms", at, offer="boots")
    answer = tact.decide(who, "text")
    assert none(answer) == "contact_policy"
    ends = {rule["rule"]: parse(rule["eligible_at"]) for rule in answer["suppressed"]}
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    assert ends == {"sms-gap": at + timedelta(hours=4), "sms-offer": at + timedelta(days=7)}


def test_a_spent_budget_is_budget_and_no_time_heals_a_total_one(tact: Api, fresh: Fresh) -> None:
    assert tact.decide(fresh(), "pricey")["action"] == "offer"
    answer = tact.decide(fresh(), "pricey")
    assert none(answer) == "budget"
    assert only(answer) == {"rule": "budget", "offers": 1, "eligible_at": None}


def test_a_full_channel_is_capacity_until_the_next_day_of_the_policys_zone(
    tact: Api, fresh: Fresh, started: datetime
) -> None:
    first = tact.decide(fresh(), "visits")
    assert first["action"] == "offer"
    answer = tact.decide(fresh(), "visits")
    assert none(answer) == "capacity"
    assert parse(only(answer)["eligible_at"]) == next_midnight(started)
    assert tact.release(first["reservation"]["id"]).status == 200
    assert tact.decide(fresh(), "visits")["action"] == "offer"


def test_a_priority_below_the_threshold_is_silence(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    answer = tact.decide(who, "dull_mail", explain=True)
    assert none(answer) == "below_threshold"
    details = answer["trace"][0]["details"]
    assert details["priority"] == pytest.approx(-0.002)
    assert details["threshold"] == 0


def test_for_none_the_reason_is_the_stage_of_the_candidate_that_came_furthest(
    tact: Api, fresh: Fresh, started: datetime
) -> None:
    """Boots and scarf are stopped by the promotion's cap, tips alone by the channel's: all at contact_policy."""
    who = fresh()
    tact.grant(who)
    tact.put(f"{customer(who)}/profile", {"owned": ["scarf"]})
    recorded(tact, who, "email", started - timedelta(minutes=1))
    answer = tact.decide(who, "newsletter", explain=True)
    assert none(answer) == "contact_policy"
    stages = {fate["offer"]: fate["stage"] for fate in answer["trace"]}
    assert stages == {"boots": "contact_policy", "scarf": "not_eligible", "tips": "contact_policy"}
    counts = {rule["rule"]: rule["offers"] for rule in answer["suppressed"]}
    assert counts == {"email-daily": 2, "email-promo": 1}


# ---------------------------------------------------------------------- exclude and explain


def test_the_trace_names_every_offer_with_its_verdict(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.put(f"{customer(who)}/profile", {"owned": ["scarf"]})
    answer = tact.decide(who, "home", limit=1, exclude=["gloves", "no-such-offer"], explain=True)
    fates = {fate["offer"]: fate for fate in answer["trace"]}
    assert fates.keys() == {"boots", "scarf", "gloves", "tips"}
    assert all(fate.keys() == {"offer", "stage", "verdict", "reason", "details"} for fate in fates.values())
    chosen = answer["offers"][0]["offer"]
    other = ({"boots", "tips"} - {chosen}).pop()
    assert {name: fate["verdict"] for name, fate in fates.items()} == {
        chosen: "chosen",
        other: "outranked",
        "scarf": "dropped",
        "gloves": "dropped",
    }
    assert (fates["gloves"]["stage"], fates["gloves"]["reason"]) == ("no_candidates", "excluded")
    assert fates["scarf"]["stage"] == "not_eligible"
    factors = fates[chosen]["details"]
    product = factors["propensity"] * factors["value"] * factors["weight"] - factors["channel_cost"]
    assert factors["priority"] == pytest.approx(product)


def test_the_first_ranks_probabilities_add_up_to_one(tact: Api, fresh: Fresh) -> None:
    answer = tact.decide(fresh(), "home", limit=1, explain=True)
    chances = [fate["details"]["selection_probability"] for fate in answer["trace"]]
    assert sum(chances) == pytest.approx(1)
    assert len(chances) == 4


def test_excluding_everything_leaves_no_candidates(tact: Api, fresh: Fresh) -> None:
    assert none(tact.decide(fresh(), "till_once", exclude=["boots"])) == "no_candidates"


# ---------------------------------------------------------------------- reservations


def test_a_channel_that_counts_no_contacts_reserves_none(tact: Api, fresh: Fresh) -> None:
    assert tact.decide(fresh(), "home")["reservation"] is None


def test_a_decision_that_counts_is_one_contact_however_many_offers(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    answer = tact.decide(who, "newsletter")
    assert {offer["offer"] for offer in answer["offers"]} == {"boots", "scarf", "tips"}
    assert answer["reservation"].keys() == {"id", "state", "expires_at"}
    assert answer["reservation"]["state"] == "reserved"
    (contact,) = tact.customer(who)["contacts"]
    assert len(contact["items"]) == 3
    made = tact.get(f"/v1/decisions/{answer['decision_id']}")["decided_at"]
    assert parse(answer["reservation"]["expires_at"]) - parse(made) == timedelta(minutes=30)
    assert tact.confirm(answer["reservation"]["id"]).json["state"] == "confirmed"


def test_an_inbound_contact_counts_where_a_rule_names_the_channel(
    tact: Api, fresh: Fresh, started: datetime
) -> None:
    who = fresh()
    first = tact.decide(who, "till_once")
    assert first["reservation"]["state"] == "reserved"
    second = tact.decide(who, "till_once")
    assert none(second) == "contact_policy"
    assert only(second)["rule"] == "till-once"
    assert parse(only(second)["eligible_at"]) == next_midnight(started)


def test_an_impression_confirms_an_inbound_reservation(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    decision_id = tact.decide(who, "till_once")["decision_id"]
    tact.event(who, "impression", decision_id=decision_id)
    record = eventually(
        lambda: tact.get(f"/v1/decisions/{decision_id}"),
        lambda record: [outcome["type"] for outcome in record["outcomes"]] == ["impression"],
    )
    assert record["reservation"]["state"] == "confirmed"


def test_an_impression_of_an_anonymous_decision_confirms_it_after_the_merge_too(
    tact: Api, fresh: Fresh
) -> None:
    who, cookie = fresh(), fresh("cookie")
    body = {"identities": {"cookie": cookie}, "placement": "till_once"}
    decision_id = tact.post("/v1/decide", body)["decision_id"]
    tact.post("/v1/identities/link", {"customer_id": who, "kind": "cookie", "value": cookie})
    tact.event(who, "impression", decision_id=decision_id)
    eventually(
        lambda: tact.customer(who)["contacts"],
        lambda contacts: [contact["state"] for contact in contacts] == ["confirmed"],
    )


# ---------------------------------------------------------------------- preview


def test_a_preview_reserves_counts_and_logs_nothing(tact: Api, fresh: Fresh) -> None:
    who, key = fresh(), fresh("key")
    body = {"customer_id": who, "placement": "till_once", "preview": True}
    first = tact.post("/v1/decide", body, idempotency_key=key)
    assert (first["action"], first["reservation"]) == ("offer", None)
    again = tact.call("POST", "/v1/decide", body, idempotency_key=key)
    assert "idempotent-replayed" not in again.headers
    assert again.json["action"] == "offer"
    assert tact.call("GET", f"/v1/decisions/{first['decision_id']}").status == 404
    assert tact.get(f"{customer(who)}/decisions") == {"decisions": []}
    assert tact.call("GET", customer(who)).status == 404


# ---------------------------------------------------------------------- records


def test_the_record_says_what_was_asked_what_came_and_why(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    body = {"limit": 1, "context": {"device": "mobile", "tags": ["a"]}, "exclude": ["gloves"]}
    answer = tact.decide(who, "home", explain=True, **body)
    record = tact.get(f"/v1/decisions/{answer['decision_id']}")
    assert record["request"] == {"placement": "home"} | body
    assert record["candidates"] == answer["trace"]
    for key in KEYS - {"took_ms", "suppressed"}:
        assert record[key] == answer[key], key


def test_a_customers_decisions_come_newest_first(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    made = [tact.decide(who, "home")["decision_id"] for _ in range(3)]
    listed = tact.get(f"{customer(who)}/decisions")
    assert listed.keys() == {"decisions"}
    assert [record["decision_id"] for record in listed["decisions"]] == made[::-1]
    latest = tact.get(f"{customer(who)}/decisions?limit=1")["decisions"]
    assert [record["decision_id"] for record in latest] == made[-1:]


def test_an_unknown_decision_is_404(tact: Api) -> None:
    for unknown in ("nope", "A" * 28):
        assert tact.call("GET", f"/v1/decisions/{unknown}").status == 404


def test_features_as_of_is_null_until_the_first_event(tact: Api, fresh: Fresh, started: datetime) -> None:
    who = fresh()
    assert tact.decide(who, "home")["features_as_of"] is None
    at = rfc(started - timedelta(hours=1))
    tact.event(who, "page_view", occurred_at=at)
    eventually(lambda: tact.decide(who, "home")["features_as_of"], lambda as_of: as_of == at)


# ---------------------------------------------------------------------- identities


def test_an_unseen_identity_gets_an_id_derived_from_it(tact: Api, fresh: Fresh) -> None:
    body = {"identities": {"cookie": fresh("cookie")}, "placement": "home"}
    first, second = tact.post("/v1/decide", body), tact.post("/v1/decide", body)
    derived = first["customer_id"]
    assert derived == second["customer_id"]
    listed = tact.get(f"{customer(derived)}/decisions")["decisions"]
    assert {record["decision_id"] for record in listed} == {first["decision_id"], second["decision_id"]}


def test_a_linked_identity_is_its_customer(tact: Api, fresh: Fresh) -> None:
    who, cookie = fresh(), fresh("cookie")
    body = {"identities": {"cookie": cookie}, "placement": "till_once"}
    anonymous = tact.post("/v1/decide", body)
    assert anonymous["action"] == "offer"
    tact.post("/v1/identities/link", {"customer_id": who, "kind": "cookie", "value": cookie})
    after = tact.post("/v1/decide", body)
    assert (after["customer_id"], none(after)) == (who, "contact_policy")
    listed = tact.get(f"{customer(who)}/decisions")["decisions"]
    assert {record["decision_id"] for record in listed} == {
        anonymous["decision_id"],
        after["decision_id"],
    }
    assert tact.confirm(anonymous["reservation"]["id"]).json["state"] == "confirmed"


# ---------------------------------------------------------------------- idempotency


@pytest.mark.parametrize("placement", ["home", "till_once", "empty", "newsletter"])
def test_a_retry_returns_the_first_answer_whatever_it_was(tact: Api, fresh: Fresh, placement: str) -> None:
    who, key = fresh(), fresh("key")
    body = {"customer_id": who, "placement": placement}
    first = tact.call("POST", "/v1/decide", body, idempotency_key=key)
    again = tact.call("POST", "/v1/decide", body, idempotency_key=key)
    assert "idempotent-replayed" not in first.headers
    assert (again.status, again.raw) == (200, first.raw)
    assert again.headers["idempotent-replayed"] == "true"
    assert len(tact.get(f"{customer(who)}/decisions")["decisions"]) == 1


def test_the_same_key_with_another_body_is_422_and_decides_nothing(tact: Api, fresh: Fresh) -> None:
    who, other, key = fresh(), fresh(), fresh("key")
    tact.post("/v1/decide", {"customer_id": who, "placement": "till_once"}, idempotency_key=key)
    body = {"customer_id": who, "placement": "home"}
    assert tact.call("POST", "/v1/decide", body, idempotency_key=key).status == 422
    body = {"customer_id": other, "placement": "till_once"}
    assert tact.call("POST", "/v1/decide", body, idempotency_key=key).status == 422
    assert tact.get(f"{customer(other)}/decisions") == {"decisions": []}
    assert len(tact.get(f"{customer(who)}/decisions")["decisions"]) == 1


def test_a_key_holds_for_one_route(tact: Api, fresh: Fresh) -> None:
    who, key = fresh(), fresh("key")
    tact.post("/v1/decide", {"customer_id": who, "placement": "home"}, idempotency_key=key)
    body = {"channel": "sms", "category": "service", "customer_ids": [who]}
    assert tact.call("POST", "/v1/contacts/check", body, idempotency_key=key).status == 200
