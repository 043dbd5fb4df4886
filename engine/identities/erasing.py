"""Erasing: a customer is forgotten, and a keyed stub stays, so that the person is not contacted again.

What can only be found by the customer's own record goes first: the ids that were merged into it, its aliases, its
decisions, its events in the quarantine. The record itself goes last, and only if it still has the aliases that
were followed. So a crash on the way leaves a customer whom erasing again erases whole.
"""

import asyncio
import os
from typing import Final

from engine.errors import Busy
from engine.identities.aliases import TRIES
from engine.judging.ids import make_uid, public_id
from engine.services.activation import Plans
from engine.services.customers import Customers, Held, held_from, next_version, version_bytes
from engine.services.deciding import MERGED
from engine.store.quarantine import forget_quarantined
from engine.store.store import Save
from features.facts import Facts

AFTER_S: Final = 0.002
_UNALIAS: Final = """#!lua
-- Delete an alias that leads to one of these customers; an unlink may have given it to somebody else.
-- KEYS[1] alias    ARGV ids of the customer
local owner = redis.call('GET', KEYS[1])
for _, name in ipairs(ARGV) do
  if name == owner then return redis.call('DEL', KEYS[1]) end
end
return 0
"""


async def erase(customers: Customers, plans: Plans, customer_id: str) -> str:
    """Forget a customer under all ids and return the receipt; raises Busy."""
    held = await customers.load(customer_id)
    async with customers.lane(held.tag):
        for _ in range(TRIES):
            keep_ms = (await plans.get(held.policy_version)).policy.keep.decisions_ms
            for old in _merged(held):
                await _forget_merged(customers, old, held.now, keep_ms)
            names = {customer_id, held.facts.customer_id, *_merged(held)}
            await forget_quarantined(customers.store, names)
            await _forget_apart(customers, held, keep_ms)
            swept = held.facts.aliases
            while held.facts.aliases == swept:
                if await _stub(customers, held, held.now):
                    # What was decided or linked while this went on.
                    await _forget_apart(customers, held, keep_ms)
                    # What is accepted after the answer is later than the erasure, by a millisecond at least.
                    await asyncio.sleep(AFTER_S)
                    return public_id(held.tag, make_uid(held.now, os.urandom))
                held = await customers.load(held.facts.customer_id)
    raise Busy("too many requests change this customer at once: try again")


def _merged(held: Held) -> list[str]:
    """Return the ids that were merged into the customer."""
    return [value for kind, value in held.facts.aliases if kind == MERGED]


async def _forget_apart(customers: Customers, held: Held, keep_ms: int) -> None:
    """Delete what lies under keys of its own: decisions, and the aliases that still lead to the customer."""
    await customers.store.forget(held.tag, held.now, keep_ms)
    script = customers.store.connection.script("unalias", _UNALIAS)
    names = [held.facts.customer_id, *_merged(held)]
    for kind, value in held.facts.aliases:
        if kind != MERGED:
            key = "a:" + customers.alias_tag(kind, value)
            await customers.store.connection.call("EVALSHA", script, 1, key, *names)


async def _forget_merged(customers: Customers, old: str, now: int, keep_ms: int) -> None:
    """Turn the pointer of a merged id into a stub of its own: it named the person."""
    tag = customers.tag(old)
    for _ in range(TRIES):
        held = held_from(tag, old, await customers.store.load(tag))
        if await _stub(customers, held, now):
            await customers.store.forget(tag, now, keep_ms)
            return
    raise Busy("too many requests change this customer at once: try again")


async def _stub(customers: Customers, held: Held, now: int) -> bool:
    """Leave of a customer that it was erased, and when; False when it changed since it was loaded."""
    stub = Facts(
        customer_id="",
        version=held.facts.version,
        erased_at=now,
        high_water=max(now, held.facts.high_water),
    )
    written = await customers.store.save(
        Save(
            tag=held.tag,
            facts_version=version_bytes(held.facts),
            state_version=held.state[:8] if held.state is not None else bytes(8),
            facts=next_version(stub, now, first_seen=False),
            state=b"-",
            seen=b"-",
        )
    )
    return written.code == "done"
