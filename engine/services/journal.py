"""The journal of accepted events: durable before the 202 (G11), quarantine beside it (G14).

Embedded, it is a stream of the same store, synced at every append; events of one request are packed into one
entry. Where there is Kafka, `kafka_journal` writes them there. What a customer said about consent is also applied
at once, by its own time: folding it again later changes nothing, and a withdrawal that was acknowledged holds from
then on (G8).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from engine.errors import Busy
from engine.services.activation import Plans
from engine.services.customers import Customers, next_version, version_bytes
from engine.services.deciding import MAX_JUDGEMENTS
from engine.store.quarantine import QUARANTINE
from engine.store.store import Commit, as_bytes, as_list
from engine.workers.features import PACKED_MAX, STREAM
from features.event import Event, decode_events, encode_events
from features.fold import with_consent

_CONSENT: Final = frozenset({"consent_changed", "unsubscribe"})


class Quarantined(NamedTuple):
    """One entry of the quarantine."""

    entry_id: str
    reason: str
    events: list[Event]


class Journal(ABC):
    """Appends events and reads the quarantine."""

    elsewhere = False
    """Whether events are made durable by somebody other than the store."""

    def __init__(self, customers: Customers, plans: Plans) -> None:
        """Take the loader of customers and the compiled policies."""
        self.customers = customers
        self.plans = plans
        self.store = customers.store

    async def resolve(self, events: Sequence[Event]) -> list[Event]:
        """Return the events with their customers found; identities beside a customer id stay, to be linked."""
        waiting = {tuple(sorted(event.identities.items())) for event in events if not event.customer_id}
        if not waiting:
            return list(events)
        pairs = sorted({pair for identities in waiting for pair in identities})
        owners = dict(
            zip(
                pairs,
                await self.store.alias_owners([self.customers.alias_tag(*pair) for pair in pairs]),
                strict=True,
            )
        )
        found = []
        for event in events:
            if event.customer_id:
                found.append(event)
                continue
            own = sorted(event.identities.items())
            known = next((owner for pair in own if (owner := owners[pair]) is not None), None)
            customer_id = known if known is not None else self.customers.derived_id(*own[0])
            # Several identities of one event belong together; a single one needs no link.
            found.append(
                replace(event, customer_id=customer_id, identities=event.identities if len(own) > 1 else {})
            )
        return found

    async def append(self, events: Sequence[Event]) -> None:
        """Make the events durable; when this returns they are."""
        await self._write(events)
        consents = [event for event in events if event.type in _CONSENT]
        if consents:
            await asyncio.gather(*(self._bind(event) for event in consents))

    def fault(self) -> str:
        """Say why events cannot be made durable now; empty where nothing beside the store is in the way."""
        return ""

    @abstractmethod
    async def _write(self, events: Sequence[Event]) -> None:
        """Write the events and return when they are durable; NotDurable, StoreUnavailable."""

    async def open(self) -> None:  # noqa: B027  # the embedded one needs nothing more
        """Connect to what the journal needs beside the store."""

    async def close(self) -> None:  # noqa: B027  # as above
        """Let it go."""

    async def _bind(self, event: Event) -> None:
        async with self.customers.lane(self.customers.tag(event.customer_id)):
            held = await self.customers.load(event.customer_id)
            for _ in range(MAX_JUDGEMENTS):
                plan = await self.plans.get(held.policy_version)
                changes = event.properties
                if event.type == "unsubscribe":
                    purpose = plan.channel_purposes.get(event.channel or "")
                    changes = {} if purpose is None else {purpose: "denied"}
                facts = with_consent(held.facts, changes, event.occurred_at)
                if facts is held.facts:
                    return
                done = await self.store.commit(
                    Commit(
                        tag=held.tag,
                        facts_version=version_bytes(held.facts),
                        facts=next_version(facts, held.now),
                    )
                )
                if done.code == "done":
                    return
                held = await self.customers.again(held, done)
        raise Busy("too many requests change this customer at once: try again")

    async def quarantined(self, limit: int, after: str = "", until: str = "+") -> list[Quarantined]:
        """Return up to `limit` entries of the quarantine after the entry id `after`, oldest first."""
        start = f"({after}" if after else "-"
        rows = as_list(await self.store.connection.call("XRANGE", QUARANTINE, start, until, "COUNT", limit))
        found = []
        for row in rows:
            entry_id, fields = as_list(row)
            flat = [as_bytes(value) or b"" for value in as_list(fields)]
            held = dict(zip(flat[::2], flat[1::2], strict=True))
            try:
                events = decode_events(held[b"b"])
            except ValueError:
                events = []
            found.append(Quarantined((as_bytes(entry_id) or b"").decode(), held[b"r"].decode(), events))
        return found

    async def drop_quarantined(self, entry_ids: Sequence[str]) -> int:
        """Take entries out of the quarantine, once they were accepted anew; returns how many there were."""
        reply = await self.store.connection.call("XDEL", QUARANTINE, *entry_ids)
        return reply if isinstance(reply, int) else 0

    async def requeue(self, limit: int) -> tuple[int, int]:
        """Send quarantined events through the journal again; returns (events sent, entries that cannot be read).

        Only those that are there now: what still cannot be applied comes back while this runs.
        """
        newest = as_list(await self.store.connection.call("XREVRANGE", QUARANTINE, "+", "-", "COUNT", 1))
        if not newest:
            return 0, 0
        until = (as_bytes(as_list(newest[0])[0]) or b"").decode()
        sent, unreadable, after = 0, 0, ""
        while limit > 0 and (entries := await self.quarantined(min(limit, 500), after, until)):
            for entry in entries:
                after = entry.entry_id
                if not entry.events:
                    unreadable += 1
                    continue
                now, _ = await self.store.clock()
                await self.append([replace(event, received_at=now) for event in entry.events])
                await self.drop_quarantined([entry.entry_id])
                sent += len(entry.events)
            limit -= len(entries)
        return sent, unreadable


class StoreJournal(Journal):
    """The embedded journal."""

    async def _write(self, events: Sequence[Event]) -> None:
        parts = [events[start : start + PACKED_MAX] for start in range(0, len(events), PACKED_MAX)]
        await self.store.connection.pipeline(
            [("XADD", STREAM, "*", "b", encode_events(part)) for part in parts]
        )
