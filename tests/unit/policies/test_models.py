"""models.yaml: what a model may ask for, and that each mistake in it has a line and a way out."""

# ruff: noqa: E501  # a row of a table is one case, and reads best as one line

import subprocess
import sys

import pytest

from policies.classifiers import OBJECTS_MAX
from policies.loader import load_files
from policies.model import Model, PolicyError, PolicySet, Problem

POLICY = {
    "policy.yaml": "policy: models\ntimezone: UTC\n",
    "channels.yaml": "channels:\n  web: {kind: inbound}\nplacements:\n  home: {channel: web}\n",
    "offers.yaml": "categories: {promotion: {}}\noffers:\n"
    "  - {id: boots, category: promotion, placements: [home], value: 5}\n",
}
LINEAR = "river.linear_model.LogisticRegression"


def load(models: str, **files: str) -> PolicySet:
    named = {f"{name}.yaml": text for name, text in files.items()}
    return load_files(POLICY | named | {"models.yaml": "models:\n" + models}).policy


def only_model(entry: str) -> Model:
    return load(f"  accept: {entry}\n").models[0]


def only_problem(models: str, **files: str) -> Problem:
    with pytest.raises(PolicyError) as caught:
        load(models, **files)
    (problem,) = caught.value.problems
    return problem


def test_a_classifier_of_river_is_named_with_its_parameters() -> None:
    model = only_model(
        "{predicts: accept, learner: river.linear_model.LogisticRegression, "
        "parameters: {l2: 0.01, optimizer: {river.optim.AdaGrad: {lr: 0.2}}}}"
    )
    assert model.learner == LINEAR
    assert model.parameters == {"l2": 0.01, "optimizer": {"river.optim.AdaGrad": {"lr": 0.2}}}


def test_an_object_of_river_without_parameters_is_named_alone_and_may_hold_a_list() -> None:
    model = only_model(
        "{predicts: accept, learner: river.ensemble.StackingClassifier, parameters: {"
        "models: [river.linear_model.LogisticRegression, {river.naive_bayes.BernoulliNB: {alpha: 2}}], "
        "meta_classifier: river.linear_model.LogisticRegression}}"
    )
    assert model.parameters == {
        "models": [{LINEAR: {}}, {"river.naive_bayes.BernoulliNB": {"alpha": 2}}],
        "meta_classifier": {LINEAR: {}},
    }


@pytest.mark.parametrize(
    ("entry", "field", "detail", "fix"),
    [
        ("learner: river.linear_model.LogisticRegresion", "learner", "no class", f'"{LINEAR}"'),
        ("learner: linear_model.LogisticRegression", "learner", "no class", f'"{LINEAR}"'),
        ("learner: os.system", "learner", "no class", LINEAR),
        ("learner: river.linear_model.LinearRegression", "learner", "no classifier", LINEAR),
        ("learner: river.tree.nodes.branch.DTBranch", "learner", "no class", ""),
        ("learner: river.naive_bayes.MultinomialNB", "learner", "cannot learn from such inputs", LINEAR),
        ("learner: river.facto.FMClassifier", "learner", "cannot be kept", LINEAR),
        ("learner: river.neighbors.KNNClassifier", "learner", "not learn the same", "a seed"),
        (f"learner: {LINEAR}, parameters: {{los: 1}}", "parameters.los", 'no parameter "los"', '"loss"'),
        (f"learner: {LINEAR}, parameters: {{l2: high}}", "parameters.l2", "must be a number", "a number"),
        (f"learner: {LINEAR}, parameters: {{l2: true}}", "parameters.l2", "must be a number", "a number"),
        (f"learner: {LINEAR}, parameters: {{l2: {{a: 1}}}}", "parameters.l2", "object of River", "river.MODULE"),
        (f"learner: {LINEAR}, parameters: {{l1: 1, l2: 1}}", "learner", "does not take", "River"),
        (f"learner: {LINEAR}, parameters: {{optimizer: river.optim.AdaGrab}}", "parameters.optimizer", "no class", '"river.optim.AdaGrad"'),
        (f"learner: {LINEAR}, parameters: {{optimizer: {{river.optim.AdaGrad: {{ep: 1}}}}}}", "river.optim.AdaGrad.ep", 'no parameter "ep"', '"eps"'),
        ("learner: river.tree.HoeffdingTreeClassifier, parameters: {grace_period: 1.5}", "parameters.grace_period", "a whole number", "whole"),
        ("learner: river.ensemble.BaggingClassifier", "learner", 'the parameter "model"', "add model"),
        ("parameters: {l2: 1}", "parameters", "belong to a learner", "add learner"),
        (f"learner: {LINEAR}, half_life: 9d", "half_life", "no meaning", "remove it"),
        ("lerner: x", "lerner", "unknown key", '"learner"'),
    ],
)  # fmt: skip
def test_a_mistake_about_a_learner_has_its_line_its_field_and_a_way_out(
    entry: str, field: str, detail: str, fix: str
) -> None:
    problem = only_problem("  opt_in: {predicts: click}\n  accept: {predicts: accept, " + entry + "}\n")
    assert (problem.file, problem.line) == ("models.yaml", 3)
    assert problem.field.startswith("models.accept.")
    assert problem.field.endswith(field)
    assert detail in problem.detail
    assert fix in problem.fix


def many_offers(count: int) -> str:
    offers = "".join(f"  - {{id: o{one}, category: promotion, placements: [home]}}\n" for one in range(count))
    return "categories: {promotion: {}}\noffers:\n" + offers


def test_only_a_linear_classifier_serves_more_offers_than_can_be_scored_one_by_one() -> None:
    tree = "  accept: {predicts: accept, learner: river.tree.HoeffdingTreeClassifier}\n"
    assert load(tree, offers=many_offers(OBJECTS_MAX)).models[0].learner
    problem = only_problem(tree, offers=many_offers(OBJECTS_MAX + 1))
    assert f"home has {OBJECTS_MAX + 1} offers" in problem.detail
    assert "river.linear_model" in problem.fix
    assert load(f"  accept: {{predicts: accept, learner: {LINEAR}}}\n", offers=many_offers(99)).models


def test_river_is_imported_only_by_a_set_that_names_a_learner_of_it() -> None:
    code = (
        "import sys; from tests.unit.policies.test_models import load; from engine.services import models; "
        "load('  accept: {predicts: accept}\\n'); print('river' in sys.modules); "
        f"load('  accept: {{predicts: accept, learner: {LINEAR}}}\\n'); print('river' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.split() == ["False", "True"]


OPT_OUT = "policy: models\ntimezone: UTC\narbitration: {priority: propensity * value - 9 * opt_out}\n"


def test_a_priority_may_read_opt_out_where_a_model_learns_it() -> None:
    for event in ("unsubscribe", "complaint"):
        read = load(f"  accept: {{predicts: accept}}\n  gone: {{predicts: {event}}}\n", policy=OPT_OUT)
        found = read.model("opt_out")
        assert found is not None
        assert found.name == "gone"


@pytest.mark.parametrize("models", ["  accept: {predicts: accept}\n", None])
def test_a_priority_that_reads_opt_out_without_such_a_model_is_a_mistake(models: str | None) -> None:
    files = POLICY | {"policy.yaml": OPT_OUT} | ({"models.yaml": "models:\n" + models} if models else {})
    with pytest.raises(PolicyError) as caught:
        load_files(files)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.field) == ("policy.yaml", 3, "arbitration.priority")
    assert "no model predicts unsubscribe or complaint" in problem.detail
    assert "predicts: [unsubscribe, complaint]" in problem.fix


def test_a_model_of_values_is_named_by_what_it_predicts() -> None:
    model = load("  accept: {predicts: accept}\n  basket: {predicts: value}\n").model("value")
    assert model is not None
    assert (model.name, model.head) == ("basket", "basket|value")


@pytest.mark.parametrize(
    ("entry", "field", "detail"),
    [
        ("{predicts: [value, click]}", "predicts", "nothing else"),
        ("{predicts: value, prior: 2%}", "prior", "no meaning"),
        (f"{{predicts: value, learner: {LINEAR}}}", "learner", "no meaning"),
        ("{predicts: [accept, complaint]}", "predicts", "opposites"),
        ("{predicts: valu}", "predicts", "unknown event type"),
    ],
)
def test_a_model_that_makes_no_sense_is_a_mistake(entry: str, field: str, detail: str) -> None:
    problem = only_problem(f"  accept: {{predicts: accept}}\n  other: {entry}\n")
    assert (problem.line, problem.field) == (3, f"models.other.{field}")
    assert detail in problem.detail


def test_another_learner_is_another_head_and_the_same_one_is_the_same() -> None:
    heads = [
        only_model(entry).head
        for entry in (
            "{predicts: accept}",
            "{predicts: accept, half_life: 9d}",
            f"{{predicts: accept, learner: {LINEAR}}}",
            f"{{predicts: accept, learner: {LINEAR}, parameters: {{l2: 0.1}}}}",
        )
    ]
    assert heads[:2] == ["accept", "accept"]
    assert len(set(heads)) == 3
