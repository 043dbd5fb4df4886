"""Customers over HTTP: what is known, consent, profile, identities, and being forgotten."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.contract.client import Api, customer, eventually, rfc
from tests.contract.conftest import Fresh

KEYS = {
    *("customer_id", "aliases", "timezone", "profile", "consent", "features", "contacts"),
    *("answers", "cases", "groups", "as_of"),
}
DEFAULTS: dict[str, Any] = {"owned": [], "tier": "basic", "visits": None, "vip": False}


def link(tact: Api, who: str, value: str, kind: str = "cookie") -> Any:
    """Link an alias."""
    return tact.post("/v1/identities/link", {"customer_id": who, "kind": kind, "value": value})


def refused_by(tact: Api, who: str, channel: str, category: str = "service") -> list[str]:
    """Return the rules that stop a message now."""
    (result,) = tact.check(channel, category, who, reserve=False)
    return [reason["rule"] for reason in result.get("reasons", [])]


def test_an_unknown_customer_is_404_and_decide_and_check_treat_it_as_empty(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    assert tact.call("GET", customer(who)).status == 404
    assert tact.decide(who, "home")["action"] == "offer"
    assert tact.check("post", "service", who, reserve=False)[0]["allowed"]
    assert tact.get(f"{customer(fresh())}/decisions") == {"decisions": []}
    assert tact.call("GET", customer(who)).status == 404


def test_a_customer_has_every_key_and_nothing_else(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    known = tact.customer(who)
    assert known.keys() == KEYS
    assert known["customer_id"] == who
    assert (known["aliases"], known["contacts"], known["answers"], known["cases"]) == ([], [], {}, [])
    assert (known["profile"], known["consent"]) == (DEFAULTS, {"marketing_email": "granted"})
    assert known["groups"] == {"control": False, "random": False}
    assert (known["timezone"], known["as_of"]) == (None, None)
    assert known["features"] == {
        "views_7d": {"value": 0, "definition": "count of page_view within 7d"},
        "last_category": {"value": None, "definition": known["features"]["last_category"]["definition"]},
    }


def test_reservations_create_a_customer(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.reserve("post", "service", who)
    assert tact.customer(who)["customer_id"] == who


@pytest.mark.parametrize(
    "who",
    [
        *(
            "a/b",
            "/",
            "é",
            "日本語",
            "👟",
            "100%",
            "%2F",
            "a b",
            " lead",
            "q?x=1",
            "h#i",
            "a;b",
            "..",
            "a+b",
            "~",
            "'\"",
        ),
        *("x" * 128, "é" * 128, "\u200b", "confirm", "a\\b", "a&b=c", "\U0010ffff"),
    ],
)
def test_any_other_character_works_in_an_id(tact: Api, who: str) -> None:
    tact.grant(who)
    assert tact.customer(who)["customer_id"] == who
    assert tact.put(f"{customer(who)}/profile", {"tier": "gold"})["customer_id"] == who
    made = tact.decide(who, "home")["decision_id"]
    assert tact.get(f"{customer(who)}/decisions")["decisions"][0]["decision_id"] == made
    assert tact.check("post", "service", who, reserve=False)[0] == {"customer_id": who, "allowed": True}
    assert tact.call("DELETE", customer(who)).status == 202


@pytest.mark.parametrize(
    "path", ["%20", "%20%09", "%00", "a%0Ab", "%7F", "%C2%85", "x" * 129, "%FF", "%C3", "%ED%A0%80"]
)
@pytest.mark.parametrize("rest", ["", "/decisions", "/consent", "/profile"])
def test_what_cannot_be_an_id_is_422(tact: Api, path: str, rest: str) -> None:
    body = {"consent": {"marketing_email": "granted"}, "profile": {"tier": "gold"}}.get(rest[1:])
    refused = tact.call("PUT" if body else "GET", f"/v1/customers/{path}{rest}", body)
    assert (refused.status, refused.media) == (422, "application/problem+json")
    assert refused.json["errors"][0]["pointer"] == "/customer_id"


# ---------------------------------------------------------------------- consent


def test_consent_by_put_holds_for_the_very_next_check_and_answers_as_get_does(
    tact: Api, fresh: Fresh
) -> None:
    who = fresh()
    assert tact.put(f"{customer(who)}/consent", {"marketing_email": "granted"}) == tact.customer(who)
    assert refused_by(tact, who, "email") == []
    tact.put(f"{customer(who)}/consent", {"marketing_email": "denied"})
    assert refused_by(tact, who, "email") == ["consent"]
    known = tact.put(f"{customer(who)}/consent", {"marketing_email": "granted", "marketing_app": "denied"})
    assert known["consent"] == {"marketing_email": "granted", "marketing_app": "denied"}
    assert refused_by(tact, who, "email") == []


@pytest.mark.parametrize(
    "body",
    [{}, [], "granted", {"marketing_email": "maybe"}, {"marketing_email": None}, {"marketing_email": True},
     {"": "granted"}, {"a\x00": "granted"}, {"marketing_email": "granted", "other": "x"}],
)  # fmt: skip
def test_a_consent_that_cannot_be_is_422_and_changes_nothing(tact: Api, fresh: Fresh, body: Any) -> None:
    who = fresh()
    refused = tact.call("PUT", f"{customer(who)}/consent", body)
    assert (refused.status, refused.media) == (422, "application/problem+json")
    assert tact.call("GET", customer(who)).status == 404


# ---------------------------------------------------------------------- profile


def test_a_profile_replaces_the_named_fields_alone_and_null_gives_the_default_again(
    tact: Api, fresh: Fresh
) -> None:
    who = fresh()
    path = f"{customer(who)}/profile"
    fields = {"owned": ["boots", "scarf"], "tier": "gold", "visits": 3.5, "vip": True}
    known = tact.put(path, fields | {"timezone": "Europe/London"})
    assert known == tact.customer(who)
    assert (known["profile"], known["timezone"]) == (fields, "Europe/London")
    assert tact.put(path, {"owned": ["coat"]})["profile"] == fields | {"owned": ["coat"]}
    known = tact.put(path, {"tier": None, "visits": None, "timezone": None, "owned": []})
    assert known["profile"] == DEFAULTS | {"vip": True}
    assert known["timezone"] is None


@pytest.mark.parametrize("visits", [0, -7, 2**63 - 1, -(2**63), 1e300, 0.1])
def test_a_number_comes_back_as_it_was_sent(tact: Api, fresh: Fresh, visits: float) -> None:
    who = fresh()
    tact.put(f"{customer(who)}/profile", {"visits": visits})
    assert tact.customer(who)["profile"]["visits"] == visits


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shoe_size", 9), ("open_cases", 1), ("owned", "boots"), ("owned", [1]), ("owned", {"a": 1}), ("tier", 1),
        ("tier", ["gold"]), ("visits", "3"), ("visits", True), ("visits", 2**63), ("visits", 10**30), ("vip", 1),
        ("vip", "true"), ("timezone", "Mars/Olympus"), ("timezone", "../UTC"), ("timezone", "localtime"),
        ("timezone", 1), ("timezone", ""), ("timezone", "x" * 300), ("timezone", ["UTC"]),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_is_422_and_nothing_beside_it_is_changed(
    tact: Api, fresh: Fresh, field: str, value: Any
) -> None:
    who = fresh()
    known = tact.put(f"{customer(who)}/profile", {"tier": "gold"})
    refused = tact.call("PUT", f"{customer(who)}/profile", {"tier": "lost", field: value})
    assert (refused.status, refused.media) == (422, "application/problem+json")
    assert refused.json["errors"][0]["pointer"] == f"/{field}"
    assert tact.customer(who) == known


def test_the_customers_own_zone_decides_its_calendar_day(tact: Api, fresh: Fresh, started: datetime) -> None:
    """A contact of 11 hours ago is today's at noon, and yesterday's where it is just past midnight."""
    who = fresh()
    body = {"customer_id": who, "channel": "flash", "category": "promotion"}
    tact.post("/v1/contacts", body | {"occurred_at": rfc(started - timedelta(hours=11))}, 201)
    assert refused_by(tact, who, "flash", "promotion") == ["flash-promo"]
    hours = -started.hour if started.hour <= 12 else 24 - started.hour
    tact.put(f"{customer(who)}/profile", {"timezone": f"Etc/GMT{-hours:+d}" if hours else "Etc/GMT"})
    assert refused_by(tact, who, "flash", "promotion") == []


# ---------------------------------------------------------------------- link and unlink


def test_a_link_answers_with_the_customer_and_doing_it_again_changes_nothing(tact: Api, fresh: Fresh) -> None:
    who, cookie = fresh(), fresh("cookie")
    known = link(tact, who, cookie)
    assert known["aliases"] == [{"kind": "cookie", "value": cookie}]
    assert known == tact.customer(who) == link(tact, who, cookie)


def test_a_merge_unites_everything_and_denied_wins(tact: Api, fresh: Fresh) -> None:
    one, two, cookie = fresh(), fresh(), fresh("cookie")
    link(tact, two, cookie)
    tact.grant(one)
    tact.put(f"{customer(two)}/consent", {"marketing_email": "denied", "marketing_app": "granted"})
    tact.put(f"{customer(one)}/profile", {"tier": "gold"})
    tact.put(f"{customer(two)}/profile", {"owned": ["boots"]})
    contacts = {
        tact.confirm(tact.reserve("post", "service", who)).json["contact_id"][16:] for who in (one, two)
    }
    tact.event(one, "page_view")
    tact.event(two, "page_view")
    tact.event(two, "answer", properties={"question": "q", "answer": "a"})
    tact.event(two, "case_opened", properties={"case_id": "k"})
    for who in (one, two):
        eventually(partial(tact.customer, who), lambda known: known["features"]["views_7d"]["value"] == 1)
    eventually(lambda: tact.customer(two)["cases"], lambda cases: len(cases) == 1)
    merged = link(tact, one, cookie)
    assert merged["customer_id"] == one
    assert merged["consent"] == {"marketing_email": "denied", "marketing_app": "granted"}
    assert merged["profile"] == DEFAULTS | {"tier": "gold", "owned": ["boots"]}
    assert {contact["contact_id"][16:] for contact in merged["contacts"]} == contacts
    assert merged["features"]["views_7d"]["value"] == 2
    assert merged["answers"] == {"q": "a"}
    assert [case["case_id"] for case in merged["cases"]] == ["k"]
    assert tact.customer(two) == merged == tact.customer(one)


def test_caps_hold_over_the_union_by_either_id_from_the_next_request_on(tact: Api, fresh: Fresh) -> None:
    one, two, cookie = fresh(), fresh(), fresh("cookie")
    link(tact, two, cookie)
    tact.confirm(tact.reserve("sms", "service", two))
    assert refused_by(tact, one, "sms") == []
    link(tact, one, cookie)
    assert refused_by(tact, one, "sms") == refused_by(tact, two, "sms") == ["sms-gap"]
    pending = fresh()
    made = tact.reserve("sms", "service", pending)
    link(tact, pending, "of-" + pending)
    link(tact, fresh("later"), "of-" + pending)
    assert tact.confirm(made).json["state"] == "confirmed"


def test_any_number_of_merges_one_after_the_other_leaves_every_id_reachable(tact: Api, fresh: Fresh) -> None:
    people, cookie = [fresh() for _ in range(24)], fresh("cookie")
    for who in people:
        tact.grant(who)
        link(tact, who, cookie)
    last = tact.customer(people[-1])
    assert last["customer_id"] == people[-1]
    assert all(tact.customer(who) == last for who in people)
    assert tact.decide(people[0], "home")["customer_id"] == people[-1]


@pytest.mark.parametrize("end", ["release", "confirm"])
def test_capacity_that_was_held_before_a_merge_is_freed_or_spent_once(
    tact: Api, fresh: Fresh, end: str
) -> None:
    one, two, cookie = fresh(), fresh(), fresh("cookie")
    link(tact, two, cookie)
    channel = {"release": "desk", "confirm": "counter"}[end]
    made = tact.reserve(channel, "service", two)
    link(tact, one, cookie)
    assert tact.call("POST", f"/v1/contacts/{made}/{end}").status == 200
    room = [result["allowed"] for result in tact.check(channel, "service", fresh(), fresh(), fresh())]
    assert room == {"release": [True, True, False], "confirm": [True, False, False]}[end]


def test_a_message_keeps_its_id_through_a_merge(tact: Api, fresh: Fresh) -> None:
    one, two, cookie = fresh(), fresh(), fresh("cookie")
    link(tact, two, cookie)
    sent, waiting = (tact.reserve("till", "promotion", two, offer=offer) for offer in ("boots", "scarf"))
    assert tact.confirm(sent).status == 200
    link(tact, one, cookie)
    assert tact.confirm(waiting).json["contact_id"] == waiting
    assert {contact["contact_id"] for contact in tact.customer(one)["contacts"]} == {sent, waiting}
    assert tact.confirm(sent).json == {"reservation_id": sent, "state": "confirmed", "contact_id": sent}


def test_what_is_sent_to_a_merged_id_reaches_the_one_who_survives(tact: Api, fresh: Fresh) -> None:
    one, two, cookie = fresh(), fresh(), fresh("cookie")
    link(tact, two, cookie)
    tact.grant(two)
    link(tact, one, cookie)
    tact.event(two, "page_view")
    eventually(lambda: tact.customer(one), lambda known: known["features"]["views_7d"]["value"] == 1)
    assert tact.put(f"{customer(two)}/profile", {"tier": "gold"})["customer_id"] == one
    assert tact.customer(one)["profile"]["tier"] == "gold"


def test_an_unlink_gives_the_alias_copies_of_contacts_and_denials_and_takes_none_away(
    tact: Api, fresh: Fresh
) -> None:
    who, cookie = fresh(), fresh("cookie")
    link(tact, who, cookie)
    tact.put(f"{customer(who)}/consent", {"marketing_app": "denied", "marketing_email": "granted"})
    tact.confirm(tact.reserve("till", "promotion", who, offer="boots"))
    left = tact.post("/v1/identities/unlink", {"customer_id": who, "kind": "cookie", "value": cookie})
    assert left["aliases"] == []
    assert left == tact.customer(who)
    assert len(left["contacts"]) == 1
    body = {"identities": {"cookie": cookie}, "placement": "till_once"}
    answer = tact.post("/v1/decide", body)
    assert answer["customer_id"] != who
    assert [rule["rule"] for rule in answer["suppressed"]] == ["till-once"]
    apart = tact.customer(answer["customer_id"])
    assert apart["consent"] == {"marketing_app": "denied"}
    assert len(apart["contacts"]) == 1
    assert apart["aliases"] == [{"kind": "cookie", "value": cookie}]


def test_unlinking_what_is_not_linked_is_404(tact: Api, fresh: Fresh) -> None:
    body = {"customer_id": fresh(), "kind": "cookie", "value": "nobody's"}
    assert tact.call("POST", "/v1/identities/unlink", body).status == 404


# ---------------------------------------------------------------------- erasure


def test_the_erased_are_gone(tact: Api, fresh: Fresh) -> None:
    who, cookie = fresh(), fresh("cookie")
    link(tact, who, cookie)
    tact.grant(who)
    decision_id = tact.decide(who, "home")["decision_id"]
    tact.confirm(tact.reserve("post", "service", who))
    reply = tact.call("DELETE", customer(who))
    assert (reply.status, reply.json.keys()) == (202, {"receipt"})
    assert reply.json["receipt"]
    assert tact.call("GET", customer(who)).status == 404
    assert tact.get(f"{customer(who)}/decisions") == {"decisions": []}
    assert tact.call("GET", f"/v1/decisions/{decision_id}").status == 404


def test_the_erased_are_refused_outbound_before_consent_is_asked(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    tact.call("DELETE", customer(who))
    (no,) = tact.check("email", "promotion", who)
    assert no["reasons"] == [{"rule": "erased", "reason": "suppressed", "eligible_at": None}]
    assert no["eligible_at"] is None
    answer = tact.decide(who, "newsletter")
    assert (answer["action"], answer["reason"]) == ("none", "suppressed")
    assert answer["suppressed"] == [{"rule": "erased", "offers": 3, "eligible_at": None}]
    assert tact.call("GET", customer(who)).status == 404


def test_the_erased_are_suppressed_in_quiet_hours_as_well(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.call("DELETE", customer(who))
    answer = tact.decide(who, "nightly", explain=True)
    assert answer["reason"] == "suppressed"
    assert answer["trace"][0]["stage"] == "suppressed"


def test_the_erased_are_still_served_inbound_and_by_what_obeys_no_caps(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.call("DELETE", customer(who))
    assert tact.decide(who, "home")["action"] == "offer"
    assert tact.check("email", "transactional", who)[0]["allowed"]


@pytest.mark.parametrize("way", ["put", "event"])
def test_any_consent_granted_anew_ends_the_refusal(tact: Api, fresh: Fresh, way: str) -> None:
    who = fresh()
    tact.grant(who)
    tact.call("DELETE", customer(who))
    if way == "put":
        tact.grant(who, "marketing_app")
    else:
        tact.event(who, "consent_changed", properties={"marketing_app": "granted"})
    assert refused_by(tact, who, "post") == []
    assert refused_by(tact, who, "email") == ["consent"]
    assert tact.customer(who)["consent"] == {"marketing_app": "granted"}


def test_a_denial_does_not_end_it(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.call("DELETE", customer(who))
    tact.put(f"{customer(who)}/consent", {"marketing_email": "denied"})
    assert refused_by(tact, who, "post") == ["erased"]
