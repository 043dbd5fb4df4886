"""The table of sizes on the operating page is the arithmetic of its own figures."""

import re

import pytest

from api.running.distributed import ROOT
from loadtests.sizing import Costs, Habits, needs, table

OPERATING = (ROOT / "docs" / "operating.md").read_text()


def test_the_page_shows_the_table_of_these_costs_and_habits() -> None:
    assert f"<!-- sizing: begin -->\n{table(Costs())}\n<!-- sizing: end -->" in OPERATING


EVENT = (
    "| an event, sent alone | {event_us[0]} | {event_us[1]} | {event_us[2]} |"
    " | {event_log_bytes} | {event_kafka_bytes} |"
)
DECISION = (
    "| a decision | {decision_us[0]} | | {decision_us[2]} | {decision_bytes}, once it is closed |"
    " {decision_log_bytes} | |"
)


@pytest.mark.parametrize("row", [EVENT, DECISION, "| a customer | | | | {customer_bytes:,} | | |"])
def test_the_page_tells_the_costs(row: str) -> None:
    assert row.format(**Costs()._asdict()) in OPERATING


def test_a_customer_costs_what_the_bench_measured() -> None:
    performance = (ROOT / "docs" / "performance.md").read_text()
    assert f"| 100000 | {Costs().customer_bytes} |" in performance


def test_the_arithmetic_by_hand() -> None:
    """Ten customers, so that all of it can be followed: 864 events a day are one in 100 s."""
    costs = Costs(
        customer_bytes=10**8,
        decision_bytes=10**6,
        event_log_bytes=10**6,
        decision_log_bytes=10**6,
        event_kafka_bytes=10**6,
        event_us=(4 * 10**6, 8 * 10**6, 2 * 10**6),
        decision_us=(0, 0, 5 * 10**6),
    )
    habits = Habits(
        events_a_day=86.4, decisions_a_day=86.4, peak=50.0, keep_decisions_days=10, retention_days=2, copies=3
    )
    assert list(needs(10, costs, habits).values()) == [
        "0.01, 0.5",  # events
        "0.01, 0.5",  # decisions
        "1 GB",  # 10 x 100 MB
        "8.6 GB",  # 8,640 x 1 MB
        "29 GB",  # 3 x 9.64
        "1.7 GB",  # 1,728 x 1 MB
        "350%",  # 0.5 x (2 + 5)
        "4",  # 2 cores at 0.7, and one
        "7",  # 4 cores at 0.7, and one
        "32",  # 4 x 7, and a power of two
        "5.2 GB",  # 864 MB x 2 x 3
    ]


def test_the_page_measures_by_a_command_that_there_is() -> None:
    (module,) = set(re.findall(r"python -m (loadtests\.sizing)", OPERATING))
    assert (ROOT / f"{module.replace('.', '/')}.py").exists()
