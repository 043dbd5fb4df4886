"""The feature worker on the embedded journal: read a batch, fold it, move the checkpoint.

How each event counts once, whatever ends the process and wherever, is in `folding`.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from engine.services.activation import NoPolicy
from engine.store.connection import Reply, StoreUnavailable
from engine.store.store import as_bytes, as_list
from engine.workers.folding import Entry, Folding
from features.event import decode_events

STREAM: Final = "tact:events"
CHECKPOINT: Final = "tact:events:done"
PACKED_MAX: Final = 1024
"""Events that one journal entry holds at most; a position is (ms, sequence * PACKED_MAX + index)."""
BATCH: Final = 200
"""Journal entries read at once; each holds the events of one request."""
BEAT: Final = "tact:worker:beat"
"""Written once a second while the worker follows the journal; gone a few seconds after it stopped."""
BEAT_MS: Final = 5_000

log = logging.getLogger("tact.worker")


class Progress(NamedTuple):
    """What a batch came to."""

    events: int
    quarantined: int
    last: str


class Worker:
    """Folds the embedded journal."""

    def __init__(self, folding: Folding) -> None:
        """Take what folds."""
        self.folding = folding
        self.store = folding.store
        self.last = "0-0"

    async def run(self, stop: asyncio.Event) -> None:
        """Fold until `stop` is set; a store that is away is waited for."""
        loaded, away, beaten = False, False, 0.0
        while not stop.is_set():
            try:
                if not loaded:
                    self.last = (
                        (as_bytes(await self.store.connection.call("GET", CHECKPOINT))) or b"0-0"
                    ).decode()
                    loaded = True
                if time.monotonic() - beaten >= 1:
                    await self.store.connection.call("SET", BEAT, 1, "PX", BEAT_MS)
                    beaten = time.monotonic()
                await self.step(block_ms=500)
                away = False
            except NoPolicy:
                await asyncio.sleep(0.1)
            except StoreUnavailable as error:
                if not away:
                    log.warning("the store does not answer, waiting: %s", error)
                loaded, away = False, True
                await asyncio.sleep(0.1)

    async def step(self, block_ms: int = 0) -> Progress:
        """Fold one batch; waits up to `block_ms` for the first entry."""
        command: list[str | int] = ["XREAD", "COUNT", BATCH]
        if block_ms:
            command += ["BLOCK", block_ms]
        reply = await self.store.connection.call(
            *command, "STREAMS", STREAM, self.last, within_s=block_ms / 1000 + 5
        )
        streams = as_list(reply)
        lag = self.folding.measures.lag
        if not streams:
            lag[STREAM] = 0
            return Progress(0, 0, self.last)
        entries, quarantined, last = await self._decode(as_list(as_list(streams[0])[1]))
        quarantined += await self.folding.fold(entries)
        *_, waiting = await self.store.connection.pipeline(
            [("SET", CHECKPOINT, last), ("XTRIM", STREAM, "MINID", _following(last)), ("XLEN", STREAM)]
        )
        lag[STREAM] = waiting if isinstance(waiting, int) else 0
        self.last = last
        return Progress(len(entries), quarantined, last)

    async def _decode(self, raw: Sequence[Reply]) -> tuple[list[Entry], int, str]:
        entries: list[Entry] = []
        quarantined, last = 0, self.last
        for row in raw:
            pair = as_list(row)
            last = (as_bytes(pair[0]) or b"").decode()
            milliseconds, _, sequence = last.partition("-")
            blob = as_bytes(as_list(pair[1])[1]) or b""
            try:
                events = decode_events(blob)
            except ValueError as error:
                reason = f"the journal entry cannot be read: {error}"
                await self.folding.quarantine(blob, "unreadable", reason)
                quarantined += 1
                continue
            entries.extend(
                Entry(STREAM, (int(milliseconds), int(sequence) * PACKED_MAX + index), event)
                for index, event in enumerate(events)
            )
        return entries, quarantined, last


def _following(entry_id: str) -> str:
    """Return the id after this one: what was folded is not kept, or an erased person would stay in the journal."""
    milliseconds, _, sequence = entry_id.partition("-")
    return f"{milliseconds}-{int(sequence) + 1}"
