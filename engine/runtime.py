"""The composition root: one connection, and the services that stand on it."""

import os
from itertools import count
from pathlib import Path
from typing import Final

from engine.kafka.settings import KafkaSettings
from engine.services.activation import Plans
from engine.services.checking import Checking
from engine.services.contacts import Contacts
from engine.services.customers import Customers
from engine.services.deciding import Deciding
from engine.services.journal import Journal, StoreJournal
from engine.services.models import Models
from engine.services.people import People
from engine.services.records import Records
from engine.store.connection import StoreAddress, StoreConnection
from engine.store.store import PROLOGUE, Store, as_bytes
from engine.workers.features import Worker
from engine.workers.folding import Folding

INSTALLATION: Final = "tact:secret"
"""Key of the installation's secret: 32 random bytes made at the first start; it keys all tags."""


class Engine:
    """Everything that one process needs to answer, wired."""

    def __init__(
        self,
        connection: StoreConnection,
        secret: bytes,
        log_folder: Path | None = None,
        kafka: KafkaSettings | None = None,
    ) -> None:
        """Use `open_engine`."""
        self.connection = connection
        self.store = Store(connection)
        self.customers = Customers(self.store, secret)
        self.plans = Plans(self.store)
        self.models = Models(self.store)
        self.deciding = Deciding(self.customers, self.plans, self.models)
        self.records = Records(self.customers, self.plans, log_folder)
        self.checking = Checking(self.customers, self.plans)
        self.contacts = Contacts(self.customers, self.plans)
        self.people = People(self.customers, self.plans)
        self.journal = _journal(self.customers, self.plans, kafka)
        self.folding = Folding(self.customers, self.plans)
        self.worker = Worker(self.folding)
        self._prefix = os.urandom(9).hex()
        self._counter = count()

    def unique(self) -> str:
        """Return an id that no other process makes."""
        return f"{self._prefix}-{next(self._counter):x}"

    async def close(self) -> None:
        """Close the connections."""
        await self.journal.close()
        await self.connection.close()


def _journal(customers: Customers, plans: Plans, kafka: KafkaSettings | None) -> Journal:
    if kafka is None:
        return StoreJournal(customers, plans)
    from engine.kafka.journal import KafkaJournal  # noqa: PLC0415  # only who writes to Kafka loads its client

    return KafkaJournal(customers, plans, kafka)


async def open_engine(
    address: str, log_folder: Path | None = None, kafka: KafkaSettings | None = None
) -> Engine:
    """Connect to the store at a URL; makes the installation's secret where there is none.

    `log_folder` is where the archive writes the decision log: closed decisions are read back there. With `kafka`,
    events are written there; TopicMismatch when its topic is not as declared.
    """
    connection = StoreConnection(StoreAddress.parse(address), prologue=PROLOGUE, within_s=2.0)
    await connection.open()
    reply = await connection.pipeline([("SET", INSTALLATION, os.urandom(32), "NX"), ("GET", INSTALLATION)])
    engine = Engine(connection, as_bytes(reply[1]) or b"", log_folder, kafka)
    try:
        await engine.journal.open()
    except BaseException:
        await engine.close()
        raise
    return engine
