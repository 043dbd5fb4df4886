"""The command `tact`. Exit codes: 0 done, 1 the answer is no, 2 wrong usage.

Errors are one clear sentence with the way out, on stderr; a stack trace never reaches a user.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from api.problems import Problem
from engine.adapters.address import BadStoreUrl
from engine.adapters.connection import StoreUnavailable
from engine.adapters.processes import ProcessFailure
from engine.errors import TactError
from policies.model import PolicyError

app = typer.Typer(
    name="tact",
    help="Tact picks each customer's next best action within milliseconds, or keeps silent when silence is better.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
worker = typer.Typer(help="The parts that follow the journal, as processes of their own.", no_args_is_help=True)
app.add_typer(worker, name="worker")

RETAIL = Path(__file__).resolve().parent.parent / "policies" / "retail"


@app.command()
def up(
    policies: Annotated[
        Path | None,
        typer.Option(help="folder of the policy set; unless told the active one, or the retail example at first"),
    ] = None,
    data: Annotated[Path, typer.Option(help="where the embedded store keeps its state")] = Path("./var"),
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on; 0 for any free one", min=0, max=65535)] = 8080,
    workers: Annotated[int, typer.Option(help="API processes", min=1, max=64)] = 1,
    store: Annotated[str | None, typer.Option(help="URL of a Valkey or Redis that already runs")] = None,
) -> None:
    """Start everything on this machine and serve until Ctrl-C."""
    from api import processes  # noqa: PLC0415  # the web stack is not needed to print a help page

    processes.log_to_stderr()

    def announce(host: str, port: int, url: str, version: str) -> None:
        where = f"http://{host}:{port}"
        kept = f"state in {data.resolve()}" if store is None else f"store {url}"
        typer.echo(
            f"Tact is ready at {where}  (docs: {where}/docs)\n"
            f"  {workers} API process{'es' if workers > 1 else ''}, 1 feature worker, policy {version[:19]}, {kept}\n"
            "  without API keys it listens on loopback only\n\n"
            "Three commands to try:\n"
            f"  curl -s {where}/v1/decide --json '{{\"customer_id\": \"c1\", \"placement\": \"home_hero\", \"explain\": true}}'\n"
            f"  curl -s {where}/v1/events --json '{{\"type\": \"page_view\", \"customer_id\": \"c1\","
            " \"properties\": {\"category\": \"boots\"}}'\n"
            f"  curl -s {where}/v1/customers/c1\n"
        )

    def report(sentence: str) -> None:
        typer.echo(sentence, err=True)

    processes.run_up(policies, RETAIL, data, host, port, workers, store, announce, report)


@app.command()
def api() -> None:
    """Serve the API as one process against TACT_STORE."""
    from api import processes  # noqa: PLC0415  # as above

    processes.log_to_stderr()
    processes.run_api()


@worker.command()
def features() -> None:
    """Fold the journal into customer features against TACT_STORE."""
    from api import processes  # noqa: PLC0415  # as above

    processes.log_to_stderr()
    processes.run_worker()


def main() -> None:
    """Run the command line."""
    try:
        app()
    except PolicyError as refused:
        for problem in refused.problems:
            typer.echo(f"{problem.file}:{problem.line}: {problem.field}: {problem.detail} - {problem.fix}", err=True)
        sys.exit(1)
    except (TactError, StoreUnavailable, ProcessFailure, BadStoreUrl, Problem) as error:
        typer.echo(f"tact: {getattr(error, 'detail', error)}", err=True)
        sys.exit(1)
    except Exception as error:
        if type(error).__name__ not in ("Refused", "BindFailure", "PortInUse"):
            raise
        typer.echo(f"tact: {error}", err=True)
        sys.exit(1)
