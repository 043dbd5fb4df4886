"""What `tact evaluate` prints for people: tables, and every warning as one sentence.

Tables are as wide as the terminal; where there is none, wide enough for all of them.
"""

import sys
from datetime import UTC, datetime
from math import inf

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from engine.evaluation.intervals import Interval
from engine.evaluation.lift import Lifts
from engine.evaluation.report import Evaluation
from engine.evaluation.sample import Reward


def show(found: Evaluation) -> None:
    """Print a judged log: the policies one by one, then whether the probabilities are true."""
    console = _console()
    console.print(
        f"{found.decisions:,} decisions, {found.judged:,} judged ({found.customers:,} customers), "
        f"{_day(found.since)} to {_day(found.until)}; left out: "
        + (", ".join(f"{count:,} {why}" for why, count in found.left_out.items() if count) or "none"),
        highlight=False,
    )
    low, high = found.done_interval[:2]
    console.print(
        f"{_UNIT[found.reward]}; what was done earned {_number(found.done)}  [{_number(low)}, {_number(high)}]",
        highlight=False,
        markup=False,
    )
    for warning in found.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False)
    for one in found.policies:
        console.print(
            f"\n{one.name}: {_SAID[one.verdict]}", style="bold", highlight=False, markup=False, emoji=False
        )
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("estimator", "value", "95 % from", "to", "setting"):
            table.add_column(heading, justify="left" if heading == "estimator" else "right")
        rows: list[tuple[str, float, Interval, float | None]] = [
            (estimate.name, estimate.value, estimate.interval, estimate.setting) for estimate in one.estimates
        ]
        for name, value, interval, setting in [
            *rows,
            ("dr less what was done", one.difference, one.interval, None),
        ]:
            table.add_row(
                name,
                _number(value),
                _number(interval.low),
                _number(interval.high),
                "" if setting is None else f"{setting:.3g}",
            )
        console.print(table)
        console.print(
            f"effective size {one.effective:,.0f} of {found.judged:,}; silent in {one.silence:.1%}; "
            f"beyond the log {one.unsupported:.1%}",
            highlight=False,
        )
        for factor in one.factors:
            console.print(
                f"without {factor.factor:<10} {factor.changed:>8,} winners change "
                f"({factor.changed / max(factor.decisions, 1):.1%}), {factor.silenced:,} of them to silence",
                highlight=False,
            )
        for warning in one.warnings:
            console.print(f"warning: {warning}", highlight=False, markup=False)
    _show_calibration(console, found)


def _show_calibration(console: Console, found: Evaluation) -> None:
    if not found.calibration:
        return
    console.print("\nare the probabilities true?", style="bold", highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("channel", "head", "slice", "worth", "said", "came", "gap from", "to", "bins off"):
        table.add_column(heading, justify="left" if heading in ("channel", "head", "slice") else "right")
    for one in found.calibration:
        table.add_row(
            one.channel,
            one.head,
            one.slice,
            f"{one.effective:,.0f}",
            _number(one.predicted),
            _number(one.observed),
            _number(one.low),
            _number(one.high),
            _number(one.error),
        )
    console.print(table)


def show_lift(found: Lifts, reward: Reward) -> None:
    """Print lift, everybody first."""
    console = _console()
    what = "share of customers who bought" if found.counted == "bought" else f"{reward} a customer"
    console.print(f"lift, {what}", style="bold", highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in (
        "segment",
        "treated",
        "control",
        "treated earn",
        "control earn",
        "lift",
        "95 % from",
        "to",
    ):
        table.add_column(heading, justify="left" if heading == "segment" else "right")
    table.add_column("verdict")
    for one in (found.overall, *found.segments):
        now = one.now
        table.add_row(
            one.segment or "everybody",
            f"{now.treated:,}",
            f"{now.control:,}",
            *[_number(number) for number in now[2:]],
            one.verdict.replace("_", " "),
        )
    console.print(table)
    console.print("The intervals hold at every look, so look as often as you like.")
    for warning in found.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False)


def _console() -> Console:
    """Return where tables go: as wide as the terminal, and wide enough for every table where there is none."""
    return Console(width=None if sys.stdout.isatty() else 120)


_SAID = {
    "better": "better than what was done",
    "worse": "worse than what was done",
    "open": "no difference to what was done can be told",
    "cannot_say": "this log cannot say",
}
_UNIT = {"accept": "reward: accepts a decision", "value": "reward: money a decision, less the contact's cost"}


def _number(number: float) -> str:
    if number in (inf, -inf):
        return "∞" if number > 0 else "-∞"
    return f"{number:.5f}" if abs(number) < 1 else f"{number:,.4f}"


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d")
