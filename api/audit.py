"""`tact audit`: every cap recomputed from the raw contact facts, by code of its own.

It shares nothing with the governor but the policy's values: it sorts a customer's contacts and looks at the
window behind each one. A contact that was recorded from outside and flagged is an overrun, not a breach; a
window is breached when it holds more than the limit of contacts that the engine itself let through, or more
than the limit although nothing in it was flagged.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from policies.model import Cap, PolicySet

Json = dict[str, Any]


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
    """Recompute every cap and gap over every customer's facts."""
    report = Report()
    for customer in customers:
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
                        report.breaches.append(
                            {"customer": customer["customer"], "rule": cap.name, "each": value} | breach
                        )
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
