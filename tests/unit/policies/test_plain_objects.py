"""River's objects as plain data: the same afterwards, and nothing but River's."""

import collections
import os
import random
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from policies.classifiers import Unfit, is_linear, made
from policies.plain_objects import NotPlain, from_plain, to_plain


def through(value: Any) -> Any:
    return from_plain(msgspec.msgpack.decode(msgspec.msgpack.encode(to_plain(value))))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        1 << 80,
        0.1,
        "é",
        b"\x00",
        [1, [2, []]],
        (1, (2,)),
        {1: "a", "b": 2.0, (1, 2): None},
        {1, 2},
        frozenset({3}),
        collections.deque([1, 2, 3], maxlen=3),
        collections.Counter("abca"),
        collections.OrderedDict(b=1, a=2),
    ],
)
def test_plain_values_and_containers_come_back_as_they_were(value: Any) -> None:
    back = through(value)
    assert back == value
    assert type(back) is type(value)


def test_a_default_dictionary_keeps_its_factory_and_a_deque_its_bound() -> None:
    back = through(collections.defaultdict(float, a=1.0))
    assert back["b"] == 0.0
    assert through(collections.deque([1], maxlen=2)).maxlen == 2


def test_arrays_and_their_numbers_come_back() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert through([array])[0].tolist() == array.tolist()
    assert type(through(np.float32(1.5))) is np.float32


def test_what_was_shared_stays_shared_and_a_ring_stays_a_ring() -> None:
    shared: list[Any] = []
    ring: list[Any] = [shared, shared]
    ring.append(ring)
    back = through(ring)
    assert back[0] is back[1]
    assert back[2] is back


def test_a_generator_goes_on_with_the_same_numbers() -> None:
    one = random.Random(3)
    one.random()
    assert through(one).random() == one.random()


@pytest.mark.parametrize(
    "value",
    [SimpleNamespace(a=1), os.system, lambda: 1, open, np.array([object()]), object(), iter([1])],
    ids=str,
)
def test_what_is_not_rivers_is_refused(value: Any) -> None:
    with pytest.raises(NotPlain):
        to_plain([value])


@pytest.mark.parametrize(
    "nodes",
    [
        [["list", [[1]]], ["name", "os", "system"]],
        [["list", [[1]]], ["call", [2], ["true"], None, [], []], ["name", "os", "system"]],
        [["list", [[1]]], ["name", "river.utils.math", "math"]],
        [["list", [[1]]], ["name", "river", "checks"]],
        [["list", [[1]]], ["call", [2], [], None, [], []], ["name", "river.utils.math", "sigmoid"]],
        [["list", [[1]]], ["array", "|O", [1], b"12345678", False]],
        [["list", [[1]]], ["unheard of"]],
        [["list", [[7]]]],
        [],
        [7],
    ],
    ids=str,
)
def test_data_that_names_anything_else_is_refused(nodes: Any) -> None:
    with pytest.raises(NotPlain):
        from_plain(nodes)


@pytest.mark.parametrize(
    ("name", "linear"),
    [
        ("river.linear_model.LogisticRegression", True),
        ("river.linear_model.PAClassifier", True),
        ("river.linear_model.Perceptron", True),
        ("river.linear_model.ALMAClassifier", True),
        ("river.linear_model.AdPredictor", False),
        ("river.naive_bayes.GaussianNB", False),
        ("river.tree.HoeffdingTreeClassifier", False),
        ("river.tree.HoeffdingAdaptiveTreeClassifier", False),
        ("river.forest.ARFClassifier", False),
    ],
)
def test_these_classifiers_may_be_used(name: str, linear: bool) -> None:
    assert is_linear(name, {}) is linear


def test_a_classifier_that_draws_without_a_seed_is_refused_and_with_one_it_may_be_used() -> None:
    with pytest.raises(Unfit, match="not learn the same"):
        is_linear("river.neighbors.KNNClassifier", {})
    assert not is_linear("river.neighbors.KNNClassifier", {"engine": {"river.neighbors.SWINN": {"seed": 3}}})


def test_a_classifier_goes_on_exactly_as_it_was() -> None:
    one = made("river.tree.HoeffdingTreeClassifier", {"grace_period": 20})
    drawn = random.Random(5)

    def outcome() -> tuple[dict[int, float], bool]:
        inputs = {0: drawn.gauss(0, 1), 1: drawn.gauss(0, 1)}
        return inputs, inputs[0] > 0

    for _ in range(200):
        one.learn_one(*outcome())
    assert one.height > 1
    back = through(one)
    for _ in range(200):
        inputs, came = outcome()
        assert back.predict_proba_one(inputs) == one.predict_proba_one(inputs)
        one.learn_one(inputs, came)
        back.learn_one(inputs, came)
    assert to_plain(back) == to_plain(one)
