"""Linking: two customers become one, and an alias leaves again, without a script over two customers.

Merge: the union is written to the survivor first; then the other is turned into a pointer, only if it has not
changed since it was read, else the union is made again. The moment of that pointer is the moment of the merge:
before it each side was judged by its own history, after it every request, by either id, sees the union (G7). A
crash in between leaves a union that is too strict, never too lax, and linking again completes it.

Unlink: the alias' new customer gets its copies first; then the alias leaves, only if the customer has not changed
since it was read, else the copies are made again. A live reservation is copied as one that will be sent: its end
is told to the customer who made it, so the other one counts on the worst. The new customer's id is derived, so
that unlinking again after a crash finds what is there and completes it.
"""

from collections.abc import Collection
from contextlib import AsyncExitStack
from itertools import count
from typing import Final, NamedTuple

from msgspec.structs import replace

from engine.activation import Plans
from engine.adapters.store import Commit, Save, as_bytes, as_list, store_time
from engine.adapters.store import Loaded as Blobs
from engine.customers import MAX_MOVES, Customers, Held, held_from, next_version, state_of, version_bytes
from engine.deciding import MERGED
from engine.erasing import erase
from engine.errors import Busy, Conflict, Invalid, NotFound
from engine.ledger import carried, presumed, settled, united
from engine.plan import Plan
from features.codec import decode_facts, decode_seen, encode_seen, encode_state
from features.facts import Contact, Dated, Facts
from features.fold import merge_customers
from features.state import Customer, Seen

TRIES: Final = 256
"""Times that a change over two customers is begun again while others change them."""
_PATIENCE: Final = 32
"""Times that a link looks again for an unlink to come to its end."""
Alias = tuple[str, str]

_MOVE_ALIAS: Final = """#!lua
-- Give an alias another owner, unless somebody gave it one since.
-- KEYS[1] alias    ARGV[1] the owner that was read ("" for none)    ARGV[2] the new owner ("" for none)
-- Returns 1 when written, else 0.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""


class _Side(NamedTuple):
    """One of two customers, with the event ids that it has seen."""

    held: Held
    seen: Seen


class Linking:
    """Links and unlinks aliases."""

    def __init__(self, customers: Customers, plans: Plans) -> None:
        """Take the loader of customers and the compiled policies."""
        self.customers = customers
        self.plans = plans
        self.store = customers.store
        self._move_alias = self.store.connection.script("alias", _MOVE_ALIAS)

    async def link(self, customer_id: str, kind: str, value: str) -> None:
        """Give the customer an alias; when it belongs to somebody else, merge the two.

        Raises Invalid for a kind that is ours, Conflict when one of them is erased meanwhile, Busy.
        """
        if kind == MERGED:
            raise Invalid(
                "an alias of kind 'customer_id' is made by merging: link another kind", pointer="/kind"
            )
        owner, into, source = await self._named(customer_id, (kind, value))
        survivor = into.held.facts.customer_id
        if owner == survivor and (kind, value) in into.held.facts.aliases:
            return
        async with AsyncExitStack() as lanes:
            for tag in sorted({into.held.tag, source.held.tag}):
                await lanes.enter_async_context(self.customers.lane(tag))
            whole = await self._link(customer_id, (kind, value))
        if not whole:
            # What is known of either can no longer be told apart: the erasure takes all of it.
            await erase(self.customers, self.plans, customer_id)
            raise Conflict(f"the owner of {kind} '{value}' was erased while it was linked")

    async def _link(self, customer_id: str, alias: Alias) -> bool:
        """Link, again as often as either side changes meanwhile; False when one of them was erased half way."""
        half_way: set[str] = set()
        for tried in range(TRIES):
            owner, into, source = await self._named(customer_id, alias)
            merged = False
            leaving = owner is not None and alias not in source.held.facts.aliases
            if leaving and source.held.tag != into.held.tag and tried < _PATIENCE:
                continue  # an unlink is half way: it will have another owner, unless a crash ended it
            left = [await self._record(name) for name in half_way - {source.held.facts.customer_id}]
            if any(_was_erased(held) for held in (*left, source.held) if held.tag in self._tags(half_way)):
                return False
            # A new alias leaves a pointer even where nothing is known of it yet: events accepted under its derived
            # id may still be in the journal, and decisions made for it belong to the customer.
            known = source.held.facts.version > 0 or source.held.state is not None or owner is None
            if source.held.tag != into.held.tag and known:
                # Whom the alias left meanwhile is a customer apart again, whatever was written of a merge.
                apart = {held.facts.customer_id for held in left if not held.facts.moved_to}
                if not await self._unite(into, source, alias, apart):
                    continue
                if not _was_erased(source.held):
                    half_way.add(source.held.facts.customer_id)
                if not await self._leave_pointer(source.held, into.held):
                    continue
                merged = True
            elif alias not in into.held.facts.aliases and not await self._set_aliases(
                into.held, {*into.held.facts.aliases, alias}
            ):
                continue
            if await self._point(self.customers.alias_tag(*alias), owner, into.held.facts.customer_id):
                return await self._still_there(into.held, alias)
            if merged:  # it was linked, and then given to somebody else
                await self._yield_alias(into.held, alias)
                return True
        raise Busy("too many requests change these customers at once: try again")

    async def _still_there(self, into: Held, alias: Alias) -> bool:
        """Say whether the customer was not erased while the alias was given to it: else it leads to nobody."""
        if not _was_erased(await self._record(into.facts.customer_id)):
            return True
        await self._point(self.customers.alias_tag(*alias), into.facts.customer_id, "")
        return False

    async def _yield_alias(self, into: Held, alias: Alias) -> None:
        """Take an alias from a customer's list that somebody else has by now."""
        for _ in range(TRIES):
            held = await self.customers.load(into.facts.customer_id)
            owner = (await self.store.alias_owners([self.customers.alias_tag(*alias)]))[0]
            theirs = await self.customers.load(owner or self.customers.derived_id(*alias))
            if theirs.tag == held.tag or alias not in held.facts.aliases:
                return
            if await self._set_aliases(held, {*held.facts.aliases} - {alias}):
                return

    async def _record(self, customer_id: str) -> Held:
        """Load what lies under an id itself, be it a pointer or a stub."""
        tag = self.customers.tag(customer_id)
        return held_from(tag, customer_id, await self.store.load(tag))

    def _tags(self, names: Collection[str]) -> set[str]:
        return {self.customers.tag(name) for name in names}

    async def _named(self, customer_id: str, alias: Alias) -> tuple[str | None, _Side, _Side]:
        """Return the alias' owner as it is written, the customer, and whoever the alias leads to."""
        owner = (await self.store.alias_owners([self.customers.alias_tag(*alias)]))[0]
        into, source = await self._both(customer_id, owner or self.customers.derived_id(*alias))
        return owner, into, source

    async def _both(self, one: str, two: str) -> tuple[_Side, _Side]:
        """Load two customers in one round trip, and one more for each merge that an id went through."""
        for _ in range(MAX_MOVES):
            ids = (one, two)
            tags = [self.customers.tag(name) for name in ids]
            prologue, replies = await self.store.connection.load(
                [("HMGET", f"{{{tag}}}", "f", "p", "e") for tag in tags]
            )
            moment, version = store_time(prologue[0]), (as_bytes(prologue[1]) or b"").decode()
            sides = []
            for name, tag, reply in zip(ids, tags, replies, strict=True):
                facts, state, seen = (as_bytes(blob) for blob in as_list(reply))
                held = held_from(tag, name, Blobs(moment, version, facts, state, None, ()))
                sides.append(_Side(held, decode_seen(seen) if seen is not None else Seen()))
            one, two = (side.held.facts.moved_to or name for side, name in zip(sides, ids, strict=True))
            if (one, two) == ids:
                return sides[0], sides[1]
        raise Busy("the customer's merges go in a circle: unlink one of the ids")

    async def _unite(self, into: _Side, source: _Side, alias: Alias, apart: Collection[str]) -> bool:
        """Write to the survivor what is known of both; False when it changed meanwhile.

        Those `apart` were united with it by a try that did not come to its end, and are not part of it.
        """
        mine, theirs = into.held, source.held
        plan = await self.plans.get(mine.policy_version)
        union = merge_customers(plan.catalogue, self._whole(plan, into), self._whole(plan, source))
        moved = carried(theirs.facts.contacts, theirs.tag, mine.tag)
        aliases = {*union.facts.aliases, alias, (MERGED, theirs.facts.customer_id)}
        aliases -= {(MERGED, name) for name in apart}
        homes = {mine.tag, *self._tags([name for kind, name in aliases if kind == MERGED])}
        facts = replace(
            union.facts,
            contacts=settled(united(mine.facts.contacts, moved), mine.tag, homes),
            aliases=tuple(sorted(aliases)),
        )
        written = await self.store.save(
            Save(
                tag=mine.tag,
                facts_version=version_bytes(mine.facts),
                state_version=_state_version(mine),
                facts=next_version(facts, max(mine.now, theirs.now)),
                state=encode_state(union.state, int.from_bytes(_state_version(mine)) + 1),
                seen=encode_seen(union.seen),
            )
        )
        return written.code == "done"

    async def _leave_pointer(self, gone: Held, survivor: Held) -> bool:
        """Turn a customer whose all is with the survivor into a pointer; False when it changed meanwhile."""
        now, name = max(gone.now, survivor.now), survivor.facts.customer_id
        pointer = Facts(
            customer_id=gone.facts.customer_id,
            version=gone.facts.version,
            moved_to=name,
            since=gone.facts.since or now,
        )
        written = await self.store.save(
            Save(
                tag=gone.tag,
                facts_version=version_bytes(gone.facts),
                state_version=_state_version(gone),
                facts=next_version(pointer, now),
                state=b"-",
                seen=b"-",
            )
        )
        if written.code != "done":
            return False
        for kind, old in gone.facts.aliases:
            if kind == MERGED:
                await self._repoint(old, name, now)
        return True

    async def _set_aliases(self, held: Held, aliases: set[Alias]) -> bool:
        facts = next_version(replace(held.facts, aliases=tuple(sorted(aliases))), held.now)
        done = await self.store.commit(
            Commit(tag=held.tag, facts_version=version_bytes(held.facts), facts=facts)
        )
        return done.code == "done"

    async def _repoint(self, old: str, into: str, now: int) -> None:
        """Lead an id that was merged earlier straight to the survivor: chains must not grow with every merge.

        A lost race leaves the pointer as it was, which is a longer way to the same customer.
        """
        tag = self.customers.tag(old)
        blob = (await self.store.load(tag)).facts
        facts = decode_facts(blob) if blob is not None else None
        if facts is not None and facts.moved_to and facts.moved_to != into:
            pointer = next_version(replace(facts, moved_to=into), now)
            await self.store.commit(Commit(tag=tag, facts_version=version_bytes(facts), facts=pointer))

    def _whole(self, plan: Plan, side: _Side) -> Customer:
        state = state_of(self.plans.catalogues, plan.catalogue, side.held.state)
        return Customer(side.held.facts, state, side.seen)

    async def _point(self, alias: str, before: str | None, owner: str) -> bool:
        """Give the alias its owner; False when somebody else did since `before` was read."""
        return (
            await self.store.connection.call(
                "EVALSHA", self._move_alias, 1, "a:" + alias, before or "", owner
            )
            == 1
        )

    # ------------------------------------------------------------------ unlink

    async def unlink(self, customer_id: str, kind: str, value: str) -> None:
        """Give the alias a new customer, with copies of all contacts and denied consents (no slot is freed).

        Raises NotFound when the customer has no such alias, Busy.
        """
        alias = self.customers.alias_tag(kind, value)
        held = await self.customers.load(customer_id)
        fresh: Held | None = None
        async with self.customers.lane(held.tag):
            for _ in range(TRIES):
                owner = (await self.store.alias_owners([alias]))[0]
                held = await self.customers.load(customer_id)
                if kind == MERGED or not await self._owns(held, owner, (kind, value)):
                    if fresh is not None and owner != fresh.facts.customer_id:
                        await self.store.connection.call(
                            "UNLINK", f"{{{fresh.tag}}}"
                        )  # nobody was told of it
                    raise NotFound(f"customer '{customer_id}' has no alias {kind} '{value}'")
                fresh = await self._new_customer(held, owner, (kind, value))
                # The copy first, then the alias leaves the customer, then it leads to the copy.
                if not await self._copy(held, fresh, (kind, value)):
                    continue
                if not await self._set_aliases(held, {*held.facts.aliases} - {(kind, value)}):
                    continue
                if await self._point(alias, owner, fresh.facts.customer_id):
                    await self._catch_up(held, fresh.facts.customer_id)
                    return
        raise Busy("too many requests change this customer at once: try again")

    async def _owns(self, held: Held, owner: str | None, alias: Alias) -> bool:
        """Say whether the alias is the customer's, or has left it in an unlink that a crash ended half way."""
        if alias in held.facts.aliases:
            return True
        return owner is not None and (await self.customers.load(owner)).tag == held.tag

    async def _new_customer(self, held: Held, owner: str | None, alias: Alias) -> Held:
        """Return who the alias will be: nobody yet, or what an unlink left that did not come to its end."""
        kind, value = alias
        for number in count():
            name = self.customers.derived_id("unlinked", f"{number}:{held.tag}:{len(kind)}:{kind}{value}")
            fresh = await self._record(name)
            facts = fresh.facts
            if facts.version == 0 and fresh.state is None:
                return fresh
            if alias in facts.aliases and not facts.moved_to and not facts.erased_at and owner != name:
                return fresh
        raise AssertionError("unreachable")  # pragma: no cover

    async def _copy(self, held: Held, fresh: Held, alias: Alias) -> bool:
        denied = {name: dated for name, dated in held.facts.consent.items() if dated.value == "denied"}
        consent: dict[str, Dated] = {**fresh.facts.consent, **denied}
        facts = replace(
            fresh.facts,
            contacts=united(fresh.facts.contacts, _copies(held, fresh.tag)),
            consent=dict(sorted(consent.items())),
            erased_at=held.facts.erased_at,
            aliases=(alias,),
        )
        done = await self.store.commit(
            Commit(
                tag=fresh.tag,
                facts_version=version_bytes(fresh.facts),
                facts=next_version(facts, max(held.now, fresh.now)),
            )
        )
        return done.code == "done"

    async def _catch_up(self, before: Held, fresh_id: str) -> None:
        """Copy what was contacted by the alias after it had left, and before it led to its new customer."""
        for _ in range(TRIES):
            held = await self.customers.load_tag(before.tag, before.facts.customer_id)
            fresh = await self.customers.load(fresh_id)
            contacts = united(fresh.facts.contacts, _copies(held, fresh.tag))
            if held.tag == fresh.tag or contacts == fresh.facts.contacts:
                return
            facts = next_version(replace(fresh.facts, contacts=contacts), fresh.now)
            done = await self.store.commit(
                Commit(tag=fresh.tag, facts_version=version_bytes(fresh.facts), facts=facts)
            )
            if done.code == "done":
                return


def _copies(held: Held, tag: str) -> tuple[Contact, ...]:
    """Return what counts for the customer now, as the customer of `tag` keeps it."""
    counting = [
        presumed(contact)
        for contact in held.facts.contacts
        if contact.state == "confirmed" or contact.live(held.now)
    ]
    return carried(counting, held.tag, tag)


def _was_erased(held: Held) -> bool:
    """Say whether this is all that an erasure left; whoever became known since has a `since`."""
    return bool(held.facts.erased_at) and not held.facts.since


def _state_version(held: Held) -> bytes:
    return held.state[:8] if held.state is not None else bytes(8)
