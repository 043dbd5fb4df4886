"""What a run under faults came to: its figures, and a complaint for each promise that was not kept."""

from collections.abc import Sequence
from typing import Any, Final

from loadtests.probes import Probes
from loadtests.steady import (
    Steady,
    between,
    compared,
    neither_accepted_nor_refused,
    not_decided,
    summary,
)

EVENTS_MS: Final = 5_000.0
"""Within so long events are answered, whatever is away."""


class Findings:
    """Filled while the faults happen."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.figures: dict[str, Any] = {}
        self.complaints: list[str] = []

    def within(self, name: str, target_s: float, found_s: float) -> None:
        """Note how long something took, and complain when that was more than promised."""
        self.figures[name] = round(found_s, 2)
        if found_s > target_s:
            self.complaints.append(f"{name} is {found_s:.1f}, at most {target_s:.0f} was promised")

    def compare(self, load: Steady, probes: Probes, within_s: float) -> None:
        """Compare every customer's count, once every partition is folded as far as the load went."""
        probes.visible(within_s)
        lost, doubled = compared(load.owed, probes.counts(load.owed))
        owed = load.owed.total()
        self.figures[f"counts_of_{load.name}"] = {
            "events": load.made,
            "acknowledged": owed,
            "customers": len(load.owed),
            "lost": lost,
            "doubled": doubled,
        }
        if lost or doubled or owed != load.made:
            self.complaints.append(
                f"of {load.made} events {owed} were acknowledged, {lost} are lost, {doubled} count too often"
            )

    def answered(self, load: Steady, storeless: Sequence[tuple[float, float]] = ()) -> None:
        """Hold every answer to what was promised; `storeless` says from when to when the store was away."""
        inside = [answer for begin, end in storeless for answer in between(load.decided, begin, end)]
        outside = [a for a in load.decided if not any(begin <= a.asked_at < end for begin, end in storeless)]
        self.complaints += [
            *not_decided(inside, storeless=True),
            *not_decided(outside),
            *neither_accepted_nor_refused([*load.sent, *load.sent_again], EVENTS_MS),
            *load.refused,
        ]
        self.figures[f"answers_to_{load.name}"] = {
            "decisions": summary(load.decided),
            "events": summary(load.sent),
            "events_again": summary(load.sent_again),
        }

    def result(self) -> dict[str, Any]:
        """Return everything, with how many promises were broken and some of them."""
        return self.figures | {"broken": len(self.complaints), "examples": self.complaints[:20]}
