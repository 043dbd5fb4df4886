"""Every route, once: how it is reached, what scope it needs, what it does, and how it is documented."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple

from api.call import Call, Reply, Stream
from api.handlers import Handlers
from engine.services import requests

Handler = Callable[[Handlers, Call], Awaitable[Reply | Stream]]
KeyScope = Literal["decide", "contacts", "events", "customers", "policies", "admin", "public"]

_ID: Final = "8fJqZp0aTn4xWc2LAZq3yWkF1b2c"


class Route(NamedTuple):
    """One route of the API."""

    method: str
    path: str
    handler: Handler
    scope: KeyScope
    summary: str
    body: Any = None
    """The type of the JSON body, or None."""
    request: Any = None
    """An example of the body."""
    response: Any = None
    """An example of the answer."""
    status: int = 200
    query: tuple[tuple[str, dict[str, Any], str], ...] = ()
    """(name, schema, description) of each query parameter."""
    ndjson: bool = False
    """Whether the body may also be a stream of lines."""
    idempotent: bool = False
    """Whether the route takes an Idempotency-Key."""
    hot: bool = False
    """Whether the route is taken ahead of FastAPI."""


_CUSTOMER: Final = {
    "customer_id": "c1",
    "aliases": [{"kind": "cookie", "value": "abc"}],
    "timezone": "Europe/London",
    "profile": {"owned": ["boots"]},
    "consent": {"marketing_email": "granted"},
    "features": {"views_7d": {"value": 3, "definition": "count of page_view within 7d"}},
    "contacts": [
        {
            "contact_id": _ID,
            "at": "2026-11-21T09:00:00.000Z",
            "channel": "email",
            "items": [{"offer": "winter-boots", "category": "promotion"}],
            "state": "confirmed",
        }
    ],
    "answers": {},
    "cases": [],
    "groups": {"control": False, "random": False},
    "as_of": "2026-11-21T10:00:00.000Z",
}
_DECISION: Final = {
    "decision_id": _ID,
    "customer_id": "c1",
    "placement": "home_hero",
    "channel": "web",
    "action": "offer",
    "reason": None,
    "offers": [
        {
            "offer": "winter-boots",
            "rank": 1,
            "category": "promotion",
            "content": {"title": "Warm feet"},
            "propensity": 0.031,
            "value": 12.0,
            "priority": 0.41,
            "selection_probability": 0.83,
        }
    ],
    "question": None,
    "reservation": None,
    "suppressed": [{"rule": "any-daily", "offers": 12, "eligible_at": "2026-11-22T09:00:00.000Z"}],
    "policy_version": "sha256:2f6c…",
    "model_version": "prior",
    "features_as_of": "2026-11-21T10:00:00.000Z",
    "took_ms": 1.9,
}
_ACTIVATED: Final = {
    "policy_version": "sha256:2f6c…",
    "previous": "sha256:91ab…",
    "activated_at": "2026-11-21T10:00:00.000Z",
}
_FILES: Final = {"files": {"policy.yaml": "policy: shop\n…", "channels.yaml": "…", "offers.yaml": "…"}}
_WHOLE: Final = {"type": "integer", "minimum": 1, "maximum": 1000}

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        "/v1/decide",
        Handlers.decide,
        "decide",
        "Decide the one best thing to do now, or to keep silent",
        requests.DecideRequest,
        {
            "customer_id": "c1",
            "placement": "home_hero",
            "limit": 1,
            "context": {"device": "mobile"},
            "explain": True,
        },
        _DECISION,
        idempotent=True,
        hot=True,
    ),
    Route(
        "GET",
        "/v1/decisions/{decision_id}",
        Handlers.decision,
        "decide",
        "Read a decision back: every candidate's fate, and what became of it",
        response=_DECISION,
    ),
    Route(
        "POST",
        "/v1/contacts/check",
        Handlers.check,
        "contacts",
        "Ask before sending: may these customers be contacted? Each yes is a reservation",
        requests.CheckRequest,
        {"channel": "email", "category": "promotion", "customer_ids": ["c1", "c2"], "reserve": True},
        {
            "policy_version": "sha256:2f6c…",
            "results": [
                {
                    "customer_id": "c1",
                    "allowed": True,
                    "reservation_id": _ID,
                    "expires_at": "2026-11-21T10:30:00.000Z",
                },
                {
                    "customer_id": "c2",
                    "allowed": False,
                    "eligible_at": "2026-11-23T09:00:00.000Z",
                    "reasons": [
                        {
                            "rule": "email-weekly",
                            "reason": "contact_policy",
                            "eligible_at": "2026-11-23T09:00:00.000Z",
                        }
                    ],
                },
            ],
        },
        query=(
            (
                "reserve",
                {"type": "string", "enum": ["true", "false"]},
                "for NDJSON: whether each yes is a reservation",
            ),
            (
                "reservation_ttl_s",
                {"type": "number", "minimum": 1, "maximum": 604_800},
                "for NDJSON: life of each",
            ),
        ),
        ndjson=True,
        idempotent=True,
        hot=True,
    ),
    Route(
        "POST",
        "/v1/contacts/confirm",
        Handlers.confirm_many,
        "contacts",
        "Confirm many reservations",
        requests.ConfirmRequest,
        {"reservation_ids": [_ID]},
        {"results": [{"reservation_id": _ID, "state": "confirmed", "contact_id": _ID}]},
        hot=True,
    ),
    Route(
        "POST",
        "/v1/contacts/{reservation_id}/confirm",
        Handlers.confirm,
        "contacts",
        "Confirm a reservation: the moment of the sending",
        response={"reservation_id": _ID, "state": "confirmed", "contact_id": _ID},
        hot=True,
    ),
    Route(
        "POST",
        "/v1/contacts/{reservation_id}/release",
        Handlers.release,
        "contacts",
        "Give a reservation back",
        response={"reservation_id": _ID, "state": "released"},
        hot=True,
    ),
    Route(
        "POST",
        "/v1/contacts",
        Handlers.record_contact,
        "contacts",
        "Count a contact that happened elsewhere",
        requests.ContactRequest,
        {
            "customer_id": "c1",
            "channel": "email",
            "category": "promotion",
            "occurred_at": "2026-11-21T09:00:00Z",
        },
        {"contact_id": _ID, "overrun": True, "rules": ["any-daily"]},
        status=201,
        hot=True,
    ),
    Route(
        "POST",
        "/v1/events",
        Handlers.events,
        "events",
        "Report what happened: one event, up to 1,000, or NDJSON",
        dict[str, Any] | list[Any],
        {
            "event_id": "e-1",
            "type": "page_view",
            "customer_id": "c1",
            "occurred_at": "2026-11-21T10:00:00Z",
            "channel": "web",
            "properties": {"category": "boots", "amount": 12.5},
        },
        {"accepted": 2, "rejected": [{"index": 1, "detail": "/type: is missing; say what happened"}]},
        status=202,
        ndjson=True,
        hot=True,
    ),
    Route(
        "GET",
        "/v1/customers/{customer_id}",
        Handlers.customer,
        "customers",
        "Everything known of a customer",
        response=_CUSTOMER,
    ),
    Route(
        "DELETE",
        "/v1/customers/{customer_id}",
        Handlers.erase,
        "customers",
        "Forget a customer; a keyed stub stays so that the person is not contacted again",
        response={"receipt": _ID},
        status=202,
    ),
    Route(
        "GET",
        "/v1/customers/{customer_id}/decisions",
        Handlers.decisions,
        "customers",
        "A customer's decisions, newest first",
        response={"decisions": [_DECISION]},
        query=(("limit", _WHOLE, "how many at most; 20 unless told"),),
    ),
    Route(
        "PUT",
        "/v1/customers/{customer_id}/consent",
        Handlers.consent,
        "customers",
        "Grant or deny purposes, at once",
        requests.ConsentRequest,
        {"marketing_email": "granted"},
        _CUSTOMER,
    ),
    Route(
        "PUT",
        "/v1/customers/{customer_id}/profile",
        Handlers.profile,
        "customers",
        "Replace the named profile fields; null gives the default again",
        requests.ProfileRequest,
        {"owned": ["boots"], "timezone": "Europe/London"},
        _CUSTOMER,
    ),
    Route(
        "POST",
        "/v1/identities/link",
        Handlers.link,
        "customers",
        "Give a customer an alias; merges when it belongs to somebody else",
        requests.LinkRequest,
        {"customer_id": "c1", "kind": "cookie", "value": "abc"},
        _CUSTOMER,
    ),
    Route(
        "POST",
        "/v1/identities/unlink",
        Handlers.unlink,
        "customers",
        "Give an alias a customer of its own; no contact is lost on either side",
        requests.LinkRequest,
        {"customer_id": "c1", "kind": "cookie", "value": "abc"},
        _CUSTOMER,
    ),
    Route(
        "GET",
        "/v1/policies/active",
        Handlers.active_policy,
        "policies",
        "The active policy set",
        response={
            "policy_version": "sha256:2f6c…",
            "policy": "retail",
            "activated_at": "2026-11-21T10:00:00.000Z",
        },
    ),
    Route(
        "GET",
        "/v1/policies/versions",
        Handlers.policy_versions,
        "policies",
        "Every activation, newest first",
        response={
            "versions": [
                {"policy_version": "sha256:2f6c…", "activated_at": "2026-11-21T10:00:00.000Z", "active": True}
            ]
        },
    ),
    Route(
        "POST",
        "/v1/policies/check",
        Handlers.check_policy,
        "policies",
        "Check a policy set: every mistake at once",
        requests.FilesRequest,
        _FILES,
        {"policy_version": "sha256:2f6c…", "warnings": []},
    ),
    Route(
        "POST",
        "/v1/policies/activate",
        Handlers.activate_policy,
        "policies",
        "Make a policy set the active one, for all processes at once",
        requests.FilesRequest,
        _FILES,
        _ACTIVATED,
    ),
    Route(
        "POST",
        "/v1/policies/rollback",
        Handlers.rollback_policy,
        "policies",
        "Go back to the policy set that was active before",
        response=_ACTIVATED,
    ),
    Route(
        "GET",
        "/v1/quarantine",
        Handlers.quarantine,
        "admin",
        "Events that could not be applied, with the reason",
        response={"entries": []},
        query=(
            ("limit", _WHOLE, "how many at most; 100 unless told"),
            ("after", {"type": "string", "pattern": "^[0-9]{1,19}-[0-9]{1,19}$"}, "an entry_id"),
        ),
    ),
    Route(
        "POST",
        "/v1/quarantine/replay",
        Handlers.requeue,
        "admin",
        "Send the quarantined events again",
        response={"sent": 3, "unreadable": 0},
    ),
    Route(
        "GET",
        "/v1/facts",
        Handlers.facts,
        "admin",
        "The raw facts of every customer as NDJSON, for an audit",
        response='{"customer": "sEtc__V2wTHOQt69", "timezone": null, "contacts": [], "events": []}\n',
    ),
    Route(
        "GET",
        "/livez",
        Handlers.live,
        "public",
        "Whether the loop is responsive",
        response={"status": "alive"},
    ),
    Route(
        "GET",
        "/readyz",
        Handlers.ready,
        "public",
        "Each dependency by name",
        response={
            "status": "ready",
            "dependencies": {"store": "ok", "policy": "ok", "worker": "ok", "events": "ok"},
        },
    ),
    Route(
        "GET",
        "/metrics",
        Handlers.metrics,
        "public",
        "Counters and latencies for Prometheus",
        response='tact_requests_total{route="/v1/decide",status="200"} 1.0\n',
    ),
)
