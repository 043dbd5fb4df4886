"""Customers, decisions, policies and quotas in Valkey: every key of a customer under one hash tag.

| key | type | holds |
|---|---|---|
| `{TAG}` | hash | `f` facts, `p` feature state, `e` event ids already seen; f and p begin with their version |
| `{TAG}:d:DAY` | hash | uid to decision record, a stub once it is closed; `o` + uid + event key to an outcome |
| `a:ALIAS` | string | the customer id that an alias belongs to |
| `i:HASH` | string | the stored answer of an idempotency key |
| `q:NAME:h`, `q:NAME:s` | sorted set, hash | a quota: live holds by the end of their life, spending by period |
| `tact:policy` | string | the active version |
| `tact:policies`, `tact:policy:history` | hash, list | files by version; activations, newest first |
| `tact:catalogues`, `tact:features:since` | hash, hash | features.yaml by catalogue id; since when each is whole |
| `tact:events`, `tact:events:done`, `tact:quarantine` | stream, string, stream | journal, its checkpoint, quarantine |
| `tact:trail` | stream | what became of decisions, for the learner and the archive |
| `tact:learner`, `tact:learner:done` | string | the learner's checkpoint, and the step that it has come to |
| `tact:model`, `tact:model:version` | string | the models that serve |
| `tact:archive:due`, `…:written` | sorted sets | decisions by when they close; closed ones to be made stubs |
| `tact:archive:done` | string | the step that the archive has come to |

A load is one round trip; the time and the active policy come with it, once per flush, not once per request.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Final, Literal, NamedTuple, cast

import msgspec

from engine.judging.ids import made_at
from engine.judging.quotas import Quota, QuotaOp
from engine.judging.trail import ARCHIVED, LEARNED, TRAIL, Step, parse_step
from engine.store.connection import Argument, Command, Reply, StoreConnection

DAY_MS: Final = 86_400_000
POLICY: Final = "tact:policy"
PROLOGUE: Final = (("TIME",), ("GET", POLICY))
NO_VERSION: Final = bytes(8)
_FOLLOWERS: Final = (("GET", LEARNED), ("GET", ARCHIVED))


class Loaded(NamedTuple):
    """One customer as it lies in the store, with the moment and the policy of the load."""

    now: int
    policy_version: str
    facts: bytes | None
    state: bytes | None
    answered: bytes | None
    quotas: tuple[int, ...]
    """For each quota asked for: live holds, then spent, alternating."""


class Commit(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything that one judgement writes, and the conditions under which it may."""

    tag: str
    facts_version: bytes
    policy_version: str = ""
    deadline: int = 0
    facts: bytes = b""
    uid: str = ""
    record: bytes = b""
    record_until: int = 0
    idempotency_key: str = ""
    answer: bytes = b""
    answer_ttl_ms: int = 0
    step: bytes = b""
    """What the trail gets."""
    quotas: tuple[QuotaOp, ...] = ()


Code = Literal["done", "stale", "policy", "late", "answered", "quota"]
_CODES: Final[tuple[Code, ...]] = ("done", "stale", "policy", "late", "answered", "quota")


class Committed(NamedTuple):
    """What became of a commit; on anything but done, nothing was written."""

    code: Code
    now: int
    facts: bytes | None = None
    state: bytes | None = None
    answer: bytes = b""
    quota: int = -1


class Save(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch of events (or a merge) writes to one customer."""

    tag: str
    facts_version: bytes
    state_version: bytes
    policy_version: str = ""
    facts: bytes = b""
    state: bytes = b""
    seen: bytes = b""
    outcomes: tuple[tuple[str, str, bytes, bytes], ...] = ()
    """(day key, field, value, step of the trail)."""
    settled: tuple[QuotaOp, ...] = ()


def decisions_key(tag: str, at: int) -> str:
    """Return the key of the decisions that were made on the UTC day of `at` (ms)."""
    return f"{{{tag}}}:d:{at // DAY_MS}"


def as_bytes(reply: Reply) -> bytes | None:
    """Narrow a reply that is a string or nothing."""
    return reply if isinstance(reply, bytes) else None


def as_int(reply: Reply) -> int:
    """Narrow a reply that counts: an integer, a number in a string, or nothing for 0."""
    return int(reply) if isinstance(reply, int | bytes) else 0


def as_list(reply: Reply) -> list[Reply]:
    """Narrow a reply that is an array, or nothing for an empty one."""
    return reply if isinstance(reply, list) else []


def store_time(reply: Reply) -> int:
    """Return the milliseconds of a TIME reply."""
    seconds, micros = as_list(reply)
    return as_int(seconds) * 1000 + as_int(micros) // 1000


def _committed(answer: Reply) -> Committed:
    """Read what the commit script says."""
    reply = cast("list[Reply]", answer)
    code, now = _CODES[cast("int", reply[0])], cast("int", reply[1])
    if code == "done":
        return Committed(code, now)
    if code == "stale":
        return Committed(code, now, as_bytes(reply[2]), as_bytes(reply[3]) if len(reply) > 3 else None)
    if code == "answered":
        return Committed(code, now, answer=cast("bytes", reply[2]))
    if code == "quota":
        return Committed(code, now, quota=as_int(reply[2]))
    return Committed(code, now)


class Store:
    """The typed face of the store; every method is one round trip unless it says otherwise."""

    def __init__(self, connection: StoreConnection) -> None:
        """Take a connection whose prologue is `PROLOGUE`; registers the scripts."""
        self.connection = connection
        here = files("engine.store").joinpath("scripts")
        self._commit = connection.script("commit", here.joinpath("commit.lua").read_text())
        self._fold = connection.script("fold", here.joinpath("fold.lua").read_text())

    async def load(
        self,
        tag: str,
        *,
        idempotency_key: str = "",
        quotas: Sequence[Quota] = (),
        now: str = "0",
        within_s: float | None = None,
    ) -> Loaded:
        """Load a customer's facts and state, a stored answer, and quotas counted at about `now` (ms)."""
        commands: list[Command] = [("HMGET", f"{{{tag}}}", "f", "p")]
        if idempotency_key:
            commands.append(("GET", idempotency_key))
        for quota in quotas:
            commands.extend(quota.reads(now))
        prologue, replies = await self.connection.load(commands, within_s=within_s)
        facts, state = as_list(replies[0])
        first = 2 if idempotency_key else 1
        return Loaded(
            store_time(prologue[0]),
            (as_bytes(prologue[1]) or b"").decode(),
            as_bytes(facts),
            as_bytes(state),
            as_bytes(replies[1]) if idempotency_key else None,
            tuple([as_int(reply) for reply in replies[first:]]) if quotas else (),
        )

    async def load_many(
        self, tags: Sequence[str], quotas: Sequence[Quota], now: str
    ) -> tuple[list[Loaded], list[int]]:
        """Load many customers at one moment, and quotas counted at about `now` (ms) once for all of them."""
        commands: list[Command] = [("HMGET", f"{{{tag}}}", "f", "p") for tag in tags]
        for quota in quotas:
            commands.extend(quota.reads(now))
        prologue, replies = await self.connection.load(commands)
        moment, version = store_time(prologue[0]), (as_bytes(prologue[1]) or b"").decode()
        loads = []
        for reply in replies[: len(tags)]:
            facts, state = as_list(reply)
            loads.append(Loaded(moment, version, as_bytes(facts), as_bytes(state), None, ()))
        return loads, [as_int(reply) for reply in replies[len(tags) :]]

    async def clock(self) -> tuple[int, str]:
        """Return the store's time (ms) and the active policy version."""
        moment, active = await self.connection.pipeline(PROLOGUE)
        return store_time(moment), (as_bytes(active) or b"").decode()

    async def commit(self, commit: Commit, within_s: float | None = None) -> Committed:
        """Write one judgement if nothing that was judged has changed (G2)."""
        return _committed(await self.connection.call(*self._command(commit), within_s=within_s))

    async def commit_many(self, commits: Sequence[Commit]) -> list[Committed]:
        """Write judgements on many customers, each for itself."""
        if not commits:
            return []
        replies = await self.connection.pipeline([self._command(commit) for commit in commits])
        return [_committed(reply) for reply in replies]

    def _command(self, commit: Commit) -> Command:
        customer = f"{{{commit.tag}}}"
        judged = (commit.facts_version, commit.policy_version, commit.deadline or "", commit.facts)
        if not (commit.quotas or commit.record or commit.idempotency_key or commit.step):
            return ("EVALSHA", self._commit, 2, customer, POLICY, *judged)
        keys = [
            customer,
            POLICY,
            decisions_key(commit.tag, made_at(commit.uid)) if commit.record else customer,
            commit.idempotency_key or customer,
            TRAIL,
        ]
        args: list[Argument] = [
            *judged,
            commit.uid,
            commit.record,
            commit.record_until,
            commit.answer,
            commit.answer_ttl_ms,
            commit.step,
        ]
        for change in commit.quotas:
            quota = change.quota
            keys.extend(quota.keys)
            args.extend((change.op, change.member, quota.amount, quota.limit, change.until, quota.period))
        return ("EVALSHA", self._commit, len(keys), *keys, *args)

    async def save(self, save: Save) -> Committed:
        """Write the outcome of a fold or a merge if the customer is still as it was loaded (G12)."""
        return (await self.save_many((save,)))[0]

    async def save_many(self, saves: Sequence[Save]) -> list[Committed]:
        """Write outcomes on many customers, each for itself."""
        if not saves:
            return []
        replies = await self.connection.pipeline([self._saving(save) for save in saves])
        return [_committed(reply) for reply in replies]

    def _saving(self, save: Save) -> Command:
        keys = [f"{{{save.tag}}}", POLICY, TRAIL, *(key for key, _, _, _ in save.outcomes)]
        args: list[Argument] = [
            save.facts_version,
            save.state_version,
            save.policy_version,
            save.facts,
            save.state,
            save.seen,
            len(save.outcomes),
        ]
        for _, field, value, step in save.outcomes:
            args.extend((field, value, step))
        for change in save.settled:
            keys.extend(change.quota.keys)
            args.extend((change.member, change.quota.amount, change.quota.period))
        return ("EVALSHA", self._fold, len(keys), *keys, *args)

    async def steps(self, after: str, count: int) -> list[tuple[str, Step | None]]:
        """Return up to `count` steps of the trail behind a position, each with its own; None for a damaged one."""
        reply = as_list(await self.connection.call("XREAD", "COUNT", count, "STREAMS", TRAIL, after))
        found: list[tuple[str, Step | None]] = []
        for entry in as_list(as_list(reply[0])[1]) if reply else ():
            position, fields = as_list(entry)
            try:
                step = parse_step(as_bytes(as_list(fields)[1]) or b"")
            except (ValueError, msgspec.MsgspecError):
                step = None
            found.append(((as_bytes(position) or b"").decode(), step))
        return found

    async def trim_trail(self) -> None:
        """Drop the steps that both the learner and the archive have behind them."""
        positions = [as_bytes(reply) for reply in await self.connection.pipeline(_FOLLOWERS)]
        passed = [tuple(map(int, position.split(b"-"))) for position in positions if position is not None]
        if len(passed) == len(_FOLLOWERS):
            milliseconds, sequence = min(passed)
            await self.connection.call("XTRIM", TRAIL, "MINID", f"{milliseconds}-{sequence}")

    # ------------------------------------------------------------------ decisions

    async def decision(self, tag: str, uid: str) -> tuple[bytes | None, list[bytes]]:
        """Return a decision's record and its outcomes."""
        fields = as_list(await self.connection.call("HGETALL", decisions_key(tag, made_at(uid))))
        record, outcomes = None, []
        for field, value in zip(fields[::2], fields[1::2], strict=True):
            name, held = (as_bytes(field) or b"").decode(), as_bytes(value) or b""
            if name == uid:
                record = held
            elif name.startswith("o" + uid):
                outcomes.append(held)
        return record, outcomes

    async def records(self, places: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """Return the records of decisions by (tag, uid), in one round trip."""
        commands: list[Command] = [("HGET", decisions_key(tag, made_at(uid)), uid) for tag, uid in places]
        return [as_bytes(reply) for reply in await self.connection.pipeline(commands)] if commands else []

    async def record(self, tag: str, uid: str) -> bytes | None:
        """Return a decision's record alone."""
        return as_bytes(await self.connection.call("HGET", decisions_key(tag, made_at(uid)), uid))

    async def decisions(
        self, tag: str, now: int, keep_ms: int, limit: int
    ) -> list[tuple[bytes, list[bytes]]]:
        """Return up to `limit` decisions with their outcomes, newest first; a few round trips."""
        found: list[tuple[bytes, list[bytes]]] = []
        days = range(now // DAY_MS + 1, (now - keep_ms) // DAY_MS - 1, -1)
        for start in range(0, len(days), 31):
            part = days[start : start + 31]
            replies = await self.connection.pipeline([("HGETALL", f"{{{tag}}}:d:{day}") for day in part])
            for reply in replies:
                flat = [as_bytes(value) or b"" for value in as_list(reply)]
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                # A uid begins with its time, but base64url does not sort by it.
                uids = [name for name in fields if len(name) == 12]
                for uid in sorted(uids, key=lambda name: made_at(name.decode()), reverse=True):
                    outcomes = [fields[name] for name in fields if name.startswith(b"o" + uid)]
                    found.append((fields[uid], outcomes))
            if len(found) >= limit:
                break
        return found[:limit]

    # ------------------------------------------------------------------ aliases

    async def alias_owners(self, aliases: Sequence[str]) -> list[str | None]:
        """Return the customer id that each alias tag points to, or None."""
        replies = await self.connection.pipeline([("GET", "a:" + alias) for alias in aliases])
        return [found.decode() if (found := as_bytes(reply)) is not None else None for reply in replies]

    async def set_alias(self, alias: str, customer_id: str) -> None:
        """Point an alias at a customer."""
        await self.connection.call("SET", "a:" + alias, customer_id)

    # ------------------------------------------------------------------ idempotency of bulk calls

    async def claim(self, key: str, body_hash: bytes, ttl_ms: int) -> bytes | None:
        """Mark an idempotency key as in use by a body; return what is stored under it already, if anything."""
        reply = await self.connection.call("SET", key, body_hash, "NX", "GET", "PX", ttl_ms)
        return as_bytes(reply)

    async def answer(self, key: str, stored: bytes, ttl_ms: int) -> None:
        """Store the answer of an idempotency key."""
        await self.connection.call("SET", key, stored, "PX", ttl_ms)

    # ------------------------------------------------------------------ erasure

    async def forget(self, tag: str, now: int, keep_ms: int) -> None:
        """Delete every decision of a customer."""
        days = range((now - keep_ms) // DAY_MS - 1, now // DAY_MS + 2)
        await self.connection.call("UNLINK", *(f"{{{tag}}}:d:{day}" for day in days))

    async def unalias(self, aliases: Sequence[str]) -> None:
        """Delete alias pointers."""
        if aliases:
            await self.connection.call("UNLINK", *("a:" + alias for alias in aliases))
