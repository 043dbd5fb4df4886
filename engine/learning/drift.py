"""Has the world changed? River's ADWIN over the errors of final outcomes: what came less what was expected.

While a model is right its errors are 0 on average, whatever the rates are; a log-loss would fall when the best offers
lose their appeal, because a rare yes is easier to foretell. An alarm is a window whose newer part is further from 0
than the older: errors that vanish while a model learns are no alarm. ADWIN's own state cannot be written down, so
what it was fed is: at most `ERRORS_MAX` errors, of which the newer half starts it afresh when they are full. Fed the
same errors again, it is in the same state.
"""

from typing import Any, Final

import numpy as np

from engine.learning.encoding import Array

ERRORS_MAX: Final = 8192


class Watch:
    """Watches one model's errors."""

    def __init__(self, errors: Array | None = None) -> None:
        fed = np.zeros(0) if errors is None else errors
        self._errors = np.zeros(ERRORS_MAX)
        self._errors[: len(fed)] = fed
        self._count = len(fed)
        self._adwin: Any = None
        """Fed when it is first asked: who only serves a model never does."""

    def update(self, error: float) -> bool:
        """Take an error within [-1, 1]; return whether it completes the evidence that errors grew."""
        if self._count == ERRORS_MAX:
            self._count = ERRORS_MAX // 2
            self._errors[: self._count] = self._errors[self._count :]
            self._adwin = None
        if self._adwin is None:
            self._adwin = _adwin()
            for old in self._errors[: self._count].tolist():
                self._adwin.update((old + 1) / 2)
        self._errors[self._count] = error
        self._count += 1
        before = self._adwin.estimation
        self._adwin.update((error + 1) / 2)  # ADWIN's bounds are for numbers within [0, 1]
        return bool(self._adwin.drift_detected and abs(self._adwin.estimation - 0.5) > abs(before - 0.5))

    @property
    def errors(self) -> Array:
        """What a new watch has to be fed to be in this state."""
        return self._errors[: self._count].copy()


def _adwin() -> Any:
    from river.drift import ADWIN  # noqa: PLC0415  # River takes a second and 60 MB: only a learner pays for it

    return ADWIN()  # type: ignore[no-untyped-call]  # River's constructor has no types
