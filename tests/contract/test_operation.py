"""Operation over HTTP: probes, metrics, docs, and the problems that no route answers."""

from urllib.parse import quote

import pytest

from tests.contract.client import Api


def test_livez_needs_nothing(tact: Api) -> None:
    assert tact.call("GET", "/livez").status == 200


def test_readyz_names_each_dependency(tact: Api) -> None:
    said = tact.get("/readyz")
    assert said["status"] == "ready"
    assert said["dependencies"]["store"] == "ok"
    assert all(isinstance(state, str) for state in said["dependencies"].values())


def test_metrics_are_for_prometheus_and_name_no_person(tact: Api) -> None:
    tact.decide("private-person", "home")
    reply = tact.call("GET", "/metrics")
    assert (reply.status, reply.media) == (200, "text/plain")
    text = reply.raw.decode()
    assert "# TYPE" in text
    assert "/v1/decide" in text
    assert "private-person" not in text


def test_the_docs_are_a_page(tact: Api) -> None:
    reply = tact.call("GET", "/docs")
    assert (reply.status, reply.media) == (200, "text/html")


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/v1", "/v1/decide/", "/v1/customers", "/v1/customers/a/b/c", "/livez/"]
)
def test_no_such_route_is_a_problem(tact: Api, path: str) -> None:
    reply = tact.call("GET", path)
    assert (reply.status, reply.media) == (404, "application/problem+json")
    assert {"type", "detail"} <= reply.json.keys()


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/decide"), ("DELETE", "/v1/events"), ("POST", "/v1/customers/a"), ("GET", "/v1/contacts/a/confirm"),
     ("PUT", "/v1/policies/active"), ("POST", "/livez")],
)  # fmt: skip
def test_another_method_is_a_problem(tact: Api, method: str, path: str) -> None:
    reply = tact.call(method, path)
    assert (reply.status, reply.media) == (405, "application/problem+json")
    assert reply.headers["allow"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/livez"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/v1/policies/active"),
        ("GET", "/v1/policies/versions"), ("GET", "/v1/customers/a"), ("GET", "/v1/customers/a/decisions"),
        ("GET", "/v1/decisions/a"), ("GET", "/v1/quarantine"), ("GET", "/v1/facts"), ("POST", "/v1/decide"),
        ("POST", "/v1/contacts/check"), ("POST", "/v1/contacts/a/confirm"), ("POST", "/v1/contacts/a/release"),
        ("POST", "/v1/contacts/confirm"), ("POST", "/v1/contacts"), ("POST", "/v1/events"),
        ("DELETE", "/v1/customers/a"),
        ("PUT", "/v1/customers/a/consent"), ("PUT", "/v1/customers/a/profile"), ("POST", "/v1/identities/link"),
        ("POST", "/v1/identities/unlink"), ("POST", "/v1/policies/check"), ("POST", "/v1/policies/activate"),
        ("POST", "/v1/policies/rollback"), ("POST", "/v1/quarantine/replay"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("query", ["unknown=1", "=", "%FF=1", "a"])
def test_an_unknown_query_parameter_is_422_on_every_route(
    tact: Api, method: str, path: str, query: str
) -> None:
    reply = tact.call(method, f"{path}?{query}")
    assert (reply.status, reply.media) == (422, "application/problem+json")


@pytest.mark.parametrize(
    "limit", ["0", "1001", "-1", "+1", "1.0", "", "x", "1e2", "%D9%A3", "9" * 400, "1&limit=1"]
)
@pytest.mark.parametrize("path", ["/v1/customers/a/decisions", "/v1/quarantine"])
def test_a_limit_that_is_no_whole_number_in_its_range_is_422(tact: Api, path: str, limit: str) -> None:
    reply = tact.call("GET", f"{path}?limit={limit}")
    assert (reply.status, reply.media) == (422, "application/problem+json")


@pytest.mark.parametrize("after", ["9" * 20 + "-1", "1-" + "9" * 20, "x", "1", "-", "1-2-3", "٣-1", "(1-1"])
def test_an_entry_id_that_cannot_be_one_is_422(tact: Api, after: str) -> None:

    assert tact.call("GET", f"/v1/quarantine?after={quote(after)}").status == 422


def test_the_greatest_entry_id_has_nothing_after_it(tact: Api) -> None:
    assert tact.get("/v1/quarantine?after=9999999999999999999-9999999999999999999") == {"entries": []}
