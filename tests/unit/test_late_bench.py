"""Late and censored answers: the world is what it says, and the ways of learning differ as they should."""

import json
import math

import numpy as np
import pytest

from engine.judging.trail import CONFIRMED, MADE, RELEASED
from loadtests import late


def test_the_true_chance_is_that_of_a_yes_within_the_window_given_delivery() -> None:
    sent = late.sends(late.WORLDS["often"], 1, 40_000)
    in_time = (sent.answered_ms >= 0) & (sent.answered_ms <= late.WINDOW_MS)
    rate = float(in_time[sent.delivered].mean())
    assert rate == pytest.approx(float(sent.chance[sent.delivered].mean()), abs=0.01)
    assert (sent.answered_ms[~sent.delivered] < 0).all()
    assert (sent.answered_ms > late.WINDOW_MS).any()
    assert float((~sent.delivered).mean()) == pytest.approx(late.CENSORED, abs=0.01)


def test_moments_come_in_order_and_what_was_released_has_no_end() -> None:
    sent = late.sends(late.WORLDS["rare"], 2, 900)
    moments = late.happenings(sent)
    assert [one.at for one in moments] == sorted(one.at for one in moments)
    kinds: dict[int, list[str]] = {}
    for one in moments:
        kinds.setdefault(one.decision, []).append(one.kind)
    assert all(mine[:2] in ([MADE, CONFIRMED], [MADE, RELEASED]) for mine in kinds.values())
    assert all(mine == [MADE, RELEASED] for mine in kinds.values() if RELEASED in mine)
    assert sum(late.ENDED in mine for mine in kinds.values()) > 100


def test_what_was_released_is_learned_as_nothing_and_what_was_confirmed_once() -> None:
    sent = late.sends(late.WORLDS["rare"], 3, 200)
    who = late.TakeBack(sent)
    for one in late.happenings(sent):
        who.take(one)
    (head,) = who.learning.heads.values()
    assert int(head.outcomes.sum()) == int(sent.delivered.sum())


def test_nobody_states_better_chances_than_who_knows_them() -> None:
    sent = late.sends(late.WORLDS["rare"], 4, 300)
    assert np.nanmean(late.losses("take-back", sent)) > np.nanmean(late.oracle(sent))
    assert late.log_loss(0.3, 0.3) < min(late.log_loss(0.3, 0.29), late.log_loss(0.3, 0.31))
    assert late.log_loss(0.3, 0.3) == pytest.approx(-0.3 * math.log(0.3) - 0.7 * math.log(0.7))


def test_taking_back_is_better_than_waiting_than_dropping_and_in_the_end_than_learning_on_top() -> None:
    sent = late.sends(late.WORLDS["often"], 3, 4000)  # eight windows
    losses = {
        way: late.losses(way, sent) for way in ("undelayed", "take-back", "waiting", "on-top", "dropped")
    }
    whole = {way: float(np.nanmean(one)) for way, one in losses.items()}
    assert whole["undelayed"] < whole["take-back"] < whole["waiting"] < whole["dropped"]
    end = {way: float(np.nanmean(one[2000:])) for way, one in losses.items()}
    assert end["take-back"] < end["on-top"] < end["dropped"]
    assert end["take-back"] == pytest.approx(end["undelayed"], abs=0.003)  # lateness costs nothing any more


def test_the_json_holds_every_way_with_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    late.main(["--worlds", "rare", "--seeds", "2", "--decisions", "150", "--json"])
    found = json.loads(capsys.readouterr().out)["worlds"]["rare"]
    assert list(found) == ["oracle", *late.WAYS]
    assert found["take-back"]["whole"]["worse"] == {"mean": 0.0, "half_width": 0.0}
    assert found["oracle"]["whole"]["worse"]["mean"] < 0
    with pytest.raises(SystemExit):
        late.main(["--worlds", "flat"])
