"""The quarantine as it lies in the store: events that could not be applied, each with its reason (G14)."""

from collections.abc import Collection
from typing import Final

from engine.store.store import Store, as_bytes, as_list
from features.event import decode_events

QUARANTINE: Final = "tact:quarantine"
_AT_ONCE: Final = 500


async def forget_quarantined(store: Store, customer_ids: Collection[str]) -> None:
    """Delete the entries that hold an event of these customers; one round trip for each 500 entries."""
    start = "-"
    while rows := as_list(await store.connection.call("XRANGE", QUARANTINE, start, "+", "COUNT", _AT_ONCE)):
        gone, last = [], b""
        for row in rows:
            entry_id, fields = as_list(row)
            last = as_bytes(entry_id) or b""
            try:
                events = decode_events(as_bytes(as_list(fields)[1]) or b"")
            except ValueError:
                continue
            if any(event.customer_id in customer_ids for event in events):
                gone.append(last)
        if gone:
            await store.connection.call("XDEL", QUARANTINE, *gone)
        start = f"({last.decode()}"
