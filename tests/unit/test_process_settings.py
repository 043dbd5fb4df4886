"""Settings of processes that cannot be are refused with a sentence that names the way out."""

import pytest

from api.running.settings import Refused, metrics_port_setting, notice_setting


@pytest.mark.parametrize(("text", "seconds"), [("", 0.0), ("0", 0.0), ("1.5", 1.5), ("5", 5.0)])
def test_the_time_of_notice_is_up_to_five_seconds(
    monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    monkeypatch.setenv("TACT_DRAIN_S", text)
    assert notice_setting() == seconds


@pytest.mark.parametrize("text", ["5.01", "-1", "nan", "inf", "soon"])
def test_a_longer_time_of_notice_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TACT_DRAIN_S", text)
    with pytest.raises(Refused, match=rf"TACT_DRAIN_S is '{text}': set it to .* from 0 to 5, .* within 15 s"):
        notice_setting()


def test_a_worker_tells_its_metrics_where_a_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TACT_METRICS_PORT", raising=False)
    assert metrics_port_setting() is None
    monkeypatch.setenv("TACT_METRICS_PORT", "9101")
    assert metrics_port_setting() == 9101


@pytest.mark.parametrize("text", ["0", "65536", "-1", "9101.0", "٣", "http"])
def test_what_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TACT_METRICS_PORT", text)
    with pytest.raises(Refused, match=rf"TACT_METRICS_PORT is '{text}': set it to a port number"):
        metrics_port_setting()
