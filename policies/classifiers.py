"""River classifiers by name: found, given their parameters, and tried before a policy set may use them.

A classifier may be used if it learns and foretells what a model will ask of it: inputs that come and go, chances of
True within [0, 1], the same from the same outcomes, unchanged by being asked, and the same after it was written down
and read again. River is imported only by who calls a function of this module: it costs a second and 60 MB.
"""

import importlib
import inspect
import json
import math
import pkgutil
import random
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final

import msgspec

from policies.plain_objects import NotPlain, from_plain, rivers, to_plain

OBJECTS_MAX: Final = 32
"""Offers at one placement that a classifier may score object by object, as one that is not linear does."""
SEED: Final = 1
"""For classifiers that draw: a learner that begins again must draw the same."""
_ROUNDS: Final = 320
"""Outcomes that a classifier is tried with: enough for a tree of River's defaults to split."""
_WORDS: Final = re.compile(r"[A-Za-z_.]+")
_TOLERANCE: Final = 1e-9
_EXAMPLE: Final = "river.linear_model.LogisticRegression"

Inputs = Mapping[int, float]
"""Column to value, as a classifier sees a context."""


class Unfit(ValueError):
    """A classifier that cannot be used, with the way out."""

    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fix = fix


def river_class(name: str, kind: type = object) -> type:
    """Return a class of River by its public name (`river.MODULE.NAME`); raises Unfit where it has none of the kind."""
    try:
        found = rivers(*name.rsplit(".", 1)) if name.count(".") == 2 else None
    except NotPlain:
        found = None
    if not isinstance(found, type):
        close = get_close_matches(name, list(_names(kind)), n=1)
        fix = f'did you mean "{close[0]}"?' if close else f"write one such as {_EXAMPLE}"
        raise Unfit(f'River has no class "{name}"', fix)
    if not issubclass(found, kind) or inspect.isabstract(found):
        raise Unfit(f"{name} is no {kind.__name__.lower()} that can be used", f"write one such as {_EXAMPLE}")
    return found


def classifier_class(name: str) -> type:
    """Return a classifier's class by its public name; raises Unfit."""
    from river.base import Classifier  # noqa: PLC0415  # as the module docstring says

    return river_class(name, Classifier)


def parameters_of(of: type) -> dict[str, inspect.Parameter]:
    """Return the parameters that a class of River takes, by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in inspect.signature(of).parameters.items() if one.kind in kinds}


def wanted_types(parameter: inspect.Parameter) -> tuple[tuple[type, ...], str]:
    """Return the plain types that a parameter takes, and how to say them; empty where nobody has said."""
    default, annotation = parameter.default, parameter.annotation
    words = set(_WORDS.findall(annotation if isinstance(annotation, str) else "")) - {"None"}
    if words and not words <= {"bool", "int", "float", "str"}:
        return (), ""
    if isinstance(default, bool) or words == {"bool"}:
        return (bool,), "true or false"
    if words == {"int"}:
        return (int,), "a whole number"
    if isinstance(default, str) or words == {"str"}:
        return (str,), "a text"
    if isinstance(default, int | float) or words & {"int", "float"}:
        return ((int, float, str), "a number or a text") if "str" in words else ((int, float), "a number")
    return (), ""


def made(name: str, parameters: Mapping[str, Any]) -> Any:
    """Return a new object of a class of River; objects among the parameters stand as `{name: parameters}`."""
    of = river_class(name)
    given = {key: _value(value) for key, value in parameters.items()}
    if "seed" in parameters_of(of):
        given.setdefault("seed", SEED)
    return of(**given)


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        ((name, parameters),) = value.items()
        return made(name, parameters)
    return [_value(one) for one in value] if isinstance(value, list) else value


def chance(classifier: Any, inputs: Inputs) -> float:
    """Return a classifier's chance of True, nan where it does not know or cannot tell."""
    try:
        return _foretold(classifier, inputs)
    except Exception:  # noqa: BLE001  # whatever it raises: an offer at its start is better than no answer
        return math.nan


def _foretold(classifier: Any, inputs: Inputs) -> float:
    foretold = classifier.predict_proba_one(inputs)
    return float(foretold.get(True, 0.0)) if foretold else math.nan


def linear_of(classifier: Any) -> tuple[dict[int, float], float] | None:
    """Return weights and intercept of a classifier that has such; whether they are all of it, only a trial tells."""
    for name in ("weights", "w"):
        weights = getattr(classifier, name, None)
        if isinstance(weights, Mapping) and all(isinstance(weight, float) for weight in weights.values()):
            intercept = getattr(classifier, "intercept", 0.0)
            return (dict(weights), float(intercept)) if isinstance(intercept, int | float) else None
    return None


def is_linear(name: str, parameters: Mapping[str, Any]) -> bool:
    """Say whether a classifier's chance is the logistic of a weighted sum; raises Unfit for one that cannot be used."""
    return _tried(name, json.dumps(parameters, sort_keys=True))


@lru_cache(maxsize=64)
def _tried(name: str, parameters: str) -> bool:
    given = json.loads(parameters)
    try:
        one, twin = made(name, given), made(name, given)
    except Exception as error:
        raise Unfit(
            f"{name} does not take these parameters: {_said(error)}", "see River's own page on it"
        ) from error
    elsewhere = f"name another classifier, such as {_EXAMPLE}"
    try:
        return _trial(one, twin)
    except NotPlain as error:
        raise Unfit(f"{name} cannot be kept: {error}", elsewhere) from error
    except Unfit as error:
        raise Unfit(f"{name} {error.detail}", error.fix or elsewhere) from error
    except Exception as error:
        raise Unfit(f"{name} cannot learn from such inputs: {_said(error)}", elsewhere) from error


def _said(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _trial(one: Any, twin: Any) -> bool:
    linear = True
    for number, (inputs, outcome) in enumerate(_examples(_ROUNDS)):
        one.learn_one(inputs, outcome)
        twin.learn_one(inputs, outcome)
        if number % 16 and number > 16:
            continue
        foretold = _foretold(one, inputs)
        if not (math.isnan(foretold) or 0 <= foretold <= 1):
            raise Unfit(f"foretells {foretold:g}, which is no chance", "")
        linear = linear and _foretold_by_weights(one, inputs, foretold)
    kept = _kept(one)
    if _kept(twin) != kept:
        seed = "give it a seed, or each part that takes one, or name another classifier"
        raise Unfit("does not learn the same from the same outcomes, or is changed by being asked", seed)
    back = from_plain(msgspec.msgpack.decode(kept))
    for inputs, outcome in _examples(32):
        for classifier in (one, back):
            classifier.learn_one(inputs, outcome)
    if _kept(back) != _kept(one):
        raise Unfit("does not go on the same after it was kept and read again", "")
    return linear


def _kept(classifier: Any) -> bytes:
    return msgspec.msgpack.encode(to_plain(classifier))


def _foretold_by_weights(classifier: Any, inputs: Inputs, foretold: float) -> bool:
    parts = linear_of(classifier)
    if parts is None:
        return False
    weights, intercept = parts
    score = sum(weights.get(column, 0.0) * value for column, value in inputs.items()) + intercept
    return abs(1 / (1 + math.exp(-max(min(score, 500.0), -500.0))) - foretold) <= _TOLERANCE


def _examples(count: int) -> Iterator[tuple[dict[int, float], bool]]:
    """Yield inputs as a model gives them, with a new column now and then, and outcomes that follow from them."""
    drawn = random.Random(7)  # noqa: S311  # a fixed sequence, nothing secret
    for number in range(count):
        columns = min(2 + number // 40, 6)
        inputs = {
            column: float(drawn.random() < 0.5) if column % 2 else max(-3.0, min(3.0, drawn.gauss(0, 1)))
            for column in range(columns)
        }
        yield inputs, drawn.random() < (0.9 if inputs[0] > 0 else 0.1)


def _names(kind: type) -> Iterator[str]:
    """Yield the public names of River's classes of a kind."""
    import river  # noqa: PLC0415  # as the module docstring says

    for found in pkgutil.iter_modules(river.__path__):
        name = f"river.{found.name}"
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue  # it needs a library that is not installed
        for one in getattr(module, "__all__", ()):
            public = getattr(module, one, None)
            if isinstance(public, type) and issubclass(public, kind):
                yield f"{name}.{one}"
