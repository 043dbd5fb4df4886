"""What callers send by mistake or malice: the exact 4xx as a problem that names the fix, and nothing changes.

400 for what cannot be parsed, 415 for media types, 413 for size, 422 for the rest. One customer stands witness
to all of it.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.client import JSON, NDJSON, Answer, Api, customer, eventually
from tests.contract.conftest import Fresh

WITNESS = "witness"
DECIDE = {"customer_id": WITNESS, "placement": "home"}
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/decide"): DECIDE,
    ("POST", "/v1/contacts/check"): {"channel": "push", "category": "service", "customer_ids": [WITNESS]},
    ("POST", "/v1/contacts/confirm"): {"reservation_ids": ["A" * 28]},
    ("POST", "/v1/contacts"): {"customer_id": WITNESS, "channel": "push", "category": "service"},
    ("POST", "/v1/events"): {"type": "page_view", "customer_id": WITNESS},
    ("PUT", f"/v1/customers/{WITNESS}/consent"): {"marketing_email": "denied"},
    ("PUT", f"/v1/customers/{WITNESS}/profile"): {"tier": "lost"},
    ("POST", "/v1/identities/link"): {"customer_id": WITNESS, "kind": "cookie", "value": "w"},
    ("POST", "/v1/identities/unlink"): {"customer_id": WITNESS, "kind": "cookie", "value": "w"},
    ("POST", "/v1/policies/check"): {"files": {"policy.yaml": "policy: x"}},
    ("POST", "/v1/policies/activate"): {"files": {"policy.yaml": "policy: x"}},
}
STREAMS = {"/v1/contacts/check", "/v1/events"}
ROUTES = [pytest.param(method, path, id=f"{method} {path}") for method, path in BODIES]


@pytest.fixture(scope="module")
def before(tact: Api) -> Any:
    """The witness as it was."""
    tact.grant(WITNESS)
    tact.put(f"{customer(WITNESS)}/profile", {"tier": "gold", "owned": ["boots"]})
    tact.event(WITNESS, "page_view")
    return eventually(
        lambda: tact.customer(WITNESS), lambda known: known["features"]["views_7d"]["value"] == 1
    )


@pytest.fixture(autouse=True)
def unchanged(tact: Api, before: Any) -> Iterator[None]:
    """Nothing that is refused here may leave a trace."""
    policy = tact.get("/v1/policies/active")["policy_version"]
    yield
    known = tact.customer(WITNESS)
    assert known == before
    assert tact.get("/v1/policies/active")["policy_version"] == policy


def problem(answer: Answer, status: int) -> Any:
    """Return the problem, whole."""
    assert (answer.status, answer.media) == (status, "application/problem+json"), answer
    said = answer.json
    assert {"type", "title", "status", "detail"} <= said.keys()
    assert said["status"] == status
    assert said["type"].startswith("urn:tact:problem:")
    assert said["detail"]
    for error in said.get("errors", []):
        assert {"detail"} <= error.keys()
    return said


# ---------------------------------------------------------------------- 400: what cannot be parsed


def nested(depth: int) -> bytes:
    """Return JSON nested so deep."""
    return b'{"a":' * (depth - 1) + b"[1]" + b"}" * (depth - 1)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b" ", b"{", b"nonsense", b'{"a": 1} x', b"{'a': 1}", b'{"a": 1,}', b"[1 2]", b"\x00"),
        *(b'{"a": 1, "a": 2}', b'{"x": {"a": 1, "\\u0061": 1}}'),
        *(b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": -1e999}'),
        *(b'{"a": "\\ud800"}', b'{"\\udc00": 1}', b'{"a": "\xff"}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\n"}'),
        *(b'{"a": 01}', b'{"a": 0x1}', b'{"a": +1}', b'{"a": .5}', b'{"a": ' + b"9" * 5_000 + b"}"),
        *(b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16"), '{"a": 1}'.encode("utf-32")),
        *(nested(65), b"[" * 100_000, b'{"a":' * 30_000),
    ],
    ids=lambda raw: repr(raw[:16]),
)
def test_what_cannot_be_parsed_is_400(tact: Api, method: str, path: str, raw: bytes) -> None:
    problem(tact.send(method, path, raw, {"content-type": JSON}), 400)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_64_levels_can_be_parsed_so_their_fault_is_422(tact: Api, method: str, path: str) -> None:
    problem(tact.send(method, path, nested(64), {"content-type": JSON}), 422)


# ---------------------------------------------------------------------- 415: media types and encodings


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "media",
    ["text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "application/json; charset=latin-1", "application/json-patch+json", "json", "*/*", "text/json"],
)  # fmt: skip
def test_other_media_types_are_415(tact: Api, method: str, path: str, media: str) -> None:
    body = json.dumps(BODIES[method, path]).encode()
    problem(tact.send(method, path, body, {"content-type": media}), 415)


@pytest.mark.parametrize(("method", "path"), [route for route in BODIES if route[1] not in STREAMS])
def test_ndjson_where_no_stream_is_taken_is_415(tact: Api, method: str, path: str) -> None:
    body = json.dumps(BODIES[method, path]).encode()
    problem(tact.send(method, path, body, {"content-type": NDJSON}), 415)


@pytest.mark.parametrize("end", ["confirm", "release"])
def test_a_body_of_another_media_type_is_415_even_where_none_is_needed(tact: Api, end: str) -> None:
    path = f"/v1/contacts/{'A' * 28}/{end}"
    problem(tact.send("POST", path, b"hello", {"content-type": "text/plain"}), 415)
    problem(tact.send("POST", path, b"{", {}), 400)
    problem(tact.call("POST", path, {"a": 1}), 422)
    problem(tact.call("POST", path, {}), 404)


@pytest.mark.parametrize(
    "media", [None, "application/json", 'Application/JSON ; Charset="UTF-8"', "application/json;"]
)
def test_json_by_any_spelling_is_json(tact: Api, media: str | None) -> None:
    body = json.dumps(DECIDE | {"preview": True}).encode()
    assert tact.send("POST", "/v1/decide", body, {"content-type": media} if media else {}).status == 200


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "nonsense"])
def test_an_unknown_content_encoding_is_415(tact: Api, encoding: str) -> None:
    body = json.dumps(DECIDE).encode()
    problem(tact.send("POST", "/v1/decide", body, {"content-encoding": encoding}), 415)


@pytest.mark.parametrize("name", ["content-type", "idempotency-key"])
def test_a_header_that_comes_twice_is_422(tact: Api, name: str) -> None:
    body = json.dumps(DECIDE)
    value = JSON if name == "content-type" else "k"
    head = (
        f"POST /v1/decide HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n" + f"{name}: {value}\r\n" * 2
    )
    problem(tact.raw(f"{head}\r\n{body}".encode()), 422)


# ---------------------------------------------------------------------- 413: size, also after inflating


LIMITS = {"/v1/decide": 256 << 10} | {path: 10 << 20 for _, path in BODIES if path != "/v1/decide"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_byte_over_the_limit_is_413_as_it_is_packed_and_in_pieces(
    tact: Api, method: str, path: str
) -> None:
    whole = json.dumps(BODIES[method, path]).encode().ljust(LIMITS[path] + 1)
    assert len(whole) == LIMITS[path] + 1
    problem(tact.send(method, path, whole, {"content-type": JSON}), 413)
    packed = {"content-type": JSON, "content-encoding": "gzip"}
    problem(tact.send(method, path, gzip.compress(whole, 1), packed), 413)
    pieces = (b"%x\r\n%b\r\n" % (len(part), part) for part in (whole[:70_000], whole[70_000:]))
    head = f"{method} {path} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    problem(tact.raw(head + b"".join(pieces) + b"0\r\n\r\n"), 413)


def test_a_body_of_exactly_the_limit_is_taken(tact: Api) -> None:
    decide = json.dumps(DECIDE | {"preview": True}).encode().ljust(256 << 10)
    check = json.dumps(BODIES["POST", "/v1/contacts/check"] | {"reserve": False}).encode().ljust(10 << 20)
    for path, body in (("/v1/decide", decide), ("/v1/contacts/check", check)):
        assert tact.send("POST", path, body, {"content-type": JSON}).status == 200
        packed = {"content-type": JSON, "content-encoding": "gzip"}
        assert tact.send("POST", path, gzip.compress(body, 1), packed).status == 200


def test_a_bomb_is_413_long_before_it_is_inflated(tact: Api) -> None:
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(500)) + bomb.flush()
    for path in ("/v1/decide", "/v1/events"):
        problem(tact.send("POST", path, packed, {"content-type": JSON, "content-encoding": "gzip"}), 413)


@pytest.mark.parametrize(
    "spoil", [lambda p: p[:-4], lambda p: p[:10], lambda p: b"", lambda p: p + b"x", lambda p: b"x" + p]
)
@pytest.mark.parametrize("media", [JSON, NDJSON])
def test_a_packed_body_that_is_damaged_is_400(tact: Api, media: str, spoil: Any) -> None:
    packed = gzip.compress(json.dumps({"type": "nonsense"}).encode())
    headers = {"content-type": media, "content-encoding": "gzip"}
    problem(tact.send("POST", "/v1/events", spoil(packed), headers), 400)


@pytest.mark.parametrize(
    "pack", [gzip.compress, zlib.compress, lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])]
)
def test_a_packed_body_counts_as_what_is_in_it(tact: Api, fresh: Fresh, pack: Any) -> None:
    who = fresh()
    body = pack(json.dumps(DECIDE | {"customer_id": who}).encode())
    encoding = "deflate" if body[0] == 0x78 else "gzip"
    answer = tact.send("POST", "/v1/decide", body, {"content-encoding": encoding})
    assert (answer.status, answer.json["customer_id"]) == (200, who)


def test_packed_parts_that_follow_each_other_are_all_read(tact: Api, fresh: Fresh) -> None:
    line = json.dumps({"type": "page_view", "customer_id": fresh()}).encode() + b"\n"
    headers = {"content-type": NDJSON, "content-encoding": "gzip"}
    answer = tact.send("POST", "/v1/events", gzip.compress(line) + gzip.compress(line * 2), headers)
    assert answer.json["accepted"] == 3


def test_a_line_of_64_kb_is_the_longest(tact: Api, fresh: Fresh) -> None:
    line = json.dumps({"type": "page_view", "customer_id": fresh()}).encode()
    answer = tact.stream("/v1/events", [line.ljust(65_536), line.ljust(65_537), line])
    assert answer.json["accepted"] == 2
    assert [entry["index"] for entry in answer.json["rejected"]] == [1]


# ---------------------------------------------------------------------- 422: the rest


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"1", b"true", b"null", b"{}"])
def test_another_kind_of_value_is_422(tact: Api, method: str, path: str, raw: bytes) -> None:
    assert problem(tact.send(method, path, raw, {"content-type": JSON}), 422)["errors"]


CLOSED = [route for route in BODIES if not route[1].endswith(("/consent", "/profile"))]


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("name", ["surprise", "Customer_id", "a/b~c", ""])
def test_an_unknown_field_is_422_at_its_place(tact: Api, method: str, path: str, name: str) -> None:
    errors = problem(tact.call(method, path, BODIES[method, path] | {name: 1}), 422)["errors"]
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    assert errors[0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        (method, path, field)
        for (method, path), body in BODIES.items()
        for field in body
        if path.startswith(("/v1/contacts", "/v1/identities", "/v1/events")) and field != "category"
    ],
)
@pytest.mark.parametrize("value", [None, 1, 1.5, True, {}, [], "", " ", "a\x00", "a\x7f", "x" * 129])
def test_a_field_of_another_kind_is_422(tact: Api, method: str, path: str, field: str, value: Any) -> None:
    if field in ("customer_ids", "reservation_ids"):
        value = [value]
    errors = problem(tact.call(method, path, BODIES[method, path] | {field: value}), 422)["errors"]
    assert errors[0]["pointer"].split("/")[1] == field


WRONG: dict[str, tuple[Any, ...]] = {
    "limit": (0, -1, 101, 1.0, True, "1", 10**30, [], {}),
    "preview": (0, 1, "true", None, []),
    "explain": (0, 1, "true", None, []),
    "exclude": ("boots", [1], [""], [None], {}, None, ["x"] * 1_001),
    "context": ([], "x", None, {"a": {}}, {"a": [1]}, {"a": [[]]}, {"a": 2**63}, {"a": 10**30}),
    "placement": ("nowhere", "", " ", 1, None, True, "x" * 129),
    "customer_id": ("", " ", "\t", "a\x1f", 1, True, [], "x" * 129),
    "identities": ({"cookie": "x"}, {}, [], "x", {"": "x"}, {"cookie": ""}, {"cookie": 1}),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in WRONG for value in WRONG[field]),
        ("context", dict.fromkeys(map(str, range(65)))),
    ],
)
def test_a_decide_coerces_nothing(tact: Api, field: str, value: Any) -> None:
    errors = problem(tact.call("POST", "/v1/decide", DECIDE | {field: value}), 422)["errors"]
    pointer = errors[0]["pointer"]
    assert pointer.split("/")[1] == ("customer_id" if value == {"cookie": "x"} else field)


@pytest.mark.parametrize(
    "body", [{"placement": "home"}, {"placement": "home", "customer_id": None}, {"customer_id": WITNESS}]
)
def test_a_decide_needs_somebody_and_a_place(tact: Api, body: Any) -> None:
    problem(tact.call("POST", "/v1/decide", body), 422)


@pytest.mark.parametrize(
    "at", [9_223_372_036_854_775_807, -9_223_372_036_854_775_808, 1e300, -0.0, "é👟", None, [], True]
)
def test_any_scalar_of_64_bits_is_a_context_and_is_read_back(tact: Api, fresh: Fresh, at: Any) -> None:
    made = tact.decide(fresh(), "home", context={"a": at})["decision_id"]
    assert tact.get(f"/v1/decisions/{made}")["request"]["context"] == {"a": at}


@pytest.mark.parametrize("who", ["é", "a b", "a\u2028b", "👟", "\u200b"])
def test_ids_of_any_other_characters_are_taken(tact: Api, who: str) -> None:
    assert tact.decide(who, "home", preview=True)["customer_id"] == who


@pytest.mark.parametrize(
    "spoiled", [b"GET / HTTP/9\r\n\r\n", b"NONSENSE\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: t\r\n\r\n"]
)
def test_what_is_not_http_is_a_problem_too(tact: Api, spoiled: bytes) -> None:
    answer = tact.raw(spoiled)
    assert (answer.status, answer.media) == (400, "application/problem+json")
    assert {"type", "detail"} <= answer.json.keys()


def test_the_witness_would_notice(tact: Api, before: Any) -> None:
    """The negative control: one accepted change is seen at once, and undone."""
    changed = tact.put(f"{customer(WITNESS)}/profile", {"tier": "lost"})
    assert changed != before
    assert tact.put(f"{customer(WITNESS)}/profile", {"tier": "gold"}) == before
