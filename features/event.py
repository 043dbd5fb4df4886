"""Events: what happened to a customer, validated once at the edge.

An event is accepted whole or refused with a sentence; after that nothing in the engine checks it again.
All times are integer milliseconds since the Unix epoch (UTC).
"""

from typing import Any, Final

import msgspec

TYPES: Final = frozenset(
    (
        "page_view click add_to_cart purchase email_delivered email_open email_click email_bounce unsubscribe "
        "complaint store_scan store_purchase call case_opened case_closed impression accept reject answer "
        "consent_changed profile_updated"
    ).split()
)
"""The built-in event types; a type of one's own begins with `x_`."""


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One accepted event, as it lies in the journal."""

    event_id: str
    """The caller's id, or one made at acceptance (prefixed so that it cannot clash with a caller's)."""
    type: str
    customer_id: str
    """Whose it is. Empty only while `identities` are still to be resolved."""
    occurred_at: int
    """Milliseconds since the epoch."""
    received_at: int
    """Milliseconds since the epoch, by the store's clock."""
    channel: str | None = None
    decision_id: str | None = None
    offer: str | None = None
    properties: dict[str, Any] = {}
    identities: dict[str, str] = {}
    """Aliases, kind to value; linked to `customer_id` when that is given beside them."""


class EventError(ValueError):
    """An event that cannot be accepted: a JSON pointer to the fault and a sentence that names the fix."""

    def __init__(self, pointer: str, detail: str) -> None:
        """Point at the fault (`/occurred_at`) and say how to mend it."""
        super().__init__(detail)
        self.pointer = pointer
        self.detail = detail
