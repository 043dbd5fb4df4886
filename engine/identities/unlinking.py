"""Unlinking: an alias leaves its customer for a new one, and no slot is freed on either side.

The alias' new customer gets its copies first; then the alias leaves, only if the customer has not changed since it
was read, else the copies are made again. A live reservation is copied as one that will be sent: its end is told to
the customer who made it, so the other one counts on the worst. The new customer's id is derived, so that unlinking
again after a crash finds what is there and completes it.
"""

from itertools import count

from msgspec.structs import replace

from engine.errors import Busy, NotFound
from engine.identities.aliases import TRIES, Alias, Aliases
from engine.judging.ledger import carried, presumed, united
from engine.services.customers import Customers, Held, next_version, version_bytes
from engine.services.deciding import MERGED
from engine.store.store import Commit
from features.facts import Contact, Dated


class Unlinking:
    """Unlinks aliases."""

    def __init__(self, customers: Customers) -> None:
        """Take the loader of customers."""
        self.customers = customers
        self.store = customers.store
        self.aliases = Aliases(customers)

    async def unlink(self, customer_id: str, kind: str, value: str) -> None:
        """Give the alias a new customer, with copies of all contacts and denied consents (no slot is freed).

        Raises NotFound when the customer has no such alias, Busy.
        """
        held = await self.customers.load(customer_id)
        fresh: Held | None = None
        async with self.customers.lane(held.tag):
            for _ in range(TRIES):
                owner = await self.aliases.owner((kind, value))
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
                if not await self.aliases.keep(held, {*held.facts.aliases} - {(kind, value)}):
                    continue
                if await self.aliases.move((kind, value), owner, fresh.facts.customer_id):
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
            fresh = await self.aliases.record(name)
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
