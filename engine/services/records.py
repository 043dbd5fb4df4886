"""Decisions read back: their records from the store, and of closed ones from the decision log.

What was logged is what was said: a record is shown by the policy version that decided.
"""

import asyncio
from pathlib import Path

import msgspec

from engine.errors import NotFound
from engine.judging.answer import Json, record_view, when
from engine.judging.decision import DECODER, Record
from engine.judging.ids import public_id, split_id, stored_uid
from engine.judging.ledger import find
from engine.judging.trail import parse_outcome
from engine.services.activation import Plans
from engine.services.customers import Customers
from engine.services.deciding import MERGED
from features.facts import Facts


class Records:
    """Answers `GET /v1/decisions/{decision_id}` and lists a customer's decisions."""

    def __init__(self, customers: Customers, plans: Plans, log_folder: Path | None = None) -> None:
        """Take the loader of customers, the compiled policies, and the folder of the decision log."""
        self.customers = customers
        self.plans = plans
        self.store = customers.store
        self.log_folder = log_folder

    async def read(self, decision_id: str) -> Json:
        """Return a decision's whole record; raises NotFound for an id that was never stored."""
        place = split_id(decision_id)
        blob, outcomes = await self.store.decision(*place) if place is not None else (None, [])
        if place is None or blob is None:
            raise NotFound(
                f"there is no decision '{decision_id}': previews and expired decisions are not kept"
            )
        return await self._view(place[0], blob, outcomes)

    async def latest(self, customer_id: str, limit: int) -> Json:
        """Return a customer's decisions, newest first."""
        held = await self.customers.load(customer_id)
        plan = await self.plans.get(held.policy_version)
        tags = [held.tag]
        tags += [self.customers.tag(value) for kind, value in held.facts.aliases if kind == MERGED]
        found: list[tuple[int, Json]] = []
        for tag in tags:
            for blob, outcomes in await self.store.decisions(
                tag, held.now, plan.policy.keep.decisions_ms, limit
            ):
                view = await self._view(tag, blob, outcomes)
                found.append((DECODER.decode(blob).at, view))
        found.sort(key=lambda entry: -entry[0])
        return {"decisions": [view for _, view in found[:limit]]}

    async def _view(self, tag: str, blob: bytes, outcomes: list[bytes]) -> Json:
        record = DECODER.decode(blob)
        if record.archived:
            record = await self._whole(tag, record)
        plan = await self.plans.old(record.policy_version)
        reservation = None
        if record.reserved:
            held = await self.customers.load_tag(tag)
            reservation = {
                "id": public_id(tag, record.uid),
                "state": reservation_state(held.facts, stored_uid(tag, record.uid, held.tag), held.now),
                "expires_at": when(record.expires_at),
            }
        return record_view(plan, tag, record, reservation, [outcome_view(outcome) for outcome in outcomes])

    async def _whole(self, tag: str, left: Record) -> Record:
        """Return a closed decision's record from the decision log; what is left in the store, where it isn't there."""
        from engine.evaluation.files import record_of  # noqa: PLC0415  # Parquet: for who looks back that far

        if self.log_folder is None:
            return left
        decision_id = public_id(tag, left.uid)
        blob = await asyncio.to_thread(record_of, self.log_folder, left.archived, decision_id)
        if blob is None:
            return left
        return msgspec.structs.replace(DECODER.decode(blob), customer_id=left.customer_id)


def reservation_state(facts: Facts, uid: str, now: int) -> str:
    """Return reserved, confirmed, released or expired."""
    contact = find(facts, uid)
    if contact is None:
        return "expired"
    return "expired" if contact.state == "reserved" and not contact.live(now) else contact.state


def outcome_view(blob: bytes) -> Json:
    """Return one outcome of a decision: what happened, when, about which offer."""
    kind, at, offer, _ = parse_outcome(blob)
    return {"type": kind, "at": when(at), "offer": offer}
