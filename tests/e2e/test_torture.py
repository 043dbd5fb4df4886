"""The torture suites in short: each keeps every promise, and turns red when one check is cut out of the product."""

import os
import shutil
from pathlib import Path

import pytest

from loadtests.torture import sabotage
from loadtests.torture.__main__ import run
from loadtests.torture.judge import Held, History, Item, Rule
from loadtests.torture.wire import Verdict

BOOTS = Item("boots", "promotion")


def broken(verdict: Verdict) -> set[str]:
    return {kind for kind, found in verdict.broken.items() if found}


def test_the_hammer_finds_every_answer_true() -> None:
    verdict = run("hammer", 600, seed=5)
    assert broken(verdict) == set(), verdict.examples()
    assert verdict.figures["operations"] == 600
    assert verdict.figures["answers judged"] > 200


@pytest.mark.parametrize(
    ("cut", "count", "kinds"),
    [
        ("version", 9_000, {"lost"}),
        ("live", 600, {"breaches", "false answers"}),
        ("early", 1_500, {"false answers"}),
    ],
)
def test_the_hammer_turns_red_when_a_check_is_cut_out(cut: str, count: int, kinds: set[str]) -> None:
    assert kinds <= broken(run("hammer", count, seed=5, without=cut))


def test_the_union_of_merged_people_turns_red_when_contacts_are_not_united() -> None:
    assert "lost" in broken(run("merge", 6, seed=5, without="union"))


def test_a_denied_consent_that_does_not_win_is_seen() -> None:
    assert "consents" in broken(run("merge", 20, seed=5, without="denied"))


def test_a_quota_that_is_not_given_back_is_seen() -> None:
    assert "false refusals" in broken(run("budget", 2_000, seed=5, without="give-back"))


def test_killing_each_kind_of_process_keeps_every_promise() -> None:
    verdict = run("kill", 4, seed=5)
    assert broken(verdict) <= {"slow recoveries"}, verdict.examples()  # a busy machine starts slowly


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_trouble_with_the_store_keeps_every_promise() -> None:
    verdict = run("faults", 3, seed=5)
    assert broken(verdict) <= {"slow recoveries", "slow silences"}, verdict.examples()


@pytest.mark.skipif(shutil.which("strace") is None, reason="the kill at a sync is injected by strace")
def test_a_kill_at_the_first_syncs_keeps_every_promise() -> None:
    verdict = run("sync", 2, seed=5)
    assert broken(verdict) <= {"slow recoveries"}, verdict.examples()


@pytest.mark.parametrize("name", sabotage.CUTS)
def test_every_control_finds_its_line(name: str, tmp_path: Path) -> None:
    environment = sabotage.sabotaged(name, tmp_path)
    cut = sabotage.CUTS[name]
    assert cut.instead in (Path(environment["PYTHONPATH"]) / cut.file).read_text()


def test_a_control_whose_line_is_gone_fails_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = sabotage.Cut("engine/judging/governor.py", "a line that nobody wrote", "pass")
    monkeypatch.setitem(sabotage.CUTS, "gone", gone)
    with pytest.raises(RuntimeError, match="0 times, not once"):
        sabotage.sabotaged("gone", tmp_path)


# ---------------------------------------------------------------------- the judge knows what it looks at


def confirmed(contact_id: str, at: int) -> Held:
    return Held(contact_id, "email", (BOOTS,), at, at + 50, confirmed=at, made_known=at, end_known=at)


def history(*held: Held) -> History:
    return History((Rule("two", 2, per=1_000),), "UTC", list(held))


def test_a_window_with_one_too_many_is_a_breach_and_one_that_is_just_over_is_none() -> None:
    assert list(history(confirmed("a", 1_000), confirmed("b", 1_500), confirmed("c", 2_000)).breaches()) == []
    assert (
        len(list(history(confirmed("a", 1_000), confirmed("b", 1_500), confirmed("c", 1_999)).breaches()))
        == 1
    )


def test_a_live_reservation_counts_in_the_window() -> None:
    live = Held("c", "email", (BOOTS,), 1_600, 9_000)
    assert len(list(history(confirmed("a", 1_000), confirmed("b", 1_500), live).breaches())) == 1


@pytest.mark.parametrize(("eligible_at", "true"), [(1_999, False), (2_000, True), (2_001, False)])
def test_a_refusal_is_explained_only_by_the_exact_moment(eligible_at: int, *, true: bool) -> None:
    told = history(confirmed("a", 1_000), confirmed("b", 1_500))
    states = list(told.states(1_600, 1_603))
    explained = any(told.explains(s, "email", BOOTS, {"two": eligible_at}, eligible_at) for s in states)
    assert explained is true


def test_a_refusal_before_the_facts_that_would_explain_it_is_false() -> None:
    told = history(confirmed("a", 1_000), confirmed("b", 1_500))
    states = list(told.states(1_200, 1_300))
    assert not any(told.explains(s, "email", BOOTS, {"two": 2_000}, 2_000) for s in states)


def test_a_slot_that_was_given_back_at_the_very_moment_of_a_yes_may_explain_it() -> None:
    given_back = Held("b", "email", (BOOTS,), 1_200, 9_000, released=1_600, made_known=1_201, end_known=1_604)
    taken = Held("c", "email", (BOOTS,), 1_600, 9_000, made_known=1_603)
    told = history(confirmed("a", 1_000), given_back, taken)
    states = told.states(1_599, 1_603, before="c")
    assert any(told.explains(state, "email", BOOTS, {}, None) for state in states)
    later = Held("b", "email", (BOOTS,), 1_200, 9_000, released=1_601, made_known=1_201, end_known=1_604)
    told = history(confirmed("a", 1_000), later, taken)
    states = told.states(1_599, 1_603, before="c")
    assert not any(told.explains(state, "email", BOOTS, {}, None) for state in states)


def test_a_day_of_the_customers_zone_is_counted_from_midnight_to_midnight() -> None:
    rule = Rule("daily", 1, day=True)
    late, early = 1_795_478_399_000, 1_795_478_401_000  # a second before and after midnight UTC
    apart = History((rule,), "UTC", [confirmed("a", late), confirmed("b", early)])
    together = History((rule,), "Asia/Tokyo", [confirmed("a", late), confirmed("b", early)])
    assert (len(list(apart.breaches())), len(list(together.breaches()))) == (0, 1)
