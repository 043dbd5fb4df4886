"""The governor, side by side with an oracle that knows only facts and rules.

TACT_SITUATIONS says how many situations the seeded loop draws.
"""

import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import engine.judging.governor
from engine.judging.governor import FAR, Refusal, Standing
from engine.judging.overrun import broken_rules
from engine.judging.rules import Rules
from features.facts import Contact
from tests.property.oracle import Situation, Verdict, judge, windows_broken
from tests.property.situations import COMMON_ITEMS, MINUTE_MS, some_past, some_situation

SITUATIONS = int(os.environ.get("TACT_SITUATIONS", "1500"))


def standing_of(situation: Situation, *, excluding: str = "") -> Standing:
    vip = next(iter(situation.whiles.values()), None)
    return Standing(
        Rules(situation.policy),
        situation.facts,
        {"profile.vip": vip},
        situation.now,
        excluding=excluding,
    )


def verdict_of(situation: Situation, *, excluding: str = "") -> Verdict:
    standing = standing_of(situation, excluding=excluding)
    refusals = standing.refusals(situation.channel, situation.item)
    found = {refusal.rule: refusal.eligible_at for refusal in refusals}
    assert len(found) == len(refusals)
    return Verdict(found, standing.eligible_at(situation.channel, situation.item))


@given(st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
def test_the_governor_agrees_with_the_oracle(random: Random) -> None:
    situation = some_situation(random)
    assert verdict_of(situation) == judge(situation)


def test_the_governor_agrees_with_the_oracle_over_many_seeds() -> None:
    refused = 0
    for seed in range(SITUATIONS):
        situation = some_situation(Random(seed))
        verdict = judge(situation)
        assert verdict_of(situation) == verdict, f"seed {seed}: {situation}"
        refused += bool(verdict.rules)
    assert SITUATIONS * 0.3 < refused < SITUATIONS * 0.9


def test_a_reservation_does_not_stand_in_the_way_of_its_own_confirm() -> None:
    for seed in range(300):
        situation = some_situation(Random(f"own-{seed}"))
        for contact in situation.facts.contacts[:2]:
            others = tuple(other for other in situation.facts.contacts if other.uid != contact.uid)
            without = situation._replace(facts=replace(situation.facts, contacts=others))
            assert verdict_of(situation, excluding=contact.uid) == judge(without), f"seed own-{seed}"


def test_a_confirm_in_time_judges_all_but_caps_and_gaps() -> None:
    for seed in range(300):
        situation = some_situation(Random(f"sending-{seed}"))
        refusals = standing_of(situation).refusals(situation.channel, situation.item, sending_only=True)
        caps = {cap.name for cap in situation.policy.caps}
        wanted = {rule: at for rule, at in judge(situation).rules.items() if rule not in caps}
        assert {refusal.rule: refusal.eligible_at for refusal in refusals} == wanted, f"seed sending-{seed}"


def test_refusals_come_in_the_order_of_the_stages() -> None:
    for seed in range(300):
        situation = some_situation(Random(f"order-{seed}"))
        reasons = [stop.reason for stop in standing_of(situation).refusals(situation.channel, situation.item)]
        order = {"consent": 0, "quiet_hours": 1, "suppressed": 2, "contact_policy": 3}
        if not situation.facts.erased_at:
            assert [order[reason] for reason in reasons] == sorted(order[reason] for reason in reasons)


def test_a_yes_holds_until_the_moment_that_it_names() -> None:
    moments = 0
    for seed in range(400):
        random = Random(f"until-{seed}")
        situation = some_situation(random)
        standing = standing_of(situation)
        if standing.refusals(situation.channel, situation.item):
            continue
        until = standing.yes_until(situation.channel, [situation.item])
        assert until > situation.now
        end = min(until, situation.now + 9 * 86_400_000)
        for at in {end - 1, situation.now + random.randrange(end - situation.now)}:
            later = judge(situation._replace(now=at)).rules.keys()
            assert later - {cap.name for cap in situation.policy.caps} == set(), f"seed until-{seed}"
        if until < FAR:
            moments += 1
            assert judge(situation._replace(now=until)).rules, f"seed until-{seed}"
    assert moments > 50


def test_a_yes_breaks_no_window_though_a_clock_of_the_outside_goes_ahead() -> None:
    yes = 0
    for seed in range(400):
        random = Random(f"ahead-{seed}")
        situation = some_situation(random)
        ahead = Contact("z", situation.now + random.randrange(1, 5 * MINUTE_MS), "email", (situation.item,))
        facts = replace(situation.facts, contacts=(*situation.facts.contacts, ahead))
        situation = situation._replace(facts=facts)
        if standing_of(situation).refusals(situation.channel, situation.item) or not obeys(situation):
            continue
        yes += 1
        one_more = Contact("y", situation.now, situation.channel.name, (situation.item,))
        assert not any(windows_broken(situation, cap, one_more) for cap in situation.policy.caps), (
            f"seed ahead-{seed}"
        )
    assert yes > 100


def obeys(situation: Situation) -> bool:
    return situation.policy.categories[situation.item.category].obeys_caps


def test_a_reported_contact_names_each_cap_of_which_it_overfills_a_window() -> None:
    overruns = 0
    for seed in range(1000):
        random = Random(f"overrun-{seed}")
        situation = some_situation(random)
        at = some_past(random, situation.policy, situation.zones[0], situation.now)
        item = random.choice(COMMON_ITEMS)
        reported = Contact("late", at, situation.channel.name, (item,))
        broken = broken_rules(standing_of(situation), situation.channel, item, at)
        wanted = [cap.name for cap in situation.policy.caps if windows_broken(situation, cap, reported)]
        assert [name for name in broken if name.startswith("cap")] == wanted, f"seed overrun-{seed}"
        overruns += bool(wanted)
    assert overruns > 50


# ---------------------------------------------------------------------- negative controls


def never_refuses_consent(self: Standing, channel: object) -> Refusal | None:
    return None


def always_free(self: Standing, *args: Any) -> Any:
    return args[-1]


def without_live(
    counted: Callable[..., Any],
) -> Callable[..., Any]:
    def confirmed_only(rules: Rules, contacts: tuple[Contact, ...], *args: Any, **kwargs: Any) -> Any:
        return counted(rules, [one for one in contacts if one.state == "confirmed"], *args, **kwargs)

    return confirmed_only


def one_off(free: Callable[..., int]) -> Callable[..., int]:
    """A window that is one millisecond too short."""

    def shorter(cap: Any, *args: Any) -> int:
        return free(replace(cap, per_ms=cap.per_ms - 1) if cap.per_ms else cap, *args)

    return shorter


def disagrees() -> bool:
    return any(
        verdict_of(situation) != judge(situation)
        for seed in range(250)
        for situation in [some_situation(Random(seed))]
    )


@pytest.mark.parametrize(
    ("removed", "instead"),
    [
        ("consent_refusal", never_refuses_consent),
        ("quiet_free", always_free),
        ("suppression_free", always_free),
        ("cap_free", always_free),
    ],
)
def test_a_governor_without_one_of_its_checks_is_found_out(
    monkeypatch: pytest.MonkeyPatch, removed: str, instead: Callable[..., Any]
) -> None:
    monkeypatch.setattr(Standing, removed, instead)
    assert disagrees()


def test_a_governor_that_forgets_live_reservations_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        engine.judging.governor, "counted_times", without_live(engine.judging.governor.counted_times)
    )
    assert disagrees()


def test_a_governor_one_millisecond_off_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        engine.judging.governor, "cap_next_free", one_off(engine.judging.governor.cap_next_free)
    )
    assert disagrees()


def test_the_governor_that_is_whole_is_not_found_out() -> None:
    assert not disagrees()


def test_the_oracle_itself_refuses_and_allows() -> None:
    """Guards the oracle against a silence that would agree with anything."""
    verdicts = [judge(some_situation(Random(seed))) for seed in range(250)]
    assert {"consent", "quiet_hours", "erased", "cap-0", "suppression-0"} <= {
        rule for verdict in verdicts for rule in verdict.rules
    }
