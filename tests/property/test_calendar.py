"""Calendar windows and quiet hours, against every minute around real clock changes of real zones."""

from bisect import bisect_left
from datetime import UTC, date, datetime, timedelta
from functools import cache
from random import Random
from zoneinfo import ZoneInfo

import pytest

from policies.calendar import (
    day_start,
    is_quiet,
    local_date,
    quiet_end,
    quiet_end_everywhere,
    quiet_start,
    window,
)
from policies.model import QuietHours

MINUTE_MS = 60_000
CHANGES = [
    ("Europe/London", "2026-03-29T01:00"),
    ("Europe/London", "2026-10-25T01:00"),
    ("Europe/Dublin", "2026-10-25T01:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("America/St_Johns", "2010-03-14T03:31"),
    ("America/St_Johns", "2010-11-07T02:31"),  # 00:01 goes back to 23:01 of the day before
    ("Australia/Lord_Howe", "2026-04-04T15:00"),  # half an hour
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Pacific/Apia", "2011-12-30T10:00"),  # a whole day is left out
    ("Pacific/Kiritimati", "1994-12-31T10:00"),
    ("Pacific/Chatham", "2026-04-04T14:00"),
    ("America/Sao_Paulo", "2018-11-04T03:00"),  # midnight itself is left out
    ("America/Sao_Paulo", "2018-02-18T02:00"),  # midnight goes back to 23:00
    ("America/Havana", "2026-11-01T05:00"),  # midnight comes twice
    ("America/Havana", "2026-03-08T05:00"),
    ("America/Santiago", "2026-04-05T03:00"),
    ("Asia/Beirut", "2026-03-28T22:00"),
    ("Asia/Beirut", "2026-10-24T21:00"),
    ("Africa/Cairo", "2026-04-23T22:00"),
    ("Africa/Casablanca", "2026-02-15T02:00"),
    ("Antarctica/Troll", "2026-10-25T01:00"),  # two hours
    ("Atlantic/Azores", "2026-10-25T01:00"),
    ("Asia/Kathmandu", "2026-06-01T00:00"),  # no change at all
]
each_change = pytest.mark.parametrize(("zone", "change"), CHANGES)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@cache
def minutes(zone: str, change: str) -> tuple[int, tuple[datetime, ...]]:
    """The first minute (ms), and the wall time of each minute from four days before to four days after."""
    first, place = ms(change) - 4 * 86_400_000, ZoneInfo(zone)
    walls = [
        datetime.fromtimestamp(first / 1000 + 60 * number, UTC).astimezone(place).replace(tzinfo=None)
        for number in range(8 * 1440)
    ]
    return first, tuple(walls)


def begun(zone: str, change: str) -> dict[date, int]:
    """When each date (or a later one) is first shown; a date that began before the first minute is left out."""
    first, walls = minutes(zone, change)
    found: dict[date, int] = {}
    latest = walls[0].date()
    for number, wall in enumerate(walls):
        while latest < wall.date():
            latest += timedelta(days=1)
            found[latest] = first + number * MINUTE_MS
    return found


@each_change
def test_a_day_begins_at_the_first_minute_that_shows_its_date_or_a_later_one(zone: str, change: str) -> None:
    days = begun(zone, change)
    assert {day: day_start(zone, day) for day in days} == days


@each_change
def test_an_instant_belongs_to_the_latest_date_that_was_begun(zone: str, change: str) -> None:
    first, walls = minutes(zone, change)
    days = sorted(begun(zone, change).items(), key=lambda entry: entry[1])
    random = Random(zone + change)
    starts = [at for _, at in days]
    probes = [first + number * MINUTE_MS for number in random.sample(range(2 * 1440, len(walls)), 60)]
    probes += [at + shift for at in starts for shift in (-1, 0, 1) if at > starts[1]]
    for at in probes:
        wanted = days[bisect_left(starts, at + 1) - 1][0]
        while (wanted + timedelta(days=1), at) in days:  # dates that were never shown begin with the next
            wanted += timedelta(days=1)
        assert local_date(zone, at) == wanted


@each_change
def test_windows_are_the_days_weeks_and_months_that_hold_the_instant(zone: str, change: str) -> None:
    first, walls = minutes(zone, change)
    random = Random(change + zone)
    for number in random.sample(range(1440, len(walls) - 1440), 40):
        at = first + number * MINUTE_MS + random.choice([0, 1, 59_999])
        day = local_date(zone, at)
        week_starts = random.randrange(7)
        week = day - timedelta(days=(day.weekday() - week_starts) % 7)
        month = day.replace(day=1)
        after = date(month.year + month.month // 12, month.month % 12 + 1, 1)
        assert window(zone, "day", 0, at) == (day_start(zone, day), day_start(zone, day + timedelta(days=1)))
        assert window(zone, "week", week_starts, at) == (
            day_start(zone, week),
            day_start(zone, week + timedelta(days=7)),
        )
        assert window(zone, "month", 0, at) == (day_start(zone, month), day_start(zone, after))
        for calendar in ("day", "week", "month"):
            start, end = window(zone, calendar, week_starts, at)
            assert start <= at < end


def quiet_minutes(zone: str, change: str, quiet: QuietHours) -> list[bool]:
    _, walls = minutes(zone, change)
    shown = [wall.hour * 60 + wall.minute for wall in walls]
    if quiet.from_min < quiet.to_min:
        return [quiet.from_min <= minute < quiet.to_min for minute in shown]
    return [minute >= quiet.from_min or minute < quiet.to_min for minute in shown]


def some_quiet_hours(random: Random) -> QuietHours:
    """Mostly hours that a clock change falls into."""
    start = random.choice(
        [0, 1, 30, 60, 90, 119, 120, 121, 150, 180, 1380, 1410, 1439, random.randrange(1440)]
    )
    length = random.choice([1, 30, 59, 60, 61, 90, 120, 480, 1380, 1439])
    return QuietHours(start, (start + length) % 1440)


@each_change
def test_quiet_hours_end_and_begin_where_the_wall_clock_says(zone: str, change: str) -> None:
    first, walls = minutes(zone, change)
    random = Random(zone + "quiet" + change)
    for _ in range(12):
        quiet = some_quiet_hours(random)
        is_quiet_at = quiet_minutes(zone, change, quiet)
        near = [4 * 1440 + random.randrange(-1500, 300) for _ in range(12)]
        for number in [*near, *random.sample(range(4 * 1440), 6)]:
            inside = random.choice([0, 1, 30_000, 59_999])
            at = first + number * MINUTE_MS + inside
            free = next(n for n in range(number, len(walls)) if not is_quiet_at[n])
            loud = next(n for n in range(number, len(walls)) if is_quiet_at[n])
            assert is_quiet(zone, quiet, at) == is_quiet_at[number]
            assert quiet_end(zone, quiet, at) == (at if free == number else first + free * MINUTE_MS)
            assert quiet_start(zone, quiet, at) == (at if loud == number else first + loud * MINUTE_MS)


def test_quiet_hours_hold_in_both_passes_of_a_repeated_hour() -> None:
    quiet = QuietHours(60, 90)
    first_pass, second_pass = ms("2026-10-25T00:10"), ms("2026-10-25T01:10")
    assert quiet_end("Europe/London", quiet, first_pass) == ms("2026-10-25T00:30")
    assert quiet_end("Europe/London", quiet, second_pass) == ms("2026-10-25T01:30")
    assert quiet_start("Europe/London", quiet, ms("2026-10-25T00:30")) == ms("2026-10-25T01:00")


def test_several_zones_are_free_where_all_of_them_are() -> None:
    quiet = QuietHours(21 * 60, 8 * 60)
    zones = ("Europe/London", "America/New_York")
    at = ms("2026-11-21T22:00")
    assert quiet_end_everywhere(zones, quiet, at) == ms("2026-11-22T13:00")
    assert quiet_end_everywhere(zones, quiet, ms("2026-11-22T20:59")) == ms("2026-11-22T20:59")


def test_zones_that_leave_no_free_moment_leave_none() -> None:
    zones = ("Europe/London", "America/Los_Angeles", "Asia/Tokyo")
    assert quiet_end_everywhere(zones, QuietHours(16 * 60, 10 * 60), ms("2026-11-21T12:00")) is None


def test_a_date_that_a_zone_left_out_has_no_length() -> None:
    skipped = date(2011, 12, 30)
    assert day_start("Pacific/Apia", skipped) == day_start("Pacific/Apia", skipped + timedelta(days=1))
