"""Pictures beside the numbers: estimates, weights, calibration, lift. Matplotlib is loaded by the caller's wish.

Every picture is written as SVG and PNG. No window is opened and no global style is touched.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.errors import TactError
from engine.evaluation.calibration import Calibration
from engine.evaluation.lift import Lift, Lifts
from engine.evaluation.report import Evaluation, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError:  # pragma: no cover  # the tests have it
    raise TactError("--plot needs matplotlib: pip install matplotlib") from None

BLUE: Final = "#2b6cb0"
GREY: Final = "#718096"
RED: Final = "#c05621"


def draw_evaluation(found: Evaluation, folder: Path) -> list[Path]:
    """Draw a judged log; returns the files written."""
    written = []
    for number, one in enumerate(found.policies, 1):
        name = f"policy-{number}" if len(found.policies) > 1 else "policy"
        written += _save(_estimates(found, one), folder, f"{name}-estimates")
        written += _save(_weights(one), folder, f"{name}-weights")
    for part in found.calibration:
        written += _save(_calibration(part), folder, f"calibration-{part.channel}-{part.head}")
    return written


def draw_lift(found: Lifts, folder: Path) -> list[Path]:
    """Draw how lift and its interval went; returns the files written."""
    written = _save(_lift_curve(found.overall), folder, "lift")
    if found.segments:
        written += _save(_lift_segments([found.overall, *found.segments]), folder, "lift-segments")
    return written


def _save(figure: Figure, folder: Path, name: str) -> list[Path]:
    safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{safe}.svg", folder / f"{safe}.png"]
        for path in paths:
            figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as refused:
        raise TactError(f"{folder} cannot be written: {refused.strerror}; name another folder") from None
    return paths


def _axes(width: float, height: float, title: str) -> "tuple[Figure, Axes]":
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    # A name of a file or a segment is no formula.
    axes.set_title(title.replace("$", r"\$"), loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _ranges(axes: Any, rows: list[tuple[str, float, float, float]]) -> None:
    """Draw one line a row: a point with its interval; what is infinite is left out."""
    for place, (_, value, low, high) in enumerate(rows):
        if np.isfinite(low) and np.isfinite(high):
            axes.plot([low, high], [place, place], color=BLUE, linewidth=2)
        axes.plot([value], [place], "o", color=BLUE)
    axes.set_yticks(range(len(rows)), [row[0].replace("$", r"\$") for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _estimates(found: Evaluation, one: Verdict) -> Figure:
    figure, axes = _axes(7, 3.2, f"{one.name}: {one.verdict.replace('_', ' ')}")
    _ranges(
        axes,
        [(each.name, each.value, each.interval.low, each.interval.high) for each in one.estimates],
    )
    axes.axvline(found.done, color=GREY, linestyle="--", linewidth=1, label="what was done")
    if np.isfinite(found.done_interval.low):
        axes.axvspan(found.done_interval.low, found.done_interval.high, color=GREY, alpha=0.15, linewidth=0)
    axes.set_xlabel(f"{found.reward} a decision, 95 % interval")
    axes.legend(frameon=False, fontsize=8)
    return figure


def _weights(one: Verdict) -> Figure:
    figure, axes = _axes(6, 3, f"{one.name}: {len(one.weights):,} decisions are worth {one.effective:,.0f}")
    used = one.weights[one.weights > 0]
    if len(used):
        low, high = float(used.min()), float(used.max())
        axes.hist(used, bins=list(np.geomspace(low * 0.999, high * 1.001, 40)), color=BLUE)
        axes.set_xscale("log")
    axes.axvline(1, color=GREY, linestyle="--", linewidth=1)
    axes.set_xlabel(f"weight of a decision ({int((one.weights == 0).sum()):,} weigh nothing)")
    axes.set_ylabel("decisions")
    return figure


def _calibration(part: Calibration) -> Figure:
    figure, axes = _axes(4.5, 4.2, f"{part.channel}, {part.head} ({part.slice.replace('_', ' ')})")
    said = [one.predicted for one in part.bins]
    came = [one.observed for one in part.bins]
    reach = max([*said, *[one.high for one in part.bins]]) * 1.05
    axes.plot([0, reach], [0, reach], color=GREY, linestyle="--", linewidth=1)
    down = [max(one.observed - one.low, 0) for one in part.bins]
    up = [max(one.high - one.observed, 0) for one in part.bins]
    axes.errorbar(said, came, yerr=[down, up], fmt="o", color=BLUE, capsize=2)
    axes.set_xlabel("said")
    axes.set_ylabel("came")
    return figure


def _lift_curve(one: Lift) -> Figure:
    figure, axes = _axes(7, 3.4, "lift, with an interval that holds at every look")
    shown = [look for look in one.curve if np.isfinite(look.low)]
    seen = [look.treated + look.control for look in shown]
    axes.fill_between(
        seen, [look.low for look in shown], [look.high for look in shown], color=BLUE, alpha=0.2, linewidth=0
    )
    axes.plot(seen, [look.lift for look in shown], color=BLUE)
    axes.axhline(0, color=RED, linestyle="--", linewidth=1)
    axes.set_xlabel("customers")
    axes.set_ylabel("lift a customer")
    return figure


def _lift_segments(parts: list[Lift]) -> Figure:
    figure, axes = _axes(7, 1.2 + 0.4 * len(parts), "lift by segment (the segments' intervals hold together)")
    _ranges(axes, [(one.segment or "everybody", one.now.lift, one.now.low, one.now.high) for one in parts])
    axes.axvline(0, color=RED, linestyle="--", linewidth=1)
    axes.set_xlabel("lift a customer, 95 % interval")
    return figure
