"""Which rules look at which items."""

import pytest

from engine.judging import rules as rules_module
from engine.judging.rules import Kind, Rules
from features.facts import Item
from tests.unit.engine.shop import CHANNELS, DAY_MS, HOUR_MS, policy_of

BOOTS, GUIDE, ANY = Item("boots", "promotion"), Item("guide", "service"), Item(None, "promotion")
TRANSACTIONAL = Item(None, "transactional")


def rules_of(*caps: str) -> Rules:
    return Rules(
        policy_of(
            rules="caps:\n"
            + "".join(f"  - {{name: cap-{n}, max: 1, per: 1h, {cap}}}\n" for n, cap in enumerate(caps))
        )
    )


def kind(channel: str, *items: Item) -> Kind:
    return channel, items


@pytest.mark.parametrize(
    ("when", "channel", "item", "looks"),
    [
        ("kind: outbound", "email", BOOTS, True),
        ("kind: outbound", "web", BOOTS, False),
        ("kind: inbound", "web", BOOTS, True),
        ("channel: email", "call", BOOTS, False),
        ("channel: [email, call]", "call", BOOTS, True),
        ("category: service", "email", BOOTS, False),
        ("category: [service, promotion]", "email", BOOTS, True),
        ("offer: boots", "email", BOOTS, True),
        ("offer: socks", "email", BOOTS, False),
        ("offer: boots", "email", ANY, False),
        ("attribute.line: shoes", "email", BOOTS, True),
        ("attribute.line: shoes", "email", GUIDE, False),
        ("attribute.line: shoes", "email", ANY, False),
        ("category: promotion, offer: guide", "email", GUIDE, False),
    ],
)
def test_an_item_must_meet_all_of_when(when: str, channel: str, item: Item, looks: bool) -> None:
    assert rules_of(f"when: {{{when}}}").cap_each(0, channel, item)[0] is looks


def test_a_cap_without_when_sees_all_of_outbound_and_nothing_of_inbound() -> None:
    rules = rules_of("when: {category: promotion}")
    assert rules.cap_each(0, "email", BOOTS) == (True, None)
    assert rules.cap_each(0, "web", BOOTS) == (False, None)


def test_naming_an_inbound_channel_opens_a_cap_to_it() -> None:
    rules = rules_of("when: {channel: [web, email]}")
    assert rules.cap_each(0, "web", BOOTS) == (True, None)
    assert rules.cap_each(0, "email", BOOTS) == (True, None)
    assert rules.counts_contacts("web")
    assert not rules_of("when: {kind: outbound}").counts_contacts("web")
    assert rules_of("when: {kind: outbound}").counts_contacts("email")


@pytest.mark.parametrize(
    ("each", "item", "counted"),
    [
        ("offer", BOOTS, (True, "boots")),
        ("offer", ANY, (False, None)),
        ("category", ANY, (True, "promotion")),
        ("channel", ANY, (True, "email")),
        ("attribute.line", BOOTS, (True, "shoes")),
        ("attribute.line", GUIDE, (False, None)),
    ],
)
def test_each_counts_apart_and_passes_over_what_has_no_value(
    each: str, item: Item, counted: tuple[bool, str | None]
) -> None:
    assert rules_of(f"each: {each}").cap_each(0, "email", item) == counted


def test_a_message_counts_once_for_each_rule_however_many_items_match() -> None:
    rules = rules_of("when: {category: promotion}", "each: offer", "each: category")
    two = kind("email", BOOTS, Item("socks", "promotion"), GUIDE)
    assert set(rules.counters(two)) == {
        (0, None),
        (1, "boots"),
        (1, "socks"),
        (1, "guide"),
        (2, "promotion"),
        (2, "service"),
    }
    assert len(rules.counters(two)) == 6


def test_one_item_must_meet_all_of_when_and_carry_the_value() -> None:
    rules = rules_of("when: {category: service}, each: attribute.line")
    assert rules.counters(kind("email", BOOTS, GUIDE)) == ()


def test_items_of_categories_that_do_not_count_are_passed_over() -> None:
    rules = rules_of("each: category")
    assert rules.counters(kind("email", TRANSACTIONAL)) == ()
    assert rules.counters(kind("email", TRANSACTIONAL, GUIDE)) == ((0, "service"),)


def test_a_category_or_channel_that_the_policy_no_longer_has_obeys_and_counts_as_outbound() -> None:
    rules = rules_of("when: {kind: outbound}")
    gone = Item("old", "gone")
    assert rules.obeys(gone)
    assert rules.counters(kind("pigeon", gone)) == ((0, None),)


def test_what_was_worked_out_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_module, "_REMEMBERED", 3)
    rules = rules_of("each: offer")
    for number in range(10):
        item = Item(f"o{number}", "promotion")
        assert rules.counters(kind("email", item)) == ((0, f"o{number}"),)
        assert len(rules._counters) <= 3


@pytest.mark.parametrize(
    ("cap", "looks_back"),
    [
        ("max: 1, per: 30d", 30 * DAY_MS),
        ("gap: 8d", 8 * DAY_MS),
        ("max: 1, per: month", 32 * DAY_MS),
        ("max: 1, per: week", 8 * DAY_MS),
        ("max: 1, per: day", 7 * DAY_MS),
        ("max: 1, per: 2h", 7 * DAY_MS),
    ],
)
def test_rules_look_back_as_far_as_their_longest_window_or_reservation(cap: str, looks_back: int) -> None:
    assert Rules(policy_of(rules=f"caps:\n  - {{name: cap, {cap}}}")).looks_back_ms == looks_back


def test_a_policy_without_rules_counts_outbound_all_the_same() -> None:
    rules = Rules(policy_of(channels=CHANNELS))
    assert rules.counts_contacts("email")
    assert rules.looks_back_ms == 168 * HOUR_MS
