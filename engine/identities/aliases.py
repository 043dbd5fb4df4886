"""Aliases: whom each leads to, and the list of them that a customer keeps.

An alias lies under a key of its own, beside nobody's facts, so it changes hands only from the owner that was read.
"""

from typing import Final

from msgspec.structs import replace

from engine.services.customers import Customers, Held, held_from, next_version, version_bytes
from engine.store.store import Commit

TRIES: Final = 256
"""Times that a change over two customers is begun again while others change them."""
Alias = tuple[str, str]
"""Kind and value."""

_MOVE: Final = """#!lua
-- Give an alias another owner, unless somebody gave it one since.
-- KEYS[1] alias    ARGV[1] the owner that was read ("" for none)    ARGV[2] the new owner ("" for none)
-- Returns 1 when written, else 0.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""


class Aliases:
    """Reads and changes aliases."""

    def __init__(self, customers: Customers) -> None:
        """Take the loader of customers."""
        self.customers = customers
        self.store = customers.store
        self._move = self.store.connection.script("alias", _MOVE)

    async def owner(self, alias: Alias) -> str | None:
        """Return the customer id that the alias leads to, None where nobody linked it."""
        return (await self.store.alias_owners([self.customers.alias_tag(*alias)]))[0]

    async def move(self, alias: Alias, before: str | None, owner: str) -> bool:
        """Give the alias its owner ("" for none); False when somebody else did since `before` was read."""
        key = "a:" + self.customers.alias_tag(*alias)
        return await self.store.connection.call("EVALSHA", self._move, 1, key, before or "", owner) == 1

    async def keep(self, held: Held, aliases: set[Alias]) -> bool:
        """Write the list of a customer's aliases; False when the customer changed since it was loaded."""
        facts = next_version(replace(held.facts, aliases=tuple(sorted(aliases))), held.now)
        done = await self.store.commit(
            Commit(tag=held.tag, facts_version=version_bytes(held.facts), facts=facts)
        )
        return done.code == "done"

    async def record(self, customer_id: str) -> Held:
        """Load what lies under an id itself, be it a pointer or a stub."""
        tag = self.customers.tag(customer_id)
        return held_from(tag, customer_id, await self.store.load(tag))
