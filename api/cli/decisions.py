"""`tact decisions …`: the decision log, for one's own analysis."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from api.cli.policy import Json
from engine.errors import TactError

decisions = typer.Typer(help="The decision log: every decision, and what became of it.", no_args_is_help=True)


@decisions.command()
def export(
    out: Annotated[Path, typer.Option(help="folder that gets day=YYYY-MM-DD/part-00000.parquet")],
    since: Annotated[str, typer.Option(help="first day (UTC), such as 2026-11-01")],
    data: Annotated[Path, typer.Option(help="data folder of `tact up`, or of `tact worker archive`")] = Path(
        "./var"
    ),
    as_json: Json = False,
) -> None:
    """Copy the decision log from a day on, each decision once, as it is known now."""
    from engine.evaluation.export import export as copied  # noqa: PLC0415  # pyarrow takes half a second

    try:
        first = datetime.strptime(since, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        typer.echo(f"tact: --since '{since}' is no day: write it as YYYY-MM-DD", err=True)
        sys.exit(2)
    if out.resolve() == (data / "decisions").resolve():
        typer.echo("tact: --out is the log itself: name another folder", err=True)
        sys.exit(2)
    try:
        written = copied(data / "decisions", out, first.date())
    except TactError as wrong:
        typer.echo(f"tact: {wrong.detail}", err=True)
        sys.exit(1)
    except OSError as wrong:
        typer.echo(f"tact: {out} cannot be written to: {wrong.strerror}", err=True)
        sys.exit(1)
    if as_json:
        typer.echo(json.dumps({"decisions": written, "out": str(out)}))
    else:
        typer.echo(f"{written} decisions written to {out}")
