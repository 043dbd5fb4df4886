"""Policies over HTTP: checked, activated for all at once, listed, rolled back."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from tests.contract.client import Api, customer, parse, rfc
from tests.contract.conftest import Fresh
from tests.contract.shop import policy_files

ERROR_KEYS = {"file", "line", "field", "detail", "fix"}


@pytest.fixture
def own(tact: Api, started: datetime) -> Iterator[dict[str, str]]:
    """The tests' policy set, made the active one again afterwards."""
    yield policy_files(started)
    tact.post("/v1/policies/activate", {"files": policy_files(started)})


def active(tact: Api) -> str:
    """Return the active version."""
    version: str = tact.get("/v1/policies/active")["policy_version"]
    return version


def test_the_version_is_the_hash_of_the_contents_and_check_tells_it(tact: Api, own: dict[str, str]) -> None:
    said = tact.post("/v1/policies/check", {"files": own})
    assert said.keys() == {"policy_version", "warnings"}
    assert said["policy_version"] == active(tact)
    assert all(warning.keys() == ERROR_KEYS for warning in said["warnings"])
    other = tact.post("/v1/policies/check", {"files": own | {"policy.yaml": own["policy.yaml"] + "# x\n"}})
    assert other["policy_version"] != said["policy_version"]
    assert active(tact) == said["policy_version"]


def test_every_mistake_at_once_with_file_line_field_detail_and_fix(tact: Api, own: dict[str, str]) -> None:
    bad = own | {
        "offers.yaml": own["offers.yaml"].replace("category: service", "category: nothing"),
        "contact_policy.yaml": own["contact_policy.yaml"].replace("max: 3, per: 1h", "max: 0, per: 1h"),
    }
    before = tact.get("/v1/policies/versions")
    for route in ("check", "activate"):
        refused = tact.call("POST", f"/v1/policies/{route}", {"files": bad})
        assert (refused.status, refused.media) == (422, "application/problem+json")
        errors = refused.json["errors"]
        assert all(error.keys() == ERROR_KEYS for error in errors)
        assert {error["file"] for error in errors} == {"offers.yaml", "contact_policy.yaml"}
        cap = next(error for error in errors if error["file"] == "contact_policy.yaml")
        lines = bad["contact_policy.yaml"].splitlines()
        assert cap["line"] == next(n for n, line in enumerate(lines, 1) if "max: 0" in line)
    assert tact.get("/v1/policies/versions") == before


@pytest.mark.parametrize(
    "files",
    [{}, [], "policy.yaml", {"policy.yaml": 1}, {"policy.yaml": None}, {"policy.yaml": "policy: x"},
     {"../policy.yaml": "policy: x"}, {"policy.yaml": "a: &a [*a]"}, {"policy.yaml": "[" * 100},
     {"policy.yaml": "policy: !!python/object:os.system x"}],
)  # fmt: skip
def test_what_is_no_policy_set_is_422(tact: Api, files: object) -> None:
    before = active(tact)
    for route in ("check", "activate"):
        refused = tact.call("POST", f"/v1/policies/{route}", {"files": files})
        assert (refused.status, refused.media) == (422, "application/problem+json")
        assert refused.json["errors"]
    assert active(tact) == before


def test_an_activation_is_named_by_the_very_next_answers_and_can_be_rolled_back(
    tact: Api, own: dict[str, str], fresh: Fresh
) -> None:
    before = active(tact)
    changed = own | {"offers.yaml": own["offers.yaml"].replace("value: 10", "value: 11")}
    done = tact.post("/v1/policies/activate", {"files": changed})
    assert done.keys() == {"policy_version", "previous", "activated_at"}
    assert done["previous"] == before
    parse(done["activated_at"])
    answer = tact.decide(fresh(), "till_once")
    assert answer["policy_version"] == done["policy_version"] == active(tact)
    assert answer["offers"][0]["value"] == 11
    check = {"channel": "post", "category": "service", "customer_ids": [fresh()]}
    assert tact.post("/v1/contacts/check", check)["policy_version"] == done["policy_version"]
    versions = tact.get("/v1/policies/versions")["versions"]
    assert all(entry.keys() == {"policy_version", "activated_at", "active"} for entry in versions)
    assert [entry["policy_version"] for entry in versions[:2]] == [done["policy_version"], before]
    assert [entry["active"] for entry in versions] == [True] + [False] * (len(versions) - 1)
    back = tact.post("/v1/policies/rollback")
    assert back.keys() == {"policy_version", "previous", "activated_at"}
    assert (back["policy_version"], back["previous"]) == (before, done["policy_version"])
    assert active(tact) == before
    assert tact.decide(fresh(), "till_once")["policy_version"] == before


def test_a_decision_keeps_the_policy_that_made_it(tact: Api, own: dict[str, str], fresh: Fresh) -> None:
    answer = tact.decide(fresh(), "home", explain=True)
    changed = own["offers.yaml"].replace("id: boots", "id: shoes")
    tact.post("/v1/policies/activate", {"files": own | {"offers.yaml": changed}})
    record = tact.get(f"/v1/decisions/{answer['decision_id']}")
    assert record["policy_version"] == answer["policy_version"]
    assert record["candidates"] == answer["trace"]
    assert record["offers"] == answer["offers"]


def test_a_changed_rule_judges_the_contacts_of_before(
    tact: Api, own: dict[str, str], fresh: Fresh, started: datetime
) -> None:
    who = fresh()
    body = {"customer_id": who, "channel": "post", "category": "service"}
    at = started - timedelta(hours=2)
    tact.post("/v1/contacts", body | {"occurred_at": rfc(at)}, 201)
    assert tact.check("post", "service", who, reserve=False)[0]["allowed"]
    caps = own["contact_policy.yaml"].replace(
        "caps:\n", "caps:\n  - {name: new, gap: 3h, when: {channel: post}}\n"
    )
    tact.post("/v1/policies/activate", {"files": own | {"contact_policy.yaml": caps}})
    (no,) = tact.check("post", "service", who, reserve=False)
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    assert [(r["rule"], r["eligible_at"]) for r in no["reasons"]] == [("new", rfc(at + timedelta(hours=3)))]


def test_the_control_group_gets_nothing_before_anything_is_judged(
    tact: Api, own: dict[str, str], fresh: Fresh
) -> None:
    policy = own["policy.yaml"] + "groups: {control: 100%}\n"
    tact.post("/v1/policies/activate", {"files": own | {"policy.yaml": policy}})
    who = fresh()
    answer = tact.decide(who, "home", explain=True)
    assert (answer["action"], answer["reason"], answer["offers"]) == ("none", "control_group", [])
    assert {fate["reason"] for fate in answer["trace"]} == {"control_group"}
    assert len(answer["trace"]) == 4
    tact.put(f"{customer(who)}/profile", {"tier": "gold"})
    assert tact.customer(who)["groups"]["control"] is True


def test_activating_what_is_active_changes_nothing(tact: Api, own: dict[str, str]) -> None:
    before = tact.get("/v1/policies/versions")
    done = tact.post("/v1/policies/activate", {"files": own})
    assert done["policy_version"] == active(tact)
    assert tact.get("/v1/policies/versions") == before
