"""The wire to the store: packs commands, writes them in batches, hands each reply to its own call.

What a turn of the loop queues is written at its end, or as soon as there is a batch of it: the store then works on
the first calls while we are still making the others. A batch is a few calls, and more where many are under way.

What holds, and why: replies come in the order of the commands, so the slots of `_pending` are the whole
bookkeeping. A slot leaves the queue only when its last reply has come or the link is gone; giving up on a
call fails its future and keeps the slot, so the late reply is dropped there and no other call can get it.
One timer serves all deadlines: it stands at the earliest, and walks the queue only when it fires. While the store has
been silent for some time, nobody waits for it longer than a quarter of a second: requests that wait for seconds would
hold the places of those that can do without it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, TypeAlias, cast

import hiredis

from engine.measures import StoreMeasures

Argument: TypeAlias = bytes | str | int
Command: TypeAlias = tuple[Argument, ...]
Reply: TypeAlias = bytes | int | list["Reply"] | None

# The server could not do it now, did not do any of it, and may be able to later.
_REFUSED_FOR_NOW = frozenset(
    {
        "OOM",
        "MISCONF",
        "READONLY",
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "NOREPLICAS",
        "BUSY",
        "NOSCRIPT",
    }
)
_NEVER = float("inf")
_HOPE_S = 0.25
_BATCH_MIN = 4
_BATCH_SHARE = 8
# The fastest of those measured; its own stub allows one argument only.
_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)


class StoreUnavailable(Exception):  # the state it reports is its name
    """The store did not do what was asked; `maybe_applied` says that it may have, unseen.

    `retry_after_s` is when a caller may sensibly try again.
    """

    def __init__(self, message: str, *, maybe_applied: bool, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied
        self.retry_after_s = retry_after_s


class StoreOverloaded(StoreUnavailable):
    """Too many commands wait already; this one was not sent."""


class StoreReplyError(Exception):
    """The store answered with an error, which a retry would not heal: `code` is its first word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Refusal(Exception):  # made by the parser, turned into one of the above
    """An error reply as it came."""


class Shape(IntEnum):
    """What a call's future is given: its one reply, all of them, or the prologue's and all of them."""

    ONE = 0
    ALL = 1
    LOAD = 2
    NOTHING = 3  # nobody waits: the future stays open


class _Slot:
    """Place of one call in the order of replies; `deadline` in the loop's seconds."""

    __slots__ = ("deadline", "expected", "future", "prologue", "refusal", "replies", "shape")

    def __init__(
        self, future: "asyncio.Future[Any] | None", expected: int, shape: Shape, deadline: float
    ) -> None:
        self.future = future
        self.expected = expected
        self.shape = shape
        self.deadline = deadline
        self.replies: list[Reply] = []
        self.refusal: _Refusal | None = None
        self.prologue: _Slot | None = None

    def settle(self) -> None:
        """Hand over what came, unless nobody waits any more."""
        future = self.future
        if future is None or future.done():
            return
        prologue = self.prologue
        refusal = self.refusal
        if refusal is None and prologue is not None:
            refusal = prologue.refusal
        if refusal is not None:
            future.set_exception(_error(refusal, alone=self.expected == 1))
        elif self.shape is Shape.ONE:
            future.set_result(self.replies[0])
        elif self.shape is Shape.ALL:
            future.set_result(self.replies)
        else:
            future.set_result((prologue.replies if prologue is not None else [], self.replies))

    def fail(self, message: str, *, maybe_applied: bool) -> bool:
        """Give up on the call, and say whether anybody waited for it; the slot stays where it is."""
        if self.future is None or self.future.done():
            return False
        self.future.set_exception(StoreUnavailable(message, maybe_applied=maybe_applied))
        return True


class Link(asyncio.Protocol):
    """One connected stream; made by StoreConnection, thrown away when it breaks.

    `name` is the store in messages, `stall_s` how long after a deadline a silent link counts as dead.
    """

    def __init__(
        self,
        name: str,
        *,
        prologue: Sequence[Command],
        max_pending: int,
        stall_s: float,
        on_lost: Callable[["Link", str], None],
        on_refusal: Callable[["Link", str], None],
        measures: StoreMeasures,
    ) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._prologue = b"".join(map(_pack, prologue))
        self._prologue_length = len(prologue)
        self._max_pending = max_pending
        self._stall_s = stall_s
        self._on_lost = on_lost
        self._on_refusal = on_refusal
        self._measures = measures
        self._reader = hiredis.Reader(replyError=_Refusal)
        self._transport: asyncio.Transport | None = None
        self._pending: deque[_Slot] = deque()  # written, in the order of the replies to come
        self._queued: list[_Slot] = []  # the next batch
        self._outgoing: list[bytes] = []
        self._first_load: _Slot | None = None  # of the batch; its prologue is everyone's
        self._commands = 0
        self._late_since = _NEVER  # when a deadline was missed and nothing has come since
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_at = _NEVER
        self.lost = self._loop.create_future()

    def submit(self, commands: Sequence[Command], shape: Shape, within_s: float) -> "asyncio.Future[Any]":
        """Queue commands for the next batch, this turn still; the future fails `within_s` seconds from now.

        ValueError without commands; what cannot be packed raises before anything is queued.
        """
        count = len(commands)
        if not count:
            raise ValueError("nothing to send")
        packed = list(map(_pack, commands))
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._transport is None:
            self._measures.failures["away"] += 1
            future.set_exception(StoreUnavailable(f"The store at {self._name} is away.", maybe_applied=False))
            return future
        if self._commands + count > self._max_pending:
            self._measures.failures["overloaded"] += 1
            future.set_exception(
                StoreOverloaded(
                    f"{self._commands} commands wait for the store at {self._name}, more than it can take. "
                    "Retry in a moment.",
                    maybe_applied=False,
                )
            )
            return future
        self._measures.calls += 1
        now = self._loop.time()
        if now - self._late_since > _HOPE_S:
            within_s = min(within_s, _HOPE_S)
        deadline = now + within_s
        slot = _Slot(None if shape is Shape.NOTHING else future, count, shape, deadline)
        if shape is Shape.LOAD and self._prologue_length:
            slot.prologue = self._prologue_of_this_batch(deadline)
        if not self._queued:
            self._loop.call_soon(self._flush)
        self._queued.append(slot)
        self._outgoing += packed
        self._commands += count
        if len(self._queued) >= max(_BATCH_MIN, len(self._pending) // _BATCH_SHARE):
            self._flush()
        if deadline < self._sweep_at:
            self._sweep_no_later_than(deadline)
        return future

    def abort(self) -> None:
        """Break the link now; everything in flight fails."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio's callback)."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no such base class

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail everything in flight (asyncio's callback)."""
        self._transport = None
        if self._sweep is not None:
            self._sweep.cancel()
        reason = f"The connection to the store at {self._name} broke ({exc or 'closed by the store'})."
        failed = [slot.fail(reason, maybe_applied=True) for slot in self._pending]
        failed += [slot.fail(reason, maybe_applied=False) for slot in self._queued]
        self._measures.failures["broken"] += sum(failed)
        self._pending.clear()
        self._queued.clear()
        self._outgoing.clear()
        if not self.lost.done():
            self.lost.set_result(None)
        self._on_lost(self, reason)

    def data_received(self, data: bytes) -> None:
        """Match replies to slots, first in first out (asyncio's callback)."""
        self._late_since = _NEVER
        pending = self._pending
        reader = self._reader
        try:
            reader.feed(data)
            reply = reader.gets()
            while reply is not False:
                slot = pending[0]
                if reply.__class__ is _Refusal:
                    slot.refusal = slot.refusal or reply
                    code = _code(reply)
                    self._measures.failures["refused" if code in _REFUSED_FOR_NOW else "error"] += 1
                    self._on_refusal(self, code)
                slot.replies.append(reply)
                if len(slot.replies) == slot.expected:
                    pending.popleft()
                    self._commands -= slot.expected
                    slot.settle()
                reply = reader.gets()
        except (hiredis.ProtocolError, IndexError):  # not the protocol, or a reply that nobody asked for
            self.abort()

    def _prologue_of_this_batch(self, deadline: float) -> _Slot:
        """Find the slot of the prologue, which stands in front of the whole batch."""
        if self._first_load is None:
            self._first_load = _Slot(None, self._prologue_length, Shape.NOTHING, deadline)
            self._commands += self._prologue_length
        return self._first_load

    def _flush(self) -> None:
        """Write all that is queued, in one piece."""
        if self._transport is None or not self._queued:
            return
        if self._first_load is not None:
            self._pending.append(self._first_load)
            self._outgoing.insert(0, self._prologue)
            self._first_load = None
        self._pending.extend(self._queued)
        self._queued.clear()
        self._measures.writes += 1
        self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def _sweep_no_later_than(self, moment: float) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_at = moment
        self._sweep = self._loop.call_at(moment, self._expire)

    def _expire(self) -> None:
        """Fail what is past its deadline; break a link whose oldest call has been silent far too long."""
        self._sweep = None
        self._sweep_at = _NEVER
        now = self._loop.time()
        earliest = _NEVER
        for slot in self._pending:
            if slot.future is None or slot.future.done():
                continue
            if slot.deadline <= now:
                slot.fail(f"The store at {self._name} did not answer in time.", maybe_applied=True)
                self._measures.failures["late"] += 1
                self._late_since = min(self._late_since, now)
            elif slot.deadline < earliest:
                earliest = slot.deadline
        if self._pending:
            dead_at = self._pending[0].deadline + self._stall_s
            if dead_at <= now:
                self.abort()
                return
            self._sweep_no_later_than(min(earliest, dead_at))


def _code(refusal: _Refusal) -> str:
    """Take the first word of an error reply."""
    return str(refusal).split(" ", 1)[0]


def _error(refusal: _Refusal, *, alone: bool) -> Exception:
    """Turn an error reply into the error that the caller gets; beside others, some may have been applied."""
    code = _code(refusal)
    if code in _REFUSED_FOR_NOW:
        return StoreUnavailable(f"The store refuses for now: {refusal}", maybe_applied=not alone)
    return StoreReplyError(code, str(refusal))
