"""Local time: calendar windows and quiet hours in a customer's IANA zone, exact to the millisecond.

A calendar window runs from the first instant of one local date to the first instant of another, so a day has
23, 24 or 25 hours, and a date that a zone skipped (Pacific/Apia, 2011-12-30) has none. Quiet hours go by the
wall clock, in each pass of a repeated hour. Everything here is a function of its arguments; zones are cached.
"""

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from policies.model import Calendar, QuietHours

MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  # wall times are naive on purpose


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """Return the IANA zone; raises ZoneInfoNotFoundError for an unknown name."""
    return ZoneInfo(name)


def offset_ms(zone_name: str, at: int) -> int:
    """Return local minus UTC (ms) at the instant `at` (ms)."""
    moment = datetime.fromtimestamp(at // 1000, UTC).astimezone(zone(zone_name))
    offset = moment.utcoffset()
    assert offset is not None  # noqa: S101  # an aware datetime always has one
    return round(offset.total_seconds() * 1000)


def _transition(zone_name: str, low: int, high: int) -> int:
    """Return the first instant in (low, high] whose offset is not that of `low` (they differ at `high`)."""
    before = offset_ms(zone_name, low)
    low_s, high_s = low // 1000, -(-high // 1000)
    while high_s - low_s > 1:
        middle = (low_s + high_s) // 2
        if offset_ms(zone_name, middle * 1000) == before:
            low_s = middle
        else:
            high_s = middle
    return high_s * 1000


@lru_cache(maxsize=65536)
def day_start(zone_name: str, day: date) -> int:
    """Return the first instant (ms) whose local date is `day` or later."""
    wall = round((datetime(day.year, day.month, day.day) - EPOCH).total_seconds()) * 1000  # noqa: DTZ001
    # Both offsets that can hold around a local midnight, taken a day away from it: the earlier instant wins
    # when midnight is repeated; when it is skipped, the day begins at the jump.
    early, late = offset_ms(zone_name, wall - 2 * DAY_MS), offset_ms(zone_name, wall + 2 * DAY_MS)
    candidates = [
        wall - offset
        for offset in sorted(
            {early, late, offset_ms(zone_name, wall), offset_ms(zone_name, wall - early)}, reverse=True
        )
    ]
    for at in candidates:
        if at + offset_ms(zone_name, at) == wall:
            return at
    low = wall - max(early, late) - DAY_MS
    return _transition_to(zone_name, low, candidates[-1] + DAY_MS, wall)


def _transition_to(zone_name: str, low: int, high: int, wall: int) -> int:
    """Return the jump in (low, high] that carries the wall clock over `wall`."""
    while True:
        step = low
        while step < high and offset_ms(zone_name, step) == offset_ms(zone_name, low):
            step += 6 * 3_600_000
        jump = _transition(zone_name, low, step)
        if jump + offset_ms(zone_name, jump) >= wall:
            return jump
        low = jump


def _local_date(zone_name: str, at: int) -> date:
    return (EPOCH + timedelta(milliseconds=at + offset_ms(zone_name, at))).date()


def local_date(zone_name: str, at: int) -> date:
    """Return the calendar date that the instant `at` (ms) belongs to."""
    day = _local_date(zone_name, at)
    # A clock set back over midnight shows the old date again; that time belongs to the date already begun.
    following = day + timedelta(days=1)
    return following if at >= day_start(zone_name, following) else day


_latest: dict[tuple[str, Calendar, int], tuple[int, int]] = {}
"""The window asked for last, by zone and calendar: nearly all questions are about now. A cache, not a state."""


def window(zone_name: str, calendar: Calendar, week_starts: int, at: int) -> tuple[int, int]:
    """Return [start, end) in ms of the calendar window of `zone_name` that holds the instant `at`."""
    key = (zone_name, calendar, week_starts)
    known = _latest.get(key)
    if known is None or not known[0] <= at < known[1]:
        known = _latest[key] = _window(zone_name, calendar, week_starts, at)
    return known


def _window(zone_name: str, calendar: Calendar, week_starts: int, at: int) -> tuple[int, int]:
    day = local_date(zone_name, at)
    if calendar == "day":
        return day_start(zone_name, day), day_start(zone_name, day + timedelta(days=1))
    if calendar == "week":
        first = day - timedelta(days=(day.weekday() - week_starts) % 7)
        return day_start(zone_name, first), day_start(zone_name, first + timedelta(days=7))
    first = day.replace(day=1)
    return day_start(zone_name, first), day_start(zone_name, (first + timedelta(days=32)).replace(day=1))


def is_quiet(zone_name: str, quiet: QuietHours, at: int) -> bool:
    """Say whether the local wall time at `at` (ms) lies in [from, to)."""
    return _quiet_left(quiet, at + offset_ms(zone_name, at)) > 0


def _quiet_left(quiet: QuietHours, wall: int) -> int:
    """Return the milliseconds of wall time until the quiet ends; 0 when it is not quiet."""
    since = (wall - quiet.from_min * MINUTE_MS) % DAY_MS
    length = (quiet.to_min - quiet.from_min) * MINUTE_MS % DAY_MS
    return length - since if since < length else 0


def quiet_end(zone_name: str, quiet: QuietHours, at: int) -> int:
    """Return the first instant (ms) from `at` on that is not quiet."""
    while True:
        offset = offset_ms(zone_name, at)
        left = _quiet_left(quiet, at + offset)
        if left == 0:
            return at
        end = at + left
        # The clock may jump on the way: go on from the jump, with the wall time that it shows.
        at = end if offset_ms(zone_name, end) == offset else _transition(zone_name, at, end)


def quiet_start(zone_name: str, quiet: QuietHours, at: int) -> int:
    """Return the first instant (ms) from `at` on that is quiet."""
    while True:
        offset = offset_ms(zone_name, at)
        wall = at + offset
        if _quiet_left(quiet, wall) > 0:
            return at
        start = at + (quiet.from_min * MINUTE_MS - wall) % DAY_MS
        at = start if offset_ms(zone_name, start) == offset else _transition(zone_name, at, start)


def quiet_end_everywhere(zones: tuple[str, ...], quiet: QuietHours, at: int) -> int | None:
    """Return the first instant (ms) from `at` on at which no zone is quiet; None when there is none.

    While no clock changes, one day is like the next: where a day has no free moment, the next one can only come
    after a change in one of the zones, which may be half a year away. A year and a month hold every change.
    """
    limit = at + 400 * DAY_MS
    while at <= limit:
        same_until = at + 2 * DAY_MS
        while at <= same_until:
            later = max(quiet_end(name, quiet, at) for name in zones)
            if later == at:
                return at
            at = later
        # Back over a day that held no free moment: a change in it may have come too late to make one.
        at = max(at, min(next_change(name, at - DAY_MS, limit) for name in zones))
    return None


def next_change(zone_name: str, after: int, limit: int) -> int:
    """Return the first instant (ms) after `after` at which the offset changes; `limit` + 1 ms if none comes by then."""
    day, last = after // DAY_MS, -(-limit // DAY_MS)
    while day < last:
        change = _change_of_day(zone_name, day)
        if after < change <= limit:
            return change
        day += 1
    return limit + 1


@lru_cache(maxsize=65536)
def _change_of_day(zone_name: str, day: int) -> int:
    """Return when the offset changes in ((day), (day + 1)] of UTC days (ms); -1 for a day without a change."""
    start, end = day * DAY_MS, (day + 1) * DAY_MS
    changes = offset_ms(zone_name, start) != offset_ms(zone_name, end)
    return _transition(zone_name, start, end) if changes else -1
