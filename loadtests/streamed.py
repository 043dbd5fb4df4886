"""A streamed check of a million rows: `python -m loadtests.streamed --rows 1000000`.

Rows go in and results come out on one connection, in order, while the memory of the API process is watched: it has
to stay flat, whatever the number of rows.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from loadtests import shop
from loadtests.server import running

console = Console(stderr=True, highlight=False)
_BATCH = 500
_HEAD = (
    "POST /v1/contacts/check?reserve={} HTTP/1.1\r\nhost: localhost\r\n"
    "content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
)


def resident(pid: int) -> float:
    """Return the memory of a process (MB)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


async def _send(writer: asyncio.StreamWriter, rows: int, customers: int) -> None:
    for first in range(0, rows, _BATCH):
        lines = b"".join(
            b'{"customer_id": "c-%d", "channel": "email", "category": "promotion"}\n' % (number % customers)
            for number in range(first, min(first + _BATCH, rows))
        )
        writer.write(b"%x\r\n%b\r\n" % (len(lines), lines))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _pieces(reader: asyncio.StreamReader) -> Any:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(head.decode())
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)


async def stream(port: int, pid: int, rows: int, customers: int, *, reserve: bool) -> dict[str, Any]:
    """Stream the rows and read what comes; returns what was seen, memory in MB."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_HEAD.format(str(reserve).lower()).encode())
    started = loop.time()
    sending = asyncio.create_task(_send(writer, rows, customers))
    number, allowed, wrong, memory, left = 0, 0, 0, [resident(pid)], b""
    async for piece in _pieces(reader):
        *lines, left = (left + piece).split(b"\n")
        for line in lines:
            said = json.loads(line)
            wrong += said["customer_id"] != f"c-{number % customers}" or "allowed" not in said
            allowed += said.get("allowed", False)
            number += 1
        if number % 20_000 < len(lines):
            memory.append(resident(pid))
            console.print(f"{number} of {rows} rows, {memory[-1]:.0f} MB", end="\r")
    console.print()
    await sending
    writer.close()
    return {
        "rows": number,
        "allowed": allowed,
        "missing_or_out_of_order": wrong + abs(rows - number),
        "rows_per_second": round(number / (loop.time() - started)),
        "memory_mb": {"at_first": round(memory[0]), "most": round(max(memory))},
        "grew_mb": round(max(memory) - memory[0], 1),
    }


def main() -> None:
    """Run it; exit code 1 where a result is missing or out of order, or memory grew by more than 50 MB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--customers", type=int, default=200_000)
    parser.add_argument("--no-reserve", action="store_true", help="ask only")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = shop.write(Path(scratch) / "policies", 100)
        with (
            running("--policies", str(folder)) as tact,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            pid = tact.pids("api")[0]
            found = runner.run(
                stream(tact.port, pid, asked.rows, asked.customers, reserve=not asked.no_reserve)
            )
    print(json.dumps(found, indent=2))
    if found["missing_or_out_of_order"] or found["grew_mb"] > 50:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
