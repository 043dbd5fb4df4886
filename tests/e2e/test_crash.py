"""`kill -9` at random instants under load: nothing acknowledged is lost or doubled, no cap is breached (G16)."""

from collections.abc import Iterator

import pytest

from loadtests.crash import Crashes
from loadtests.promises import Answer, Promises


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashes]:
    """One data folder for all tests here: each goes on from what the last one left."""
    crashes = Crashes(tmp_path_factory.mktemp("crash"), seed=11, workers=2)
    yield crashes
    crashes.stop()


def all_kept(crashes: Crashes) -> None:
    assert crashes.complaints() == []
    assert crashes.breaches == 0


def test_killing_everything_loses_and_doubles_nothing(crashes: Crashes) -> None:
    for _ in range(3):
        crashes.round()
        all_kept(crashes)
    report = crashes.report()
    assert (report["lost"], report["doubled"], report["changed"]) == (0, 0, 0)
    assert report["events"] > 100
    assert report["contacts"] > 100


@pytest.mark.parametrize("part", ["worker", "api", "valkey"])
def test_killing_one_part_brings_it_back_and_keeps_every_promise(crashes: Crashes, part: str) -> None:
    crashes.round(part)
    all_kept(crashes)


# ---------------------------------------------------------------------- the checker sees what it is there for


def event(event_id: str, amount: int = 5) -> dict[str, object]:
    return {
        "event_id": event_id,
        "type": "page_view",
        "customer_id": "c1",
        "properties": {"amount": amount},
    }


def with_events(*event_ids: str) -> Promises:
    promises = Promises()
    for event_id in event_ids:
        promises.sent([event(event_id)]).settle(Answer(202, {"accepted": 1, "rejected": []}))
    return promises


def test_a_lost_event_is_seen() -> None:
    promises = with_events("a", "b")
    verdict = promises.check_features({"c1": {"views": 1, "worth": 5}})
    assert (len(verdict.lost), verdict.doubled) == (2, [])  # the count and the sum


def test_an_event_that_counted_twice_is_seen() -> None:
    verdict = with_events("a").check_features({"c1": {"views": 2, "worth": 10}})
    assert (verdict.lost, len(verdict.doubled)) == ([], 2)


def test_one_event_lost_and_another_doubled_is_seen_by_what_they_are_worth() -> None:
    promises = Promises()
    for number in (1, 2):
        promises.sent([event(f"e{number}", number)]).settle(Answer(202, {"accepted": 1}))
    assert promises.check_features({"c1": {"views": 2, "worth": 3}}).kept
    assert not promises.check_features({"c1": {"views": 2, "worth": 4}}).kept
    assert not promises.check_features({"c1": {"views": 2, "worth": 2}}).kept


def test_an_event_without_an_answer_may_have_counted_or_not_but_not_twice() -> None:
    promises = with_events("a")
    promises.maybe.append(promises.sent([event("b")]))
    kept = [promises.check_features({"c1": {"views": n, "worth": 5 * n}}).kept for n in range(4)]
    assert kept == [False, True, True, False]


def test_contacts_that_are_gone_doubled_or_in_another_state_are_seen() -> None:
    promises = Promises()
    for contact_id, state in (("one", "confirmed"), ("two", "released")):
        promises.ended(contact_id, state).settle(Answer(200, {"state": state}))
    one, two = ("one", "confirmed"), ("two", "released")
    assert promises.check_contacts([one, two]).kept
    assert len(promises.check_contacts([one]).lost) == 1
    assert len(promises.check_contacts([one, ("two", "confirmed")]).lost) == 1
    assert len(promises.check_contacts([one, two, one]).doubled) == 1
    assert len(promises.check_contacts([one, two, ("three", "reserved")]).doubled) == 1


def test_an_end_without_an_answer_leaves_both_states_possible_and_no_third() -> None:
    promises = Promises()
    check = promises.checked("email", "boots", ["c1"], "key")
    check.settle(Answer(200, {"results": [{"allowed": True, "reservation_id": "r"}]}))
    promises.maybe.append(promises.ended("r", "confirmed"))
    kept = [promises.check_contacts([("r", state)]).kept for state in ("reserved", "confirmed", "released")]
    assert kept == [True, True, False]


def test_another_answer_to_a_retried_confirm_is_seen() -> None:
    promises = Promises()
    promises.ended("r", "confirmed").settle(Answer(409, {"state": "released"}))
    assert len(promises.verdict.changed) == 1


def test_an_event_that_the_server_never_got_is_reported_lost(crashes: Crashes) -> None:
    kept = dict(crashes.promises.events)
    crashes.promises.events["never-sent"] = event("never-sent") | {"customer_id": "hot-1"}
    crashes.round("worker")
    crashes.promises.events = kept
    lost = crashes.verdict.lost
    crashes.verdict.lost = []
    assert {sentence.partition(" is ")[0] for sentence in lost} == {"views of hot-1", "worth of hot-1"}
