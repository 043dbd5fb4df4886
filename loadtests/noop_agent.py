"""A Faust agent that does nothing with a topic's records, the floor of any worker: `python -m loadtests.noop_agent`.

Arguments: brokers, topic, records. Prints the records read a second and the CPU time a record (µs), from the moment at
which a tenth has been read.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

import faust
import uvloop


class _App(faust.App):
    def _create_directories(self) -> None:
        """Make none."""


async def _run(brokers: str, topic: str, records: int) -> dict[str, float]:
    app = _App(
        f"noop-{os.getpid()}",
        broker=[f"kafka://{place}" for place in brokers.split(",")],
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
    )
    done = asyncio.Event()
    begun: list[float] = []
    ended: list[float] = []

    async def read(stream: Any) -> None:
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == records // 10:
                begun.extend((time.perf_counter(), time.process_time()))
            if seen == records:
                ended.extend((time.perf_counter(), time.process_time()))
                done.set()

    app.agent(app.topic(topic, value_type=bytes, key_type=bytes, value_serializer="raw"))(read)
    await app.start()
    await done.wait()
    await app.stop()
    counted = records - records // 10
    return {
        "per_second": counted / (ended[0] - begun[0]),
        "cpu_us": (ended[1] - begun[1]) / counted * 1e6,
    }


def main() -> None:
    """Run it."""
    brokers, topic, records = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(brokers, topic, int(records)))), flush=True)
    os._exit(0)  # what Faust leaves running is nobody's concern here


if __name__ == "__main__":
    main()
