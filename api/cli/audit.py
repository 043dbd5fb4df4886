"""`tact audit`: every cap recomputed from the raw contact facts, by code of its own.

It shares nothing with the governor but the policy's values: it sorts a customer's contacts and looks at the
window behind each one. A contact that was recorded from outside and flagged is an overrun, not a breach; a
window is breached when it holds more than the limit of contacts that the engine itself let through, or more
than the limit although nothing in it was flagged.
"""

from base64 import urlsafe_b64decode
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from policies.model import Cap, PolicySet

Json = dict[str, Any]
_TAG, _UID = 16, 12
"""Characters of an id of ours: whose it is, then which."""
_TTL_MAX_MS = 604_800_000


class Report:
    """What an audit found."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.customers = 0
        self.contacts = 0
        self.breaches: list[Json] = []
        self.overruns = 0

    def as_dict(self) -> Json:
        """Return the report as plain values."""
        return {
            "customers": self.customers,
            "contacts": self.contacts,
            "breaches": self.breaches,
            "overruns": self.overruns,
        }


def audit(policy: PolicySet, customers: Iterable[Json]) -> Report:
    """Recompute every cap and gap over every customer's facts; ids that were merged come as `moved_to`."""
    report = Report()
    moved: dict[str, int] = {}
    suspects: list[tuple[Cap, Json, list[Json]]] = []
    for customer in customers:
        if "moved_to" in customer:
            moved[customer["customer"]] = customer["moved_at"]
            continue
        report.customers += 1
        confirmed = sorted(
            (c for c in customer["contacts"] if c["state"] == "confirmed"), key=lambda c: c["at"]
        )
        report.contacts += len(confirmed)
        report.overruns += sum(bool(contact["overrun"]) for contact in confirmed)
        zones = [customer["timezone"]] if customer["timezone"] else list(policy.timezones)
        for cap in policy.caps:
            for value, contacts in _counted(policy, cap, confirmed).items():
                for window in _windows(policy, cap, contacts, zones):
                    breach = _breach(cap, window)
                    if breach is not None:
                        named = {"customer": customer["customer"], "rule": cap.name, "each": value}
                        suspects.append((cap, named | breach, window))
    report.breaches = [
        breach for cap, breach, window in suspects if not _only_merged(cap, breach["customer"], window, moved)
    ]
    return report


def _counted(policy: PolicySet, cap: Cap, contacts: list[Json]) -> dict[Any, list[Json]]:
    """Return the contacts that the cap counts, by the value that it counts by."""
    found: dict[Any, list[Json]] = {}
    for contact in contacts:
        channel = policy.channels.get(contact["channel"])
        inbound = channel is not None and channel.kind == "inbound"
        if inbound and contact["channel"] not in cap.when.channel and "inbound" not in cap.when.kind:
            continue
        values = {}
        for item in contact["items"]:
            category = policy.categories.get(item["category"])
            if category is not None and not category.counts_toward_caps:
                continue
            offer = policy.offers.get(item["offer"])
            attributes: Json = offer.attributes if offer is not None else {}
            looks = (
                (not cap.when.kind or ("inbound" if inbound else "outbound") in cap.when.kind)
                and (not cap.when.channel or contact["channel"] in cap.when.channel)
                and (not cap.when.category or item["category"] in cap.when.category)
                and (not cap.when.offer or item["offer"] in cap.when.offer)
                and all(attributes.get(name) in wanted for name, wanted in cap.when.attributes)
            )
            by = {"": "", "offer": item["offer"], "category": item["category"], "channel": contact["channel"]}
            value = by[cap.each] if cap.each in by else attributes.get(cap.each.removeprefix("attribute."))
            if looks and value is not None:
                values[value] = True
        for value in values:
            found.setdefault(value, []).append(contact)
    return found


def _windows(policy: PolicySet, cap: Cap, contacts: list[Json], zones: list[str]) -> Iterable[list[Json]]:
    """Yield the contacts of each window that ends at a contact, or of each calendar period."""
    if cap.calendar is not None:
        for zone in zones:
            periods: dict[date, list[Json]] = {}
            for contact in contacts:
                periods.setdefault(_period(policy, cap, zone, contact["at"]), []).append(contact)
            yield from periods.values()
        return
    span = cap.gap_ms or cap.per_ms
    first = 0
    for last, contact in enumerate(contacts):
        while contacts[first]["at"] <= contact["at"] - span:
            first += 1
        yield contacts[first : last + 1]


def _period(policy: PolicySet, cap: Cap, zone: str, at: int) -> date:
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)).astimezone(ZoneInfo(zone)).date()
    if cap.calendar == "week":
        return local - timedelta(days=(local.weekday() - policy.week_starts) % 7)
    return local.replace(day=1) if cap.calendar == "month" else local


def _only_merged(cap: Cap, customer: str, window: list[Json], moved: dict[str, int]) -> bool:
    """Say whether the window is over its limit for no other reason than that two histories became one.

    Each contact was judged by what was one customer with it at that moment: an id's own contacts, and those of
    ids merged by then.
    """
    for last, contact in enumerate(window):
        judged_at, own = _judged_at(contact), _origin(contact, customer)
        known = 0
        for other in window[: last + 1]:
            origin = _origin(other, customer)
            together = max(moved.get(origin, 0), moved.get(own, 0)) <= judged_at
            known += (origin == own or together) and cap.name not in other["overrun"]
        if known > (cap.max or 1):
            return False
    return True


def _origin(contact: Json, customer: str) -> str:
    """Return the tag of the id under which a contact was made; the customer's own where it came from outside."""
    contact_id: str = contact["contact_id"]
    return contact_id[:_TAG] if len(contact_id) == _TAG + _UID else customer


def _judged_at(contact: Json) -> int:
    """Return when the engine said yes (ms): the id of a reservation begins with it, the contact may be later."""
    at: int = contact["at"]
    if len(contact["contact_id"]) != _TAG + _UID:
        return at
    try:
        made = int.from_bytes(urlsafe_b64decode(contact["contact_id"][_TAG:]), "big") >> 28
    except ValueError:
        return at
    return made if at - _TTL_MAX_MS <= made <= at else at


def _breach(cap: Cap, window: list[Json]) -> Json | None:
    limit = cap.max or 1
    if len(window) <= limit:
        return None
    own = [contact for contact in window if cap.name not in contact["overrun"]]
    if len(own) <= limit:
        return None
    return {
        "limit": limit,
        "counted": len(window),
        "contacts": [{"contact_id": c["contact_id"], "at": c["at"], "overrun": c["overrun"]} for c in window],
    }
