"""`tact audit` counts by its own code: a window over its limit is a breach, a flagged contact is an overrun."""

from base64 import urlsafe_b64encode
from typing import Any

import pytest

from api.cli.audit import Report, audit
from policies.loader import load_files

HOUR = 3_600_000
DAY = 24 * HOUR
NOON = 1_795_262_400_000  # 2026-11-21T12:00:00Z, a Saturday
FILES = {
    "policy.yaml": "policy: audit\ntimezone: Europe/London\ncurrency: GBP\nweek_starts: monday\n",
    "channels.yaml": "channels:\n  web: {kind: inbound}\n  till: {kind: inbound}\n  email: {kind: outbound}\n"
    "  sms: {kind: outbound}\nplacements: {home: {channel: web, slots: 1}}\n",
    "offers.yaml": "categories:\n  promotion: {}\n  service: {}\n"
    "  receipt: {obeys_caps: false, counts_toward_caps: false}\n"
    "offers:\n  - {id: boots, category: promotion, placements: [home], value: 1, attributes: {line: shoes}}\n"
    "  - {id: scarf, category: promotion, placements: [home], value: 1, attributes: {line: wool}}\n"
    "  - {id: laces, category: service, placements: [home], value: 1, attributes: {line: shoes}}\n",
}


def contact(at: int, *items: tuple[str | None, str], **more: Any) -> dict[str, Any]:
    named = items or ((None, "promotion"),)
    return {
        "contact_id": f"k{at}",
        "at": at,
        "channel": "email",
        "items": [{"offer": offer, "category": category} for offer, category in named],
        "state": "confirmed",
        "expires_at": 0,
        "overrun": [],
    } | more


def audited(caps: str, *contacts: dict[str, Any], timezone: str | None = None, policy: str = "") -> Report:
    files = FILES | {"contact_policy.yaml": f"caps:\n  - {caps}\n"}
    if policy:
        files["policy.yaml"] = policy
    customer = {"customer": "t", "timezone": timezone, "contacts": list(contacts), "events": []}
    return audit(load_files(files).policy, [customer])


def breached(caps: str, *contacts: dict[str, Any], **more: Any) -> bool:
    return bool(audited(caps, *contacts, **more).breaches)


TWO_A_WEEK = "{name: weekly, max: 2, per: 7d, when: {channel: email}}"


def test_a_window_at_its_limit_is_no_breach_and_one_more_is() -> None:
    times = [NOON, NOON + DAY, NOON + 2 * DAY]
    assert not breached(TWO_A_WEEK, *map(contact, times[:2]))
    (breach,) = audited(TWO_A_WEEK, *map(contact, times)).breaches
    assert (breach["rule"], breach["customer"], breach["limit"], breach["counted"]) == ("weekly", "t", 2, 3)
    assert [found["at"] for found in breach["contacts"]] == times


def test_a_contact_exactly_one_duration_old_no_longer_counts() -> None:
    early = [contact(NOON), contact(NOON + 1)]
    assert not breached(TWO_A_WEEK, *early, contact(NOON + 7 * DAY))
    assert breached(TWO_A_WEEK, *early, contact(NOON + 7 * DAY - 1))


def test_the_order_of_the_facts_does_not_matter() -> None:
    assert breached(TWO_A_WEEK, *(contact(NOON + offset) for offset in (5, 1, 3)))


@pytest.mark.parametrize("state", ["reserved", "released"])
def test_only_confirmed_contacts_count(state: str) -> None:
    report = audited(TWO_A_WEEK, contact(NOON), contact(NOON + 1), contact(NOON + 2, state=state))
    assert (report.contacts, report.breaches) == (2, [])


def test_a_flagged_contact_is_an_overrun_and_no_breach() -> None:
    own = [contact(NOON), contact(NOON + 1)]
    report = audited(TWO_A_WEEK, *own, contact(NOON + 2, overrun=["weekly"]))
    assert (report.breaches, report.overruns) == ([], 1)
    assert breached(TWO_A_WEEK, *own, contact(NOON + 2, overrun=["another"]))


def test_contacts_that_the_engine_let_through_breach_beside_flagged_ones_too() -> None:
    flagged = contact(NOON + 3, overrun=["weekly"])
    (breach,) = audited(TWO_A_WEEK, *map(contact, (NOON, NOON + 1, NOON + 2)), flagged).breaches[:1]
    assert breach["counted"] == 3


def test_a_gap_is_kept_at_exactly_its_length() -> None:
    gap = "{name: breather, gap: 4h}"
    assert not breached(gap, contact(NOON), contact(NOON + 4 * HOUR))
    assert breached(gap, contact(NOON), contact(NOON + 4 * HOUR - 1))


def test_a_calendar_day_runs_from_midnight_to_midnight_in_the_customers_zone() -> None:
    daily = "{name: daily, max: 1, per: day}"
    evening = NOON + 11 * HOUR  # 23:00 in London, 08:00 of the next day in Tokyo
    assert breached(daily, contact(NOON), contact(evening))
    assert not breached(daily, contact(NOON), contact(evening), timezone="Asia/Tokyo")
    assert not breached(daily, contact(evening), contact(evening + HOUR))
    assert breached(daily, contact(evening), contact(evening + HOUR), timezone="Asia/Tokyo")


def test_without_a_zone_every_zone_of_the_policy_must_hold() -> None:
    zones = FILES["policy.yaml"].replace("Europe/London", "[Europe/London, Asia/Tokyo]")
    daily, evening = "{name: daily, max: 1, per: day}", NOON + 11 * HOUR
    assert breached(daily, contact(evening), contact(evening + HOUR), policy=zones)


def test_weeks_start_when_the_policy_says() -> None:
    weekly = "{name: weekly, max: 1, per: week}"
    saturday_and_sunday = contact(NOON), contact(NOON + DAY)
    assert breached(weekly, *saturday_and_sunday)
    assert not breached(weekly, contact(NOON + DAY), contact(NOON + 2 * DAY))
    sunday_first = FILES["policy.yaml"].replace("monday", "sunday")
    assert not breached(weekly, *saturday_and_sunday, policy=sunday_first)


def test_months_are_calendar_months() -> None:
    monthly = "{name: monthly, max: 1, per: month}"
    assert breached(monthly, contact(NOON), contact(NOON + 9 * DAY))
    assert not breached(monthly, contact(NOON), contact(NOON + 10 * DAY))  # 1 December


@pytest.mark.parametrize(
    ("cap", "item", "counts"),
    [
        ("when: {channel: email}", ("boots", "promotion"), True),
        ("when: {channel: sms}", ("boots", "promotion"), False),
        ("when: {kind: outbound}", ("boots", "promotion"), True),
        ("when: {kind: inbound}", ("boots", "promotion"), False),
        ("when: {category: service}", ("boots", "promotion"), False),
        ("when: {category: [service, promotion]}", ("boots", "promotion"), True),
        ("when: {offer: boots}", ("boots", "promotion"), True),
        ("when: {offer: boots}", (None, "promotion"), False),
        ("when: {attribute.line: shoes}", ("laces", "service"), True),
        ("when: {attribute.line: shoes}", ("scarf", "promotion"), False),
        ("when: {attribute.line: shoes}", (None, "promotion"), False),
        ("each: offer", (None, "promotion"), False),
        ("each: attribute.line", (None, "promotion"), False),
        ("each: category", (None, "promotion"), True),
        ("when: {channel: email}", (None, "receipt"), False),
    ],
)
def test_a_cap_counts_what_it_looks_at(cap: str, item: tuple[str | None, str], counts: bool) -> None:
    text = f"{{name: rule, max: 1, per: 7d, {cap}}}"
    assert breached(text, contact(NOON, item), contact(NOON + 1, item)) is counts


@pytest.mark.parametrize(
    ("each", "first", "second", "together"),
    [
        ("offer", ("boots", "promotion"), ("scarf", "promotion"), False),
        ("category", ("boots", "promotion"), ("scarf", "promotion"), True),
        ("category", ("boots", "promotion"), ("laces", "service"), False),
        ("attribute.line", ("boots", "promotion"), ("laces", "service"), True),
        ("attribute.line", ("boots", "promotion"), ("scarf", "promotion"), False),
    ],
)
def test_each_counts_every_value_on_its_own(
    each: str, first: tuple[str, str], second: tuple[str, str], together: bool
) -> None:
    text = f"{{name: rule, max: 1, per: 7d, each: {each}}}"
    assert breached(text, contact(NOON, first), contact(NOON + 1, second)) is together


def test_one_item_must_meet_all_of_when() -> None:
    text = "{name: rule, max: 1, per: 7d, when: {category: service, offer: boots}}"
    mixed = [contact(NOON + n, ("boots", "promotion"), ("laces", "service")) for n in range(2)]
    assert not breached(text, *mixed)


def test_a_message_of_several_items_is_one_contact() -> None:
    text = "{name: promos, max: 1, per: 7d, when: {category: promotion}}"
    both = ("boots", "promotion"), ("scarf", "promotion")
    assert not breached(text, contact(NOON, *both))
    assert breached(text, contact(NOON, *both), contact(NOON + 1, *both))


def test_inbound_contacts_count_only_where_the_rule_names_them() -> None:
    visits = [contact(NOON + n, channel="till") for n in range(2)]
    assert not breached("{name: any, max: 1, per: 7d}", *visits)
    assert not breached("{name: other, max: 1, per: 7d, when: {channel: web}}", *visits)
    assert breached("{name: till, max: 1, per: 7d, when: {channel: till}}", *visits)
    assert breached("{name: in, max: 1, per: 7d, when: {kind: inbound}}", *visits)


def test_the_report_as_plain_values_has_every_breach() -> None:
    said = audited(TWO_A_WEEK, *(contact(NOON + n) for n in range(3))).as_dict()
    assert (said["customers"], said["contacts"], said["overruns"], len(said["breaches"])) == (1, 3, 0, 1)


A, B = "a" * 16, "b" * 16


def made(tag: str, judged_at: int, at: int) -> dict[str, Any]:
    uid = urlsafe_b64encode((judged_at << 28).to_bytes(9, "big")).decode()
    return contact(at, contact_id=tag + uid)


@pytest.mark.parametrize(
    ("merged_after_ms", "found"),
    [
        (3 * HOUR, False),  # both were at their limit when they became one
        (1 * HOUR, True),  # the last one was judged when they were one already
    ],
)
def test_what_two_people_had_before_they_were_one_is_no_breach(merged_after_ms: int, found: bool) -> None:
    files = FILES | {"contact_policy.yaml": f"caps:\n  - {TWO_A_WEEK}\n"}
    contacts = [
        made(A, NOON, NOON),
        made(A, NOON + 1, NOON + 1),
        made(B, NOON + 2 * HOUR, NOON + 5 * HOUR),  # reserved by then, confirmed later
    ]
    lines: list[dict[str, Any]] = [
        {"customer": A, "timezone": None, "contacts": contacts, "events": []},
        {"customer": B, "moved_to": A, "moved_at": NOON + merged_after_ms},
    ]
    assert bool(audit(load_files(files).policy, lines).breaches) is found
