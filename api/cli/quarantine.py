"""`tact quarantine …`: read what could not be applied, and send it again."""

import json
from typing import Annotated, Any

import typer

from api.remote import ask

quarantine = typer.Typer(
    help="Events that could not be applied: read them, send them again.", no_args_is_help=True
)
Url = Annotated[str, typer.Option(help="where Tact runs")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
URL = "http://127.0.0.1:8080"


@quarantine.command("list")
def list_(url: Url = URL, as_json: Json = False) -> None:
    """List the quarantined events with their reasons, oldest first."""
    entries: list[Any] = []
    after = ""
    while part := ask(url, "GET", f"/v1/quarantine?limit=1000{after}")["entries"]:
        entries += part
        after = f"&after={part[-1]['entry_id']}"
    if as_json:
        typer.echo(json.dumps({"entries": entries}, indent=2))
        return
    for entry in entries:
        typer.echo(f"{entry['entry_id']}  {entry['reason']}")
        for event in entry["events"]:
            typer.echo(f"    {json.dumps(event)}")
    typer.echo(f"{len(entries)} entries in the quarantine")


@quarantine.command()
def replay(url: Url = URL, as_json: Json = False) -> None:
    """Send the quarantined events through the journal again; what still cannot be applied comes back."""
    done = ask(url, "POST", "/v1/quarantine/replay")
    if as_json:
        typer.echo(json.dumps(done, indent=2))
    else:
        typer.echo(f"sent {done['sent']} events again; {done['unreadable']} entries cannot be read and stay")
