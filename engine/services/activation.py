"""Which policy decides: versions by content hash, compiled once a process, switched for all at once (G10).

The active version is one key of the store. Every load reads it, and every commit checks it, so no process can
decide by an older policy once an activation has been answered. A version that cannot be loaded is refused
whole and the one before stays (G18).
"""

import asyncio
from typing import Any, Final

import msgspec

from engine.errors import NotFound, TactError
from engine.judging.plan import Plan, compile_plan
from engine.store.store import POLICY, Store, as_bytes, as_list
from features.catalogue import Catalogue
from features.definition import FeatureDef
from policies.loader import load_files

POLICIES: Final = "tact:policies"
HISTORY: Final = "tact:policy:history"
CATALOGUES: Final = "tact:catalogues"
_DEFINITIONS: Final = msgspec.msgpack.Decoder(tuple[FeatureDef, ...])
FEATURES_SINCE: Final = "tact:features:since"


class NoPolicy(TactError):
    """Nothing has been activated yet."""

    status = 503
    kind = "no-policy"


class Version(msgspec.Struct, frozen=True):
    """One activation."""

    policy_version: str
    activated_at: int


class Plans:
    """The compiled policies of this process."""

    def __init__(self, store: Store) -> None:
        """Start empty; `current` is set by the first load or activation."""
        self.store = store
        self.catalogues: dict[int, Catalogue] = {}
        self.current: Plan | None = None
        self.since: dict[str, int] = {}
        self._plans: dict[str, Plan] = {}
        self._compiling: dict[str, asyncio.Task[Plan]] = {}

    def known(self, version: str) -> Plan | None:
        """Return the plan of a version that is compiled already, as the current one."""
        plan = self._plans.get(version)
        if plan is not None:
            self.current = plan
        return plan

    async def get(self, version: str) -> Plan:
        """Return the plan of a version, compiled at its first use."""
        plan = self.known(version)
        if plan is None:
            plan = await self.old(version)
            await self._learn_catalogues()
        self.current = plan
        return plan

    async def old(self, version: str) -> Plan:
        """Return the plan of a version that need not be active (a decision's own)."""
        plan = self._plans.get(version)
        if plan is None:
            if not version:
                raise NoPolicy("no policy set is active yet: run `tact policy activate DIR --url URL`")
            # All requests in flight wait for one compilation, off the loop, so that others go on meanwhile.
            task = self._compiling.get(version)
            if task is None:
                task = self._compiling[version] = asyncio.create_task(self._compile(version))
                task.add_done_callback(lambda _: self._compiling.pop(version, None))
            plan = await asyncio.shield(task)
        return plan

    async def _compile(self, version: str) -> Plan:
        files = await self.files(version)
        plan = await asyncio.to_thread(lambda: compile_plan(load_files(files).policy))
        self._keep(plan)
        return plan

    def _keep(self, plan: Plan) -> None:
        self._plans[plan.policy.version] = plan
        self.catalogues[plan.catalogue.id] = plan.catalogue

    async def _learn_catalogues(self) -> None:
        """Know every catalogue under which a state may have been written, and since when features are whole."""
        stored = as_list(await self.store.connection.call("HVALS", CATALOGUES))
        for blob in stored:
            catalogue = Catalogue(_DEFINITIONS.decode(as_bytes(blob) or b""))
            self.catalogues.setdefault(catalogue.id, catalogue)
        flat = as_list(await self.store.connection.call("HGETALL", FEATURES_SINCE))
        texts = [(as_bytes(value) or b"").decode() for value in flat]
        self.since = {name: int(at) for name, at in zip(texts[::2], texts[1::2], strict=True)}

    async def files(self, version: str) -> dict[str, str]:
        """Return the files of a stored version."""
        blob = as_bytes(await self.store.connection.call("HGET", POLICIES, version))
        if blob is None:
            raise NotFound(
                f"there is no policy version {version}: `tact policy history` lists those that are kept"
            )
        return msgspec.msgpack.decode(blob, type=dict[str, str])

    async def history(self) -> list[Version]:
        """Return every activation, newest first."""
        entries = as_list(await self.store.connection.call("LRANGE", HISTORY, 0, -1))
        return [msgspec.msgpack.decode(as_bytes(entry) or b"", type=Version) for entry in entries]

    async def activate(self, plan: Plan) -> tuple[str | None, int]:
        """Make a checked plan the active one; return the version before it and the moment (ms)."""
        now, previous = await self.store.clock()
        version = plan.policy.version
        self._keep(plan)
        if previous == version:
            newest = await self.history()
            return version, newest[0].activated_at if newest else now
        defined = {
            plan.catalogue.definition(feature.name) + "|" + feature.name for feature in plan.policy.features
        }
        commands: list[Any] = [
            ("HSET", POLICIES, version, msgspec.msgpack.encode(plan.policy.files)),
            ("HSET", CATALOGUES, plan.catalogue.id, msgspec.msgpack.encode(plan.policy.features)),
        ]
        gone = [name for name in (await self._features_since()) if name not in defined]
        if gone:
            commands.append(("HDEL", FEATURES_SINCE, *gone))
        commands.extend(("HSETNX", FEATURES_SINCE, name, now) for name in sorted(defined))
        entry = msgspec.msgpack.encode(Version(version, now))
        commands += [("MULTI",), ("SET", POLICY, version), ("LPUSH", HISTORY, entry), ("EXEC",)]
        await self.store.connection.pipeline(commands)
        await self._learn_catalogues()
        self.current = plan
        return previous or None, now

    async def _features_since(self) -> list[str]:
        names = as_list(await self.store.connection.call("HKEYS", FEATURES_SINCE))
        return [(as_bytes(name) or b"").decode() for name in names]

    async def rollback(self) -> tuple[str, str, int]:
        """Activate the version that was active before; return it, the one it replaces, and the moment."""
        history = await self.history()
        _, active = await self.store.clock()
        earlier = next((entry.policy_version for entry in history if entry.policy_version != active), None)
        if earlier is None:
            raise NotFound("there is no earlier policy version to go back to")
        _, at = await self.activate(await self.old(earlier))
        return earlier, active, at
