"""A rolling restart loses no request: processes give notice, whoever asks /readyz goes elsewhere, nobody is cut off.

Two `tact api` on one store, clients on kept connections, and a balancer that knows what any gateway knows: which
process says that it is ready. Meanwhile policies are activated: what was acknowledged holds everywhere (G10).
"""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from api.running.kafka.node import free_ports
from api.running.valkey import ValkeyServer
from loadtests import shop
from policies.loader import load_files
from tests.conftest import eventually_in_loop

PROBE_S = 0.1
CLIENTS = 6
FILES = shop.files(5)


class Api:
    """One `tact api`, which is restarted on its own port."""

    def __init__(self, port: int, environment: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {**os.environ, **environment, "TACT_PORT": str(port)}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "api.main", "api"], env=self.environment)

    async def stop(self) -> int:
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 15)


class Traffic:
    """Clients, the balancer before them, and a marketer; everything that came of it."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str], *, aware: bool) -> None:
        self.session = session
        self.urls = urls
        self.aware = aware
        self.ready = list[str]()
        self.said = set[str]()
        self.answers = Counter[tuple[str, int]]()
        self.failures = list[str]()
        self.versions = dict[str, int]()  # each version's number, in the order of their activation
        self.acknowledged = 0
        self.outdated = list[str]()
        self._turn = 0

    def pick(self) -> str:
        urls = self.ready if self.aware else self.urls
        self._turn += 1
        return urls[self._turn % len(urls)]

    async def probe(self) -> None:
        """Ask each process whether it is ready; who does not answer is not."""
        self.ready = [url for url in self.urls if await self._is_ready(url)]
        await asyncio.sleep(PROBE_S)

    async def _is_ready(self, url: str) -> bool:
        try:
            async with self.session.get(f"{url}/readyz") as reply:
                self.said.add((await reply.json())["status"])
                return reply.status == 200
        except aiohttp.ClientError:
            return False

    async def until_answered_by(self, url: str) -> None:
        before = self.answers[url, 200]
        await eventually_in_loop(lambda: self.answers[url, 200] > before, 20)

    async def decide(self) -> None:
        url, known = self.pick(), self.acknowledged
        asked = {"customer_id": f"c{self._turn % 500}", "placement": "hero"}
        try:
            async with self.session.post(f"{url}/v1/decide", json=asked) as reply:
                said = await reply.json()
        except aiohttp.ClientError as error:
            self.failures.append(f"{url}: {error!r}")
            return
        self.answers[url, reply.status] += 1
        if reply.status == 200 and self.versions[said["policy_version"]] < known:
            self.outdated.append(f"{url}: {said['policy_version']}")
        await asyncio.sleep(0.01)

    async def activate(self) -> None:
        """Activate one more version; from its acknowledgement on no answer may name an older one."""
        number = len(self.versions)
        files = {**FILES, "policy.yaml": FILES["policy.yaml"] + f"# version {number}\n"}
        self.versions[load_files(files).policy.version] = number
        async with self.session.post(f"{self.pick()}/v1/policies/activate", json={"files": files}) as reply:
            assert reply.status == 200
        self.acknowledged = number
        await asyncio.sleep(0.25)


@asynccontextmanager
async def traffic(apis: list[Api], *, aware: bool) -> AsyncIterator[Traffic]:
    """Traffic for the length of a block, from the moment at which all processes are ready."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session,
        asyncio.TaskGroup() as tasks,
    ):
        one = Traffic(session, [api.url for api in apis], aware=aware)
        running = [tasks.create_task(again_and_again(one.probe))]
        await eventually_in_loop(lambda: one.ready == one.urls, 20)
        await one.activate()
        running += [tasks.create_task(again_and_again(one.decide)) for _ in range(CLIENTS)]
        if aware:
            running.append(tasks.create_task(again_and_again(one.activate)))
        yield one
        for task in running:
            task.cancel()


async def again_and_again(step: Callable[[], Awaitable[None]]) -> None:
    while True:
        await step()


@pytest.fixture
def started(own_server: ValkeyServer, tmp_path: Path) -> Iterator[Callable[[str], list[Api]]]:
    apis: list[Api] = []

    def start(drain_s: str) -> list[Api]:
        own_server.start()
        environment = {
            "TACT_STORE": f"unix://{own_server.socket_path}",
            "TACT_POLICIES": str(shop.write(tmp_path / "policies", 5)),
            "TACT_DRAIN_S": drain_s,
        }
        apis.extend(Api(port, environment) for port in free_ports(2))
        return apis

    yield start
    for api in apis:
        api.process.kill()
        api.process.wait()


def test_a_rolling_restart_fails_no_request_and_decides_by_what_was_activated(
    started: Callable[[str], list[Api]],
) -> None:
    async def scenario() -> None:
        apis = started("1")
        ended = []
        async with traffic(apis, aware=True) as seen:
            for api in apis * 2:
                ended.append(await api.stop())
                api.start()
                await seen.until_answered_by(api.url)
        assert (ended, seen.failures, seen.outdated) == ([0] * 4, [], [])
        assert {status for _, status in seen.answers} == {200}
        assert "draining" in seen.said
        assert seen.acknowledged > 4

    asyncio.run(scenario())


def test_without_notice_and_a_balancer_that_heeds_it_requests_fail(
    started: Callable[[str], list[Api]],
) -> None:
    async def scenario() -> None:
        apis = started("0")
        async with traffic(apis, aware=False) as seen:
            assert await apis[0].stop() == 0
            await eventually_in_loop(lambda: seen.failures)
        assert "draining" not in seen.said

    asyncio.run(scenario())
