"""What is allowed in a policy set, but hardly meant: warnings that only the whole set shows."""

from collections.abc import Mapping
from typing import Final

from policies.calendar import quiet_end_everywhere
from policies.model import Cap, Offer, PolicySet, Suppression, When
from policies.reading.nodes import Entry, Listing, Node, Report, Table

SAMPLES_MS: Final = (1_768_435_200_000, 1_784_073_600_000)
"""A winter and a summer day (2026-01-15, 2026-07-15): a free moment may be left in one of them only."""


def find_oddities(policy: PolicySet, nodes: Mapping[str, Node | None], report: Report) -> None:
    """Report the warnings of a policy set without mistakes."""
    _quiet_for_ever(policy, nodes, report)
    _nothing_to_show(policy, nodes, report)
    sections: tuple[tuple[str, tuple[Cap | Suppression, ...]], ...] = (
        ("caps", policy.caps),
        ("suppressions", policy.suppressions),
    )
    for section, rules in sections:
        for place, rule in enumerate(rules):
            detail = _idle(policy, rule)
            if detail:
                line = _line(nodes, "contact_policy.yaml", section, str(place), "when")
                field = f"{section}[{place}]" + (".when" if rule.when != When() else "")
                report.warn("contact_policy.yaml", line, field, detail, "change when, or remove the rule")


def _line(nodes: Mapping[str, Node | None], file: str, *path: str) -> int:
    """Return the line of the last part of a path that is there."""
    node, line = nodes.get(file), 1
    for part in path:
        if isinstance(node, Table) and part in node.entries:
            entry: Entry = node.entries[part]
            node, line = entry.node, entry.line
        elif isinstance(node, Listing):
            node = node.members[int(part)]
            line = node.line
        else:
            break
    return line


def _quiet_for_ever(policy: PolicySet, nodes: Mapping[str, Node | None], report: Report) -> None:
    for name, channel in policy.channels.items():
        quiet = channel.quiet
        if quiet is None:
            continue
        if any(quiet_end_everywhere(policy.timezones, quiet, at) is None for at in SAMPLES_MS):
            report.warn(
                "channels.yaml",
                _line(nodes, "channels.yaml", "channels", name, "quiet_hours"),
                f"channels.{name}.quiet_hours",
                "no moment is free in all of the policy's time zones, "
                "so nothing reaches customers whose zone is unknown",
                "shorten the quiet hours, or list fewer zones in policy.yaml",
            )


def _nothing_to_show(policy: PolicySet, nodes: Mapping[str, Node | None], report: Report) -> None:
    shown: set[str] = set()
    for place, offer in enumerate(policy.offers.values()):
        shown.update(offer.placements)
        if not offer.placements:
            line = _line(nodes, "offers.yaml", "offers", str(place))
            report.warn(
                "offers.yaml",
                line,
                f"offers[{place}]",
                f'no placement shows "{offer.id}"',
                "name its placements",
            )
    for name, placement in policy.placements.items():
        if name not in shown:
            line = _line(nodes, "channels.yaml", "placements", name)
            field = f"placements.{name}"
            report.warn(
                "channels.yaml", line, field, "no offer is placed here", "name it in an offer's placements"
            )
        if placement.fallback is not None and policy.channels[placement.channel].kind == "outbound":
            line = _line(nodes, "channels.yaml", "placements", name, "fallback")
            report.warn(
                "channels.yaml",
                line,
                f"placements.{name}.fallback",
                "nothing is sent outbound while the store is away, so the fallback is never used",
                "remove it",
            )


def _idle(policy: PolicySet, rule: Cap | Suppression) -> str:
    """Say why a rule never stops anything; empty for one that may."""
    when = rule.when
    if not any(
        (not when.channel or channel.name in when.channel) and (not when.kind or channel.kind in when.kind)
        for channel in policy.channels.values()
    ):
        return "no channel matches, so the rule stops nothing"
    offers = [offer for offer in policy.offers.values() if _looks_at(when, offer)]
    categories = {offer.category for offer in offers}
    if not when.offer and not when.attributes:
        categories |= set(when.category) or set(policy.categories)
    if not categories:
        return "no offer matches, so the rule stops nothing"
    if not any(policy.categories[name].obeys_caps for name in categories):
        return "only categories with obeys_caps: false match, so the rule stops nothing"
    return ""


def _looks_at(when: When, offer: Offer) -> bool:
    return (
        (not when.category or offer.category in when.category)
        and (not when.offer or offer.id in when.offer)
        and all(offer.attributes.get(name) in wanted for name, wanted in when.attributes)
    )
