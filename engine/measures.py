"""What a process counts of its own work, for `/metrics`: plain numbers, made into metrics only when they are read."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final


class Histogram:
    """How many observations lie up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Take ascending bounds; one more count is kept of what lies beyond them all."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, or `times` equal ones."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0)
EVENTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class FoldMeasures:
    """What a feature worker counts."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.batches = Histogram(EVENTS)
        """Events a batch."""
        self.visible = Histogram(SECONDS)
        """Seconds from an event's acceptance until its features could be read."""
        self.visible_since_occurred = Histogram(SECONDS)
        """The same since it occurred."""
        self.quarantined: Counter[str] = Counter()
        """Events and unreadable entries in the quarantine, by the kind of reason."""
        self.again = 0
        """Customers folded once more: another writer came first, or they were merged meanwhile."""
        self.lag: dict[str, int] = {}
        """Entries of each source (a partition) that wait to be folded."""


class FollowMeasures:
    """What a follower of the trail counts: the learner, the archive."""

    def __init__(self, now_s: float) -> None:
        """Begin at nothing, at this moment (Unix time)."""
        self.steps = 0
        """Steps taken in."""
        self.taken_until_s = now_s
        """All that came before this moment (Unix time) is taken in."""
        self.errors: Counter[str] = Counter()
        """What went wrong, by where: store (it did not answer), folder (it cannot be written to), step (damaged)."""

    def took(self, steps: int, until_s: float) -> None:
        """Count steps taken in; with them all that came before `until_s` (Unix time) is."""
        self.steps += steps
        self.taken_until_s = until_s


class JudgingMeasures:
    """What a process that judges counts."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.judgements: Counter[int] = Counter()
        """How many commits needed so many judgements: more than one where another process came first."""
        self.decisions: Counter[tuple[str, str | None]] = Counter()
        """Decisions by action and reason; previews are not among them."""
        self.checks: Counter[bool] = Counter()
        """Rows of checks by whether the contact was allowed."""
        self.refusals: Counter[tuple[str, str]] = Counter()
        """By what was asked (decide, check, confirm) and the rule that stood in the way."""
        self.overruns: Counter[str] = Counter()
        """Contacts from outside that broke a rule, by the rule."""

    def checked(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Count the answers of a check; those that could not be judged are neither allowed nor refused."""
        for answer in answers:
            allowed = answer.get("allowed")
            if allowed is None:
                continue
            self.checks[allowed] += 1
            if not allowed:
                self.refused("check", {reason["rule"] for reason in answer["reasons"]})

    def refused(self, asked: str, rules: Collection[str]) -> None:
        """Count the rules that stood in the way, each once."""
        for rule in rules:
            self.refusals[asked, rule] += 1


class StoreMeasures:
    """What a connection to the store counts."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.calls = 0
        """Calls sent; each is a round trip for whoever waits for it."""
        self.writes = 0
        """Pieces in which they were sent."""
        self.failures: Counter[str] = Counter()
        """away, overloaded, broken, late; refused: the store cannot now; error: it never will."""
        self.redials = 0
        """Attempts to connect again."""
