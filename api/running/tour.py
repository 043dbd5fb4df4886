"""`make run`: start Tact with the retail example, send sample events, show one decision with its reasons, serve.

The sample events are made here, from a seed: some shoppers of one morning who look, buy, complain and come by.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from api.remote import RemoteFailure, ask
from features.event import format_time

SHOPPERS = 40
MINUTES = 5
SEED = 7
console = Console(highlight=False)


def sample_events(now: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Return a few minutes of events of some shoppers, ending at `now` (ms), oldest first."""
    rnd = random.Random(seed)
    lines = ("boots", "coats", "running", "home", "toys", "ski")
    found = []
    for number in range(SHOPPERS * 12):
        shopper = f"shopper-{rnd.randrange(SHOPPERS)}"
        at = now - rnd.randrange(MINUTES * 60_000)
        kind = rnd.choices(
            ("page_view", "add_to_cart", "purchase", "store_scan", "email_open", "complaint"),
            (60, 10, 6, 14, 9, 1),
        )[0]
        properties: dict[str, Any] = {"category": rnd.choice(lines)}
        if kind == "purchase":
            properties["amount"] = round(rnd.uniform(5, 120), 2)
        if kind == "page_view":
            properties["session_id"] = f"{shopper}-{rnd.randrange(3)}"
        found.append(
            {
                "event_id": f"sample-{now}-{number}",
                "type": kind,
                "customer_id": shopper,
                "occurred_at": format_time(at),
                "channel": "till" if kind == "store_scan" else "email" if kind == "email_open" else "web",
                "properties": properties,
            }
        )
    return sorted(found, key=lambda event: str(event["occurred_at"]))


def main() -> None:
    """Run the tour."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--data", default="./var")
    asked = parser.parse_args()
    url = f"http://127.0.0.1:{asked.port}"
    command = [sys.executable, "-m", "api.main", "up", "--data", asked.data, "--port", str(asked.port)]
    server = subprocess.Popen(command, env=os.environ)  # our own command
    stop = False

    def forward(number: int, _: object) -> None:
        nonlocal stop
        stop = True
        server.send_signal(signal.SIGTERM if number == signal.SIGTERM else signal.SIGINT)

    # The server has a terminal's Ctrl-C from us alone or from the terminal as well: it drains once either way.
    signal.signal(signal.SIGINT, forward)
    signal.signal(signal.SIGTERM, forward)
    if _ready(server, url):
        try:
            _show(url)
        except RemoteFailure as error:
            if not stop:
                console.print(f"the tour cannot go on: {error.detail}", style="red")
    sys.exit(server.wait())


def _ready(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server answers; False when it ended instead."""
    while server.poll() is None:
        try:
            ask(url, "GET", "/readyz")
        except RemoteFailure:
            time.sleep(0.05)
        else:
            return True
    return False


def _show(url: str) -> None:
    now = time.time_ns() // 1_000_000
    events = sample_events(now)
    accepted = 0
    for start in track(range(0, len(events), 60), "sending sample events", console=console, transient=True):
        accepted += ask(url, "POST", "/v1/events", events[start : start + 60])["accepted"]
    console.print(f"{accepted} sample events of {SHOPPERS} shoppers accepted (seed {SEED}).\n")
    shopper = next(e["customer_id"] for e in events if e["type"] == "page_view")
    _until_folded(url, shopper)
    asked = {
        "customer_id": shopper,
        "placement": "home_hero",
        "context": {"device": "mobile"},
        "explain": True,
    }
    console.print(f"[bold]POST {url}/v1/decide[/bold]  {json.dumps(asked)}\n")
    _print(ask(url, "POST", "/v1/decide", asked))
    console.print("\nServing. Ctrl-C drains and stops everything.")


def _until_folded(url: str, shopper: str) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if ask(url, "GET", f"/v1/customers/{shopper}")["as_of"] is not None:
                return
        except RemoteFailure:
            pass
        time.sleep(0.02)


def _print(decision: dict[str, Any]) -> None:
    """Print a decision and why: what was chosen, what came close, what was dropped where."""
    chosen = decision["offers"]
    if chosen:
        first = chosen[0]
        console.print(
            f'[bold green]{decision["action"]}: {first["offer"]}[/bold green] "{first["content"].get("title", "")}" '
            f"(propensity {first['propensity']:.3f}, value {first['value']:.2f}, priority {first['priority']:.3f}, "
            f"chosen with chance {first['selection_probability']:.2f}) in {decision['took_ms']} ms"
        )
    else:
        console.print(f"[bold yellow]silence: {decision['reason']}[/bold yellow] in {decision['took_ms']} ms")
    table = Table("offer", "verdict", "stage", "why")
    order = {"chosen": 0, "outranked": 1, "dropped": 2}
    for step in sorted(decision["trace"], key=lambda step: order[step["verdict"]]):
        table.add_row(step["offer"], step["verdict"], step["stage"], _why(step))
    console.print(table)


def _why(step: dict[str, Any]) -> str:
    details = step["details"]
    if "priority" in details:
        return f"priority {details['priority']:.3f}, chance {details.get('selection_probability', 0):.2f}"
    if "rules" in details:
        return ", ".join(
            f"{rule['rule']} until {rule['eligible_at'] or 'changed'}" for rule in details["rules"]
        )
    null = f" ({details['null']} is not known)" if "null" in details else ""
    return str(details.get("condition", "")) + null


if __name__ == "__main__":
    main()
