"""The policy set of the suite: features of all kinds, and every fact that events set.

Event ids are kept for little more than 10 days (`keep.events`), but what halves in 400 days remembers every event: one
that comes again after its id is forgotten counts again, unless the position of its customer stands in the way.
"""

from pathlib import Path
from typing import Final

KEEP_DAYS: Final = 10
CATEGORIES: Final = ("boots", "coats", "gloves", "hats", "scarves", "socks", "tents")
OFFERS: Final = ("offer-0", "offer-1", "offer-2")
ANSWERS: Final = ("myself", "family", "gifts")

EVERY_TYPE: Final = (
    *(
        "page_view",
        "add_to_cart",
        "purchase",
        "store_purchase",
        "store_scan",
        "email_delivered",
        "email_open",
    ),
    *("complaint", "reject", "consent_changed", "unsubscribe", "profile_updated", "answer"),
    *("case_opened", "case_closed", "x_note"),
)

FILES: Final = {
    "policy.yaml": "policy: once\ntimezone: Europe/London\ncurrency: GBP\n"
    f"keep: {{contacts: 30d, events: {KEEP_DAYS}d, decisions: 30d}}\n",
    "channels.yaml": "channels:\n"
    "  web: {kind: inbound}\n"
    "  email: {kind: outbound, consent: marketing_email}\n"
    "placements:\n"
    "  home: {channel: web, slots: 1}\n"
    "  mail: {channel: email, slots: 1}\n",
    "contact_policy.yaml": "caps:\n"
    "  - {name: daily, max: 1, per: 24h, when: {kind: outbound}}\n"
    "suppressions:\n"
    "  - {name: after-complaint, after: {event: complaint}, for: 5d}\n"
    "  - {name: not-interested, after: {event: reject, same: offer, count: 2, within: 3d}, for: 5d}\n",
    "questions.yaml": "questions:\n"
    f"  - {{id: shopping-for, ask: For whom?, answers: [{', '.join(ANSWERS)}], placements: [home], "
    "sets: profile.shops_for}\n",
    "profile.yaml": "profile:\n"
    "  owned: {type: list, default: []}\n"
    "  tier: {type: string, default: basic}\n"
    "  household: {type: number, default: 1}\n"
    "  shops_for: {type: string}\n",
    "features.yaml": "features:\n"
    "  views: {count: [page_view], within: 10d}\n"
    "  views_3d: {count: [page_view], within: 3d}\n"
    "  others: {count: [x_note, store_scan, email_delivered, case_opened], within: 9d}\n"
    "  spent: {sum: amount, of: [purchase, store_purchase], within: 10d}\n"
    "  basket: {mean: amount, of: [purchase], within: 10d}\n"
    "  sessions: {distinct: session_id, of: [page_view], within: 10d}\n"
    "  last_category: {last: category, of: [page_view]}\n"
    "  since_store: {since: [store_scan, store_purchase]}\n"
    "  opens: {rate: [email_open], per: [email_delivered], half_life: 7d, prior: {hits: 1, trials: 5}}\n"
    "  interests: {top: category, of: [page_view, add_to_cart], half_life: 14d, keep: 5}\n"
    "  ever: {top: category, of: [page_view, add_to_cart], half_life: 400d, keep: 7}\n"
    f"  buys: {{rate: [purchase, store_purchase], per: [{', '.join(EVERY_TYPE)}], half_life: 400d}}\n",
    "offers.yaml": "categories:\n  promotion: {}\noffers:\n"
    + "".join(f"  - {{id: {offer}, category: promotion, placements: [home, mail]}}\n" for offer in OFFERS),
}


def write(folder: Path) -> Path:
    """Write the set into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder
