"""People as a service: what is known of a customer, consent and profile; linking and erasing have rooms of their own.

A consent or a profile that was acknowledged holds for every later request: both are facts, written by the commit
script like a contact (G8).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from re import compile as pattern
from typing import Any, Final

from msgspec.structs import replace

from engine.errors import Busy, Invalid, NotFound
from engine.identities.erasing import erase
from engine.identities.linking import Linking
from engine.identities.unlinking import Unlinking
from engine.judging.answer import Json, when
from engine.judging.ids import public_id
from engine.judging.plan import Plan
from engine.services.activation import Plans
from engine.services.customers import Customers, Held, next_version, state_of, version_bytes
from engine.services.deciding import MAX_JUDGEMENTS, MERGED
from engine.store.store import Commit, as_bytes, as_list
from features.codec import decode_facts
from features.facts import Contact, Dated, Facts, Value
from features.fields import INT_MAX, INT_MIN, is_zone
from features.fold import with_consent
from features.identity import in_share

_DERIVED: Final = pattern(r"anon-[A-Za-z0-9_-]{20}").fullmatch
"""Ids derived from an alias are no names of their own: the alias beside them says it all."""


class People:
    """Reads and changes what is known of customers."""

    def __init__(self, customers: Customers, plans: Plans) -> None:
        """Take the loader of customers and the compiled policies."""
        self.customers = customers
        self.plans = plans
        self.store = customers.store
        self.linking = Linking(customers, plans)
        self.unlinking = Unlinking(customers)

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
            "contacts": [_contact_view(held.tag, contact, now) for contact in counted(facts, now)],
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
        """Yield the raw facts of every customer, a few hundred at a time, for an audit.

        An id that was merged yields where to and when (ms): the audit must know since when two were one.
        """
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
                if facts is None:
                    continue
                tag = key.decode()[1:-1]
                if facts.moved_to:
                    to = self.customers.tag(facts.moved_to)
                    found.append({"customer": tag, "moved_to": to, "moved_at": facts.high_water})
                else:
                    found.append(raw_facts(tag, facts))
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

    # ------------------------------------------------------------------ link, unlink, erase

    async def link(self, customer_id: str, kind: str, value: str) -> Json:
        """Give the customer an alias, merging whom it belongs to; the customer as it then is."""
        await self.linking.link(customer_id, kind, value)
        return await self._now(customer_id)

    async def unlink(self, customer_id: str, kind: str, value: str) -> Json:
        """Take an alias away, without freeing a slot on either side; the customer as it then is."""
        await self.unlinking.unlink(customer_id, kind, value)
        return await self._now(customer_id)

    async def erase(self, customer_id: str) -> Json:
        """Forget a customer; a keyed stub stays, so that the person is not contacted again."""
        return {"receipt": await erase(self.customers, self.plans, customer_id)}

    async def _now(self, customer_id: str) -> Json:
        held = await self.customers.load(customer_id)
        return self._view(await self.plans.get(held.policy_version), held)


def counted(facts: Facts, now: int) -> tuple[Contact, ...]:
    """Return the confirmed and the live contacts, newest first."""
    return tuple(c for c in reversed(facts.contacts) if c.state == "confirmed" or c.live(now))


def _contact_view(tag: str, contact: Contact, now: int) -> Json:
    live = contact.state == "reserved" or contact.expires_at > now
    view: Json = {
        "contact_id": public_id(tag, contact.uid),
        "at": when(contact.at),
        "channel": contact.channel,
        "items": [{"offer": item.offer, "category": item.category} for item in contact.items],
        "state": "reserved" if live else contact.state,
    }
    if live:
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
