"""From a context to a vector: columns by name, numbers scaled as they stream by, curved crosses of numbers.

The vector is `[waves | 1 | inputs]`. An input's column is given at first sight and never moves, so what was
learned stays where it is; beyond `INPUTS_MAX` columns a new name shares an old one by its hash. A number is scaled
by the running mean and variance (as River's StandardScaler), an absent one is at its mean. Scaled numbers are cut
at `CUT` deviations, and so is what the running moments take in: one wild value changes neither. Indicators
(`name=value`) stay 0 or 1.

Waves are random Fourier features of the scaled numbers: cosines of random projections, so a linear model over them
is a smooth non-linear one at a bounded cost. A name's projection is drawn from a hash of the name, so the order of
arrival does not matter, and a new number leaves contexts without it where they were.
"""

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Context = Mapping[str, object]

INPUTS_MAX: Final = 512
WAVES: Final = 64
"""How many waves there are once a number was seen; without any number there are none."""
WAVE_LENGTH: Final = 0.7
"""Length of a wave, times the root of how many numbers there are: as far as typical contexts lie apart, roughly."""
CUT: Final = 3.0
WARM: Final = 30
"""Values of a number before its running moments refuse what lies further out than `CUT`."""
MEMORY: Final = 20_000
"""Values that the running moments remember, so that they can follow a number that moves."""


def flatten(context: Context) -> dict[str, float]:
    """Return the context as numbers: strings and members of lists become `name=value`: 1, null nothing."""
    flat: dict[str, float] = {}
    for name, value in context.items():
        if value is None:
            continue
        if isinstance(value, bool):
            flat[f"{name}={str(value).lower()}"] = 1.0
        elif isinstance(value, int | float | np.integer | np.floating):
            if math.isfinite(value):
                flat[name] = float(value)
        elif isinstance(value, list | tuple | set | frozenset):
            flat.update({f"{name}={member}": 1.0 for member in value})
        else:
            flat[f"{name}={value}"] = 1.0
    return flat


class Encoder:
    """The columns of a context's inputs and the scale of its numbers; grows, never shrinks."""

    def __init__(self, waves: int = WAVES, inputs_max: int = INPUTS_MAX) -> None:
        self.waves_wanted = waves
        self.inputs_max = inputs_max
        self.columns: dict[str, int] = {}
        self.fields: dict[str, None] = {}
        self.share = np.zeros(0)
        """Of each column, 1 over the fields known when it came: its share of the prior variance."""
        self.count = np.zeros(0)
        self.mean = np.zeros(0)
        self.squares = np.zeros(0)
        self.number = np.zeros(0, dtype=bool)
        self.projection = np.zeros((waves, 0))
        self.phase = _phases(waves)

    @property
    def waves(self) -> int:
        """How many waves the vector has now."""
        return self.waves_wanted if self.number.any() else 0

    @property
    def size(self) -> int:
        """The length of the vector: waves, the constant and the inputs."""
        return self.waves + 1 + len(self.share)

    def observe(self, flat: Mapping[str, float]) -> None:
        """Give new names their columns and take the numbers into the running moments."""
        if len(self.share) < self.inputs_max:
            fresh = sorted(name for name in flat if name not in self.columns)
            if fresh:
                self._grow(fresh[: self.inputs_max - len(self.share)])
        for name, value in flat.items():
            column = self.column(name)
            if column is not None and "=" not in name:
                self._moment(column, value)

    def column(self, name: str) -> int | None:
        """Return the input's column: its own, or once all are given one that it shares; None if never observed."""
        column = self.columns.get(name)
        if column is None and len(self.share) >= self.inputs_max:
            return _number(name, "column") % self.inputs_max
        return column

    def vector(self, flat: Mapping[str, float]) -> Array:
        """Return the context's vector; names never observed are left out."""
        waves, inputs = self.waves, len(self.share)
        vector = np.zeros(waves + 1 + inputs)
        vector[waves] = 1.0
        own = vector[waves + 1 :]
        for name, value in flat.items():
            column = self.column(name)
            if column is not None:
                own[column] += self._scaled(column, value) if "=" not in name else value
        if waves:
            np.cos(self.projection @ np.where(self.number, own, 0.0) + self.phase, out=vector[:waves])
        return vector

    def _scaled(self, column: int, value: float) -> float:
        variance = self.squares[column] / max(self.count[column], 1.0)
        if variance <= 0:
            return 0.0
        return float(min(max((value - self.mean[column]) / variance**0.5, -CUT), CUT))

    def _moment(self, column: int, value: float) -> None:
        count, mean = self.count[column], self.mean[column]
        if count >= WARM and self.squares[column] > 0:
            reach = CUT * (self.squares[column] / count) ** 0.5
            value = min(max(value, mean - reach), mean + reach)
        if count >= MEMORY:
            self.squares[column] *= 1 - 1 / MEMORY
            count -= 1
        step = value - mean
        self.count[column] = count + 1
        self.mean[column] = mean + step / (count + 1)
        self.squares[column] += step * (value - self.mean[column])

    def _grow(self, names: list[str]) -> None:
        for name in names:
            self.columns[name] = len(self.columns)
            self.fields.setdefault(name.partition("=")[0])
        extra = np.zeros(len(names))
        self.share = np.append(self.share, extra + 1 / len(self.fields))
        self.count = np.append(self.count, extra)
        self.mean = np.append(self.mean, extra)
        self.squares = np.append(self.squares, extra)
        self.number = np.append(self.number, ["=" not in name for name in names])
        length = WAVE_LENGTH * max(int(self.number.sum()), 1) ** 0.5
        drawn = [_projection(name, self.waves_wanted) / length for name in names]
        self.projection = np.column_stack([self.projection, *drawn])

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return all that the encoder knows as arrays and plain metadata."""
        arrays = {
            "encoder.share": self.share,
            "encoder.count": self.count,
            "encoder.mean": self.mean,
            "encoder.squares": self.squares,
            "encoder.projection": self.projection,
        }
        meta = {"columns": dict(self.columns), "fields": list(self.fields), "waves": self.waves_wanted}
        return arrays, {**meta, "inputs_max": self.inputs_max}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> "Encoder":
        """Return the encoder that `to_arrays` wrote."""
        made = cls(meta["waves"], meta["inputs_max"])
        made.columns = dict(meta["columns"])
        made.fields = dict.fromkeys(meta["fields"])
        made.share, made.count = arrays["encoder.share"].copy(), arrays["encoder.count"].copy()
        made.mean, made.squares = arrays["encoder.mean"].copy(), arrays["encoder.squares"].copy()
        made.projection = arrays["encoder.projection"].copy()
        made.number = np.array(["=" not in name for name in made.columns], dtype=bool)
        return made


def _number(name: str, purpose: str) -> int:
    return int.from_bytes(blake2b(f"{purpose}|{name}".encode(), digest_size=8).digest(), "big")


def _projection(name: str, waves: int) -> Array:
    """Return the name's weight in each wave: standard normal, the same on every machine."""
    return np.random.Generator(np.random.PCG64(_number(name, "wave"))).standard_normal(waves)


def _phases(waves: int) -> Array:
    return np.random.Generator(np.random.PCG64(_number("", "phase"))).uniform(0, 2 * np.pi, waves)
