"""`tact replay`: recorded events and contacts through the API, oldest first.

Events travel in packs and contacts one by one; everything of one customer takes the same lane, so its order is
kept. Unless the times are kept, all are shifted by one amount so that the last one is now.
"""

import asyncio
import gzip
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import aiohttp

from engine.errors import TactError
from features.event import format_time, parse_time

LANES: Final = 8
PACK: Final = 500


class ReplayFailure(TactError):
    """A replay that cannot go on."""


class Summary:
    """What a replay came to."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.sent = 0
        self.accepted = 0
        self.contacts = 0
        self.overruns = 0
        self.reasons: Counter[str] = Counter()
        self.seconds = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        rejected = sum(self.reasons.values())
        return {
            "sent": self.sent,
            "accepted": self.accepted,
            "contacts": self.contacts,
            "overruns": self.overruns,
            "rejected": rejected,
            "reasons": dict(self.reasons.most_common()),
            "seconds": round(self.seconds, 3),
            "events_per_second": round(self.sent / self.seconds) if self.seconds else 0,
        }


def read_lines(paths: list[Path]) -> list[tuple[int, dict[str, Any]]]:
    """Return all lines with their times (ms), oldest first; raises ReplayFailure for what cannot be read."""
    found = []
    now = time.time_ns() // 1_000_000
    for path in paths:
        for number, line in enumerate(_lines(path), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise TypeError("it must be a JSON object")  # noqa: TRY301  # named with its line below
                at = parse_time(value["occurred_at"]) if "occurred_at" in value else now
            except (ValueError, TypeError, RecursionError) as error:
                raise ReplayFailure(
                    f"{path}:{number} is no event: {error}; mend or remove the line"
                ) from None
            found.append((at, value))
    found.sort(key=lambda pair: pair[0])
    return found


def _lines(path: Path) -> Iterator[str]:
    try:
        packed = path.suffix == ".gz"
        with gzip.open(path, "rt", encoding="utf-8") if packed else path.open(encoding="utf-8") as stream:
            yield from stream
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise ReplayFailure(f"{path} cannot be read: {error}") from None


def shifted(rows: list[tuple[int, dict[str, Any]]], *, keep_times: bool) -> list[tuple[int, dict[str, Any]]]:
    """Shift all times by one amount so that the last is now, unless they are to be kept."""
    if keep_times or not rows:
        return rows
    by = time.time_ns() // 1_000_000 - rows[-1][0]
    return [(at + by, {**value, "occurred_at": format_time(at + by)}) for at, value in rows]


class Replay:
    """Sends the lines and keeps the summary; `progress(n)` is called as lines are done."""

    def __init__(self, url: str, speed: float | None, progress: Callable[[int], None]) -> None:
        """`speed` 1.0 keeps the recorded pace, None sends as fast as it goes."""
        self._url = url.rstrip("/")
        self._speed = speed
        self._progress = progress
        self.summary = Summary()

    async def run(self, rows: list[tuple[int, dict[str, Any]]]) -> Summary:
        """Send all lines; raises ReplayFailure when the server stops answering."""
        started = time.perf_counter()
        try:
            await self._send(rows)
        except* ReplayFailure as failures:
            raise failures.exceptions[0] from None
        self.summary.seconds = time.perf_counter() - started
        return self.summary

    async def _send(self, rows: list[tuple[int, dict[str, Any]]]) -> None:
        queues: list[asyncio.Queue[dict[str, Any] | None]] = [asyncio.Queue(PACK * 4) for _ in range(LANES)]
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            for queue in queues:
                group.create_task(self._lane(session, queue))
            begun, first, run = time.perf_counter(), rows[0][0] if rows else 0, token_hex(6)
            for number, (at, line) in enumerate(rows):
                # A line without an id gets one of this run, so that a pack sent twice counts once.
                own = "contact_id" if line.get("type") == "contact" else "event_id"
                value = line if own in line else {**line, own: f"replay-{run}-{number}"}
                if self._speed is not None:
                    ahead = (at - first) / 1000 / self._speed - (time.perf_counter() - begun)
                    if ahead > 0:
                        await asyncio.sleep(ahead)
                who = value.get("customer_id") or json.dumps(value.get("identities"), sort_keys=True)
                await queues[zlib.crc32(str(who).encode()) % LANES].put(value)
            for queue in queues:
                await queue.put(None)

    async def _lane(
        self, session: aiohttp.ClientSession, queue: asyncio.Queue[dict[str, Any] | None]
    ) -> None:
        ended = False
        while not ended:
            batch = [await queue.get()]
            while len(batch) < PACK and not queue.empty():
                batch.append(queue.get_nowait())
            pack: list[dict[str, Any]] = []
            for value in batch:
                if value is None:
                    ended = True
                elif value.get("type") == "contact":
                    await self._send_events(session, pack)
                    pack = []
                    await self._send_contact(session, value)
                else:
                    pack.append(value)
            await self._send_events(session, pack)

    async def _send_events(self, session: aiohttp.ClientSession, pack: list[dict[str, Any]]) -> None:
        if not pack:
            return
        body = "\n".join(json.dumps(value) for value in pack).encode()
        status, said = await self._post(session, "/v1/events", body, "application/x-ndjson")
        self.summary.sent += len(pack)
        if status not in (202, 422):
            raise ReplayFailure(
                f"{self._url} answered {status} to a pack of events: {said.get('detail', '')}"
            )
        self.summary.accepted += said.get("accepted", 0)
        for entry in said.get("rejected", ()):
            self.summary.reasons[entry["detail"]] += 1
        self._progress(len(pack))

    async def _send_contact(self, session: aiohttp.ClientSession, value: dict[str, Any]) -> None:
        body = json.dumps({name: part for name, part in value.items() if name != "type"}).encode()
        status, said = await self._post(session, "/v1/contacts", body, "application/json")
        self.summary.sent += 1
        if status == 201:
            self.summary.accepted += 1
            self.summary.contacts += 1
            self.summary.overruns += bool(said["overrun"])
        elif status == 422:
            self.summary.reasons[said.get("detail", "refused")] += 1
        else:
            raise ReplayFailure(f"{self._url} answered {status} to a contact: {said.get('detail', '')}")
        self._progress(1)

    async def _post(
        self, session: aiohttp.ClientSession, path: str, body: bytes, media: str
    ) -> tuple[int, Any]:
        for attempt in range(20):
            try:
                async with session.post(
                    self._url + path, data=body, headers={"content-type": media}
                ) as reply:
                    said = await reply.json(content_type=None)
                    if reply.status != 503:
                        return reply.status, said
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                if attempt == 19:
                    raise ReplayFailure(
                        f"{self._url} does not answer ({error}): is Tact running there?"
                    ) from None
            await asyncio.sleep(min(0.1 * 2**attempt, 2.0))
        raise ReplayFailure(f"{self._url} stayed unavailable: see its /readyz")
