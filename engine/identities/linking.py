"""Linking: an alias finds its customer, and two customers become one, without a script over two customers.

The union of the facts is written to the survivor first; then the other is turned into a pointer, only if it has not
changed since it was read, else the union is made again. The moment of that pointer is the moment of the merge:
before it each side was judged by its own history, after it every request, by either id, sees the union (G7). A
crash in between leaves a union that is too strict, never too lax, and linking again completes it.

Facts can be united any number of times, features only once, since counts add up. So they stay with the pointer until
the survivor has them, and the survivor notes whose it has, in the same write. Whoever follows a pointer that still has
features, by a link or by an event, moves them first.
"""

from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from msgspec.structs import replace

from engine.errors import Busy, Conflict, Invalid
from engine.identities.aliases import TRIES, Alias, Aliases
from engine.identities.erasing import erase
from engine.judging.ledger import carried, settled, united
from engine.judging.plan import Plan
from engine.services.activation import Plans
from engine.services.customers import (
    MAX_MOVES,
    Customers,
    Held,
    held_from,
    next_version,
    state_of,
    version_bytes,
)
from engine.services.deciding import MERGED
from engine.store.store import Commit, Save, as_bytes, as_list, store_time
from engine.store.store import Loaded as Blobs
from features.codec import decode_facts, decode_seen, encode_seen, encode_state
from features.facts import Facts
from features.fold import merge_facts, merge_seen
from features.state import FeatureState, Seen

_PATIENCE: Final = 32
"""Times that a link looks again for an unlink to come to its end."""


class _Side(NamedTuple):
    """One of two customers, with the event ids that it has seen."""

    held: Held
    seen: Seen

    def has_features(self) -> bool:
        """Say whether there is anything beside the facts."""
        return self.held.state is not None or self.seen != Seen()


class Linking:
    """Links aliases, and merges whom they belong to."""

    def __init__(self, customers: Customers, plans: Plans) -> None:
        """Take the loader of customers and the compiled policies."""
        self.customers = customers
        self.plans = plans
        self.store = customers.store
        self.aliases = Aliases(customers)

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
            left = [await self.aliases.record(name) for name in half_way - {source.held.facts.customer_id}]
            if any(_was_erased(held) for held in (*left, source.held) if held.tag in self._tags(half_way)):
                return False
            # A new alias leaves a pointer even where nothing is known of it yet: events accepted under its derived
            # id may still be in the journal, and decisions made for it belong to the customer.
            known = source.held.facts.version > 0 or source.held.state is not None or owner is None
            if source.held.tag != into.held.tag and known:
                # Whom the alias left meanwhile is a customer apart again, whatever was written of a merge.
                apart = {held.facts.customer_id for held in left if not held.facts.moved_to}
                if not await self._unite(into.held, source.held, alias, apart):
                    continue
                if not _was_erased(source.held):
                    half_way.add(source.held.facts.customer_id)
                if not await self._leave_pointer(source.held, into.held):
                    continue
                await self.take_over(source.held.facts.customer_id)
                await self._repoint_all(source.held, into.held)
                merged = True
            elif alias not in into.held.facts.aliases and not await self.aliases.keep(
                into.held, {*into.held.facts.aliases, alias}
            ):
                continue
            if await self.aliases.move(alias, owner, into.held.facts.customer_id):
                return await self._still_there(into.held, alias)
            if merged:  # it was linked, and then given to somebody else
                await self._yield_alias(into.held, alias)
                return True
        raise Busy("too many requests change these customers at once: try again")

    async def _still_there(self, into: Held, alias: Alias) -> bool:
        """Say whether the customer was not erased while the alias was given to it: else it leads to nobody."""
        if not _was_erased(await self.aliases.record(into.facts.customer_id)):
            return True
        await self.aliases.move(alias, into.facts.customer_id, "")
        return False

    async def _yield_alias(self, into: Held, alias: Alias) -> None:
        """Take an alias from a customer's list that somebody else has by now."""
        for _ in range(TRIES):
            held = await self.customers.load(into.facts.customer_id)
            owner = await self.aliases.owner(alias)
            theirs = await self.customers.load(owner or self.customers.derived_id(*alias))
            if theirs.tag == held.tag or alias not in held.facts.aliases:
                return
            if await self.aliases.keep(held, {*held.facts.aliases} - {alias}):
                return

    def _tags(self, names: Collection[str]) -> set[str]:
        return {self.customers.tag(name) for name in names}

    async def _named(self, customer_id: str, alias: Alias) -> tuple[str | None, _Side, _Side]:
        """Return the alias' owner as it is written, the customer, and whoever the alias leads to."""
        owner = await self.aliases.owner(alias)
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
            for side, name in zip(sides, ids, strict=True):
                if side.held.facts.moved_to and side.has_features():
                    await self.take_over(name)
            one, two = (side.held.facts.moved_to or name for side, name in zip(sides, ids, strict=True))
            if (one, two) == ids:
                return sides[0], sides[1]
        raise Busy("the customer's merges go in a circle: unlink one of the ids")

    async def _unite(self, mine: Held, theirs: Held, alias: Alias, apart: Collection[str]) -> bool:
        """Write to the survivor the facts of both; False when it changed meanwhile.

        Those `apart` were united with it by a try that did not come to its end, and are not part of it.
        """
        union = merge_facts(mine.facts, theirs.facts)
        moved = carried(theirs.facts.contacts, theirs.tag, mine.tag)
        aliases = {*union.aliases, alias, (MERGED, theirs.facts.customer_id)}
        aliases -= {(MERGED, name) for name in (*apart, mine.facts.customer_id)}
        homes = {mine.tag, *self._tags([name for kind, name in aliases if kind == MERGED])}
        facts = replace(
            union,
            contacts=settled(united(mine.facts.contacts, moved), mine.tag, homes),
            aliases=tuple(sorted(aliases)),
        )
        written = await self.store.save(
            Save(
                tag=mine.tag,
                facts_version=version_bytes(mine.facts),
                state_version=_state_version(mine),
                facts=next_version(facts, max(mine.now, theirs.now)),
            )
        )
        return written.code == "done"

    async def take_over(self, gone_id: str) -> None:
        """Move the features that a pointer still has to whom it leads to, once whatever happens on the way."""
        for _ in range(TRIES):
            gone, into = await self._side(gone_id), await self._side(gone_id)
            while into.held.facts.moved_to:
                following = into.held.facts.moved_to
                into = await self._side(following)
                if into.held.facts.moved_to and into.has_features():
                    await self.take_over(following)  # it may have these already, and says so to whom it leads
            if not gone.held.facts.moved_to or not gone.has_features():
                return
            if gone.held.tag not in into.seen.merged and not _was_erased(into.held):
                plan = await self.plans.get(into.held.policy_version)
                seen = merge_seen(into.seen, gone.seen)
                state = plan.catalogue.merge(self._state(plan, into), self._state(plan, gone))
                written = await self.store.save(
                    Save(
                        tag=into.held.tag,
                        facts_version=version_bytes(into.held.facts),
                        state_version=_state_version(into.held),
                        policy_version=plan.policy.version,
                        state=encode_state(state, int.from_bytes(_state_version(into.held)) + 1),
                        seen=encode_seen(replace(seen, merged=tuple(sorted({*seen.merged, gone.held.tag})))),
                    )
                )
                if written.code != "done":
                    continue
            await self.store.connection.call("HDEL", f"{{{gone.held.tag}}}", "p", "e")
            return
        raise Busy("too many requests change these customers at once: try again")

    async def _side(self, name: str) -> _Side:
        """Load what lies under an id itself."""
        tag = self.customers.tag(name)
        prologue, replies = await self.store.connection.load([("HMGET", f"{{{tag}}}", "f", "p", "e")])
        facts, state, seen = (as_bytes(blob) for blob in as_list(replies[0]))
        moment, version = store_time(prologue[0]), (as_bytes(prologue[1]) or b"").decode()
        held = held_from(tag, name, Blobs(moment, version, facts, state, None, ()))
        return _Side(held, decode_seen(seen) if seen is not None else Seen())

    async def _leave_pointer(self, gone: Held, survivor: Held) -> bool:
        """Turn a customer whose facts are with the survivor into a pointer; False when it changed meanwhile."""
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
            )
        )
        return written.code == "done"

    async def _repoint_all(self, gone: Held, survivor: Held) -> None:
        """Lead every id that was merged into one who is gone to the survivor."""
        now = max(gone.now, survivor.now)
        for kind, old in gone.facts.aliases:
            if kind == MERGED:
                await self._repoint(old, gone.facts.customer_id, survivor.facts.customer_id, now)

    async def _repoint(self, old: str, gone: str, into: str, now: int) -> None:
        """Lead an id that was merged into `gone` straight to the survivor: chains must not grow with every merge.

        Only a pointer to `gone` is moved on. Another one leads to the same customer by its own way; to turn it could
        close a circle, since a union that did not come to its end names ids that went elsewhere. A lost race
        leaves the pointer as it was, too.
        """
        tag = self.customers.tag(old)
        blob = (await self.store.load(tag)).facts
        facts = decode_facts(blob) if blob is not None else None
        if facts is not None and facts.moved_to == gone:
            pointer = next_version(replace(facts, moved_to=into), now)
            await self.store.commit(Commit(tag=tag, facts_version=version_bytes(facts), facts=pointer))

    def _state(self, plan: Plan, side: _Side) -> FeatureState:
        return state_of(self.plans.catalogues, plan.catalogue, side.held.state)


def _was_erased(held: Held) -> bool:
    """Say whether this is all that an erasure left; whoever became known since has a `since`."""
    return bool(held.facts.erased_at) and not held.facts.since


def _state_version(held: Held) -> bytes:
    return held.state[:8] if held.state is not None else bytes(8)
