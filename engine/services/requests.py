"""What callers may ask: the bodies of requests, with the limits of the contract, decoded strictly.

Unknown fields are refused and nothing is coerced. A pattern keeps ids free of control characters and of
nothing but blanks; lengths are in characters.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Id = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$",
    ),
]
"""1-128 characters, no control characters, not blank."""
Identities = Annotated[dict[Id, Id], Meta(min_length=1, max_length=16)]
Ttl = Annotated[int, Meta(ge=1, le=604_800)] | Annotated[float, Meta(ge=1, le=604_800)]
Scalar = str | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float | bool | None
"""A value of the context; whole numbers fit 64 bits, as the record of the decision stores them."""
CONTEXT_KEYS = 64


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request body: unknown fields are refused."""


class DecideRequest(Body, frozen=True, kw_only=True):
    """A question: what is the next best action for this customer, here and now."""

    placement: Id
    customer_id: Id | None = None
    identities: Identities | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] | None = None
    context: Annotated[dict[str, Scalar | list[str]], Meta(max_length=CONTEXT_KEYS)] = {}
    exclude: Annotated[tuple[Id, ...], Meta(max_length=1000)] = ()
    preview: bool = False
    explain: bool = False


class CheckRequest(Body, frozen=True, kw_only=True):
    """A question: may these customers be contacted; with `reserve`, each yes is a reservation."""

    channel: Id
    customer_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=10_000)]
    category: Id | None = None
    offer: Id | None = None
    reserve: bool = True
    reservation_ttl_s: Ttl | None = None


class CheckRow(Body, frozen=True, kw_only=True):
    """One line of a streamed check."""

    customer_id: Id
    channel: Id
    category: Id | None = None
    offer: Id | None = None


class ConfirmRequest(Body, frozen=True, kw_only=True):
    """Confirm many reservations at once."""

    reservation_ids: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=10_000)]


class ContactRequest(Body, frozen=True, kw_only=True):
    """A contact that happened elsewhere."""

    customer_id: Id
    channel: Id
    category: Id
    offer: Id | None = None
    occurred_at: str | None = None
    contact_id: Id | None = None


ConsentRequest = Annotated[dict[Id, Literal["granted", "denied"]], Meta(min_length=1, max_length=64)]
ProfileRequest = Annotated[dict[Id, Any], Meta(min_length=1, max_length=256)]


class LinkRequest(Body, frozen=True, kw_only=True):
    """One alias of a customer."""

    customer_id: Id
    kind: Id
    value: Id


class FilesRequest(Body, frozen=True, kw_only=True):
    """A policy set: file name to text."""

    files: Annotated[dict[str, str], Meta(min_length=1, max_length=1000)]
