"""A policy set of any size for benchmarks: N offers, 20 features, 5 caps, 8 distinct conditions."""

from pathlib import Path

_POLICY = """
policy: bench
timezone: Europe/London
currency: GBP
week_starts: monday
arbitration:
  priority: propensity * value * weight - channel_cost
  threshold: 0.0
  exploration: {alpha: 0.3, floor: 2%, shortlist: 32}
"""
_CHANNELS = """
channels:
  web:   {kind: inbound}
  email: {kind: outbound, cost: 0.002}
placements:
  hero: {channel: web, slots: 1}
  newsletter: {channel: email, slots: 1}
"""
_CAPS = """
caps:
  - {name: any-daily, max: 5000, per: 24h, when: {kind: outbound}}
  - {name: email-weekly, max: 20000, per: 7d, when: {channel: email}}
  - {name: promo-day, max: 5000, per: day, when: {category: promotion}}
  - {name: same-offer, max: 5000, per: 30d, each: offer}
  - {name: service-month, max: 5000, per: month, when: {category: service}}
"""
_KINDS = (
    "{{count: [page_view], within: {}d}}",
    "{{sum: amount, of: [purchase, store_purchase], within: {}d}}",
    "{{mean: amount, of: [purchase], within: {}d}}",
    "{{rate: [email_open], per: [email_delivered], half_life: {}d, prior: {{hits: 1, trials: 5}}}}",
    "{{distinct: session_id, of: [page_view], within: {}d}}",
)
_CONDITIONS = (
    "features.f0 >= 0",
    'features.f1 >= 0.0 && profile.tier != "none"',
    "features.f3 > 0.0 || features.f0 > 3",
    '!("boots" in profile.owned)',
    "features.f5 < 1000",
    'context.device != "tv"',
    "features.last_category == null || features.f6 >= 0.0",
    "size(features.interests) < 10 && profile.open_cases == 0",
)


def files(offers: int) -> dict[str, str]:
    """Return the files of a set with this many offers."""
    features = [f"  f{number}: " + _KINDS[number % 5].format(7 + number) for number in range(17)]
    features += [
        "  since_store: {since: [store_scan, store_purchase]}",
        "  last_category: {last: category, of: [page_view]}",
        "  interests: {top: category, of: [page_view], half_life: 14d, keep: 5}",
    ]
    listed = []
    for number in range(offers):
        category = "service" if number % 10 == 9 else "promotion"
        listed.append(
            f"  - {{id: offer-{number}, category: {category}, placements: [hero, newsletter], "
            f"value: {5 + number % 17}, prior: {1 + number % 4}%, "
            f"eligible: '{_CONDITIONS[number % 8]}', content: {{title: Offer {number}}}}}"
        )
    return {
        "policy.yaml": _POLICY,
        "channels.yaml": _CHANNELS,
        "contact_policy.yaml": _CAPS,
        "features.yaml": "features:\n" + "\n".join(features) + "\n",
        "profile.yaml": "profile:\n  owned: {type: list, default: []}\n  tier: {type: string, default: basic}\n",
        "offers.yaml": "categories:\n  promotion: {}\n  service: {}\noffers:\n" + "\n".join(listed) + "\n",
    }


def write(folder: Path, offers: int) -> Path:
    """Write the set into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files(offers).items():
        (folder / name).write_text(text)
    return folder
