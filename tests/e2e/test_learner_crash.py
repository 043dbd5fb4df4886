"""`kill -9` of the learner under load: its models are those of one that never died; damage is refused whole."""

import msgspec
import pytest

from engine.learning.hybrid import Hybrid
from engine.learning.outcomes import Notes, Open
from engine.learning.snapshot import BadSnapshot, Snapshot, pack, unpack
from loadtests import learning_latency
from loadtests.learner_crash import damages, measure
from loadtests.models_differ import differ

SEED = 5


def test_after_kills_under_load_the_models_are_those_of_a_learner_that_never_died() -> None:
    found = measure(2, SEED, rate=150, longest_s=1.0, say=False)
    assert found["complaints"] == []
    assert found["checkpoint"]["where"] == found["published"]["where"] == ""
    assert found["checkpoint"]["outcomes"] > 100
    assert set(found["kinds"]) == {"d", "c", "r", "o"}
    assert found["refused"] == 5


def test_a_learner_that_reads_steps_twice_is_found() -> None:
    found = measure(1, SEED, rate=150, longest_s=1.0, forget=True, say=False)
    assert not found["checkpoint"]["same"]


def test_an_outcome_has_its_effect_and_a_learner_that_is_stopped_is_seen() -> None:
    found = learning_latency.measure(5, SEED, gap_s=0.1, say=False)
    assert found["never"] == 0
    assert found["control_s"] > learning_latency.BOUND_S


# ----------------------------------------------------------------------------------------- the arithmetic


def learned(outcomes: int) -> Hybrid:
    head = Hybrid()
    head.add_offers({"boots": 0.0, "socks": 0.0})
    for number in range(outcomes):
        head.learn({"hour": float(number)}, "boots", number % 2)
    return head


def test_the_smallest_difference_between_models_is_found() -> None:
    one, two = learned(20), learned(20)
    assert differ({"accept": one}, {"accept": two}, Notes(), Notes()).bit_for_bit
    two.own.mean[0, 0] += 1e-6
    found = differ({"accept": one}, {"accept": two}, Notes(), Notes())
    assert (found.same, found.where) == (False, "accept: own.mean")


def test_a_difference_in_what_is_open_is_found() -> None:
    mine, theirs = Notes({"a": Open(1, 2, yes={"accept": [0]})}), Notes({"a": Open(1, 2)})
    assert differ({}, {}, mine, theirs).where.startswith("open: ")


@pytest.mark.parametrize("name", list(damages(pack(Snapshot("1-1", {"accept": learned(5)})))))
def test_every_damage_is_one_that_a_reader_must_refuse(name: str) -> None:
    with pytest.raises(BadSnapshot) as refused:
        unpack(damages(pack(Snapshot("1-1", {"accept": learned(5)})))[name])
    assert ("golden" in str(refused.value)) == (name == "other-weights")


def test_damages_begin_with_a_snapshot_that_is_good() -> None:
    assert msgspec.msgpack.decode(pack(Snapshot("1-1", {"accept": learned(5)}))[42:])["version"] == "1-1"
