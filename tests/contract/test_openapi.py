"""The OpenAPI document tells the truth, and nothing that it can generate, or that is malformed, makes a 5xx.

`TACT_FUZZ_CALLS` says how many calls each generator makes at least, `TACT_FUZZ_SEED` from where it starts.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from random import Random
from typing import Any, get_args

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from api.bodies import convert
from api.routes import ROUTES, KeyScope
from tests.contract.client import JSON, NDJSON, Answer, Api, customer

CALLS = int(os.environ.get("TACT_FUZZ_CALLS", "400"))
SEED = int(os.environ.get("TACT_FUZZ_SEED", "20261121"))
WITNESS = "untouched"
CONTRACT = {
    *("POST /v1/decide", "GET /v1/decisions/{decision_id}", "GET /v1/customers/{customer_id}/decisions"),
    *("POST /v1/contacts/check", "POST /v1/contacts/{reservation_id}/confirm", "POST /v1/contacts"),
    *("POST /v1/contacts/{reservation_id}/release", "POST /v1/contacts/confirm", "POST /v1/events"),
    *("GET /v1/customers/{customer_id}", "DELETE /v1/customers/{customer_id}", "POST /v1/identities/link"),
    *("PUT /v1/customers/{customer_id}/consent", "PUT /v1/customers/{customer_id}/profile"),
    *("POST /v1/identities/unlink", "GET /v1/policies/active", "GET /v1/policies/versions"),
    *("POST /v1/policies/check", "POST /v1/policies/activate", "POST /v1/policies/rollback"),
    *("GET /livez", "GET /readyz", "GET /metrics"),
}
UNFUZZED = {"/v1/policies/rollback"}
"""A rollback is a valid call: it would change the policy under the other tests."""


@pytest.fixture(scope="module")
def document(tact: Api) -> Any:
    """The document as it is served."""
    return tact.get("/openapi.json")


@pytest.fixture(autouse=True)
def untouched(tact: Api) -> Iterator[None]:
    """A customer that no valid call names is the same afterwards, and so is the policy."""
    tact.grant(WITNESS)
    before, policy = tact.customer(WITNESS), tact.get("/v1/policies/active")
    yield
    assert tact.customer(WITNESS) == before
    assert tact.get("/v1/policies/active") == policy


def operations(document: Any) -> dict[str, Any]:
    """Return the operations by method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_route_of_the_contract_is_described_with_an_example(document: Any) -> None:
    described = operations(document)
    assert described.keys() >= CONTRACT
    for name, operation in described.items():
        body = operation.get("requestBody", {}).get("content", {}).get(JSON)
        if body is not None:
            assert body["example"], name
        done = next(reply for status, reply in operation["responses"].items() if status.startswith("2"))
        assert any("example" in content for content in done["content"].values()), name
        assert operation["summary"], name


def test_the_examples_of_bodies_are_valid(document: Any) -> None:
    described = operations(document)
    with_bodies = [route for route in ROUTES if route.body is not None]
    assert len(with_bodies) >= 11
    for route in with_bodies:
        content = described[f"{route.method} {route.path}"]["requestBody"]["content"][JSON]
        assert convert(content["example"], route.body) is not None


def test_every_route_has_a_scope(document: Any) -> None:
    described = operations(document)
    assert {f"{route.method} {route.path}" for route in ROUTES} == described.keys()
    for operation in described.values():
        (scope,) = operation["tags"]
        assert scope in get_args(KeyScope)


@pytest.mark.timeout(60 + CALLS / 5)
def test_whatever_the_document_allows_or_forbids_is_answered_as_documented(
    tact: Api, document: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    served = schemathesis.openapi.from_dict(document)
    found: list[Any] = [result.ok() for result in served.get_all_operations()]  # type: ignore[union-attr]  # ours is valid
    counts: Counter[int] = Counter()
    salt = 0
    while counts.total() < CALLS:
        salt += 1
        for operation in found:
            if operation.path not in UNFUZZED:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    ask(tact, operation, mode, counts, SEED + salt)
    with capsys.disabled():
        print(f"\n{counts.total()} generated calls, seed {SEED}: {dict(sorted(counts.items()))}")  # noqa: T201  # the seed of a failure
    assert counts[200] > 0
    assert counts[422] > 0


def ask(tact: Api, operation: Any, mode: GenerationMode, counts: Counter[int], from_seed: int) -> None:
    """Make a few calls to one operation and hold the answers to the document."""
    raw = operation.definition.raw
    documented = {int(status) for status in raw["responses"]}
    media = {"media_type": JSON} if "requestBody" in raw else {}

    @seed(from_seed)
    @settings(
        max_examples=8,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode, **media))
    def call(case: Any) -> None:
        reply = case.call(base_url=f"http://127.0.0.1:{tact.port}", timeout=30)
        counts[reply.status_code] += 1
        assert reply.status_code < 500, case.as_curl_command()
        # A path or a method that the generator has broken reaches no route of ours.
        assert reply.status_code in documented | {404, 405}, (reply.status_code, case.as_curl_command())
        if reply.status_code >= 400:
            assert reply.headers["content-type"][0] == "application/problem+json", case.as_curl_command()
            assert {"type", "detail"} <= reply.json().keys()

    # Where there is neither a body nor a parameter, nothing can be got wrong.
    with suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext():
        call()


# ---------------------------------------------------------------------- malformed on purpose

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 2**31, 2**53, 2**63, 2**64, 10**30, -(10**30), 1e308, -0.0),
    *(
        "",
        " ",
        "\x00",
        "\u202e",
        "é",
        "👟",
        "x" * 129,
        "x" * 5_000,
        "../..",
        "null",
        "1",
        "{{",
        "'; --",
        "%s%n",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"": ""},
        {"a": {"b": {"c": []}}},
        [1, "a", None],
        ["x"] * 1_001,
        {"__class__": 1},
    ),
)
PROFILE = {"tier": "lost", "owned": ["a"], "visits": 1, "timezone": "Europe/London"}
CONTACT = {"customer_id": "{}", "channel": "post", "category": "service"}
ANSWER = {"type": "answer", "customer_id": "{}", "properties": {"question": "q", "answer": "a"}}
ALIAS = {"customer_id": "{}", "kind": "cookie", "value": "fuzz"}
ROUTES_WITH_BODIES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/v1/decide", {"customer_id": "{}", "placement": "home", "limit": 1, "context": {"a": 1}}),
    ("POST", "/v1/contacts/check", {"channel": "post", "category": "service", "customer_ids": ["{}"]}),
    ("POST", "/v1/contacts/confirm", {"reservation_ids": ["{}"]}),
    ("POST", "/v1/contacts", CONTACT | {"occurred_at": "2026-11-21T10:00:00Z"}),
    ("POST", "/v1/events", ANSWER),
    ("POST", "/v1/events", {"type": "profile_updated", "customer_id": "{}", "properties": PROFILE}),
    ("PUT", "/v1/customers/{}/consent", {"marketing_email": "denied"}),
    ("PUT", "/v1/customers/{}/profile", PROFILE),
    ("POST", "/v1/identities/link", ALIAS),
    ("POST", "/v1/identities/unlink", ALIAS),
    ("POST", "/v1/policies/check", {"files": {"policy.yaml": "policy: x"}}),
)


def named(value: Any, who: str) -> Any:
    """Return a body or a path about somebody."""
    return json.loads(json.dumps(value).replace("{}", who))


def spoil(chance: Random, raw: bytes) -> bytes:
    """Return bytes that are no JSON any more."""
    cut = chance.randrange(1, len(raw))
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: raw[:cut],
        lambda: raw + raw[cut:],
        lambda: raw[:-1] + b', "a": NaN}',
        lambda: raw[:-1] + b', "a": 1, "a": 2}',
        lambda: raw[:-1] + b', "a": "\\udfff"}',
        lambda: raw[:-1] + b', "a": ' + b"[" * 70 + b"]" * 70 + b"}",
        lambda: raw[:-1] + b', "a": -1e400}',
        lambda: raw[:cut] + b"\xff" + raw[cut:],
        lambda: raw.decode().encode(chance.choice(["utf-16", "utf-32", "utf-16-be"])),
        lambda: bytes(chance.randrange(128, 256) for _ in range(cut)),
    )
    return chance.choice(ways)()


def changed(chance: Random, value: Any) -> Any:
    """Return a JSON value with some parts replaced, dropped or added."""
    if isinstance(value, dict):
        made = {name: changed(chance, inner) for name, inner in value.items() if chance.random() > 0.1}
        if chance.random() < 0.1:
            made[str(chance.choice(NASTY))] = chance.choice(NASTY)
        return made
    return chance.choice(NASTY) if chance.random() < 0.3 else value


def send(tact: Api, method: str, path: str, raw: bytes, media: str = JSON) -> Answer:
    """Send a body and let nothing but a proper answer pass."""
    answer = tact.send(method, path, raw, {"content-type": media})
    assert answer.status < 500, (SEED, method, path, raw)
    if answer.status >= 400:
        assert answer.media == "application/problem+json", (SEED, method, path, raw)
        assert {"type", "detail"} <= answer.json.keys()
    return answer


def test_a_body_that_is_no_json_is_400_and_leaves_the_customer_that_it_names_alone(tact: Api) -> None:
    chance = Random(SEED)
    for _ in range(CALLS // 2):
        method, path, body = chance.choice(ROUTES_WITH_BODIES)
        raw = spoil(chance, json.dumps(named(body, WITNESS)).encode())
        assert send(tact, method, named(path, WITNESS), raw).status == 400, (SEED, raw)


def test_no_body_whatever_is_in_it_makes_a_5xx(tact: Api) -> None:
    chance = Random(SEED)
    for number in range(CALLS - CALLS // 2):
        method, path, body = chance.choice(ROUTES_WITH_BODIES)
        who = f"fuzzed-{number % 50}"
        value = changed(chance, named(body, who))
        raw = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode()
        media = NDJSON if path in ("/v1/events", "/v1/contacts/check") and chance.random() < 0.3 else JSON
        send(tact, method, named(path, who), raw, media)
        if number % 10 == 0:
            assert send(tact, "GET", customer(who), b"").status in (200, 404)
