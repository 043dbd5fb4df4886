"""`tact evaluate`: what policies would have earned on logged decisions, and lift over the control group.

Exit codes: 0 judged, 1 the log cannot judge it (too little overlap, no control group), 2 wrong usage.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from api.cli.policy import Json
from engine.errors import TactError
from features.event import parse_time

if TYPE_CHECKING:
    from engine.evaluation.log import Log
    from engine.evaluation.report import Candidate

Reward = Literal["accept", "value"]


def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(
            help="folders of policy sets, or random, logged, none, always:OFFER; the word lift alone compares "
            "control and treated",
            metavar="POLICY...",
        ),
    ],
    log: Annotated[Path, typer.Option(help="folder of the decision log (day=YYYY-MM-DD/*.parquet)")],
    reward: Annotated[
        str, typer.Option(help="accept: 1 or 0; value: money less the contact's cost")
    ] = "accept",
    since: Annotated[str | None, typer.Option(help="decisions from this day or time on (UTC)")] = None,
    until: Annotated[str | None, typer.Option(help="decisions before this day or time (UTC)")] = None,
    first: Annotated[
        bool,
        typer.Option("--first", help="judge rank 1 alone, the other slots as they were logged: steadier"),
    ] = False,
    segment: Annotated[
        str | None, typer.Option(help="with lift: one more line for each of its values")
    ] = None,
    within: Annotated[str, typer.Option(help="with lift: how long a customer is watched")] = "7d",
    planned: Annotated[
        int, typer.Option(help="with lift: customers at which its interval is tightest", min=100)
    ] = 10_000,
    plot: Annotated[Path | None, typer.Option(help="folder that gets the pictures (SVG and PNG)")] = None,
    as_json: Json = False,
) -> None:
    """Judge policies on logged decisions, before they go live."""
    try:
        asked = _reward(reward)
        begin, end = _moment(since, "--since"), _moment(until, "--until")
        lift = policies == ["lift"]
        if segment is not None and not lift:
            raise _Usage("--segment goes with lift: tact evaluate lift --log FOLDER --segment NAME")
        if "lift" in policies and not lift:
            raise _Usage(
                "lift stands alone: tact evaluate lift --log FOLDER (a folder of that name is ./lift)"
            )
        from engine.evaluation.log import read  # noqa: PLC0415  # pyarrow takes half a second

        # What to judge is looked at first: a mistyped name is told before a large log is read.
        candidates = [] if lift else [_candidate(name) for name in policies]
        decisions = read(log, begin, end)
        if lift:
            code = _lift(decisions, asked, segment, _duration(within), planned, plot, as_json=as_json)
        else:
            code = _judge(decisions, candidates, asked, plot, first=first, as_json=as_json)
    except TactError as wrong:
        typer.echo(f"tact: {wrong.detail}", err=True)
        sys.exit(2)
    sys.exit(code)


class _Usage(TactError):
    """A wrong command line."""


def _judge(
    log: "Log",
    candidates: "list[Candidate]",
    reward: Reward,
    plot: Path | None,
    *,
    first: bool,
    as_json: bool,
) -> int:
    from engine.evaluation.report import as_dict  # noqa: PLC0415  # as above
    from engine.evaluation.report import evaluate as judge  # noqa: PLC0415  # as above

    found = judge(log, candidates, reward, first_only=first)
    written: list[Path] = []
    if plot is not None:
        from api.cli.plots import draw_evaluation  # noqa: PLC0415  # matplotlib takes a second

        written = draw_evaluation(found, plot)
    if as_json:
        typer.echo(json.dumps({**as_dict(found), "pictures": [str(path) for path in written]}, indent=2))
    else:
        from api.cli.tables import show  # noqa: PLC0415  # only tables need rich

        show(found)
        _name_pictures(written)
    judged = found.policies and all(one.verdict != "cannot_say" for one in found.policies)
    return 0 if judged else 1


def _lift(
    log: "Log",
    reward: Reward,
    segment: str | None,
    within: int,
    planned: int,
    plot: Path | None,
    *,
    as_json: bool,
) -> int:
    from engine.evaluation.lift import lifts  # noqa: PLC0415  # as above
    from engine.evaluation.report import finite  # noqa: PLC0415  # as above

    found = lifts(log, reward, segment, horizon_ms=within, planned=planned)
    written: list[Path] = []
    if plot is not None:
        from api.cli.plots import draw_lift  # noqa: PLC0415  # as above

        written = draw_lift(found, plot)
    if as_json:
        rows = [
            {
                "segment": one.segment,
                "verdict": one.verdict,
                **{
                    name: finite(value) if isinstance(value, float) else value
                    for name, value in one.now._asdict().items()
                },
            }
            for one in (found.overall, *found.segments)
        ]
        said = {
            "reward": reward,
            "counted": found.counted,
            "overall": rows[0],
            "segments": rows[1:],
            "waiting": found.waiting,
            "warnings": list(found.warnings),
            "pictures": [str(path) for path in written],
        }
        typer.echo(json.dumps(said, indent=2))
    else:
        from api.cli.tables import show_lift  # noqa: PLC0415  # as above

        show_lift(found, reward)
        _name_pictures(written)
    return 0 if found.overall.verdict != "too_early" else 1


def _candidate(name: str) -> "Candidate":
    from engine.evaluation.report import Candidate  # noqa: PLC0415  # as above
    from engine.evaluation.target import of_policy, reference  # noqa: PLC0415  # as above
    from policies.loader import load_dir  # noqa: PLC0415  # as above

    if Path(name).is_dir():
        policy = load_dir(name).policy
        return Candidate(name, of_policy(policy), policy)
    return Candidate(name, reference(name))


def _reward(name: str) -> Reward:
    if name == "accept":
        return "accept"
    if name == "value":
        return "value"
    raise _Usage(f'--reward is accept or value, not "{name}"')


def _moment(text: str | None, option: str) -> int | None:
    """Return a day or a time as milliseconds since the epoch."""
    if text is None:
        return None
    try:
        return parse_time(text if "T" in text else f"{text}T00:00:00Z")
    except ValueError:
        raise _Usage(f"{option} is a day or a UTC time such as 2026-11-24 or 2026-11-24T10:00:00Z") from None


_UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


def _duration(text: str) -> int:
    if text[-1:] in _UNITS and text[:-1].isascii() and text[:-1].isdigit() and int(text[:-1]) > 0:
        return int(text[:-1]) * _UNITS[text[-1]]
    raise _Usage(f'--within is a whole number and one of s m h d w, such as 7d, not "{text}"')


def _name_pictures(written: list[Path]) -> None:
    for path in written:
        typer.echo(f"picture: {path}")
