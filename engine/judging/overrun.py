"""Overruns: which rules a contact recorded from outside broke. It counts all the same (G4).

A contact may be reported late, so its own moment is not the only one that matters: a rule is broken when any
window that holds the contact has more than its limit.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence

from engine.judging.governor import Standing
from features.facts import Item
from policies.calendar import window
from policies.model import Cap, Channel


def broken_rules(standing: Standing, channel: Channel, item: Item, at: int) -> tuple[str, ...]:
    """Return the names of the caps, gaps and suppressions that a contact at `at` (ms) breaks."""
    rules = standing.rules
    if not rules.obeys(item):
        return ()
    broken = []
    counted = standing.counted_around(at)
    for index, cap in enumerate(rules.caps):
        looks, each = rules.cap_each(index, channel.name, item)
        if looks and breaks(
            cap, counted.get((index, each), ()), at, standing.zones, rules.policy.week_starts
        ):
            broken.append(cap.name)
    for index, suppression in enumerate(rules.suppressions):
        if suppression.while_ is not None and at != standing.now:
            continue  # what a condition was at another moment is not known
        if (
            rules.suppresses(suppression, channel.name, item)
            and standing.suppression_free(index, item.offer, at) != at
        ):
            broken.append(suppression.name)
    return tuple(broken)


def breaks(cap: Cap, others: Sequence[int], at: int, zones: tuple[str, ...], week_starts: int) -> bool:
    """Say whether one more contact at `at` (ms) puts any window of the cap over its limit."""
    if cap.gap_ms:
        return any(abs(other - at) < cap.gap_ms for other in others)
    times = list(others)
    insort(times, at)
    if cap.per_ms:
        ends = [at, *(other for other in times if at < other < at + cap.per_ms)]
        return any(bisect_right(times, end) - bisect_right(times, end - cap.per_ms) > cap.max for end in ends)
    assert cap.calendar is not None  # noqa: S101  # the loader lets exactly one of the three through
    spans = (window(zone, cap.calendar, week_starts, at) for zone in zones)
    return any(
        bisect_right(times, end - 1) - bisect_right(times, start - 1) > cap.max for start, end in spans
    )
