"""The archive: every decision as a row of the decision log, for judging and for anybody's own analysis.

Follows the trail, as the learner does. A decision is due when its attribution window has passed: then it is written,
with what became of it, to a Parquet file of its own day, and that row is its last. One that has an outcome before is
written at the next flush as well, so a log that is read today knows of today; of the rows of one decision the last
counts. What is due lies in the store beside the position, so a crash loses nothing: at worst a row is written twice.

A decision whose last row is written is emptied in the store once the learner has passed its end as well: a stub stays,
with its offers and the name of the file (`engine.judging.decision.stub`), so the store holds only what is still open.
"""

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import NotFound
from engine.evaluation.rows import row_of
from engine.evaluation.schema import KEPT
from engine.judging.decision import DECODER, ENCODER, stub
from engine.judging.ids import TAG_LENGTH, made_at, public_id, stored_uid
from engine.judging.plan import Plan
from engine.judging.trail import ARCHIVED, LEARNED, MADE, parse_outcome, written_at
from engine.learning.inputs import Inputs
from engine.measures import FollowMeasures
from engine.services.activation import NoPolicy, Plans
from engine.services.customers import Customers, state_of
from engine.services.records import reservation_state
from engine.store.connection import Command, StoreUnavailable
from engine.store.store import as_bytes, as_list, decisions_key
from policies.model import Model

DUE: Final = "tact:archive:due"
WRITTEN: Final = "tact:archive:written"
"""Closed decisions that stand in the log, as `tag uid file`, by when they closed: to be emptied in the store."""
BATCH: Final = 1_000
ROWS_A_FILE: Final = 5_000
PAUSE_S: Final = 1.0
FLUSH_S: Final = 30.0
_EMPTY: Final = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""
"""Put a stub in the place of a record, unless the customer was erased meanwhile."""
_EVERYTHING: Final = Model("archive", ())
log = logging.getLogger("tact.archive")


class Archive:
    """Writes the decision log of one store into a folder."""

    def __init__(self, customers: Customers, plans: Plans, folder: Path) -> None:
        """`folder` gets `day=YYYY-MM-DD/part-….parquet`."""
        self.customers = customers
        self.plans = plans
        self.store = customers.store
        self.folder = folder
        self.position = ""
        self.measures = FollowMeasures(time.time())
        self._touched: dict[str, None] = {}
        self._compiled: dict[str, Inputs] = {}
        self._files = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the trail until `stop` is set; a store that is away is waited for."""
        flushed, away = time.monotonic(), False
        while not stop.is_set():
            try:
                if await self.step() < BATCH:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), PAUSE_S)
                if time.monotonic() - flushed >= FLUSH_S or len(self._touched) >= ROWS_A_FILE:
                    await self.try_flush()
                    flushed = time.monotonic()
                away = False
            except NoPolicy:
                await asyncio.sleep(0.1)
            except StoreUnavailable as error:
                self.measures.errors["store"] += 1
                if not away:
                    log.warning("the store does not answer, waiting: %s", error)
                away = True
                self.position = ""
                await asyncio.sleep(0.2)
        with suppress(StoreUnavailable):  # what is due stays due
            await self.try_flush()

    async def try_flush(self) -> None:
        """Flush; a folder that cannot be written to is told of, and what was to be written waits for the next time."""
        try:
            await self.flush()
        except OSError as error:
            self.measures.errors["folder"] += 1
            log.critical(
                "the decision log cannot be written to %s (%s): make room there, or mend the folder; nothing is lost",
                self.folder,
                error.strerror or error,
            )

    async def step(self) -> int:
        """Take one batch of steps in; returns how many there were."""
        if not self.position:
            self.position = (as_bytes(await self.store.connection.call("GET", ARCHIVED)) or b"0-0").decode()
        asked_s = time.time()
        entries = await self.store.steps(self.position, BATCH)
        if not entries:
            self.measures.took(0, asked_s)
            return 0
        made: dict[str, None] = {}
        for position, step in entries:
            if step is None:
                self.measures.errors["step"] += 1
                log.warning("the step %s of the trail is damaged and left out", position)
                continue
            key = step.tag + step.uid
            if step.kind == MADE:
                made[key] = None
            else:
                self._touched[key] = None
        commands: list[Command] = []
        if made:
            plan = await self.plans.get((await self.store.clock())[1])
            window = plan.policy.attribution.accept_ms
            due = [part for key in made for part in (made_at(key[TAG_LENGTH:]) + window, key)]
            commands.append(("ZADD", DUE, *due))
        last = entries[-1][0]
        await self.store.connection.pipeline([*commands, ("SET", ARCHIVED, last)])
        self.position = last
        self.measures.took(len(entries), asked_s if len(entries) < BATCH else written_at(last) / 1000)
        return len(entries)

    async def flush(self) -> int:
        """Write what is due and what was touched; returns how many rows were written."""
        written = 0
        while True:
            now = (await self.store.clock())[0]
            reply = await self.store.connection.call(
                "ZRANGE", DUE, "-inf", f"({now}", "BYSCORE", "LIMIT", 0, ROWS_A_FILE
            )
            due = [(as_bytes(key) or b"").decode() for key in as_list(reply)]
            keys = list(dict.fromkeys([*due, *self._touched]))
            if not keys:
                break
            found = await self._rows(keys, now)
            files = await asyncio.to_thread(self._write, [row for _, row in found.values()], now)
            written += len(found)
            if due:
                later: list[int | str] = []
                closed: list[int | str] = []
                for key, (at, row) in found.items():
                    if at > now:
                        later += at, key
                    else:
                        closed += at, f"{key} {files[row['decision_id']]}"
                commands: list[Command] = [("MULTI",), ("ZREM", DUE, *due)]
                commands += [("ZADD", DUE, *later)] if later else []
                commands += [("ZADD", WRITTEN, *closed)] if closed else []
                await self.store.connection.pipeline([*commands, ("EXEC",)])
            self._touched.clear()
        await self.empty()
        await self.store.trim_trail()
        return written

    async def empty(self) -> int:
        """Leave stubs of the closed decisions that the learner has passed as well; returns how many."""
        connection, emptied = self.store.connection, 0
        learned = (as_bytes(await connection.call("GET", LEARNED)) or b"0").decode()
        while True:
            passed = learned.partition("-")[0]
            reply = await connection.call(
                "ZRANGE", WRITTEN, "-inf", f"({passed}", "BYSCORE", "LIMIT", 0, BATCH
            )
            members = [(as_bytes(member) or b"").decode() for member in as_list(reply)]
            if not members:
                return emptied
            commands: list[Command] = []
            for member in members:
                key, _, file = member.partition(" ")
                tag, uid = key[:TAG_LENGTH], key[TAG_LENGTH:]
                blob = await self.store.record(tag, uid)
                record = DECODER.decode(blob) if blob is not None else None
                if record is not None and not record.archived:
                    left = ENCODER.encode(stub(record, file))
                    commands.append(("EVAL", _EMPTY, 1, decisions_key(tag, made_at(uid)), uid, left))
            await connection.pipeline([*commands, ("ZREM", WRITTEN, *members)])
            emptied += len(commands)

    async def _rows(self, keys: Iterable[str], now: int) -> dict[str, tuple[int, dict[str, Any]]]:
        """Return each decision's row, and when nothing more can become of it (ms)."""
        found = {}
        for key in keys:
            tag, uid = key[:TAG_LENGTH], key[TAG_LENGTH:]
            blob, outcomes = await self.store.decision(tag, uid)
            if blob is None:
                continue  # erased, or older than decisions are kept
            record = DECODER.decode(blob)
            if record.archived:
                continue  # closed: its last row is written
            try:
                plan = await self.plans.get(record.policy_version)
            except NotFound:
                continue
            held = await self.customers.load_tag(tag, record.customer_id)
            state = None
            if record.reserved:
                state = reservation_state(held.facts, stored_uid(tag, uid, held.tag), now)
            inputs = self._inputs(plan).read(
                state_of(self.plans.catalogues, plan.catalogue, record.state or None),
                record.profile,
                record.context,
                record.placement,
                record.at,
            )
            told = [parse_outcome(one) for one in outcomes]
            row = row_of(
                plan, public_id(tag, uid), held.tag, record, inputs, told, state, now, held.facts.marks
            )
            row["record"] = ENCODER.encode(msgspec.structs.replace(record, customer_id=""))
            found[key] = max(record.at + plan.policy.attribution.accept_ms, record.expires_at) + 1, row
        return found

    def _inputs(self, plan: Plan) -> Inputs:
        known = self._compiled.get(plan.policy.version)
        if known is None:
            known = self._compiled[plan.policy.version] = Inputs(plan, _EVERYTHING)
        return known

    def _write(self, rows: list[dict[str, Any]], now: int) -> dict[str, str]:
        """Write one file a day, whole or not at all; later files sort behind earlier ones.

        Returns the file of each decision.
        """
        files = {}
        days: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            days.setdefault(f"{row['at']:%Y-%m-%d}", []).append(row)
        for day, part in sorted(days.items()):
            self._files += 1
            folder = self.folder / f"day={day}"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"part-{now:015d}-{self._files:06d}.parquet"
            unfinished = path.with_suffix(".unfinished")
            try:
                pq.write_table(pa.Table.from_pylist(part, schema=KEPT), unfinished, compression="zstd")
                with unfinished.open("rb") as file:
                    os.fsync(file.fileno())
                unfinished.rename(path)
                files.update(
                    dict.fromkeys([row["decision_id"] for row in part], f"{folder.name}/{path.name}")
                )
            finally:
                unfinished.unlink(missing_ok=True)
        return files
