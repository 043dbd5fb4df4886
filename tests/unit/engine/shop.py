"""A small shop for tests of the core: a policy set in a few lines, compiled."""

from functools import cache
from typing import Any

from engine.judging.decide import decide
from engine.judging.decision import Ask, Decision
from engine.judging.plan import Plan, compile_plan, condition_values
from features.event import parse_time
from features.facts import Contact, Dated, Facts, Item
from features.state import FeatureState
from policies.loader import load_files
from policies.model import PolicySet

NOW = parse_time("2026-11-21T12:00:00Z")
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000

POLICY = """\
policy: test
timezone: {ZONES}
currency: GBP
arbitration:
  priority: propensity * value * weight - channel_cost
  threshold: {THRESHOLD}
  exploration: {alpha: 0.3, floor: 2%, shortlist: 32}
"""
CHANNELS = """\
channels:
  web:   {kind: inbound}
  email: {kind: outbound, consent: marketing_email, quiet_hours: {from: "21:00", to: "08:00"}}
  call:  {kind: outbound, capacity: {max: 2, per: day}}
placements:
  home: {channel: web, slots: 2}
  mail: {channel: email, slots: 3}
  desk: {channel: call, slots: 1}
"""
OFFERS = """\
categories:
  promotion: {}
  service: {}
  transactional: {obeys_caps: false, counts_toward_caps: false}
offers:
  - {id: boots, category: promotion, placements: [home, mail, desk], value: 12, prior: 2%, attributes: {line: shoes}}
  - {id: socks, category: promotion, placements: [home, mail], value: 4, prior: 6%, attributes: {line: shoes}}
  - {id: guide, category: service, placements: [home, mail], value: 1, prior: 10%}
"""
PROFILE = """\
profile:
  owned: {type: list, default: []}
  tier: {type: string, default: basic}
  shops_for: {type: string}
"""
FEATURES = "features:\n  views_7d: {count: [page_view], within: 7d}\n  since_store: {since: [store_scan]}\n"


@cache
def policy_of(
    offers: str = OFFERS,
    rules: str = "caps: []",
    *,
    channels: str = CHANNELS,
    zones: str = "UTC",
    threshold: str = "0.0",
    more: str = "",
) -> PolicySet:
    """Load a policy set from parts of its files; `more` is added to policy.yaml."""
    return load_files(
        {
            "policy.yaml": POLICY.replace("{ZONES}", zones).replace("{THRESHOLD}", threshold) + more,
            "channels.yaml": channels,
            "offers.yaml": offers,
            "contact_policy.yaml": rules,
            "profile.yaml": PROFILE,
            "features.yaml": FEATURES,
        }
    ).policy


@cache
def plan_of(offers: str = OFFERS, rules: str = "caps: []", **parts: str) -> Plan:
    """Compile the policy set of these parts."""
    return compile_plan(policy_of(offers, rules, **parts))


def offers_with(*lines: str) -> str:
    """Return an offers.yaml with these offers after the categories."""
    head = OFFERS.partition("offers:\n")[0] + "offers:\n"
    return head + "".join(f"  - {{{line}}}\n" for line in lines)


def customer(**given: Any) -> Facts:
    """Return facts with consent to e-mail; `contacts`, `marks`, `consent`, … as given."""
    return Facts(**{"customer_id": "c1", "consent": {"marketing_email": Dated("granted", 0)}, **given})


def sent(at: int, channel: str, *items: tuple[str | None, str], uid: str = "u1") -> Contact:
    """Return a confirmed contact."""
    return Contact(uid, at, channel, tuple(Item(*item) for item in items))


def decided(
    plan: Plan,
    placement: str,
    facts: Facts | None = None,
    *,
    at: int = NOW,
    features: dict[str, Any] | None = None,
    ask: dict[str, Any] | None = None,
    **quotas: Any,
) -> Decision:
    """Decide at `at` (ms) for a customer with these facts and features."""
    asked = Ask(**{"uid": "d-1", "placement": placement, "limit": 10, **(ask or {})})
    facts = facts if facts is not None else customer()
    values = condition_values(plan, facts, FeatureState(), asked.context, at)
    values |= {"features." + name: value for name, value in (features or {}).items()}
    return decide(plan, asked, facts, values, at, **quotas)


def chosen(decision: Decision) -> list[str]:
    """Return the chosen offers, by name."""
    return sorted(pick.offer for pick in decision.chosen)
