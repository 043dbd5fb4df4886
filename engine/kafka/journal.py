"""The journal on Kafka: every event goes to the partition of its customer, whatever process took it.

Beside it, in the store, lies how far each partition is folded (`tact:kafka:done`), and the epoch of the topic
(`tact:kafka:epoch`): it goes up when the topic is made anew, since positions in the old one say nothing of the new.
"""

from collections.abc import Sequence
from typing import Final

from engine.errors import NotDurable
from engine.kafka.packs import NotAcknowledged, Packs
from engine.kafka.settings import KafkaSettings
from engine.kafka.topics import partition_of
from engine.services.activation import Plans
from engine.services.customers import Customers
from engine.services.journal import Journal
from engine.store.store import Store, as_int
from features.event import Event, encode_event

DONE: Final = "tact:kafka:done"
"""Partition to "EPOCH:OFFSET", the offset that is folded next."""
EPOCH: Final = "tact:kafka:epoch"
_NEXT_EPOCH: Final = """
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch == ARGV[1] then epoch = redis.call('INCR', KEYS[1]) end
return tostring(epoch)
"""


class KafkaJournal(Journal):
    """Appends to the topic of events."""

    elsewhere = True

    def __init__(self, customers: Customers, plans: Plans, settings: KafkaSettings) -> None:
        """Take the loader of customers, the compiled policies and where Kafka is."""
        super().__init__(customers, plans)
        self.settings = settings
        self.packs = Packs(settings, lambda: begin_epoch(self.store))

    async def open(self) -> None:
        """Begin to connect; TopicMismatch."""
        await self.packs.open()

    async def close(self) -> None:
        """End; what waits is not acknowledged."""
        await self.packs.close()

    def fault(self) -> str:
        """Say why events cannot be made durable now; nothing when they can."""
        return self.packs.fault

    async def _write(self, events: Sequence[Event]) -> None:
        parts: dict[int, list[bytes]] = {}
        for event in events:
            partition = partition_of(self.customers.tag(event.customer_id), self.settings.partitions)
            parts.setdefault(partition, []).append(encode_event(event))
        try:
            await self.packs.send(parts)
        except NotAcknowledged as error:
            raise NotDurable(
                f"the events could not be made durable ({error}): send them again, with their event ids"
            ) from None


async def begin_epoch(store: Store) -> int:
    """Begin a new epoch of the topic, unless somebody else has just done so; returns the current one."""
    before = as_int(await store.connection.call("GET", EPOCH))
    return as_int(await store.connection.call("EVAL", _NEXT_EPOCH, 1, EPOCH, before))
