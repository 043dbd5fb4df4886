"""A copy of the whole trail, taken while it is trimmed behind checkpoints; and a store that reads from the copy."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from engine.judging.trail import MADE, TRAIL, Step, parse_step
from engine.store.connection import StoreConnection
from engine.store.store import Store, as_bytes, as_int, as_list

Position = tuple[int, int]


class Copy:
    """The whole trail, as it was before it was trimmed."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Step | None]] = []
        self.records: dict[tuple[str, str], bytes] = {}
        """Of each decision its record as it was made: of a closed one only a stub stays in the store."""
        self.added = 0
        """Steps that were ever written."""

    async def more(self, connection: StoreConnection) -> None:
        """Copy what is new."""
        while True:
            after = self.entries[-1][0] if self.entries else "-"
            start = f"({after}" if self.entries else after
            found = as_list(await connection.call("XRANGE", TRAIL, start, "+", "COUNT", 5000))
            made: list[tuple[str, str]] = []
            for entry in found:
                position, fields = as_list(entry)
                step = parse_step(as_bytes(as_list(fields)[1]) or b"")
                self.entries.append(((as_bytes(position) or b"").decode(), step))
                if step.kind == MADE:
                    made.append((step.tag, step.uid))
            for place, record in zip(made, await Store(connection).records(made), strict=True):
                if record is not None:
                    self.records[place] = record
            if len(found) < 5000:
                break
        if self.entries:
            told = as_list(await connection.call("XINFO", "STREAM", TRAIL))
            self.added = as_int(told[told.index(b"entries-added") + 1])

    def kinds(self) -> dict[str, int]:
        """Return how many steps of each kind there are."""
        return dict(Counter(step.kind for _, step in self.entries if step is not None))

    async def follow(self, connection: StoreConnection) -> None:
        """Copy until cancelled."""
        while True:
            await self.more(connection)
            await asyncio.sleep(0.05)


class Copied(Store):
    """A store whose trail is the copy, up to a position."""

    def __init__(self, connection: StoreConnection, copy: Copy) -> None:
        """Everything but the trail is read from the connection."""
        super().__init__(connection)
        self.until = ""
        self._entries = copy.entries
        self._records = copy.records
        self._places = {position: place for place, (position, _) in enumerate(copy.entries, 1)}

    async def records(self, places: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """Return records as they were made."""
        return [self._records.get(place) for place in places]

    async def steps(self, after: str, count: int) -> list[tuple[str, Step | None]]:
        """Return the next steps, of which the last may be `until`."""
        start = self._places.get(after, 0)
        return self._entries[start : min(start + count, self._places[self.until])]


def position_of(text: bytes | str | None) -> Position:
    """Return a position of the trail as numbers that compare."""
    plain = text.decode() if isinstance(text, bytes) else text or "0-0"
    first, _, second = plain.partition("-")
    return (int(first), int(second)) if first.isdigit() and second.isdigit() else (0, 0)
