"""Kill the learner at random instants under load, and compare its models with those of one that never died.

    python -m loadtests.learner_crash [--kills 20] [--seed N] [--json]

A whole Tact decides, reserves, confirms, releases and hears of outcomes, many of them late or twice, while `kill -9`
hits `tact worker learner`, wherever it is; the supervisor brings it back. The trail is trimmed behind checkpoints, so a
copy is taken meanwhile, and counted: nothing of it may be missing. At the end

- the models and all that is open equal those of a learner that reads the copy once, from its beginning (1e-9; told is
  whether bit for bit), and so does the last snapshot that was published, at its own position;
- snapshots damaged in the store in several ways are each refused whole: the model that served goes on serving, every
  decide is answered, and the next good snapshot is taken;
- the control, a learner that forgets its position and reads steps twice, is found: after each of its kills, the
  checkpoint's models are replaced by newer ones that had been published already.

Exit 1 when anything differs that must not, or when the control is not found.
"""

import argparse
import asyncio
import json
import os
import random
import select
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
from rich.console import Console

from api.running.valkey import ValkeyServer
from engine.judging.trail import LEARNED
from engine.learning.snapshot import Snapshot, pack, unpack
from engine.services.models import MODEL, MODEL_VERSION
from engine.store.connection import StoreAddress, StoreConnection
from engine.store.store import as_bytes
from engine.workers.learner import CHECKPOINT
from loadtests.learner_load import POLICY, Crowd
from loadtests.models_differ import compared
from loadtests.server import Running, children, running
from loadtests.talk import Talk
from loadtests.trail_copy import Copy, position_of

CONNECTIONS: Final = 8
CONTROL_KILLS: Final = 3
AWAITED_S: Final = 120.0
"""How long anything is waited for; the learner gets only the processor that nobody else wants."""
console = Console(stderr=True, highlight=False)


def find_learner(tact: Running) -> int | None:
    """Return the process that learns now, if there is one."""
    for pid in children(tact.process.pid):
        with suppress(OSError):  # it has ended since
            if b"worker\0learner" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


class Run:
    """One Tact whose learner is killed again and again; its store is read beside it."""

    def __init__(
        self, tact: Running, connection: StoreConnection, seed: int, longest_s: float, *, say: bool
    ) -> None:
        """Make it inside the event loop."""
        self.tact = tact
        self.connection = connection
        self.rnd = random.Random(seed)
        self.copy = Copy()
        self.kills = 0
        self.forgotten = 0
        """Kills after which the learner had forgotten its position (the control)."""
        self.refused = 0
        self.checkpoints: set[bytes | None] = set()
        """Where the checkpoints stood at the kills."""
        self.longest_s = longest_s
        """How long a learner lives at most before its kill, or after its checkpoint (s)."""
        self._say = say

    async def get(self, key: str) -> bytes | None:
        """Return what lies under a key."""
        return as_bytes(await self.connection.call("GET", key))

    async def until(self, what: str, found: Callable[[], Any]) -> Any:
        """Wait until the call returns (or its awaitable gives) something true, and return that."""
        end = asyncio.get_running_loop().time() + AWAITED_S
        while True:
            value = found()
            value = await value if asyncio.iscoroutine(value) else value
            if value:
                return value
            if asyncio.get_running_loop().time() > end:
                raise RuntimeError(f"{what}: not within {AWAITED_S:g} s")
            await asyncio.sleep(0.02)

    async def kill(self, *, forget: bool) -> None:
        """Kill the learner at a random instant of its life; with `forget` let the next one read steps twice.

        Half of them die young, perhaps while they still load; the others some time after their first checkpoint.
        """
        pid = await self.until("a learner", partial(find_learner, self.tact))
        if self.rnd.random() < 0.5:
            before = await self.get(LEARNED)

            async def moved() -> bool:
                return await self.get(LEARNED) != before

            await self.until("a checkpoint", moved)
        await asyncio.sleep(self.rnd.uniform(0.0, self.longest_s))
        if forget:
            await self.until("a model newer than the checkpoint", self._ahead)
        watch = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(select.select, [watch], [], [], 10)
        os.close(watch)
        self.kills += 1
        self.checkpoints.add(await self.get(LEARNED))
        if forget:
            kept, published = await self.get(CHECKPOINT), await self.get(MODEL)
            assert kept is not None and published is not None  # noqa: PT018  # it was waited for
            old = unpack(kept)
            newer = pack(Snapshot(old.version, unpack(published).heads, old.notes))
            await self.connection.call("SET", CHECKPOINT, newer)
            self.forgotten += 1
        if self._say:
            console.print(
                f"{self.kills} kills, {len(self.copy.entries):,} steps, {len(self.checkpoints)} checkpoints".ljust(
                    80
                ),
                end="\r",
            )

    async def _ahead(self) -> bool:
        kept, version = await self.get(CHECKPOINT), await self.get(MODEL_VERSION)
        return kept is not None and position_of(version) > position_of(unpack(kept).version)

    async def served(self) -> str:
        """Return the version that a decide is answered with."""
        body = {"customer_id": "c0", "placement": "home", "preview": True}
        answer = await asyncio.to_thread(self.tact.ask, "POST", "/v1/decide", body)
        assert answer["offers"]
        return str(answer["model_version"])

    async def drained(self) -> None:
        """Wait until the learner has published past a decision that is made now."""
        body = {"customer_id": "c0", "placement": "home"}
        made = await asyncio.to_thread(self.tact.ask, "POST", "/v1/decide", body)
        uid = made["decision_id"][16:]
        where = await self.until(
            "the step",
            lambda: next((at for at, step in self.copy.entries[::-1] if step and step.uid == uid), ""),
        )

        async def past() -> bool:
            return position_of(await self.get(MODEL_VERSION)) >= position_of(where)

        await self.until("a model that knows all decisions", past)

    def _logged(self, sentence: str) -> bool:
        return sentence in self.tact.log.read_text(errors="replace")

    async def damage(self) -> list[str]:
        """Damage the published snapshot in every way, and return what was not as it should be."""
        complaints: list[str] = []
        pid = await self.until("a learner", partial(find_learner, self.tact))
        os.kill(pid, signal.SIGSTOP)  # or it would publish over the damage before anybody has looked
        try:
            good, version = await self.get(MODEL), (await self.get(MODEL_VERSION) or b"").decode()
            assert good is not None

            async def serves() -> bool:
                return await self.served() == version

            await self.until("the last good model to serve", serves)
            for name, blob in damages(good).items():
                await self.connection.pipeline(
                    [("MULTI",), ("SET", MODEL, blob), ("SET", MODEL_VERSION, name), ("EXEC",)]
                )
                said = f"the model snapshot {name} is refused"
                await self.until(said, partial(self._logged, said))
                self.refused += 1
                serving = {await self.served() for _ in range(20)}
                if serving != {version}:
                    complaints.append(f"{name}: {serving} serve, it should be {version}")
        finally:
            os.kill(pid, signal.SIGCONT)
        await asyncio.to_thread(
            self.tact.ask, "POST", "/v1/decide", {"customer_id": "c0", "placement": "home"}
        )

        async def newer() -> bool:
            return position_of(await self.served()) > position_of(version)

        await self.until("the next good model to serve", newer)
        return complaints


def damages(good: bytes) -> dict[str, bytes]:
    """Return damaged forms of a snapshot: all but the last are found by the checksum."""
    middle = len(good) // 2
    start = 10 + 32
    body = msgspec.msgpack.decode(good[start:])
    head = next(iter(body["heads"].values()))
    kind, shape, data = head["arrays"]["own.mean"]
    head["arrays"]["own.mean"] = (kind, shape, bytes(len(data)))
    forged = msgspec.msgpack.encode(body)
    return {
        "cut-short": good[:middle],
        "one-bit": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
        "empty": b"",
        "another-release": b"TACTMODEL0" + good[10:],
        "other-weights": good[:10] + blake2b(forged, digest_size=32).digest() + forged,
    }


async def _lived(
    tact: Running,
    data: Path,
    seed: int,
    kills: int,
    rate: float,
    longest_s: float,
    *,
    forget: bool,
    say: bool,
) -> tuple[Run, list[str]]:
    connection = StoreConnection(StoreAddress.parse(f"unix://{ValkeyServer(data).socket_path}"), within_s=10)
    await connection.open()
    run, crowd = Run(tact, connection, seed, longest_s, say=say), Crowd(seed)
    copying = asyncio.create_task(run.copy.follow(connection))
    talk = Talk(crowd.decide, crowd.reply, None, rate)
    talking = asyncio.create_task(talk.run(tact.port, CONNECTIONS))
    try:
        for _ in range(kills):
            await run.kill(forget=forget)
        talk.stop()
        await talking
        await run.drained()
        complaints = [] if forget else await run.damage()
        copying.cancel()
        await run.copy.more(connection)
    finally:
        copying.cancel()
        talking.cancel()
        await connection.close()
    return run, complaints


def measure(
    kills: int, seed: int, *, rate: float, longest_s: float = 5.0, forget: bool = False, say: bool = True
) -> dict[str, Any]:
    """Run, kill, and compare; with `forget` as the control."""
    with tempfile.TemporaryDirectory(prefix="tact-learner-") as scratch:
        folder, data = Path(scratch) / "policies", Path(scratch) / "data"
        folder.mkdir()
        for name, text in POLICY.items():
            (folder / name).write_text(text)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            with running("--policies", str(folder), data=data) as tact:
                run, complaints = runner.run(
                    _lived(tact, data, seed, kills, rate, longest_s, forget=forget, say=say)
                )
            server = ValkeyServer(data)
            server.start()
            try:
                at_end, at_published = runner.run(compared(server, run.copy))
            finally:
                server.stop()
    if len(run.copy.entries) != run.copy.added:
        complaints.append(f"{run.copy.added} steps were written, the copy has {len(run.copy.entries)}")
    return {
        "seed": seed,
        "kills": run.kills,
        "forgotten": run.forgotten,
        "steps": len(run.copy.entries),
        "checkpoints": len(run.checkpoints),
        "kinds": run.copy.kinds(),
        "refused": run.refused,
        "checkpoint": at_end._asdict(),
        "published": at_published._asdict(),
        "complaints": complaints,
    }


def main(arguments: list[str] | None = None) -> None:
    """Run, print, and exit 1 when the models differ or the control is not found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--rate", type=float, default=200.0, help="decisions a second at most")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 31)
    console.print(f"seed {seed}")
    found = measure(asked.kills, seed, rate=asked.rate)
    found["control"] = measure(CONTROL_KILLS, seed, rate=asked.rate, forget=True)
    if asked.json:
        json.dump(found, sys.stdout, indent=2)
        print()
    for title, one in (("killed", found), ("control", found["control"])):
        console.print(
            f"{title}: {one['kills']} kills, {one['steps']:,} steps {one['kinds']}, {one['refused']} damaged snapshots "
            f"refused; checkpoint {one['checkpoint']}, published {one['published']}".ljust(80)
        )
    said = complaints_of(found)
    for sentence in said:
        console.print(sentence, style="red")
    sys.exit(1 if said else 0)


def complaints_of(found: dict[str, Any]) -> list[str]:
    """Return a sentence for everything that is not as it should be."""
    said = list(found["complaints"])
    said += [
        f"the {name} differs from a learner that never died: {found[name]}"
        for name in ("checkpoint", "published")
        if not found[name]["same"]
    ]
    if found["control"]["checkpoint"]["same"]:
        said.append("the control, a learner that reads steps twice, was not found")
    return said


if __name__ == "__main__":
    main()
