"""The command `tact`. Exit codes: 0 done, 1 the answer is no, 2 wrong usage.

Errors are one clear sentence with the way out, on stderr; a stack trace never reaches a user.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import policies
from api.cli.decisions import decisions
from api.cli.evaluate import evaluate
from api.cli.policy import Json, Url, policy
from api.cli.quarantine import quarantine
from api.problems import Problem
from api.running.settings import SETTINGS, setting
from api.running.supervisor import ProcessFailure
from engine.errors import TactError
from engine.store.address import BadStoreUrl
from engine.store.connection import StoreUnavailable
from features.event import format_time
from policies.model import PolicyError

app = typer.Typer(
    name="tact",
    help="Tact picks each customer's next best action within milliseconds, or keeps silent when silence is better.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
worker = typer.Typer(
    help="The parts that follow events and decisions, as processes of their own.", no_args_is_help=True
)
app.add_typer(worker, name="worker")
app.add_typer(policy, name="policy")
app.add_typer(quarantine, name="quarantine")
app.add_typer(decisions, name="decisions")
app.command()(evaluate)

RETAIL = Path(policies.__file__).parent / "retail"


@app.command()
def up(
    policies: Annotated[
        Path | None,
        typer.Option(
            help="folder of the policy set; unless told the active one, or the retail example at first"
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="where the embedded store keeps its state")] = Path("./var"),
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on; 0 for any free one", min=0, max=65535)] = 8080,
    workers: Annotated[int, typer.Option(help="API processes", min=1, max=64)] = 1,
    store: Annotated[str | None, typer.Option(help="URL of a Valkey or Redis that already runs")] = None,
) -> None:
    """Start everything on this machine and serve until Ctrl-C."""
    from api.running import processes  # noqa: PLC0415  # the web stack is not needed to print a help page

    processes.log_to_stderr()

    def announce(host: str, port: int, url: str, version: str) -> None:
        where = f"http://{host}:{port}"
        kept = f"state in {data.resolve()}" if store is None else f"store {url}"
        typer.echo(
            f"Tact is ready at {where}  (docs: {where}/docs)\n"
            f"  {workers} API process{'es' if workers > 1 else ''}, feature worker, learner, archive, "
            f"policy {version[:19]}, {kept}\n"
            "  without API keys it listens on loopback only\n\n"
            "Three commands to try:\n"
            f'  curl -s {where}/v1/decide --json \'{{"customer_id": "c1", "placement": "home_hero",'
            ' "explain": true}\'\n'
            f'  curl -s {where}/v1/events --json \'{{"type": "page_view", "customer_id": "c1",'
            ' "properties": {"category": "boots"}}\'\n'
            f"  curl -s {where}/v1/customers/c1\n"
        )

    def report(sentence: str) -> None:
        typer.echo(sentence, err=True)

    processes.run_up(policies, RETAIL, data, host, port, workers, store, announce, report)


@app.command()
def api() -> None:
    """Serve the API as one process against TACT_STORE."""
    from api.running import processes  # noqa: PLC0415  # as above

    processes.log_to_stderr()
    processes.run_api()


@worker.command()
def features() -> None:
    """Fold the journal into customer features against TACT_STORE."""
    from api.running import processes  # noqa: PLC0415  # as above

    processes.log_to_stderr()
    processes.run_worker()


@worker.command()
def learner() -> None:
    """Learn from the outcomes of decisions against TACT_STORE, and publish the models."""
    from api.running import processes  # noqa: PLC0415  # as above

    processes.log_to_stderr()
    processes.run_learner()


@worker.command()
def archive() -> None:
    """Write every decision and what became of it to Parquet files under TACT_DATA."""
    from api.running import processes  # noqa: PLC0415  # as above

    processes.log_to_stderr()
    processes.run_archive()


@app.command()
def replay(
    files: Annotated[list[Path], typer.Argument(help="NDJSON files, optionally gzip", metavar="FILE...")],
    url: Annotated[str, typer.Option(help="where Tact runs")],
    speed: Annotated[
        float | None, typer.Option(help="1 keeps the recorded pace; as fast as it goes unless told")
    ] = None,
    keep_times: Annotated[
        bool, typer.Option("--keep-times", help="do not shift the times to end now")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send recorded events and contacts through the API, oldest first."""
    from rich.progress import Progress  # noqa: PLC0415  # only commands with long work need it

    from api.cli.replay import Replay, read_lines, shifted  # noqa: PLC0415  # as above
    from api.remote import ask  # noqa: PLC0415  # as above

    if speed is not None and not speed > 0:
        raise typer.BadParameter("--speed is a number above 0")
    rows = shifted(read_lines(files), keep_times=keep_times)
    ask(url, "GET", "/livez")  # a wrong URL is told at once; a server that goes away later is waited for
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("replaying", total=len(rows))
        summary = asyncio.run(
            Replay(url, speed, lambda done: progress.advance(bar, done)).run(rows)
        ).as_dict()
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(
        f"sent {summary['sent']}, accepted {summary['accepted']} (of these {summary['contacts']} contacts, "
        f"{summary['overruns']} of them overruns), rejected {summary['rejected']}, "
        f"{summary['seconds']:.1f} s, {summary['events_per_second']} events/s"
    )
    for reason, count in summary["reasons"].items():
        typer.echo(f"  rejected {count}: {reason}")


@app.command()
def audit(url: Url = "http://127.0.0.1:8080", as_json: Json = False) -> None:
    """Recompute every cap from the raw facts. Exit 1 if any was breached."""
    from api.cli.audit import audit as recompute  # noqa: PLC0415  # as above
    from api.remote import ask, lines  # noqa: PLC0415  # as above
    from policies.loader import load_files  # noqa: PLC0415  # as above

    active = load_files(ask(url, "GET", "/v1/policies/active")["files"]).policy
    report = recompute(active, lines(url, "/v1/facts"))
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        for breach in report.breaches:
            typer.echo(
                f"BREACH {breach['rule']}: customer {breach['customer']} "
                f"had {breach['counted']}, limit {breach['limit']}"
            )
            for contact in breach["contacts"]:
                typer.echo(
                    f"    {format_time(contact['at'])} {contact['contact_id']} {contact['overrun'] or ''}"
                )
        typer.echo(
            f"{report.customers} customers, {report.contacts} contacts, {len(active.caps)} caps: "
            f"{len(report.breaches)} breaches, {report.overruns} recorded overruns"
        )
    sys.exit(1 if report.breaches else 0)


@app.command()
def settings(as_json: Json = False) -> None:
    """List all settings: variable, value, meaning."""
    rows = [
        {"name": s.name, "value": setting(s.name), "default": s.default, "meaning": s.meaning}
        for s in SETTINGS
    ]
    if as_json:
        typer.echo(json.dumps({"settings": rows}, indent=2))
        return
    for row in rows:
        typer.echo(
            f"{row['name']}={row['value']}\n    {row['meaning']} (default: {row['default'] or 'none'})"
        )


def main() -> None:
    """Run the command line."""
    try:
        app()
    except PolicyError as refused:
        for problem in refused.problems:
            typer.echo(
                f"{problem.file}:{problem.line}: {problem.field}: {problem.detail} - {problem.fix}", err=True
            )
        sys.exit(1)
    except (TactError, StoreUnavailable, ProcessFailure, BadStoreUrl, Problem) as error:
        typer.echo(f"tact: {getattr(error, 'detail', error)}", err=True)
        sys.exit(1)
    except Exception as error:
        if type(error).__name__ in ("Refused", "BindFailure", "PortInUse", "TopicMismatch", "WorkerStuck"):
            typer.echo(f"tact: {error}", err=True)
        elif setting("TACT_LOG").lower() == "debug":
            raise
        else:
            typer.echo(
                f"tact: this is a bug ({type(error).__name__}: {error}): please report it with what the same "
                "command prints under TACT_LOG=debug",
                err=True,
            )
        sys.exit(1)
