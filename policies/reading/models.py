"""models.yaml: what is learned, from what, and by which learner.

A learner that is named is River's, and is tried here with the parameters given: one that could not be kept, or would
not learn the same twice, is a mistake of the policy set. River is imported only then.
"""

from collections.abc import Collection
from typing import Any

from policies.classifiers import (
    OBJECTS_MAX,
    Unfit,
    classifier_class,
    is_linear,
    parameters_of,
    river_class,
    wanted_types,
)
from policies.model import OPT_OUTS, VALUE, Model, Offer
from policies.reading.knowledge import BUILT_IN_FIELDS
from policies.reading.nodes import Listing, Table
from policies.reading.survey import FILES, Reading
from policies.reading.values import Fields, Value

KEYS = ("predicts", "inputs", "half_life", "prior", "drift", "learner", "parameters")


def read_models(reading: Reading, root: Value | None, offers: Collection[Offer]) -> tuple[Model, ...]:
    """Return the models; without the file one, `accept`, that reads everything."""
    models: tuple[Model, ...] = (Model("accept", ("accept",)),)
    section = root.fields(FILES["models.yaml"]).get("models") if root is not None else None
    if section is not None:
        named = section.named()
        if "accept" not in named and section.table() is not None:
            section.fail(
                "the model accept is missing: offers are ranked by it", "add accept: {predicts: accept}"
            )
        models = tuple(_model(reading, name, value, offers) for name, value in named.items())
    if root is None or isinstance(root.node, Table):
        _check_priority(reading, models)
    return models


def _check_priority(reading: Reading, models: tuple[Model, ...]) -> None:
    """Report a priority that reads the chance of an opt-out where no model learns it."""
    asked = reading.opt_out_read
    if asked is not None and not any(model.role == "opt_out" for model in models):
        asked.fail(
            "the priority reads opt_out, but no model predicts unsubscribe or complaint",
            "add opt_out: {predicts: [unsubscribe, complaint]} to models in models.yaml",
        )


def _model(reading: Reading, name: str, value: Value, offers: Collection[Offer]) -> Model:
    fields = value.fields(KEYS, required=("predicts",))
    default = Model(name, ())
    learner, parameters = _learner(fields, offers)
    model = Model(
        name=name,
        predicts=fields.read("predicts", lambda member: _predicts(reading, member), ()),
        inputs=fields.read("inputs", lambda member: _inputs(reading, member), default.inputs),
        half_life_ms=fields.read("half_life", Value.duration, 0),
        prior=fields.read("prior", Value.share, 0.0),
        drift=fields.read("drift", Value.flag, default.drift),
        learner=learner,
        parameters=parameters,
    )
    for key, fault, fix in (
        ("learner", model.role == "value", "a classifier tells chances, not values; remove it"),
        ("prior", model.role == "value", "a value starts at each offer's own value; remove it"),
        ("half_life", "learner" in fields, "a classifier forgets as its own parameters say; remove it"),
    ):
        if fault and key in fields:
            fields[key].fail(f"{key} has no meaning here", fix)
    return model


def _predicts(reading: Reading, value: Value) -> tuple[str, ...] | None:
    members = value.one_or_many()
    texts = [
        member.text("an event type") if member.plain() == VALUE else reading.event_type(member)
        for member in members
    ]
    found = tuple(dict.fromkeys(text for text in texts if text is not None))
    if len(found) > 1 and VALUE in found:
        value.fail("a model of values predicts nothing else", "give the events a model of their own")
        return None
    if "accept" in found and OPT_OUTS & set(found):
        value.fail("accepting and opting out are opposites", "give each a model of its own")
        return None
    return found


def _inputs(reading: Reading, value: Value) -> tuple[str, ...]:
    found = [_input(reading, member) for member in value.members(some=True)]
    return tuple(dict.fromkeys(text for text in found if text is not None))


def _input(reading: Reading, value: Value) -> str | None:
    text = value.text("an input", "write features.*, profile.NAME or context.KEY")
    if text is None:
        return None
    root, _, name = text.partition(".")
    roots = {"features": reading.names.features, "profile": reading.names.profile, "context": None}
    if root not in roots or not name:
        value.fail(f'"{text}" is no input', "write features.*, profile.NAME or context.KEY")
        return None
    known = roots[root]
    if name == "*" or known is None or name in known or (root == "profile" and name in BUILT_IN_FIELDS):
        return text
    value.fail(
        f'unknown {"feature" if root == "features" else "profile field"} "{name}"', value.near(name, known)
    )
    return None


# ---------------------------------------------------------------------- River's classifiers


def _learner(fields: Fields, offers: Collection[Offer]) -> tuple[str, dict[str, Any]]:
    """Return a classifier's name and parameters; empty for the hybrid, or where either was reported."""
    named, given = fields.get("learner"), fields.get("parameters")
    if named is None:
        if given is not None:
            given.fail(
                "parameters belong to a learner, and none is named",
                "add learner: river.MODULE.NAME",
                given.entry_line,
            )
        return "", {}
    name = named.text("the name of a classifier", "write one such as river.linear_model.LogisticRegression")
    if name is None:
        return "", {}
    before = len(named.report.problems)
    try:
        parameters = _parameters(given, classifier_class(name), named)
        if len(named.report.problems) > before:
            return "", {}
        linear = is_linear(name, parameters)
    except Unfit as unfit:
        named.fail(unfit.detail, unfit.fix)
        return "", {}
    if not linear:
        _check_objects(named, name, offers)
    return name, parameters


def _check_objects(value: Value, name: str, offers: Collection[Offer]) -> None:
    counts: dict[str, int] = {}
    for offer in offers:
        for placement in offer.placements:
            counts[placement] = counts.get(placement, 0) + 1
    placement = max(counts, key=lambda one: counts[one], default="")
    if counts and counts[placement] > OBJECTS_MAX:
        value.fail(
            f"{name} is not linear, so it scores offer by offer, and {placement} has {counts[placement]} offers",
            f"leave at most {OBJECTS_MAX} offers to a placement, or name a classifier of river.linear_model",
        )


def _parameters(given: Value | None, of: type, named: Value) -> dict[str, Any]:
    """Return the parameters of a class of River; mistakes are reported at their own lines."""
    known = parameters_of(of)
    entries = given.named() if given is not None and not given.is_null else {}
    found: dict[str, Any] = {}
    for name, value in entries.items():
        if name not in known:
            value.fail(f'{of.__name__} has no parameter "{name}"', value.near(name, known), value.entry_line)
            continue
        types, said = wanted_types(known[name])
        found[name] = made = _parameter(value)
        plain = not isinstance(made, dict | list)
        if types and made is not None and (not plain or type(made) not in types):
            value.fail(f"{name} must be {said}", f"write {said}, as {of.__name__} takes it")
    missing = [name for name, one in known.items() if one.default is one.empty and name not in entries]
    if missing:
        where = given or named
        where.fail(f'{of.__name__} needs the parameter "{missing[0]}"', f"add {missing[0]}: … to parameters")
    return found


def _parameter(value: Value) -> Any:
    """Return a plain value, a list, or an object of River as `{name: parameters}`."""
    if isinstance(value.node, Listing):
        return [_parameter(member) for member in value.members()]
    if isinstance(value.node, Table):
        entries = value.named()
        name = next(iter(entries), "")
        if len(entries) != 1 or not name.startswith("river."):
            value.fail("an object of River is wanted", "write {river.MODULE.NAME: {PARAMETER: VALUE}}")
            return None
        return _object(name, entries[name], value)
    text = value.plain()
    return _object(text, None, value) if text is not None and text.startswith("river.") else value.json()


def _object(name: str, given: Value | None, value: Value) -> Any:
    try:
        return {name: _parameters(given, river_class(name), value)}
    except Unfit as unfit:
        value.fail(unfit.detail, unfit.fix)
        return None
