"""River's objects as plain data and back: no pickle, nothing but River's own classes and plain containers.

    plain:  a list of nodes; the first is the object. A value is itself where it is a number, text, truth or null, else
            `[place]` of its node, so that what was shared stays shared.

A node is taken apart as `copy` would do it (`__reduce_ex__`), and is put together only from classes and functions
that `river` defines, and a few containers: data that names anything else is refused, and so is an object that holds
anything else.
"""

import builtins
import collections
import copyreg
import functools
import importlib
import operator
import random
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

import numpy as np

PROTOCOL: Final = 2
_CONTAINERS: Final[tuple[Any, ...]] = (
    collections.Counter,
    collections.OrderedDict,
    collections.defaultdict,
    collections.deque,
    functools.partial,
    random.Random,
    bool,
    dict,
    float,
    int,
    list,
    set,
    str,
    tuple,
)
_ALLOWED: Final = {(one.__module__, one.__qualname__): one for one in _CONTAINERS}
_NEW: Final = getattr(copyreg, "__newobj__")  # noqa: B009  # its name would be mangled in a class
_NUMBERS: Final = "biuf"
_INT_MAX: Final = 1 << 63

Plain = list[Any]


class NotPlain(ValueError):
    """An object that cannot be written down, or data that is none; the sentence says what stands in the way."""


def to_plain(value: Any) -> Plain:
    """Return an object as plain data that msgpack can hold; raises NotPlain."""
    writer = _Writer()
    try:
        writer.value([value])
    except RecursionError:
        raise NotPlain("it is nested too deeply") from None
    return writer.nodes


def from_plain(nodes: Plain) -> Any:
    """Return the object that `to_plain` wrote; raises NotPlain for anything else."""
    try:
        return _Reader(nodes).node(0)[0]
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise NotPlain(f"it cannot be put together: {error}") from error


def rivers(module: str, name: str) -> Any:
    """Return the class or function that River defines under a name in a module of its own; raises NotPlain."""
    if module.partition(".")[0] != "river":
        raise NotPlain(f"{module}.{name} is not River's")
    try:
        found = operator.attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError):
        raise NotPlain(f"River has no {module}.{name}") from None
    if not _is_rivers(found):
        raise NotPlain(f"{module}.{name} is not River's")
    return found


def _is_rivers(value: Any) -> bool:
    known = isinstance(value, type | FunctionType | BuiltinFunctionType)
    return known and str(value.__module__).partition(".")[0] == "river"


class _Writer:
    """Takes objects apart; `nodes` grow, and what was met before is named again by its place."""

    def __init__(self) -> None:
        self.nodes: Plain = []
        self._places: dict[int, int] = {}
        self._alive: list[Any] = []
        """What was taken apart: kept, so that no other object gets its id."""

    def value(self, value: Any) -> Any:
        if value is None or type(value) in (bool, float, str):
            return value
        if type(value) is int and -_INT_MAX <= value < _INT_MAX:
            return value
        place = self._places.get(id(value))
        if place is None:
            place = self._places[id(value)] = len(self.nodes)
            self._alive.append(value)
            self.nodes.append(None)
            self.nodes[place] = self._node(value)
        elif self.nodes[place] is None and isinstance(value, tuple):
            raise NotPlain("a tuple holds itself")
        return [place]

    def _node(self, value: Any) -> Plain:
        kind = type(value)
        if kind is int:
            return ["int", str(value)]
        if kind is bytes:
            return ["bytes", value]
        if kind in (list, tuple, set, frozenset):
            return [kind.__name__, [self.value(one) for one in value]]
        if kind is dict:
            return ["dict", [[self.value(key), self.value(one)] for key, one in value.items()]]
        if isinstance(value, np.ndarray | np.generic):
            if value.dtype.kind not in _NUMBERS:
                raise NotPlain(f"it holds an array of {value.dtype}")
            array = np.asarray(value)
            return [
                "array",
                array.dtype.str,
                list(array.shape),
                array.tobytes(),
                isinstance(value, np.generic),
            ]
        if isinstance(value, MethodType):
            return ["method", self.value(value.__self__), value.__name__]
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            return self._name(value)
        return self._object(value)

    def _name(self, value: Any) -> Plain:
        named = (value.__module__, value.__qualname__)
        if _ALLOWED.get(named) is value:
            return ["name", *named]
        if _is_rivers(value) and "<" not in value.__qualname__ and rivers(*named) is value:
            return ["name", *named]
        raise NotPlain(f"it holds {named[0]}.{named[1]}, which is not River's")

    def _object(self, value: Any) -> Plain:
        kind = type(value)
        try:
            parts = value.__reduce_ex__(PROTOCOL)
        except (TypeError, NotImplementedError):
            parts = ""
        if not isinstance(parts, tuple):
            raise NotPlain(f"the state of {kind.__module__}.{kind.__qualname__} cannot be written down")
        make, arguments, state, items, pairs = (*parts, None, None, None)[:5]
        if make is _NEW:
            make, arguments = arguments[0], arguments[1:]
            way = "new"
        else:
            way = "call"
        if not isinstance(make, type):
            raise NotPlain(f"the state of {kind.__module__}.{kind.__qualname__} cannot be written down")
        if kind.__module__.startswith("river.proba.") and isinstance(state, dict):
            # A distribution carries a generator for samples, that no classifier takes and nobody has seeded.
            state = {name: None if isinstance(one, random.Random) else one for name, one in state.items()}
        made = [way, self.value(make), [self.value(one) for one in arguments]]
        return [
            *made,
            self.value(state),
            [self.value(one) for one in items or ()],
            [[self.value(key), self.value(one)] for key, one in pairs or ()],
        ]


class _Reader:
    """Puts objects together, each once."""

    def __init__(self, nodes: Plain) -> None:
        self._nodes = nodes
        self._made: dict[int, tuple[Any]] = {}

    def value(self, value: Any) -> Any:
        return self.node(value[0]) if isinstance(value, list) else value

    def node(self, place: int) -> Any:
        known = self._made.get(place)
        if known is not None:
            return known[0]
        kind, *rest = self._nodes[place]
        made: Any
        if kind in ("list", "dict", "set"):
            made = {"list": list, "dict": dict, "set": set}[kind]()
            self._made[place] = (made,)
            self._fill(made, kind, rest[0])
            return made
        if kind in ("new", "call"):
            return self._object(place, kind, *rest)
        made = self._whole(kind, rest)
        self._made[place] = (made,)
        return made

    def _fill(self, made: Any, kind: str, members: Plain) -> None:
        if kind == "dict":
            for key, one in members:
                made[self.value(key)] = self.value(one)
        else:
            add: Callable[[Any], None] = made.append if kind == "list" else made.add
            for one in members:
                add(self.value(one))

    def _whole(self, kind: str, rest: Plain) -> Any:
        """Return what is made at once: it cannot hold itself."""
        if kind == "int":
            return int(rest[0])
        if kind == "bytes":
            return rest[0]
        if kind in ("tuple", "frozenset"):
            return getattr(builtins, kind)(self.value(one) for one in rest[0])
        if kind == "array":
            dtype, shape, data, single = rest
            if np.dtype(dtype).kind not in _NUMBERS:
                raise NotPlain(f"an array of {dtype} has no place in a model")
            array = np.frombuffer(data, dtype=dtype).reshape(shape).copy()
            return array[()] if single else array
        if kind == "method":
            method = getattr(self.value(rest[0]), rest[1])
            if not isinstance(method, MethodType):
                raise NotPlain(f"{rest[1]} is no method")
            return method
        if kind == "name":
            module, name = rest
            allowed = _ALLOWED.get((module, name))
            return rivers(module, name) if allowed is None else allowed
        raise NotPlain(f"there is no node of kind {kind}")

    def _object(self, place: int, way: str, *rest: Any) -> Any:
        named, arguments, state, items, pairs = rest
        made_by = self.value(named)
        if not isinstance(made_by, type):
            raise NotPlain(f"{made_by} is no class")
        values = [self.value(one) for one in arguments]
        made = made_by.__new__(made_by, *values) if way == "new" else made_by(*values)
        self._made[place] = (made,)
        for one in items:
            made.append(self.value(one))
        for key, one in pairs:
            made[self.value(key)] = self.value(one)
        if state is not None:
            _restore(made, self.value(state))
        return made


def _restore(made: Any, state: Any) -> None:
    if hasattr(made, "__setstate__"):
        made.__setstate__(state)
        return
    slots = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    for part in (state, slots):
        for name, value in (part or {}).items():
            object.__setattr__(made, name, value)
