"""Decisions and outcomes in, models out: joined once, taken back when late, the same after every crash."""

import msgspec
import pytest

from engine.judging.ids import split_id
from engine.judging.plan import compile_plan
from engine.judging.trail import MADE, TRAIL, Step
from engine.learning.river_head import RiverHead
from engine.learning.snapshot import BadSnapshot, unpack
from engine.services.models import MODEL, MODEL_VERSION
from engine.store.store import as_bytes
from engine.workers.learner import CHECKPOINT, Learner
from policies.loader import load_files
from tests.e2e.learning_world import FILES, World, shop

__all__ = ["shop"]  # pytest finds the fixture here


def same(one: Learner, two: Learner) -> bool:
    """Whether two learners hold the same models, bit for bit, and the same that is open."""
    for name, head in one.learning.heads.items():
        mine, theirs = head.to_arrays(), two.learning.heads[name].to_arrays()
        if mine[1] != theirs[1] or any(
            array.tobytes() != theirs[0][key].tobytes() for key, array in mine[0].items()
        ):
            return False
    encode = msgspec.msgpack.encode
    return one.position == two.position and encode(one.learning.notes) == encode(two.learning.notes)


def test_what_was_shown_is_assumed_a_no_and_a_late_yes_takes_it_back(world: World) -> None:
    shown = world.decide()
    offer = shown["offers"][0]["offer"]
    world.learn()
    assert world.learned() == 1
    assert world.expects(offer) < 0.05
    world.event("accept", shown, offer=offer)
    world.learn()
    assert world.learned() == 1
    assert world.expects(offer) > 0.05


def test_a_yes_that_comes_twice_is_learned_once(world: World) -> None:
    shown = world.decide()
    for _ in range(2):
        world.event("accept", shown)
    world.learn()
    once = world.expects(shown["offers"][0]["offer"])
    world.event("purchase", shown)
    world.learn()
    assert world.expects(shown["offers"][0]["offer"]) == once


def test_a_yes_after_the_window_is_not_its_doing(world: World) -> None:
    shown = world.decide()
    world.learn()
    before = world.expects(shown["offers"][0]["offer"])
    known = world.learner.learning.notes.open["".join(split_id(shown["decision_id"]) or ())]
    known.until = known.made - 1
    world.event("accept", shown)
    world.learn()
    assert world.expects(shown["offers"][0]["offer"]) == before


def test_what_was_never_confirmed_or_was_released_is_learned_as_nothing(world: World) -> None:
    reserved = [world.decide(f"c{number}", "pop") for number in range(3)]
    world.learn()
    assert world.learned() == 0
    world.run(world.one.contacts.release(reserved[0]["reservation"]["id"]))
    world.run(world.one.contacts.confirm(reserved[1]["reservation"]["id"]))
    world.learn()
    assert world.learned() == 1
    world.event("accept", reserved[0], customer_id="c0")
    world.learn()
    assert world.learned() == 1


def test_a_channel_that_tells_what_was_seen_is_waited_for(world: World) -> None:
    first = world.decide()
    world.event("impression", first)
    world.learn()
    assert world.learned() == 1
    unseen, other = world.decide("c2"), world.decide("c3", "till")
    world.learn()
    assert world.learned() == 2  # the till does not tell
    world.event("accept", unseen, customer_id="c2")
    world.learn()
    assert world.learned() == 3
    assert other["offers"]


def test_it_learns_from_what_was_known_at_the_moment_of_the_decision(world: World) -> None:
    world.event("page_view")
    world.run(world.one.people.put_profile("c1", {"tier": "gold"}))
    shown = world.decide(context={"device": "mobile"})
    world.event("page_view")
    world.run(world.one.people.put_profile("c1", {"tier": "basic"}))
    world.event("accept", shown)
    (case,) = world.run(
        world.learner._cases([Step(MADE, *(split_id(shown["decision_id"]) or ("", "")))])
    ).values()
    assert case.contexts["accept"] == {
        "placement": "home",
        "features.views": 1,
        "profile.tier": "gold",
        "context.device": "mobile",
    }


@pytest.mark.parametrize("kept_after", [0, 3, 7])
def test_after_a_crash_the_models_are_those_of_a_learner_that_never_died(
    world: World, kept_after: int
) -> None:
    dying = Learner(world.one.customers, world.one.plans)
    for number in range(10):
        shown = world.decide(f"c{number}", ("home", "till", "pop")[number % 3])
        if number % 3 == 2:
            world.run(world.one.contacts.confirm(shown["reservation"]["id"]))
        if number % 2:
            world.event("accept", shown, customer_id=f"c{number}")
        world.learn(dying)
        if number == kept_after:
            world.run(dying.keep())
    back = Learner(world.one.customers, world.one.plans)
    world.run(back.load())
    assert back.position < dying.position
    assert same(world.learn(back), world.learn())
    assert same(back, dying)


def test_a_published_model_serves_and_is_named(world: World) -> None:
    prior = world.decide()
    assert prior["model_version"] == "prior"
    for number in range(20):
        shown = world.decide(f"c{number}")
        if shown["offers"][0]["offer"] == "hat":
            world.event("accept", shown, customer_id=f"c{number}")
    world.learn()
    world.run(world.learner.publish(0.0))
    assert world.run(world.one.models.refresh())
    answer = world.decide("c99", explain=True)
    assert answer["model_version"] == world.learner.position
    chosen = answer["offers"][0]
    assert chosen["propensity"] == pytest.approx(world.expects(chosen["offer"]), rel=1e-6)
    told = {fate["offer"]: fate["details"] for fate in answer["trace"]}
    for offer, factors in told.items():
        assert factors["propensity"] == pytest.approx(world.expects(offer), rel=1e-6)
        assert factors["priority"] == pytest.approx(factors["propensity"] * 5, rel=1e-6)
    record = world.run(world.one.records.read(answer["decision_id"]))
    assert {fate["offer"]: fate["details"] for fate in record["candidates"]} == told
    assert not world.run(world.one.models.refresh())


def test_a_damaged_snapshot_is_refused_and_the_one_before_it_goes_on_serving(world: World) -> None:
    world.event("accept", world.decide())
    world.learn()
    world.run(world.learner.publish(0.0))
    world.run(world.one.models.refresh())
    served = world.one.models.current
    blob = as_bytes(world.call("GET", MODEL)) or b""
    for damaged in (
        blob[:-1],
        blob[:60] + bytes([blob[60] ^ 1]) + blob[61:],
        b"",
        b"TACTMODEL1" + bytes(40),
    ):
        with pytest.raises(BadSnapshot):
            unpack(damaged)
        world.call("SET", MODEL, damaged)
        world.call("SET", MODEL_VERSION, "another")
        world.one.models._refused = b""
        assert not world.run(world.one.models.refresh())
        assert world.one.models.current is served
    assert world.decide()["model_version"] == world.learner.position


def test_a_damaged_checkpoint_is_refused_and_the_trail_is_learned_again(world: World) -> None:
    world.decide()
    world.learn()
    world.run(world.learner.keep())
    world.call("SET", CHECKPOINT, b"nonsense")
    back = Learner(world.one.customers, world.one.plans)
    world.run(back.load())
    assert same(world.learn(back), world.learner)


def test_a_damaged_checkpoint_loses_nothing_that_was_published(world: World) -> None:
    shown = world.decide()
    world.event("accept", shown)
    world.learn()
    world.run(world.learner.publish(0.0))
    world.run(world.learner.keep())
    world.call("XTRIM", TRAIL, "MAXLEN", 0)
    world.call("SET", CHECKPOINT, b"nonsense")
    back = Learner(world.one.customers, world.one.plans)
    world.run(back.load())
    offer = shown["offers"][0]["offer"]
    assert back.position == world.learner.position
    assert world.expects(offer, back) == world.expects(offer)
    world.decide("c2")
    assert world.learned(world.learn(back)) == 2


def test_more_open_decisions_than_a_checkpoint_may_hold_close_the_oldest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.learning.outcomes.OPEN_MAX", 3)
    shown = [world.decide(f"c{number}") for number in range(6)]
    world.learn()
    opened = world.learner.learning.notes.open
    assert len(opened) == 4  # the newest came after the look
    assert "".join(split_id(shown[-1]["decision_id"]) or ()) in opened
    assert "".join(split_id(shown[0]["decision_id"]) or ()) not in opened


def test_a_damaged_step_is_left_out_and_the_next_is_learned(world: World) -> None:
    world.call("XADD", TRAIL, "*", "s", b"x" * 40)
    world.decide()
    world.learn()
    assert world.learned() == 1


def test_a_placement_without_offers_is_decided_by_a_model_as_well(world: World) -> None:
    world.event("accept", world.decide())
    world.learn()
    world.run(world.learner.publish(0.0))
    world.run(world.one.models.refresh())
    assert world.decide(placement="bare")["reason"] == "no_candidates"


def test_a_policy_change_never_resets_a_model(world: World) -> None:
    shown = world.decide()
    world.event("accept", shown)
    world.learn()
    before = world.expects(shown["offers"][0]["offer"])
    files = FILES | {
        "offers.yaml": FILES["offers.yaml"].rstrip()
        + "\n  - {id: scarf, category: promotion, placements: [home], value: 5, prior: 9%}\n"
    }
    world.run(world.one.plans.activate(compile_plan(load_files(files).policy)))
    world.decide("c7")
    world.learn()
    assert set(world.learner.learning.heads["accept"].offers) == {"boots", "socks", "hat", "scarf"}
    assert world.expects(shown["offers"][0]["offer"]) == pytest.approx(before, abs=0.2)
    assert before > 0.05


def test_the_amount_of_a_yes_teaches_a_model_of_values(world: World) -> None:
    models = "models:\n  accept: {predicts: accept}\n  basket: {predicts: value}\n"
    world.run(world.one.plans.activate(compile_plan(load_files(FILES | {"models.yaml": models}).policy)))
    shown = world.decide()
    world.event("accept", shown)
    world.event("purchase", shown, properties={"amount": 9.0})
    head = world.learn().learning.heads["basket|value"]
    offer = shown["offers"][0]["offer"]
    assert head.outcomes.tolist() == [int(one == offer) for one in head.offers]
    assert 5 < head.predict({"placement": "home"}, offer)[0] < 10


def test_a_classifier_of_river_learns_serves_its_snapshot_and_survives_a_crash(world: World) -> None:
    models = "models:\n  accept: {predicts: accept, learner: river.tree.HoeffdingTreeClassifier}\n"
    world.run(world.one.plans.activate(compile_plan(load_files(FILES | {"models.yaml": models}).policy)))
    dying = Learner(world.one.customers, world.one.plans)
    for number in range(6):
        shown = world.decide(f"c{number}")
        if number % 2:
            world.event("accept", shown, customer_id=f"c{number}")
        world.learn(dying)
        if number == 3:
            world.run(dying.keep())
    back = Learner(world.one.customers, world.one.plans)
    world.run(back.load())
    assert same(world.learn(back), world.learn())
    assert same(back, dying)
    world.run(back.publish(0.0))
    published = unpack(as_bytes(world.call("GET", MODEL)) or b"")
    ((name, head),) = published.heads.items()
    assert name.startswith("accept|river.tree")
    assert head.outcomes.sum() == 6


def test_a_model_that_cannot_be_kept_begins_again_and_the_others_go_on(world: World) -> None:
    models = (
        "models:\n  accept: {predicts: accept}\n"
        "  click: {predicts: click, learner: river.linear_model.LogisticRegression}\n"
    )
    world.run(world.one.plans.activate(compile_plan(load_files(FILES | {"models.yaml": models}).policy)))
    first, second = world.decide(), world.decide("c2")
    world.event("accept", first)
    heads = world.learn().learning.heads
    name = next(name for name in heads if name != "accept")
    head = heads[name]
    assert isinstance(head, RiverHead)
    head.classifier(head.offers[first["offers"][0]["offer"]]).intercept = float("inf")
    world.run(world.learner.publish(0.0))
    assert list(unpack(as_bytes(world.call("GET", MODEL)) or b"").heads) == ["accept"]
    world.event("click", second, customer_id="c2")
    world.learn()
    world.decide("c3")
    assert world.learn().learning.heads[name].outcomes.sum() == 1


def test_the_priors_serve_until_somebody_has_said_yes(world: World) -> None:
    shown = world.decide()
    world.learn()
    world.run(world.learner.publish(0.0))
    assert not world.run(world.one.models.refresh())
    world.event("accept", shown)
    world.learn()
    world.run(world.learner.publish(0.0))
    assert world.run(world.one.models.refresh())


def test_a_preview_leaves_no_trail(world: World) -> None:
    world.decide(preview=True)
    assert world.steps() == 0
