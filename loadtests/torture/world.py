"""The world of the hammer: a policy set, and the same rules again as the judge reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loadtests.torture.judge import Rule

OFFERS: Final = {
    "boots": ("promotion", ("email", "push")),
    "scarf": ("promotion", ("email", "push")),
    "hat": ("promotion", ("email",)),
    "gloves": ("promotion", ("email", "push")),
    "survey": ("service", ("email", "push", "letter")),
}
CHANNEL_OFFERS: Final = {
    "email": ("boots", "scarf", "hat", "gloves", "survey"),
    "push": ("boots", "scarf", "gloves", "survey"),
    "letter": ("survey",),
}
TTL_MS: Final = {"email": 2_000, "push": 1_000, "letter": 5_000}
SLOTS: Final = {"mailing": ("email", 2), "buzz": ("push", 1)}
PLACED: Final = {"mailing": ("boots", "scarf", "hat", "survey"), "buzz": ("boots", "gloves")}
POLICY: Final = {
    "policy.yaml": "policy: hammer\ntimezone: UTC\ncurrency: GBP\n",
    "channels.yaml": """
channels:
  email: {kind: outbound, reservation_ttl: 2s}
  push: {kind: outbound, reservation_ttl: 1s}
  letter: {kind: outbound, reservation_ttl: 5s}
placements:
  mailing: {channel: email, slots: 2}
  buzz: {channel: push, slots: 1}
""",
    "offers.yaml": """
categories: {promotion: {}, service: {}}
offers:
  - {id: boots, category: promotion, placements: [mailing, buzz], value: 5}
  - {id: scarf, category: promotion, placements: [mailing], value: 5}
  - {id: hat, category: promotion, placements: [mailing], value: 4}
  - {id: gloves, category: promotion, placements: [buzz], value: 4}
  - {id: survey, category: service, placements: [mailing], value: 1}
""",
    "contact_policy.yaml": """
caps:
  - {name: email-burst, max: 3, per: 2s, when: {channel: email}}
  - {name: any-rolling, max: 8, per: 12s, when: {kind: outbound}}
  - {name: same-offer, max: 2, per: 5s, each: offer}
  - {name: breather, gap: 1s, when: {channel: push}}
  - {name: promo-day, max: 15, per: day, when: {category: promotion}}
suppressions:
  - {name: after-complaint, after: {event: complaint}, for: 3s, when: {category: promotion}}
""",
    "features.yaml": "features: {complaints: {count: [complaint], within: 30d}}\n",
}
RULES: Final = (
    Rule("email-burst", 3, per=2_000, channels=frozenset({"email"})),
    Rule("any-rolling", 8, per=12_000),
    Rule("same-offer", 2, per=5_000, each_offer=True),
    Rule("breather", 1, gap=1_000, channels=frozenset({"push"})),
    Rule("promo-day", 15, day=True, categories=frozenset({"promotion"})),
    Rule("after-complaint", after="complaint", lasts=3_000, categories=frozenset({"promotion"})),
)


def write_policy(folder: Path, files: Mapping[str, str]) -> Path:
    """Write a policy set into a folder of its own."""
    target = folder / "policies"
    target.mkdir()
    for name, text in files.items():
        (target / name).write_text(text)
    return target
