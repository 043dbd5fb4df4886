"""What is accepted as an event, and what each refusal points at."""

import math
from typing import Any

import pytest

from features.event import (
    MADE,
    Event,
    EventError,
    decode_event,
    decode_events,
    encode_event,
    encode_events,
    format_time,
    is_type,
    parse_event,
    parse_time,
)
from features.fields import is_zone

NOW = 1_795_255_200_000  # 2026-11-21T10:00:00Z


def parsed(declared: dict[str, str] | None = None, /, **changes: Any) -> Event:
    return parse_event(
        {"type": "page_view", "customer_id": "c1", **changes}, now=NOW, made_id="m1", declared=declared
    )


def fault(declared: dict[str, str] | None = None, /, **changes: Any) -> tuple[str, str]:
    with pytest.raises(EventError) as caught:
        parsed(declared, **changes)
    return caught.value.pointer, caught.value.detail


def test_a_whole_event_keeps_every_field_as_it_came() -> None:
    event = parsed(
        event_id="e-1",
        occurred_at="2026-11-21T09:59:59.25Z",
        channel="web",
        decision_id=None,
        offer="winter-boots",
        properties={"category": "boots", "amount": 12.5, "n": 3, "tags": ["a", None, True, {"x": 1}]},
        identities={"cookie": "abc"},
    )
    assert event == Event(
        "e-1",
        "page_view",
        "c1",
        NOW - 750,
        NOW,
        "web",
        None,
        "winter-boots",
        {"category": "boots", "amount": 12.5, "n": 3, "tags": ["a", None, True, {"x": 1}]},
        {"cookie": "abc"},
    )


def test_what_is_left_out_has_its_default() -> None:
    assert parsed() == Event(MADE + "m1", "page_view", "c1", NOW, NOW)


def test_an_identity_stands_in_for_the_customer() -> None:
    event = parse_event({"type": "click", "identities": {"cookie": "x"}}, now=NOW, made_id="m1")
    assert (event.customer_id, event.identities) == ("", {"cookie": "x"})


def test_no_caller_can_send_an_id_that_looks_made() -> None:
    assert fault(event_id=MADE + "m1")[0] == "/event_id"


@pytest.mark.parametrize("raw", [None, 1, "x", [], [{"type": "click"}], True])
def test_only_an_object_is_an_event(raw: object) -> None:
    with pytest.raises(EventError, match="must be a JSON object") as caught:
        parse_event(raw, now=NOW, made_id="m1")
    assert caught.value.pointer == ""


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        ({"customer_id": "c1"}, "/type"),
        ({"type": "click"}, "/customer_id"),
        ({"type": "click", "identities": {}}, "/customer_id"),
        ({"type": "click", "customer_id": None}, "/customer_id"),
        ({"type": "click", "customer_id": "c1", "received_at": 1}, "/received_at"),
        ({"type": "click", "customer_id": "c1", "a/b~c": 1}, "/a~1b~0c"),
        ({"type": "click", "customer_id": "c1", "\ud800": 1}, "/?"),
    ],
)
def test_missing_and_unknown_fields_are_pointed_at(raw: dict[str, Any], pointer: str) -> None:
    with pytest.raises(EventError) as caught:
        parse_event(raw, now=NOW, made_id="m1")
    assert caught.value.pointer == pointer


@pytest.mark.parametrize("name", ["page_view", "x_a", "x_0", "x_" + "a" * 60])
def test_types_are_built_in_or_ones_own(name: str) -> None:
    assert is_type(name)


@pytest.mark.parametrize(
    "name", ["", "x_", "x_A", "x_a-b", "x_" + "a" * 61, "pageview", "x_a\n", 1, None, True]
)
def test_other_types_are_refused(name: object) -> None:
    assert fault(type=name)[0] == "/type"


@pytest.mark.parametrize("value", ["a", " a ", "x" * 128, "ä/%?#😀", "0", "a\u2028b"])
def test_any_characters_but_control_make_an_id(value: str) -> None:
    assert parsed(customer_id=value).customer_id == value


@pytest.mark.parametrize(
    "value",
    ["", " ", "\u3000", "x" * 129, "a\nb", "a\x00", "\x7f", "a\x85", "\ud800", 1, True, 1.0, None, []],
)
@pytest.mark.parametrize("field", ["customer_id", "event_id"])
def test_what_is_no_id_is_refused(field: str, value: object) -> None:
    assert fault(**{field: value})[0] == f"/{field}"


@pytest.mark.parametrize("field", ["channel", "decision_id", "offer"])
def test_references_are_ids_or_null(field: str) -> None:
    assert getattr(parsed(**{field: None}), field) is None
    assert getattr(parsed(**{field: "x"}), field) == "x"
    assert fault(**{field: 7})[0] == f"/{field}"
    assert fault(**{field: ""})[0] == f"/{field}"


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ([], "/identities"),
        (None, "/identities"),
        ({"": "x"}, "/identities/"),
        ({"cookie": 1}, "/identities/cookie"),
        ({"cookie": ""}, "/identities/cookie"),
        ({f"k{n}": "v" for n in range(17)}, "/identities"),
    ],
)
def test_identities_are_ids_by_kind(value: object, pointer: str) -> None:
    assert fault(identities=value)[0] == pointer


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-21T10:00:00Z", NOW),
        ("2026-11-21T10:00:00.5Z", NOW + 500),
        ("2026-11-21T10:00:00.0019Z", NOW + 1),
        ("2024-02-29T23:59:59.999999999Z", 1_709_251_199_999),
        ("2200-12-31T23:59:59.999Z", 7_289_654_399_999),
    ],
)
def test_times_are_milliseconds(text: str, ms: int) -> None:
    assert parse_time(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-21",
        "2026-11-21T10:00:00",
        "2026-11-21T10:00Z",
        "2026-11-21T10:00:00+00:00",
        "2026-11-21T10:00:00z",
        "2026-11-21t10:00:00Z",
        "2026-11-21 10:00:00Z",
        "2026-11-21T10:00:00,5Z",
        "2026-11-21T10:00:00.Z",
        "2026-11-21T10:00:00Z ",
        "2026-11-21T10:00:00Z\n",
        "2026-11-21T24:00:00Z",
        "2026-11-21T10:00:60Z",
        "2016-12-31T23:59:60Z",
        "2026-02-29T10:00:00Z",
        "2026-13-01T10:00:00Z",
        "2026-00-01T10:00:00Z",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "2201-01-01T00:00:00Z",
        "\uff12\uff10\uff12\uff16-11-21T10:00:00Z",
        "2026-W47-6T10:00:00Z",
        "+026-11-21T10:00:00Z",
        "2026-11-21T10:00:00." + "1" * 1000 + "Z",
    ],
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|no such"):
        parse_time(text)
    assert fault(occurred_at=text)[0] == "/occurred_at"


def test_times_in_answers_have_three_decimals() -> None:
    assert [format_time(ms) for ms in (0, NOW + 7, 7_289_654_399_999)] == [
        "1970-01-01T00:00:00.000Z",
        "2026-11-21T10:00:00.007Z",
        "2200-12-31T23:59:59.999Z",
    ]


def test_an_event_may_be_five_minutes_ahead_and_no_more() -> None:
    assert parsed(occurred_at="2026-11-21T10:05:00Z").occurred_at == NOW + 300_000
    pointer, detail = fault(occurred_at="2026-11-21T10:05:00.001Z")
    assert pointer == "/occurred_at"
    assert "5 minutes ahead" in detail


@pytest.mark.parametrize("value", [NOW, 1.5, True, None, [], {}])
def test_a_time_is_never_coerced(value: object) -> None:
    assert fault(occurred_at=value)[0] == "/occurred_at"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        (None, "/properties"),
        ([], "/properties"),
        ({"a": math.nan}, "/properties/a"),
        ({"a": [1, math.inf]}, "/properties/a/1"),
        ({"a": {"b": -math.inf}}, "/properties/a/b"),
        ({"a": 2**63}, "/properties/a"),
        ({"a": -(2**63) - 1}, "/properties/a"),
        ({"a": "\udfff"}, "/properties/a"),
        ({"\ud800": 1}, "/properties/?"),
        ({"": 1}, "/properties/"),
        ({"k" * 129: 1}, "/properties/" + "k" * 129),
        ({1: 1}, "/properties/1"),
        ({"a": (1,)}, "/properties/a"),
        ({"a": b"x"}, "/properties/a"),
        ({"x": nested(16)}, "/properties/x" + "/0" * 15),
        ({f"k{n}": n for n in range(65)}, "/properties"),
        ({"a": "x" * 16_384}, "/properties"),
    ],
)
def test_properties_hold_small_storable_values(value: object, pointer: str) -> None:
    assert fault(properties=value)[0] == pointer


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": 2**63 - 1, "b": -(2**63), "c": 1.0, "d": "1", "e": True, "f": None},
        {f"k{n}": n for n in range(64)},
        {"a": "x" * 16_000},
        {"text": "line\nbreak\x00"},
        {"x": nested(15)},
    ],
)
def test_properties_stay_as_they_came(value: dict[str, Any]) -> None:
    properties = parsed(properties=value).properties
    assert properties == value
    assert [type(one) for one in properties.values()] == [type(one) for one in value.values()]


@pytest.mark.parametrize(
    ("type_", "properties", "pointer"),
    [
        ("consent_changed", {}, "/properties"),
        ("consent_changed", {"marketing_email": "yes"}, "/properties/marketing_email"),
        ("consent_changed", {"marketing_email": True}, "/properties/marketing_email"),
        ("consent_changed", {"marketing_email": None}, "/properties/marketing_email"),
        ("consent_changed", {"marketing_email": []}, "/properties/marketing_email"),
        ("consent_changed", {" ": "denied"}, "/properties/ "),
        ("answer", {"answer": "gifts"}, "/properties/question"),
        ("answer", {"question": "q"}, "/properties/answer"),
        ("answer", {"question": "q", "answer": 1}, "/properties/answer"),
        ("answer", {"question": "q", "answer": ""}, "/properties/answer"),
        ("answer", {"question": 1, "answer": "gifts"}, "/properties/question"),
        ("case_opened", {}, "/properties/case_id"),
        ("case_closed", {"case_id": 12}, "/properties/case_id"),
        ("profile_updated", {}, "/properties"),
        ("profile_updated", {"owned": {"a": 1}}, "/properties/owned"),
        ("profile_updated", {"owned": ["a", 1]}, "/properties/owned"),
        ("profile_updated", {"open_cases": 1}, "/properties/open_cases"),
        ("profile_updated", {"timezone": "Mars/Olympus"}, "/properties/timezone"),
        ("profile_updated", {"timezone": 1}, "/properties/timezone"),
        ("accept", {}, "/offer"),
        ("reject", {}, "/offer"),
    ],
)
def test_each_type_must_bring_what_it_means(type_: str, properties: dict[str, Any], pointer: str) -> None:
    assert fault(type=type_, properties=properties)[0] == pointer


@pytest.mark.parametrize(
    ("type_", "properties"),
    [
        ("consent_changed", {"marketing_email": "denied", "marketing_call": "granted"}),
        ("answer", {"question": "shopping-for", "answer": "gifts"}),
        ("case_opened", {"case_id": "case/1"}),
        ("profile_updated", {"owned": ["boots"], "tier": None, "visits": 3, "timezone": "Europe/London"}),
    ],
)
def test_good_ones_pass(type_: str, properties: dict[str, Any]) -> None:
    assert parsed(type=type_, properties=properties).properties == properties


@pytest.mark.parametrize("field", ["offer", "decision_id"])
def test_an_accept_names_an_offer_or_a_decision(field: str) -> None:
    assert getattr(parsed(type="accept", **{field: "x"}), field) == "x"


DECLARED = {"owned": "list", "tier": "string", "visits": "number", "vip": "bool"}


def test_declared_fields_take_their_type_or_null() -> None:
    good = {"owned": [], "tier": "gold", "visits": 1.5, "vip": False, "timezone": None}
    assert parsed(DECLARED, type="profile_updated", properties=good).properties == good
    nulls: dict[str, Any] = dict.fromkeys(DECLARED)
    assert parsed(DECLARED, type="profile_updated", properties=nulls).properties == nulls


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("owned", "boots"),
        ("tier", 1),
        ("tier", ["gold"]),
        ("visits", "1"),
        ("visits", True),
        ("vip", 1),
        ("vip", "true"),
    ],
)
def test_declared_fields_refuse_other_types(name: str, value: object) -> None:
    pointer, detail = fault(DECLARED, type="profile_updated", properties={name: value})
    assert pointer == f"/properties/{name}"
    assert detail.startswith("must be ")


def test_an_undeclared_field_is_refused_with_the_declared_ones() -> None:
    pointer, detail = fault(DECLARED, type="profile_updated", properties={"teir": "gold"})
    assert pointer == "/properties/teir"
    assert detail == "is not declared in profile.yaml; declared are: owned, tier, timezone, vip, visits"


@pytest.mark.parametrize("name", ["Europe/London", "UTC", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_zones_are_iana_names(name: str) -> None:
    assert is_zone(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Europe",
        "europe/london",
        "../UTC",
        "/etc/passwd",
        "posix/UTC",
        "localtime",
        "x" * 300,
        "a\0b",
        "Ä",
    ],
)
def test_what_other_machines_do_not_know_is_no_zone(name: str) -> None:
    assert not is_zone(name)


def test_the_journal_gives_back_what_it_got() -> None:
    one = parsed(properties={"a": [1, 2.5, None, {"b": -(2**63)}]}, identities={"cookie": "é"})
    two = parsed(type="click", offer="o")
    assert decode_event(encode_event(one)) == one
    assert decode_events(encode_events([one, two])) == [one, two]


WHOLE = encode_event(Event("e", "t", "c", 1, 1))
DEEP = WHOLE[:-2] + b"\x81\xa1a" + b"\x91" * 100_000


@pytest.mark.parametrize(
    "blob", [b"", b"\xc1", b"\x93\x01\x02\x03", WHOLE[:-9], WHOLE.replace(b"\xa1c", b"\xa1\xff"), DEEP]
)
def test_bytes_that_are_no_event_belong_in_the_quarantine(blob: bytes) -> None:
    for decode in (decode_event, decode_events):
        with pytest.raises(EventError, match="quarantine"):
            decode(blob)
