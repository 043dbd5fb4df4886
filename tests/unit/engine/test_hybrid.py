import json
import math
import sys
from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from river.checks import yield_checks
from river.preprocessing import StandardScaler

from engine.learning import own as own_module
from engine.learning import shared as shared_module
from engine.learning.drift import ERRORS_MAX, Watch
from engine.learning.encoding import CUT, Encoder, flatten
from engine.learning.estimator import HybridClassifier
from engine.learning.hybrid import Hybrid, Setting
from engine.learning.own import DIAGONAL, FULL, FULL_OVER_INPUTS
from engine.learning.shared import PAIRS_MAX

PLAIN = Setting(waves=0)
PRICED: dict[str, dict[str, Any]] = {
    "boots": {"line": "winter", "price": 9.0},
    "hats": {"line": "summer", "price": 2.0},
}
LINES: dict[str, dict[str, Any]] = {"boots": {"line": "winter"}, "hats": {"line": "summer"}}


def contexts(count: int, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "age": float(random.normal(40, 9)),
            "spend": float(random.exponential(30)),
            "device": str(random.choice(["app", "web"])),
            "likes": [str(random.choice(["boots", "hats"]))],
        }
        for _ in range(count)
    ]


def taught(
    setting: Setting | None = None, count: int = 200, attributes: dict[str, dict[str, Any]] | None = None
) -> Hybrid:
    """A model of two offers after `count` outcomes: `boots` suits the app, `hats` the web."""
    model = Hybrid(setting)
    model.add_offers({"boots": -1.0, "hats": -1.0}, attributes)
    random = np.random.default_rng(1)
    for number, context in enumerate(contexts(count)):
        offer = ("boots", "hats")[number % 2]
        suits = (context["device"] == "app") == (offer == "boots")
        model.learn(context, offer, float(random.uniform() < (0.8 if suits else 0.1)), at_ms=number)
    return model


def frozen(model: Hybrid) -> bytes:
    arrays, meta = model.to_arrays()
    return json.dumps(meta).encode() + b"".join(
        name.encode() + np.ascontiguousarray(array).tobytes() for name, array in sorted(arrays.items())
    )


def rivers_checks() -> list[Callable[[Any], None]]:
    # River imports scikit-learn's data sets for other kinds of models; a classifier's checks use none of them.
    unused = ModuleType("sklearn")
    unused.datasets = ModuleType("sklearn.datasets")  # type: ignore[attr-defined]  # a stand-in
    with patch.dict(sys.modules, {"sklearn": unused}):
        return list(yield_checks(HybridClassifier()))


@pytest.mark.parametrize("check", rivers_checks(), ids=lambda check: str(check.__name__))
def test_the_estimator_passes_rivers_own_checks(check: Callable[[Any], None]) -> None:
    check(HybridClassifier())


def test_the_estimator_learns_each_offer_apart_and_shares_by_attributes() -> None:
    model = HybridClassifier(attributes=["line"])
    for number in range(300):
        sunny = number % 2 == 0
        for offer, line in (("sandals", "summer"), ("boots", "winter")):
            x: dict[Hashable, Any] = {"offer": offer, "line": line, "weather": "sun" if sunny else "snow"}
            model.learn_one(x, sunny == (line == "summer"))
    assert model.predict_proba_one({"offer": "boots", "line": "winter", "weather": "snow"})[True] > 0.9
    assert model.predict_proba_one({"offer": "boots", "line": "winter", "weather": "sun"})[True] < 0.1


def test_one_step_is_the_textbooks_step() -> None:
    model = Hybrid(PLAIN)
    model.add_offers({"boots": 0.5})
    vector = model.observe({"a=1": 1.0})
    prior = model.own.dense[0].copy()
    model.learn({"a=1": 1.0}, "boots", 1.0)
    expected = 1 / (1 + math.exp(-0.5))
    curvature, variance = expected * (1 - expected), vector @ prior @ vector
    gain = prior @ vector / (1 + curvature * variance)
    assert model.own.mean[0] == pytest.approx(gain * (1 - expected))
    assert model.own.dense[0] == pytest.approx(prior - curvature * np.outer(gain, prior @ vector))


@pytest.mark.parametrize("attributes", [{}, PRICED], ids=["nothing shared", "shared"])
def test_all_offers_at_once_are_each_offer_alone(attributes: dict[str, dict[str, Any]]) -> None:
    model = taught(attributes=attributes)
    context = contexts(1, seed=5)[0]
    mean, deviation = model.predict_all(context)
    one_by_one = [model.predict(context, offer) for offer in model.offers]
    assert list(zip(mean, deviation, strict=True)) == [pytest.approx(one) for one in one_by_one]


def test_predicting_changes_nothing() -> None:
    model = taught()
    before = frozen(model)
    model.predict_all({"age": 3.0, "never seen": 1.0, "device": "watch"})
    assert frozen(model) == before


def test_the_same_log_gives_the_same_bytes_also_across_a_restart() -> None:
    model = taught(count=100)
    arrays, meta = model.to_arrays()
    restarted = Hybrid.from_arrays(arrays, json.loads(json.dumps(meta)))
    for one in (model, restarted):
        for number, context in enumerate(contexts(60, seed=8)):
            expected = one.learn(context, "boots", float(number % 3 == 0), at_ms=1000 + number)
            one.check(expected, float(number % 3 == 0))
    assert frozen(restarted) == frozen(model)
    assert frozen(taught()) == frozen(taught())


def test_a_no_taken_back_is_a_yes_learned_at_once() -> None:
    context = contexts(1, seed=3)[0]
    late, at_once = taught(), taught()
    for model in (late, at_once):
        model.observe(context)
    late.learn(context, "boots", 0.0)
    at_once.learn(context, "boots", 1.0)
    late.take_back(context, "boots", 0.0, 1.0)
    assert late.own.mean == pytest.approx(at_once.own.mean, abs=1e-9)
    assert late.own.dense == pytest.approx(at_once.own.dense, abs=0.0)


def test_a_no_is_taken_back_nearly_whole_where_offers_share() -> None:
    context = contexts(1, seed=3)[0]
    late, at_once = taught(attributes=LINES), taught(attributes=LINES)
    late.learn(context, "boots", 0.0)
    no = late.predict(context, "boots")[0]
    late.take_back(context, "boots", 0.0, 1.0)
    at_once.learn(context, "boots", 1.0)
    yes = at_once.predict(context, "boots")[0]
    assert late.predict(context, "boots")[0] == pytest.approx(yes, abs=0.05 * (yes - no))


def test_a_new_offer_starts_from_what_offers_share_and_is_less_certain() -> None:
    model = taught(count=600, attributes=LINES)
    model.add_offers(
        {"gloves": -1.0, "scarf": -1.0}, {"gloves": {"line": "winter"}, "scarf": {"line": "summer"}}
    )
    mean, deviation = model.predict_all({"age": 40.0, "spend": 30.0, "device": "app", "likes": ["hats"]})
    assert mean[model.offers["gloves"]] > mean[model.offers["scarf"]] + 0.1
    assert deviation[model.offers["gloves"]] > deviation[model.offers["boots"]]


def test_an_offer_that_comes_back_is_known_and_others_stay_as_they_were() -> None:
    model = taught()
    context = contexts(1, seed=4)[0]
    before = model.predict(context, "boots")
    model.add_offers({"boots": 3.0, "gloves": -1.0})
    assert model.predict(context, "boots") == before
    assert list(model.offers) == ["boots", "hats", "gloves"]


def test_a_new_input_leaves_predictions_without_it_where_they_were() -> None:
    model = taught()
    context = contexts(1, seed=4)[0]
    before = model.predict(context, "boots")
    size = model.encoder.size
    model.observe({"visits": 3.0, "plan": "gold"})
    assert model.encoder.size == size + 2
    assert model.predict(context, "boots") == pytest.approx(before)
    assert model.predict({**context, "plan": "gold"}, "boots")[1] > before[1]


@pytest.mark.parametrize(("limit", "level"), [(1 << 19, FULL), (200, FULL_OVER_INPUTS), (50, DIAGONAL)])
def test_covariances_are_given_up_when_they_would_not_fit(
    limit: int, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_module, "CELLS_MAX", (limit, limit))
    model = taught(count=400)
    assert model.own.level == level
    assert model.own.dense.size <= limit
    on_app = {"age": 40.0, "spend": 30.0, "device": "app", "likes": ["hats"]}
    assert model.predict(on_app, "boots")[0] > model.predict({**on_app, "device": "web"}, "boots")[0] + 1


def test_a_step_down_keeps_each_weights_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    model = taught()
    weight = model.own.dense.shape[1] - 1
    kept = model.own.dense[0, weight, weight]
    monkeypatch.setattr(own_module, "CELLS_MAX", (10, 10))
    model.add_offers({"gloves": 0.0})
    assert model.own.loose[0, weight] == kept


def test_pairs_beyond_the_limit_share_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_module, "PAIRS_MAX", 6)
    model = taught(attributes=PRICED)
    assert model.shared.covariance.shape == (6, 6)
    assert PAIRS_MAX > 6
    context = contexts(1, seed=5)[0]
    assert model.predict_all(context)[1][0] == pytest.approx(model.predict(context, "boots")[1])


def test_forgotten_variance_doubles_each_half_life_and_stops_at_the_prior() -> None:
    model = taught(Setting(waves=0, half_life_ms=1000))
    model.forget(1000)
    age = model.encoder.columns["age"] + 1
    before = model.own.dense[0][age, age]
    model.forget(1500)
    assert model.own.dense[0][age, age] == pytest.approx(before * 2**0.5)
    model.forget(10**9)
    prior = model.own.prior * model.own.scale[0]
    assert np.diagonal(model.own.dense[0])[1:] == pytest.approx(prior[1:])
    assert np.linalg.eigvalsh(model.own.dense[0]).min() > -1e-9


def test_without_a_half_life_nothing_is_forgotten() -> None:
    model = taught()
    before = frozen(model)
    model.forget(10**12)
    assert frozen(model) == before


def test_an_alarm_multiplies_the_variance_tenfold() -> None:
    model = Hybrid(PLAIN)
    model.add_offers({"boots": 0.0})
    for _ in range(200):
        model.learn({}, "boots", 1.0)
        model.learn({}, "boots", 0.0)
    before = model.own.dense[0][0, 0]
    model.alarm()
    assert model.own.dense[0][0, 0] == pytest.approx(10 * before)


def test_drift_is_seen_when_a_rate_falls_and_not_while_it_holds() -> None:
    random = np.random.default_rng(4)
    model = Hybrid(PLAIN)
    model.add_offers({"boots": 0.0})

    def alarms(rate: float, count: int) -> int:
        outcomes = (random.uniform(size=count) < rate).astype(float)
        return sum(model.check(model.learn({}, "boots", outcome), outcome) for outcome in outcomes)

    assert alarms(0.4, 3000) == 0
    assert alarms(0.1, 500) > 0
    alarms(0.1, 1000)
    assert model.predict({}, "boots")[0] == pytest.approx(math.log(0.1 / 0.9), abs=0.8)


def test_a_watch_fed_what_another_was_fed_is_in_the_same_state() -> None:
    random = np.random.default_rng(6)
    watch = Watch()
    for error in random.uniform(-1, 1, size=ERRORS_MAX + 500):
        watch.update(error)
    other = Watch(watch.errors)
    later = random.uniform(-1, 0.2, size=1000)
    assert [watch.update(error) for error in later] == [other.update(error) for error in later]
    assert len(watch.errors) <= ERRORS_MAX


def test_numbers_are_scaled_as_rivers_standard_scaler_does() -> None:
    encoder = Encoder(waves=0)
    scaler: Any = StandardScaler()
    for age in (30.0, 50.0, 20.0, 44.0):
        encoder.observe({"age": age})
        scaler.learn_one({"age": age})
    assert encoder.vector({"age": 44.0})[1] == pytest.approx(scaler.transform_one({"age": 44.0})["age"])


def test_a_wild_value_neither_shakes_the_scale_nor_the_vector() -> None:
    encoder = Encoder(waves=0)
    for age in np.random.default_rng(2).normal(40, 9, size=500):
        encoder.observe({"age": float(age)})
    before = encoder.vector({"age": 49.0})[1]
    encoder.observe({"age": 1e12})
    assert encoder.vector({"age": 49.0})[1] == pytest.approx(before, abs=0.05)
    assert encoder.vector({"age": 1e12})[1] == CUT


def test_columns_are_bounded_and_later_names_share_them() -> None:
    encoder = Encoder(waves=4, inputs_max=5)
    for number in range(100):
        encoder.observe({f"page=p{number}": 1.0})
    assert encoder.size == 1 + 5
    assert len(encoder.columns) == 5
    assert encoder.vector({"page=p99": 1.0}).sum() == 2.0


def test_strings_lists_and_flags_become_indicators_and_null_nothing() -> None:
    context = {"device": "app", "likes": ["a", "b"], "member": True, "age": 3, "none": None, "bad": math.nan}
    assert flatten(context) == {
        "device=app": 1.0,
        "likes=a": 1.0,
        "likes=b": 1.0,
        "member=true": 1.0,
        "age": 3.0,
    }


def test_a_curved_taste_is_learned_through_waves() -> None:
    random = np.random.default_rng(7)
    model = Hybrid()
    model.add_offers({"boots": 0.0})
    for age in random.normal(size=1500).tolist():
        model.learn({"age": age}, "boots", float(abs(age) > 0.7))
    near, far = model.predict({"age": 0.0}, "boots")[0], model.predict({"age": 1.6}, "boots")[0]
    assert near < -2
    assert far > 2


def test_a_real_valued_head_learns_the_mean_and_its_noise() -> None:
    random = np.random.default_rng(9)
    model = Hybrid(Setting(family="gaussian"))
    model.add_offers({"boots": 10.0})
    for _ in range(800):
        rich = bool(random.integers(2))
        model.learn({"rich": rich}, "boots", (14.0 if rich else 8.0) + random.normal() * 2)
    assert model.predict({"rich": True}, "boots")[0] == pytest.approx(14, abs=0.4)
    assert model.predict({"rich": False}, "boots")[0] == pytest.approx(8, abs=0.4)
    assert model.errors[0] / model.errors[1] == pytest.approx(4, rel=0.2)


def test_an_unknown_offers_exploration_does_not_depend_on_its_start() -> None:
    model = Hybrid(Setting(bias=0.0, waves=0))
    model.add_offers({"even": 0.0, "rare": math.log(0.1 / 0.9)})
    model.observe({"device": "app"})
    _, deviation = model.predict_all({"device": "app"})
    assert deviation[0] == pytest.approx(deviation[1])
