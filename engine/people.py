"""People as a service: what is known of a customer, consent, profile, aliases, and being forgotten.

A merge needs no transaction over two customers. The union is written to the surviving one first; then the other
is turned into a pointer, only if it has not changed since it was read, else the union is made again. The moment
of that pointer is the moment of the merge: before it each side was judged by its own history, after it every
request, by either id, sees the union (G7). A crash in between leaves a union that is too strict, never too lax,
and linking again completes it.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from re import compile as pattern
from typing import Any, Final

from msgspec.structs import replace

from engine.activation import Plans
from engine.adapters.store import Commit, Save, as_bytes, as_list
from engine.answer import Json, when
from engine.customers import Customers, Held, next_version, state_of, version_bytes
from engine.deciding import MAX_JUDGEMENTS, MERGED
from engine.errors import Busy, Invalid, NotFound
from engine.ids import make_uid, public_id, stored_uid
from engine.plan import Plan
from engine.quarantine import forget_quarantined
from features.codec import decode_facts, decode_seen, encode_seen, encode_state
from features.facts import Contact, Dated, Facts, Value
from features.fields import INT_MAX, INT_MIN, is_zone
from features.fold import merge_customers, with_consent
from features.identity import in_share
from features.state import Customer, Seen

_DERIVED: Final = pattern(r"anon-[A-Za-z0-9_-]{20}").fullmatch
"""Ids derived from an alias are no names of their own: the alias beside them says it all."""


class People:
    """Reads and changes what is known of customers."""

    def __init__(self, customers: Customers, plans: Plans) -> None:
        """Take the loader of customers and the compiled policies."""
        self.customers = customers
        self.plans = plans
        self.store = customers.store

    # ------------------------------------------------------------------ read

    async def read(self, customer_id: str) -> Json:
        """Return everything known of a customer; raises NotFound for one that nobody has mentioned."""
        held = await self.customers.load(customer_id)
        if held.facts.erased_at and not held.facts.since:
            raise NotFound(f"customer '{customer_id}' was erased")
        if held.facts.version == 0 and held.state is None:
            raise NotFound(f"there is no customer '{customer_id}': an event or a PUT creates one")
        return self._view(await self.plans.get(held.policy_version), held)

    def _view(self, plan: Plan, held: Held) -> Json:
        facts, now = held.facts, held.now
        state = state_of(self.plans.catalogues, plan.catalogue, held.state)
        features = plan.catalogue.read(state, None, now)
        profile = {name.removeprefix("profile."): value for name, value in plan.defaults.items()}
        for name, dated in facts.profile.items():
            if dated.value is not None and name != "timezone" and name in profile:
                profile[name] = dated.value
        groups = plan.policy.groups
        return {
            "customer_id": facts.customer_id,
            "aliases": [
                {"kind": kind, "value": value}
                for kind, value in facts.aliases
                if kind != MERGED or not _DERIVED(value)
            ],
            "timezone": facts.timezone(),
            "profile": profile,
            "consent": {purpose: dated.value for purpose, dated in facts.consent.items()},
            "features": {
                name: {"value": value, "definition": self._definition(plan, name, now)}
                for name, value in features.items()
            },
            "contacts": [_contact_view(held.tag, contact) for contact in counted(facts, now)],
            "answers": {question: dated.value for question, dated in facts.answers.items()},
            "cases": [
                {
                    "case_id": case.case_id,
                    "state": "open" if case.opened_at > case.closed_at else "closed",
                    "opened_at": when(case.opened_at or None),
                    "closed_at": when(case.closed_at or None),
                }
                for case in facts.cases
            ],
            "groups": {
                "control": groups.control > 0 and in_share(facts.customer_id, "control", groups.control),
                "random": groups.random > 0 and in_share(facts.customer_id, "random", groups.random),
            },
            "as_of": when(state.as_of or None),
        }

    def _definition(self, plan: Plan, name: str, now: int) -> str:
        """Say what a feature is, and since when it is whole where its window is not yet covered."""
        text = plan.catalogue.definition(name)
        since = self.plans.since.get(f"{text}|{name}", 0)
        first = min(self.plans.since.values(), default=0)
        within = next(feature.within_ms for feature in plan.policy.features if feature.name == name)
        if since > first and (within == 0 or since > now - within):
            return f"{text}, whole from {when(since)}"
        return text

    async def all_facts(self) -> AsyncIterator[list[Json]]:
        """Yield the raw facts of every customer, a few hundred at a time, for an audit."""
        cursor = b"0"
        while True:
            reply = as_list(
                await self.store.connection.call(
                    "SCAN", cursor, "MATCH", "{????????????????}", "COUNT", 500, "TYPE", "hash"
                )
            )
            cursor, keys = as_bytes(reply[0]) or b"0", [as_bytes(key) or b"" for key in as_list(reply[1])]
            blobs = await self.store.connection.pipeline([("HGET", key, "f") for key in keys]) if keys else []
            found = []
            for key, blob in zip(keys, blobs, strict=True):
                raw = as_bytes(blob)
                facts = decode_facts(raw) if raw is not None else None
                if facts is not None and not facts.moved_to:
                    found.append(raw_facts(key.decode()[1:-1], facts))
            yield found
            if cursor == b"0":
                return

    # ------------------------------------------------------------------ consent and profile

    async def put_consent(self, customer_id: str, consent: Mapping[str, str]) -> Json:
        """Set purposes to granted or denied, at once for every later reserve and confirm (G8).

        A purpose that no channel names yet is kept as well: a withdrawal must not get lost to a policy's timing.
        """

        def change(_: Plan, held: Held) -> Facts:
            facts = held.facts
            for purpose, value in consent.items():
                # A PUT binds at once, also over an event that was dated ahead of the clock.
                before = facts.consent.get(purpose)
                at = held.now if before is None else max(held.now, before.at + 1)
                facts = with_consent(facts, {purpose: value}, max(at, facts.erased_at + 1))
            return facts

        return await self._change(customer_id, change)

    async def put_profile(self, customer_id: str, fields: Mapping[str, Any]) -> Json:
        """Replace the named profile fields; null gives a field its default again."""

        def change(plan: Plan, held: Held) -> Facts:
            dated = {
                name: Dated(checked_field(plan, name, value), held.now) for name, value in fields.items()
            }
            return replace(held.facts, profile={**held.facts.profile, **dated})

        return await self._change(customer_id, change)

    async def _change(self, customer_id: str, change: Any) -> Json:
        async with self.customers.lane(self.customers.tag(customer_id)):
            held = await self.customers.load(customer_id)
            for _ in range(MAX_JUDGEMENTS):
                plan = await self.plans.get(held.policy_version)
                facts = change(plan, held)
                blob = next_version(facts, held.now)
                done = await self.store.commit(
                    Commit(
                        tag=held.tag,
                        facts_version=version_bytes(held.facts),
                        policy_version=plan.policy.version,
                        facts=blob,
                    )
                )
                if done.code == "done":
                    since = facts.since or held.now
                    return self._view(plan, held._replace(facts=replace(facts, since=since)))
                held = await self.customers.again(held, done)
        raise Busy("too many requests change this customer at once: try again")

    # ------------------------------------------------------------------ link and unlink

    async def link(self, customer_id: str, kind: str, value: str) -> Json:
        """Give the customer an alias; when it belongs to somebody else, merge the two."""
        if kind == MERGED:
            raise Invalid(
                "an alias of kind 'customer_id' is made by merging: link another kind", pointer="/kind"
            )
        alias = self.customers.alias_tag(kind, value)
        owner = (await self.store.alias_owners([alias]))[0]
        other = owner if owner is not None else self.customers.derived_id(kind, value)
        for _ in range(MAX_JUDGEMENTS):
            into = await self.customers.load(customer_id)
            source = await self.customers.load(other)
            plan = await self.plans.get(into.policy_version)
            if await self._merge(plan, into, source, (kind, value), new=owner is None):
                await self.store.set_alias(alias, into.facts.customer_id)
                held = await self.customers.load(customer_id)
                return self._view(plan, held)
        raise Busy("too many requests change these customers at once: try again")

    async def _merge(
        self, plan: Plan, into: Held, source: Held, alias: tuple[str, str], *, new: bool
    ) -> bool:
        """Write the union, then the pointer; False when either side changed meanwhile.

        A `new` alias leaves a pointer even where nothing is known of it yet: events accepted under its derived
        id may still be in the journal, and decisions made for it belong to the customer.
        """
        if source.tag == into.tag and alias in into.facts.aliases:
            return True
        target = await self._whole(plan, into)
        aliases = {*target.facts.aliases, alias}
        known = source.facts.version > 0 or source.state is not None
        apart = source.tag != into.tag and (known or new)
        union = target
        if apart:
            other = await self._whole(plan, source)
            other = replace(
                other, facts=replace(other.facts, contacts=_carried(source.tag, other.facts.contacts))
            )
            union = merge_customers(plan.catalogue, target, other)
            aliases |= {*union.facts.aliases, (MERGED, source.facts.customer_id)}
        now = max(into.now, source.now)
        facts = replace(union.facts, aliases=tuple(sorted(aliases)))
        changed = apart
        written = await self.store.save(
            Save(
                tag=into.tag,
                facts_version=version_bytes(into.facts),
                state_version=into.state[:8] if into.state is not None else bytes(8),
                facts=next_version(facts, now),
                state=encode_state(union.state, _counter(into) + 1) if changed else b"",
                seen=encode_seen(union.seen) if changed else b"",
            )
        )
        if written.code != "done":
            return False
        if not apart:
            return True
        pointer = Facts(
            customer_id=source.facts.customer_id,
            version=source.facts.version,
            moved_to=into.facts.customer_id,
            since=source.facts.since or now,
        )
        moved = await self.store.save(
            Save(
                tag=source.tag,
                facts_version=version_bytes(source.facts),
                state_version=source.state[:8] if source.state is not None else bytes(8),
                facts=next_version(pointer, now),
                state=b"-",
                seen=b"-",
            )
        )
        if moved.code != "done":
            return False
        for kind, old in source.facts.aliases:
            if kind == MERGED:
                await self._repoint(old, into.facts.customer_id, now)
        return True

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

    async def _whole(self, plan: Plan, held: Held) -> Customer:
        blob = as_bytes(await self.store.connection.call("HGET", f"{{{held.tag}}}", "e"))
        seen = decode_seen(blob) if blob is not None else Seen()
        return Customer(held.facts, state_of(self.plans.catalogues, plan.catalogue, held.state), seen)

    async def unlink(self, customer_id: str, kind: str, value: str) -> Json:
        """Give the alias a new customer, with copies of all contacts and denied consents (no slot is freed)."""
        alias = self.customers.alias_tag(kind, value)
        for _ in range(MAX_JUDGEMENTS):
            held = await self.customers.load(customer_id)
            if (kind, value) not in held.facts.aliases or kind == MERGED:
                raise NotFound(f"customer '{customer_id}' has no alias {kind} '{value}'")
            plan = await self.plans.get(held.policy_version)
            fresh = f"unlinked-{make_uid(held.now, os.urandom)}"
            copy = Facts(
                customer_id=fresh,
                contacts=_carried(held.tag, counted(held.facts, held.now)[::-1]),
                consent={
                    purpose: dated for purpose, dated in held.facts.consent.items() if dated.value == "denied"
                },
                erased_at=held.facts.erased_at,
                aliases=((kind, value),),
            )
            # The copy first, then the pointer, then the alias leaves the customer: at every step caps hold.
            tag = self.customers.tag(fresh)
            await self.store.commit(
                Commit(tag=tag, facts_version=bytes(8), facts=next_version(copy, held.now))
            )
            left = tuple(pair for pair in held.facts.aliases if pair != (kind, value))
            facts = replace(held.facts, aliases=left)
            done = await self.store.commit(
                Commit(
                    tag=held.tag, facts_version=version_bytes(held.facts), facts=next_version(facts, held.now)
                )
            )
            if done.code == "done":
                await self.store.set_alias(alias, fresh)
                return self._view(plan, held._replace(facts=facts))
        raise Busy("too many requests change this customer at once: try again")

    # ------------------------------------------------------------------ erasure

    async def erase(self, customer_id: str) -> Json:
        """Forget a customer; a keyed stub stays, so that the person is not contacted again."""
        for _ in range(MAX_JUDGEMENTS):
            held = await self.customers.load(customer_id)
            plan = await self.plans.get(held.policy_version)
            keep = plan.policy.keep.decisions_ms
            merged = [value for kind, value in held.facts.aliases if kind == MERGED]
            stub = Facts(customer_id="", version=held.facts.version, erased_at=held.now, high_water=held.now)
            written = await self.store.save(
                Save(
                    tag=held.tag,
                    facts_version=version_bytes(held.facts),
                    state_version=held.state[:8] if held.state is not None else bytes(8),
                    facts=next_version(stub, held.now, first_seen=False),
                    state=b"-",
                    seen=b"-",
                )
            )
            if written.code != "done":
                continue
            for old in merged:
                await self._erase_pointer(old, held.now, keep)
            await forget_quarantined(self.store, {customer_id, held.facts.customer_id, *merged})
            await self.store.forget(held.tag, held.now, keep)
            await self.store.unalias(
                [self.customers.alias_tag(kind, value) for kind, value in held.facts.aliases]
            )
            return {"receipt": public_id(held.tag, make_uid(held.now, os.urandom))}
        raise Busy("too many requests change this customer at once: try again")

    async def _erase_pointer(self, old: str, now: int, keep_ms: int) -> None:
        """Turn the pointer of a merged id into a stub of its own: it named the person."""
        tag = self.customers.tag(old)
        for _ in range(MAX_JUDGEMENTS):
            loaded = await self.store.load(tag)
            version = int.from_bytes((loaded.facts or bytes(8))[:8], "big")
            stub = Facts(customer_id="", version=version, erased_at=now, high_water=now)
            done = await self.store.commit(
                Commit(
                    tag=tag,
                    facts_version=version.to_bytes(8, "big"),
                    facts=next_version(stub, now, first_seen=False),
                )
            )
            if done.code == "done":
                await self.store.forget(tag, now, keep_ms)
                return


def _carried(tag: str, contacts: Sequence[Contact]) -> tuple[Contact, ...]:
    """Return contacts as another customer keeps them: under their whole ids, which do not change."""
    return tuple(replace(contact, uid=stored_uid(tag, contact.uid, "")) for contact in contacts)


def _counter(held: Held) -> int:
    return int.from_bytes(held.state[:8], "big") if held.state is not None else 0


def counted(facts: Facts, now: int) -> tuple[Contact, ...]:
    """Return the confirmed and the live contacts, newest first."""
    return tuple(c for c in reversed(facts.contacts) if c.state == "confirmed" or c.live(now))


def _contact_view(tag: str, contact: Contact) -> Json:
    view: Json = {
        "contact_id": public_id(tag, contact.uid),
        "at": when(contact.at),
        "channel": contact.channel,
        "items": [{"offer": item.offer, "category": item.category} for item in contact.items],
        "state": contact.state,
    }
    if contact.state == "reserved":
        view["expires_at"] = when(contact.expires_at)
    if contact.overrun:
        view["overrun"] = list(contact.overrun)
    return view


def checked_field(plan: Plan, name: str, value: object) -> Value:
    """Return a profile value of the declared type; raises Invalid for anything else."""
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    if name == "timezone":
        if value is None:
            return None
        if not (isinstance(value, str) and is_zone(value)):
            raise Invalid("timezone takes an IANA time zone such as Europe/London, or null", pointer=pointer)
        return value
    field = plan.policy.profile.get(name)
    if field is None:
        declared: Sequence[str] = sorted([*plan.policy.profile, "timezone"])
        raise Invalid(
            f"profile.yaml declares no field '{name}': it has {', '.join(declared)}", pointer=pointer
        )
    if value is None:
        return None
    if field.type == "list" and isinstance(value, list) and all(isinstance(member, str) for member in value):
        return tuple(value)
    if field.type == "string" and isinstance(value, str):
        return value
    if field.type == "bool" and isinstance(value, bool):
        return value
    if field.type == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
            raise Invalid(f"profile field '{name}' takes whole numbers of 64 bits", pointer=pointer)
        return value
    wanted = "a list of strings" if field.type == "list" else f"a {field.type}"
    raise Invalid(f"profile field '{name}' takes {wanted} or null", pointer=pointer)


def raw_facts(tag: str, facts: Facts) -> Json:
    """Return the facts that rules are judged by, as plain values; times in ms."""
    return {
        "customer": tag,
        "timezone": facts.timezone(),
        "contacts": [
            {
                "contact_id": public_id(tag, contact.uid),
                "at": contact.at,
                "channel": contact.channel,
                "items": [{"offer": item.offer, "category": item.category} for item in contact.items],
                "state": contact.state,
                "expires_at": contact.expires_at,
                "overrun": list(contact.overrun),
            }
            for contact in facts.contacts
        ],
        "events": [{"type": mark.type, "at": mark.at, "offers": list(mark.offers)} for mark in facts.marks],
    }
