"""Local time: the plain cases, each with its moment written out."""

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfoNotFoundError

import pytest

from policies.calendar import (
    day_start,
    is_quiet,
    local_date,
    offset_ms,
    quiet_end,
    quiet_end_everywhere,
    quiet_start,
    window,
    zone,
)
from policies.model import QuietHours

NIGHT = QuietHours(21 * 60, 8 * 60)
NOON = QuietHours(12 * 60, 13 * 60)
HOUR_MS = 3_600_000


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("name", "at", "hours"),
    [
        ("Europe/London", "2026-01-01T00:00", 0),
        ("Europe/London", "2026-07-01T00:00", 1),
        ("Asia/Kathmandu", "2026-07-01T00:00", 5.75),
        ("America/St_Johns", "2026-01-01T00:00", -3.5),
    ],
)
def test_an_offset_is_local_minus_utc(name: str, at: str, hours: float) -> None:
    assert offset_ms(name, ms(at)) == hours * HOUR_MS


def test_an_unknown_zone_is_an_error() -> None:
    with pytest.raises(ZoneInfoNotFoundError):
        zone("Europe/Nowhere")


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 11, 21), 24)]
)
def test_a_day_has_23_24_or_25_hours(day: date, hours: int) -> None:
    start = day_start("Europe/London", day)
    assert window("Europe/London", "day", 0, start) == (start, start + hours * HOUR_MS)


def test_the_last_millisecond_of_a_day_belongs_to_it() -> None:
    midnight = ms("2026-11-22T00:00")
    assert local_date("Europe/London", midnight - 1) == date(2026, 11, 21)
    assert local_date("Europe/London", midnight) == date(2026, 11, 22)


@pytest.mark.parametrize(
    ("week_starts", "start"), [(0, "2026-11-16T00:00"), (6, "2026-11-15T00:00"), (5, "2026-11-21T00:00")]
)
def test_a_week_begins_on_the_day_that_the_policy_names(week_starts: int, start: str) -> None:
    assert window("UTC", "week", week_starts, ms("2026-11-21T12:00"))[0] == ms(start)


def test_december_ends_with_the_year() -> None:
    assert window("UTC", "month", 0, ms("2026-12-31T23:59")) == (
        ms("2026-12-01T00:00"),
        ms("2027-01-01T00:00"),
    )


@pytest.mark.parametrize(
    ("at", "quiet"),
    [
        ("2026-11-21T20:59:59.999", False),
        ("2026-11-21T21:00", True),
        ("2026-11-22T07:59:59.999", True),
        ("2026-11-22T08:00", False),
    ],
)
def test_quiet_hours_hold_from_the_first_and_up_to_the_last_millisecond(at: str, quiet: bool) -> None:
    assert is_quiet("Europe/London", NIGHT, ms(at)) is quiet


def test_quiet_hours_end_in_the_morning_and_begin_in_the_evening() -> None:
    assert quiet_end("UTC", NIGHT, ms("2026-11-21T22:30")) == ms("2026-11-22T08:00")
    assert quiet_end("UTC", NIGHT, ms("2026-11-21T12:00")) == ms("2026-11-21T12:00")
    assert quiet_start("UTC", NIGHT, ms("2026-11-21T12:00")) == ms("2026-11-21T21:00")
    assert quiet_start("UTC", NIGHT, ms("2026-11-21T22:30")) == ms("2026-11-21T22:30")
    assert quiet_start("UTC", NOON, ms("2026-11-21T13:00")) == ms("2026-11-22T12:00")


def test_a_night_with_a_clock_change_is_an_hour_longer_or_shorter() -> None:
    assert quiet_end("Europe/London", NIGHT, ms("2026-03-28T22:00")) == ms("2026-03-29T07:00")
    assert quiet_end("Europe/London", NIGHT, ms("2026-10-24T22:00")) == ms("2026-10-25T08:00")


def test_one_zone_among_several_keeps_all_quiet() -> None:
    zones = ("UTC", "Asia/Tokyo")
    assert quiet_end_everywhere(zones, NIGHT, ms("2026-11-21T13:00")) == ms("2026-11-22T08:00")
    assert (
        quiet_end_everywhere(("UTC", "Asia/Tokyo"), QuietHours(9 * 60, 8 * 60), ms("2026-11-21T13:00"))
        is None
    )
