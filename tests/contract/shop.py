"""The policy set of the contract tests: each rule has channels of its own, so that tests cannot meet each other.

Local time at the start is around noon, so no calendar day ends while the tests run; the channel `night` is quiet
from two hours before the start until two hours after it.
"""

from datetime import UTC, datetime, timedelta

QUIET_H = 2


def zone_at_noon(now: datetime) -> str:
    """Return the fixed zone in which it is between 12:00 and 12:59; the sign of `Etc/GMT` names is turned."""
    ahead = 12 - now.astimezone(UTC).hour
    return f"Etc/GMT{-ahead:+d}" if ahead else "Etc/GMT"


def quiet_end(now: datetime) -> datetime:
    """Return the moment at which the channel `night` may be used again."""
    return (now + timedelta(hours=QUIET_H)).replace(minute=0, second=0, microsecond=0)


def next_midnight(now: datetime) -> datetime:
    """Return the next midnight of the policy's zone, where it is between 12:00 and 12:59."""
    return (now + timedelta(hours=12)).replace(minute=0, second=0, microsecond=0)


def policy_files(now: datetime, name: str = "contract") -> dict[str, str]:
    """Return the files of the policy set, for tests that start at `now`."""
    return {
        "policy.yaml": f"policy: {name}\ntimezone: {zone_at_noon(now)}\ncurrency: GBP\n"
        "keep: {contacts: 100d, events: 100d, decisions: 30d}\n",
        "channels.yaml": _CHANNELS,
        "offers.yaml": _OFFERS,
        "contact_policy.yaml": _CONTACT_POLICY,
        "features.yaml": "features:\n  views_7d: {count: [page_view], within: 7d}\n"
        "  last_category: {last: category, of: [page_view]}\n",
        "profile.yaml": "profile:\n  owned: {type: list, default: []}\n  tier: {type: string, default: basic}\n"
        "  visits: {type: number}\n  vip: {type: bool, default: false}\n",
    }


# Local time is 12:xx at the start.
_CHANNELS = f"""
channels:
  web:    {{kind: inbound}}
  app:    {{kind: inbound, consent: marketing_app}}
  till:   {{kind: inbound}}
  email:  {{kind: outbound, cost: 0.002, consent: marketing_email}}
  sms:    {{kind: outbound}}
  push:   {{kind: outbound, reservation_ttl: 90s}}
  post:   {{kind: outbound}}
  night:  {{kind: outbound, quiet_hours: {{from: "{12 - QUIET_H}:00", to: "{12 + QUIET_H}:00"}}}}
  flash:  {{kind: outbound, reservation_ttl: 1s}}
  call:   {{kind: outbound, capacity: {{max: 2, per: day}}}}
  desk:   {{kind: outbound, capacity: {{max: 2, per: day}}}}
  counter: {{kind: outbound, capacity: {{max: 2, per: day}}}}
  visit:  {{kind: outbound, capacity: {{max: 1, per: day}}}}
placements:
  home:       {{channel: web, slots: 2, fallback: tips}}
  app_home:   {{channel: app, slots: 1}}
  till_once:  {{channel: till, slots: 1}}
  newsletter: {{channel: email, slots: 3}}
  dull_mail:  {{channel: email, slots: 1}}
  text:       {{channel: sms, slots: 1}}
  nightly:    {{channel: night, slots: 1}}
  attic:      {{channel: web, slots: 1}}
  empty:      {{channel: web, slots: 1}}
  members:    {{channel: web, slots: 1}}
  pricey:     {{channel: web, slots: 1}}
  flash_sale: {{channel: flash, slots: 2}}
  visits:     {{channel: visit, slots: 1}}
"""

_OFFERS = """
categories:
  promotion: {}
  service: {}
  transactional: {obeys_caps: false, counts_toward_caps: false}
offers:
  - {id: boots, category: promotion, placements: [home, app_home, till_once, newsletter, text, nightly, flash_sale],
     value: 10, attributes: {line: footwear}, content: {title: "Warm feet", url: /boots}}
  - {id: scarf, category: promotion, placements: [home, newsletter], value: 5,
     eligible: '!("scarf" in profile.owned)', attributes: {line: wool}}
  - {id: gloves, category: promotion, placements: [home], value: 2, attributes: {line: wool}}
  - {id: tips, category: service, placements: [home, newsletter, flash_sale], value: 1}
  - {id: receipt, category: transactional, placements: [], value: 0}
  - {id: dull, category: promotion, placements: [dull_mail], value: 0}
  - {id: bygone, category: promotion, placements: [attic], value: 3, valid: {until: 2020-01-31}}
  - {id: club, category: promotion, placements: [members], value: 3, eligible: features.views_7d >= 3}
  - {id: dear, category: promotion, placements: [pricey], value: 3, budget: {max: 2.00, cost_per_accept: 2.00}}
  - {id: talk, category: promotion, placements: [visits], value: 3}
"""

_CONTACT_POLICY = """
caps:
  - {name: email-daily,  max: 1, per: 24h, when: {channel: email}}
  - {name: email-promo,  max: 1, per: day, when: {channel: email, category: promotion}}
  - {name: sms-gap,      gap: 4h,          when: {channel: sms}}
  - {name: sms-offer,    max: 1, per: 7d,  each: offer, when: {channel: sms}}
  - {name: night-daily,  max: 1, per: 24h, when: {channel: night}}
  - {name: flash-promo,  max: 1, per: day, when: {channel: flash, category: promotion}}
  - {name: push-hourly,  max: 3, per: 1h,  when: {channel: push}}
  - {name: till-once,    max: 1, per: day, each: offer, when: {channel: till}}
suppressions:
  - {name: after-complaint, after: {event: complaint}, for: 30d, when: {category: promotion, channel: [post, email]}}
  - {name: not-interested,  after: {event: reject, same: offer, count: 2, within: 14d}, for: 60d}
  - {name: service-first,   while: profile.open_cases > 0, when: {category: promotion, channel: post}}
"""
