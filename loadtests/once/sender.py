"""Sends what a world makes, on a thread of its own, at a pace and however long that takes.

Kafka acknowledges every record (`acks=all`) and the API every request; what was not acknowledged is sent again, so a
record may lie in the topic twice. Events without an id are then two: the topic itself says what is true.
"""

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from api.remote import RemoteFailure, ask
from engine.kafka.topics import EVENTS, RECORD_BYTES_MAX
from loadtests.once.world import CALL, Sending

_AT_ONCE: Final = 32
_RETRY_S: Final = 0.2


class Sender:
    """Sends in the background, at most `pace` events a second."""

    def __init__(
        self, sendings: Iterator[Sending], events: int, *, pace: int, bootstrap: str, urls: Sequence[str]
    ) -> None:
        """Not started; `events` is how many there are."""
        self.sent = bytearray(events)
        """1 for each number of an event that was acknowledged."""
        self.calls = self.records_again = self._called_anew = 0
        self.reached = 0
        """Events sent, those that come again left out."""
        self._sendings = sendings
        self._kafka = _Kafka(bootstrap)
        self._urls = urls
        self._pace = pace
        self._ended = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    @property
    def sent_anew(self) -> int:
        """Count the records and requests that were sent again because they were not acknowledged."""
        return self._called_anew + self._kafka.sent_anew

    @property
    def ended(self) -> bool:
        """Say whether everything was acknowledged, or sending failed."""
        return self._ended.is_set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> None:
        """Wait until everything is acknowledged; raises what went wrong."""
        self._ended.wait()
        if self._fault is not None:
            raise RuntimeError("nothing more can be sent") from self._fault

    def _run(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as fault:  # noqa: BLE001  # raised again where somebody waits
            self._fault = fault
        finally:
            self._ended.set()

    async def _send(self) -> None:
        waiting: list[Sending] = []
        try:
            began = time.monotonic()
            for sending in self._sendings:
                waiting.append(sending)
                if len(waiting) == _AT_ONCE:
                    await self._deliver(waiting)
                    waiting = []
                    await asyncio.sleep(began + self.reached / self._pace - time.monotonic())
            await self._deliver(waiting)
        finally:
            await self._kafka.close()

    async def _deliver(self, waiting: Sequence[Sending]) -> None:
        records = [sending for sending in waiting if sending.partition != CALL]
        calls = [sending for sending in waiting if sending.partition == CALL]
        await asyncio.gather(self._kafka.send(records), *map(self._call, calls))
        self.calls += len(calls)
        for sending in waiting:
            self.records_again += sending.again
            for number in sending.numbers:
                self.reached += not self.sent[number]
                self.sent[number] = 1

    async def _call(self, sending: Sending) -> None:
        """Send a request until it is accepted."""
        url = self._urls[sending.numbers[0] % len(self._urls)]
        while True:
            try:
                said = await asyncio.to_thread(_post, url, sending.body)
            except RemoteFailure as failure:
                if failure.body is not None and failure.body.get("status", 503) < 500:
                    raise
                self._called_anew += 1
                await asyncio.sleep(_RETRY_S)
            else:
                if said["rejected"]:
                    raise ValueError(f"events were refused: {said['rejected'][:3]}")
                return


class _Kafka:
    """A producer that is made anew when it fails."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self.sent_anew = 0
        self._producer: AIOKafkaProducer | None = None

    async def send(self, records: Sequence[Sending]) -> None:
        """Return when all are acknowledged."""
        waiting = list(records)
        while waiting:
            try:
                producer = await self._started()
                sent = [
                    await producer.send(EVENTS, record.body, partition=record.partition) for record in waiting
                ]
                said = await asyncio.gather(*sent, return_exceptions=True)
            except (KafkaError, OSError, TimeoutError):
                await self.close()
                await asyncio.sleep(_RETRY_S)
                self.sent_anew += len(waiting)
                continue
            waiting = [
                record for record, one in zip(waiting, said, strict=True) if isinstance(one, BaseException)
            ]
            self.sent_anew += len(waiting)

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                acks="all",
                linger_ms=2,
                max_request_size=2 * RECORD_BYTES_MAX,
                request_timeout_ms=10_000,
                metadata_max_age_ms=5_000,
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def close(self) -> None:
        """Let the producer go."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await producer.stop()


def _post(url: str, body: bytes) -> dict[str, list[object]]:
    said: dict[str, list[object]] = ask(url, "POST", "/v1/events", json.loads(body))
    return said
