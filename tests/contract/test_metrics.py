"""What happens is counted on /metrics, once, under names of the policy and never of a person."""

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.client import Api
from tests.contract.conftest import Fresh


def counted(tact: Api, deed: Callable[[], Any]) -> dict[str, float]:
    """Do something and return by how much each metric of Tact's own grew, `name{label values}`."""
    before = samples(tact)
    deed()
    grown = {name: value - before.get(name, 0) for name, value in samples(tact).items()}
    return {name: value for name, value in grown.items() if value}


def samples(tact: Api) -> dict[str, float]:
    text = tact.send("GET", "/metrics").raw.decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.name.startswith("tact_") and not one.name.endswith("_created"):
                found[f"{one.name}{{{','.join(dict(sorted(one.labels.items())).values())}}}"] = one.value
    return found


def test_a_decision_is_counted_by_what_came_of_it(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    grown = counted(tact, lambda: tact.decide(who, "text"))
    assert grown["tact_decisions_total{offer,}"] == 1
    assert grown["tact_commits_total{1}"] == 1
    asked = grown["tact_requests_total{/v1/decide,200}"]
    assert grown["tact_request_seconds_count{/v1/decide}"] == asked
    assert grown["tact_request_seconds_bucket{+Inf,/v1/decide}"] == asked
    assert 0 < grown["tact_request_seconds_sum{/v1/decide}"] < 10
    assert grown["tact_store_round_trips_total{}"] >= 2
    assert grown["tact_store_writes_total{}"] >= 1
    grown = counted(tact, lambda: tact.decide(who, "text"))
    assert grown["tact_decisions_total{none,contact_policy}"] == 1
    assert {name: value for name, value in grown.items() if name.startswith("tact_rule_refusals")} == {
        "tact_rule_refusals_total{decide,sms-gap}": 1,
        "tact_rule_refusals_total{decide,sms-offer}": 1,
    }


def test_a_preview_is_no_decision(tact: Api, fresh: Fresh) -> None:
    grown = counted(tact, lambda: tact.decide(fresh(), "text", preview=True))
    assert [name for name in grown if name.startswith(("tact_decisions", "tact_commits"))] == []


@pytest.mark.parametrize("reserve", [True, False])
def test_checks_are_counted_by_their_answer_and_the_rules_behind_a_no(
    tact: Api, fresh: Fresh, reserve: bool
) -> None:
    busy, free = fresh(), fresh()
    tact.reserve("sms", "service", busy)
    grown = counted(tact, lambda: tact.check("sms", "service", busy, free, reserve=reserve))
    assert grown["tact_checks_total{true}"] == 1
    assert grown["tact_checks_total{false}"] == 1
    assert grown["tact_rule_refusals_total{check,sms-gap}"] == 1


def test_a_confirm_that_is_refused_names_the_rule(tact: Api, fresh: Fresh) -> None:
    who = fresh()
    tact.grant(who)
    made = tact.reserve("email", "promotion", who)
    tact.put(f"/v1/customers/{who}/consent", {"marketing_email": "denied"})
    grown = counted(tact, lambda: tact.confirm(made))
    assert grown["tact_rule_refusals_total{confirm,consent}"] == 1


def test_a_contact_from_outside_that_breaks_a_rule_is_an_overrun(tact: Api, fresh: Fresh) -> None:
    said = {"customer_id": fresh(), "channel": "sms", "category": "service"}
    tact.post("/v1/contacts", said, 201)
    grown = counted(tact, lambda: tact.post("/v1/contacts", said, 201))
    assert grown["tact_overruns_total{sms-gap}"] == 1


def test_events_are_counted_as_accepted_or_rejected(tact: Api, fresh: Fresh) -> None:
    good, bad = {"type": "page_view", "customer_id": fresh()}, {"customer_id": fresh()}
    grown = counted(tact, lambda: tact.post("/v1/events", [good, bad, good], 202))
    assert grown["tact_events_total{accepted}"] == 2
    assert grown["tact_events_total{rejected}"] == 1
    grown = counted(tact, lambda: tact.stream("/v1/events", [good, b"no JSON"]))
    assert grown["tact_events_total{accepted}"] == 1
    assert grown["tact_events_total{rejected}"] == 1


def test_no_label_is_a_person(tact: Api, fresh: Fresh) -> None:
    who = fresh("somebody")
    tact.decide(who, "text")
    tact.check("sms", "service", who)
    tact.event(who, "page_view")
    assert who not in tact.send("GET", "/metrics").raw.decode()
