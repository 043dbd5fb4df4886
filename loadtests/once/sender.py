"""Sends what a world makes, on a thread of its own, as far as it is allowed to and however long that takes.

Kafka acknowledges every record (`acks=all`) and the API every request; what was not acknowledged is sent again, so a
record may lie in the topic twice. Events without an id are then two: the topic itself says what is true.
"""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from api.remote import RemoteFailure, ask
from engine.adapters.topics import EVENTS, RECORD_BYTES_MAX
from loadtests.once.world import Sending

_AT_ONCE: Final = 32
_RETRY_S: Final = 0.2
_WAIT_S: Final = 0.02


class Sender:
    """Sends in the background, up to the event that `allow` names."""

    def __init__(
        self, sendings: Iterator[Sending], events: int, *, bootstrap: str, urls: Sequence[str]
    ) -> None:
        """Not started; `events` is how many there are."""
        self.sent = bytearray(events)
        """1 for each number of an event that was acknowledged."""
        self.records = self.calls = self.records_again = self._called_anew = 0
        self.reached = 0
        """Events sent, those that come again left out."""
        self._sendings = sendings
        self._kafka = _Kafka(bootstrap)
        self._urls = urls
        self._allowed = 0
        self._ended = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    @property
    def sent_anew(self) -> int:
        """Count the records and requests that were sent again because they were not acknowledged."""
        return self._called_anew + self._kafka.sent_anew

    def start(self) -> None:
        """Begin; nothing is sent before it is allowed."""
        self._thread.start()

    def allow(self, events: int) -> None:
        """Let it send up to so many events in all."""
        self._allowed = events

    def wait(self) -> None:
        """Wait until all that is allowed is acknowledged; raises what went wrong."""
        while not self._ended.wait(_WAIT_S) and self.reached < self._allowed:
            pass
        self._check()

    def finish(self) -> None:
        """Wait until everything is acknowledged; raises what went wrong."""
        self._allowed = len(self.sent) + 1
        self._ended.wait()
        self._check()

    def _check(self) -> None:
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
            for sending in self._sendings:
                waiting.append(sending)
                if len(waiting) == _AT_ONCE:
                    await self._deliver(waiting)
                    waiting = []
            await self._deliver(waiting)
        finally:
            await self._kafka.close()

    async def _deliver(self, waiting: Sequence[Sending]) -> None:
        while self.reached >= self._allowed:  # noqa: ASYNC110  # another thread's
            await asyncio.sleep(_WAIT_S)
        records = [sending for sending in waiting if sending.partition >= 0]
        calls = [sending for sending in waiting if sending.partition < 0]
        await asyncio.gather(self._kafka.send(records), *map(self._call, calls))
        self.records += len(records)
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
