"""The learner: follows the trail, learns, publishes what serves, and can always go on from its last checkpoint.

One process, the only one that changes models. A batch of steps is read, the decisions that they name are loaded, and
all is folded in order. A checkpoint holds the models, what is open, and the position that both have come to, in one
value: after a crash the learner goes on from there, and the fold makes the same models again. The trail is kept
until a checkpoint has passed it.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from engine.errors import NotFound
from engine.judging.decision import DECODER, Record
from engine.judging.plan import Plan
from engine.judging.trail import LEARNED, RELEASED, Step, written_at
from engine.learning.inputs import Inputs
from engine.learning.outcomes import Case, Learning, Notes
from engine.learning.snapshot import BadSnapshot, Snapshot, pack, unpack
from engine.measures import FollowMeasures
from engine.services.activation import NoPolicy, Plans
from engine.services.customers import Customers, state_of
from engine.services.models import MODEL, MODEL_VERSION
from engine.store.connection import StoreUnavailable
from engine.store.store import Store, as_bytes
from policies.plain_objects import NotPlain

CHECKPOINT: Final = "tact:learner"
BATCH: Final = 500
PAUSE_S: Final = 0.2
PUBLISH_S: Final = 1.0
BYTES_A_SECOND: Final = 1 << 20
"""What is large is published and kept less often: every write of it is synced to disk."""
CHECKPOINT_S: Final = 30.0
log = logging.getLogger("tact.learner")


async def _pause(stop: asyncio.Event) -> None:
    """Let steps gather: to be woken for each would cost the store and the processor more than the steps do."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), PAUSE_S)


class Learner:
    """Learns from the trail of one store."""

    def __init__(self, customers: Customers, plans: Plans) -> None:
        """Take the store and the compiled policies."""
        self.plans = plans
        self.store: Store = customers.store
        self.learning = Learning()
        self.position = "0-0"
        self.measures = FollowMeasures(time.time())
        self._inputs: dict[tuple[str, str], Inputs] = {}
        self._kept = ""
        self._learned = False
        """Whether anything was learned that is not published yet."""
        self._publish_at = 0.0
        self._keep_at = 0.0

    async def load(self) -> None:
        """Go on from the checkpoint; where it is damaged, from what was published last.

        What was published knows no open decisions, so their late yes will be missed. Without either the trail is
        learned from its beginning.
        """
        kept, published = [
            as_bytes(reply)
            for reply in await self.store.connection.pipeline([("GET", CHECKPOINT), ("GET", MODEL)])
        ]
        self.learning, self.position, self._kept = Learning(), "0-0", ""
        if kept is None:
            return
        try:
            snapshot = unpack(kept)
            notes = msgspec.msgpack.decode(snapshot.notes, type=Notes)
            self._kept = snapshot.version
        except (BadSnapshot, msgspec.MsgspecError) as error:
            log.critical("the learner's checkpoint is refused, it goes on from what was published: %s", error)
            try:
                snapshot, notes = unpack(published or b""), Notes(answered=True)
            except BadSnapshot:
                log.critical("nothing good was published: it learns from the beginning of the trail")
                return
        self.learning = Learning(snapshot.heads, notes)
        self.position, self._learned = snapshot.version, True

    async def run(self, stop: asyncio.Event) -> None:
        """Learn until `stop` is set; a store that is away is waited for."""
        loaded, away = False, False
        while not stop.is_set():
            try:
                if not loaded:
                    await self.load()
                    loaded, away = True, False
                if await self.step() < BATCH:
                    await _pause(stop)
                await self.publish(time.monotonic())
            except NoPolicy:
                await asyncio.sleep(0.1)
            except StoreUnavailable as error:
                self.measures.errors["store"] += 1
                if not away:
                    log.warning("the store does not answer, waiting: %s", error)
                away = True
                loaded = False  # nobody knows how far this had come
                await asyncio.sleep(0.2)
        with suppress(StoreUnavailable):  # then it goes on from the checkpoint before
            if loaded:
                await self.keep()

    async def step(self) -> int:
        """Take one batch in; returns how many steps there were."""
        asked_s = time.time()
        entries = await self.store.steps(self.position, BATCH)
        cases = await self._cases([step for _, step in entries if step is not None])
        for position, step in entries:
            self.position = position
            if step is None:
                self.measures.errors["step"] += 1
                log.warning("the step %s of the trail is damaged and left out", position)
                continue
            at = written_at(position)
            self._learned |= self.learning.take(step, at, lambda step: cases.get(step.tag + step.uid))
        self.measures.took(
            len(entries), asked_s if len(entries) < BATCH else written_at(self.position) / 1000
        )
        return len(entries)

    async def publish(self, now: float) -> None:
        """Publish the models if they have changed and it is time (`now` in s); keep a checkpoint now and then.

        Until somebody has said yes the marketer's priors know more than a model that has only assumed.
        """
        if self._learned and now >= self._publish_at and self.learning.notes.answered:
            blob = self._packed()
            await self.store.connection.pipeline(
                [("MULTI",), ("SET", MODEL, blob), ("SET", MODEL_VERSION, self.position), ("EXEC",)]
            )
            self._learned = False
            self._publish_at = now + max(PUBLISH_S, len(blob) / BYTES_A_SECOND)
        if now >= self._keep_at:
            size = await self.keep()
            self._keep_at = now + max(CHECKPOINT_S, size / BYTES_A_SECOND)

    async def keep(self) -> int:
        """Keep a checkpoint, if there is anything new; returns its size in bytes."""
        if self.position == self._kept:
            return 0
        blob = self._packed(msgspec.msgpack.encode(self.learning.notes))
        await self.store.connection.pipeline(
            [("MULTI",), ("SET", CHECKPOINT, blob), ("SET", LEARNED, self.position), ("EXEC",)]
        )
        await self.store.trim_trail()
        self._kept = self.position
        return len(blob)

    def _packed(self, notes: bytes = b"") -> bytes:
        """Encode what was learned; a head that cannot be written down begins again, and the others go on."""
        while True:
            try:
                return pack(Snapshot(self.position, self.learning.heads, notes))
            except NotPlain:
                for name, head in list(self.learning.heads.items()):
                    try:
                        pack(Snapshot(self.position, {name: head}))
                    except NotPlain as error:
                        log.critical("the model %s cannot be kept and begins again: %s", name, error)
                        del self.learning.heads[name]

    async def _cases(self, steps: Sequence[Step]) -> dict[str, Case]:
        """Load the decisions that the steps name."""
        wanted = sorted({(step.tag, step.uid) for step in steps if step.kind != RELEASED})
        cases = {}
        for (tag, uid), blob in zip(wanted, await self.store.records(wanted), strict=True):
            record = DECODER.decode(blob) if blob is not None else None
            if record is None or record.archived:
                continue  # erased, or closed long ago
            try:
                plan = await self.plans.get(record.policy_version)
            except NotFound:
                continue
            cases[tag + uid] = self._case(plan, record)
        return cases

    def _case(self, plan: Plan, record: Record) -> Case:
        state = state_of(self.plans.catalogues, plan.catalogue, record.state or None)
        contexts = {}
        for model in plan.policy.models:
            key = (plan.policy.version, model.name)
            if key not in self._inputs:
                self._inputs[key] = Inputs(plan, model)
            contexts[model.name] = self._inputs[key].read(
                state, record.profile, record.context, record.placement, record.at
            )
        return Case(
            record.at,
            record.channel,
            tuple(pick.offer for pick in record.chosen),
            record.reserved,
            plan.policy,
            contexts,
        )
