"""Local time where clocks change, each case with its moment written out, and every zone's changes from 1970 to 2037."""

from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo, available_timezones

import pytest

from policies.calendar import (
    day_start,
    is_quiet,
    local_date,
    next_change,
    quiet_end,
    quiet_end_everywhere,
    quiet_start,
    window,
)
from policies.model import Calendar, QuietHours

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NIGHT = QuietHours(20 * 60, 9 * 60)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        ("America/Caracas", date(2007, 12, 9), 24.5),
        ("Asia/Kathmandu", date(1986, 1, 1), 23.75),
        ("Europe/Moscow", date(2014, 10, 26), 25),
        ("Asia/Pyongyang", date(2015, 8, 14), 24.5),
        ("America/Havana", date(2026, 3, 8), 23),
        ("America/Havana", date(2026, 11, 1), 25),
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        ("Pacific/Apia", date(2011, 12, 30), 0),
        ("Pacific/Apia", date(2011, 12, 31), 24),
        ("Pacific/Kwajalein", date(1993, 8, 21), 0),
    ],
)
def test_a_day_is_as_long_as_its_zone_made_it(zone: str, day: date, hours: float) -> None:
    start, following = day_start(zone, day), day_start(zone, day + timedelta(days=1))
    assert following - start == hours * HOUR_MS
    if hours:
        assert window(zone, "day", 0, start) == (start, following)
        assert window(zone, "day", 0, following - 1) == (start, following)
        assert window(zone, "day", 0, following)[0] == following


@pytest.mark.parametrize(
    ("calendar", "start", "days"),
    [("day", "2011-12-29T10:00", 1), ("week", "2011-12-26T10:00", 6), ("month", "2011-12-01T10:00", 30)],
)
def test_the_date_that_apia_left_out_shortens_what_holds_it(
    calendar: Calendar, start: str, days: int
) -> None:
    at = ms("2011-12-30T09:59:59.999")
    assert window("Pacific/Apia", calendar, 0, at) == (ms(start), ms(start) + days * DAY_MS)
    assert local_date("Pacific/Apia", at + 1) == date(2011, 12, 31)


def some_changes(random: Random, count: int) -> list[tuple[str, int]]:
    """Moments (ms) of 1970 to 2037 at which the clock of some zone changes."""
    zones = sorted(available_timezones() - {"localtime"})
    found: list[tuple[str, int]] = []
    while len(found) < count:
        zone = random.choice(zones)
        start = ms(f"{random.randrange(1970, 2037)}-01-01T00:00")
        change = next_change(zone, start, start + 365 * DAY_MS)
        if change <= start + 365 * DAY_MS:
            found.append((zone, change))
    return found


def test_windows_follow_each_other_without_gap_or_overlap_over_every_change() -> None:
    for zone, change in some_changes(Random(3), 150):
        for calendar in ("day", "week", "month"):
            at = change - 3 * DAY_MS
            start, end = window(zone, calendar, 0, at)
            while at <= change + 3 * DAY_MS:
                assert start <= at < end, (zone, calendar, at)
                assert window(zone, calendar, 0, end - 1) == (start, end), (zone, calendar, at)
                following, after = window(zone, calendar, 0, end)
                assert following == end, (zone, calendar, at)
                start, end, at = following, after, end


def test_a_day_begins_when_the_wall_clock_first_shows_it_or_a_later_one() -> None:
    for zone, change in some_changes(Random(4), 150):
        for at in (change - DAY_MS, change, change + DAY_MS):
            day = local_date(zone, at)
            start = day_start(zone, day)
            assert wall(zone, start).date() >= day, (zone, at)
            assert wall(zone, start - 1).date() < day, (zone, at)


def wall(zone: str, at: int) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)).astimezone(ZoneInfo(zone))


def test_quiet_ends_and_begins_to_the_millisecond_over_every_change() -> None:
    for zone, change in some_changes(Random(5), 150):
        clock = wall(zone, change)
        minute = clock.hour * 60 + clock.minute
        for quiet in (NIGHT, QuietHours((minute - 40) % 1440, (minute + 20) % 1440)):
            for at in (change - 2 * HOUR_MS, change - 1, change, change + HOUR_MS // 2):
                end, start = quiet_end(zone, quiet, at), quiet_start(zone, quiet, at)
                assert not is_quiet(zone, quiet, end), (zone, at)
                assert is_quiet(zone, quiet, start), (zone, at)
                assert end == at or is_quiet(zone, quiet, end - 1), (zone, at)
                assert start == at or not is_quiet(zone, quiet, start - 1), (zone, at)


def test_both_passes_of_a_repeated_hour_are_quiet_and_what_lies_between_is_not() -> None:
    quiet = QuietHours(60, 90)  # 01:00 to 01:30; London's clock goes back from 02:00 to 01:00 at 01:00 UTC
    first = ms("2026-10-25T00:00")
    assert quiet_end("Europe/London", quiet, first) == ms("2026-10-25T00:30")
    assert quiet_start("Europe/London", quiet, ms("2026-10-25T00:30")) == ms("2026-10-25T01:00")
    assert quiet_end("Europe/London", quiet, ms("2026-10-25T01:00")) == ms("2026-10-25T01:30")


def test_quiet_hours_that_begin_and_end_in_a_skipped_hour_are_not_that_night() -> None:
    quiet = QuietHours(60, 120)  # in London, 01:00 to 02:00 is not there on 2026-03-29
    assert quiet_start("Europe/London", quiet, ms("2026-03-28T12:00")) == ms("2026-03-30T00:00")


@pytest.mark.parametrize(
    ("at", "free"),
    [
        # 09:00 to 20:00 in both: none in the northern winter, 08:00 to 10:00 UTC once London's clock goes forward.
        ("2026-11-24T12:00", "2027-03-28T08:00"),
        ("2027-03-28T07:59:59.999", "2027-03-28T08:00"),
        ("2027-03-28T08:00", "2027-03-28T08:00"),
        ("2026-07-01T12:00", "2026-07-02T08:00"),
    ],
)
def test_a_list_of_zones_is_free_again_when_a_clock_changes_though_months_away(at: str, free: str) -> None:
    zones = ("Europe/London", "Australia/Sydney")
    assert quiet_end_everywhere(zones, NIGHT, ms(at)) == ms(free)


def test_a_list_of_zones_whose_clocks_never_change_and_never_agree_has_no_free_moment() -> None:
    assert quiet_end_everywhere(("Asia/Tokyo", "America/Bogota"), QuietHours(15 * 60, 9 * 60), 0) is None


def test_the_next_change_is_found_to_the_second_and_not_beyond_the_limit() -> None:
    start, change = ms("2026-01-01T00:00"), ms("2026-03-29T01:00")
    assert next_change("Europe/London", start, change) == change
    assert next_change("Europe/London", start, change - 1) == change
    assert next_change("Europe/London", change - 1, change + DAY_MS) == change
    assert next_change("Europe/London", change, change + DAY_MS) == change + DAY_MS + 1
    assert next_change("Asia/Tokyo", start, start + 400 * DAY_MS) == start + 400 * DAY_MS + 1
