"""A compiled head says what the head says, for any rows, contexts and sizes."""

from random import Random
from typing import Any

import numpy as np
import pytest

from engine.learning import compiled, own
from engine.learning.compiled import CompiledHead
from engine.learning.hybrid import Hybrid, Setting

OFFERS = {f"o{number}": -3.0 + number / 10 for number in range(12)}


def context(random: Random) -> dict[str, Any]:
    found: dict[str, Any] = {"placement": random.choice(["home", "till"])}
    for name in ("views", "spend", "age"):
        if random.random() < 0.8:
            found[name] = random.gauss(3, 10)
    if random.random() < 0.5:
        found["likes"] = random.sample(["a", "b", "c", "d"], 2)
    if random.random() < 0.3:
        found["vip"] = random.random() < 0.5
    return found


def learned(seed: int, *, attributes: bool, setting: Setting) -> Hybrid:
    random = Random(seed)
    head = Hybrid(setting)
    described = {offer: {"line": random.choice("xyz"), "discount": random.random()} for offer in OFFERS}
    head.add_offers(OFFERS, described if attributes else None)
    for _ in range(200):
        head.learn(context(random), random.choice(list(OFFERS)), float(random.random() < 0.3))
    return head


@pytest.mark.parametrize("attributes", [False, True])
@pytest.mark.parametrize("setting", [Setting(), Setting(waves=0), Setting(inputs_max=5)])
@pytest.mark.parametrize("cells", [(1 << 19, 1 << 19), (5_000, 5_000), (100, 100)])
@pytest.mark.parametrize("laid_out", [1 << 20, 0])
def test_a_compiled_head_predicts_what_the_head_does(
    monkeypatch: pytest.MonkeyPatch, attributes: bool, setting: Setting, cells: tuple[int, int], laid_out: int
) -> None:
    monkeypatch.setattr(own, "CELLS_MAX", cells)
    monkeypatch.setattr(compiled, "LAID_OUT_MAX", laid_out)
    head = learned(7, attributes=attributes, setting=setting)
    rows, offers = [3, 0, 11, 5, 5], ["o3", "o0", "o11", "new", "o5", "o5"]
    starts = np.full(6, -4.5), np.full(6, 1.5)
    one, random = CompiledHead(head, offers, starts, 0.3), Random(8)
    odd: dict[str, Any] = {
        "unheard of": 1.0,
        "placement": "kiosk",
        "views": float("inf"),
        "a=b": 2.0,
        "spend": None,
    }
    for asked in [{}, odd, *(context(random) for _ in range(20))]:
        mean, deviation = one.predict(one.encode(asked))
        whole = head.predict_all(asked)
        assert np.delete(mean, 3) == pytest.approx(whole[0][rows], abs=1e-4)
        assert np.delete(deviation, 3) == pytest.approx(0.3 * whole[1][rows], rel=1e-3, abs=1e-5)
        assert (mean[3], deviation[3]) == pytest.approx((-4.5, 0.45))
