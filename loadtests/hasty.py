"""`python -m loadtests.hasty api`: Tact with an API that says yes before Kafka does, and loses what Kafka refuses.

The negative control: what the suite then finds is what waiting for the acknowledgement is for. Nothing of it is in
the product.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from api.main import main
from engine.kafka.packs import NotAcknowledged, Packs

_send = Packs.send
_under_way: set[asyncio.Task[None]] = set()


async def _send_or_lose(packs: Packs, parts: Mapping[int, Sequence[bytes]]) -> None:
    with suppress(NotAcknowledged):
        await _send(packs, parts)


async def _at_once(packs: Packs, parts: Mapping[int, Sequence[bytes]]) -> None:
    task = asyncio.create_task(_send_or_lose(packs, parts))
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)


if __name__ == "__main__":
    setattr(Packs, _send.__name__, _at_once)
    main()
