"""The store stops answering, or dies: outbound is silent, inbound has its fallback, nothing is counted (G17).

SIGSTOP is the harder of the two: connections stay open and nothing answers. Whatever was refused meanwhile must
not be carried out once the store runs on.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loadtests.server import Running, running
from tests.conftest import is_gone
from tests.contract.client import Answer, Api, eventually

CHANNELS = """
channels:
  web: {kind: inbound}
  email: {kind: outbound}
placements:
  home: {channel: web, slots: 1, fallback: tips}
  corner: {channel: web, slots: 1}
  letter: {channel: email, slots: 1}
"""
OFFERS = """
categories: {promotion: {}, service: {}}
offers:
  - {id: boots, category: promotion, placements: [home, corner, letter], value: 5}
  - {id: tips, category: service, placements: [], value: 1, content: {title: "Dry feet"}}
"""
SANITY_S = 1.0  # the promise is 250 ms; a shared machine may pause us for longer than that


@pytest.fixture(scope="module")
def tact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("policies")
    files = {
        "policy.yaml": "policy: away\ntimezone: UTC\ncurrency: GBP\n",
        "channels.yaml": CHANNELS,
        "offers.yaml": OFFERS,
        "contact_policy.yaml": "caps: [{name: weekly, max: 1, per: 7d, when: {channel: email}}]\n",
        "features.yaml": "features: {views: {count: [page_view], within: 7d}}\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    with running("--policies", str(folder)) as tact:
        yield tact


@pytest.fixture
def api(tact: Running) -> Api:
    return Api(tact.port)


class Stopped:
    """The store of a running Tact while it does not answer."""

    def __init__(self, tact: Running) -> None:
        self.pid = tact.pids("valkey")[0]
        os.kill(self.pid, signal.SIGSTOP)
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            pass

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@pytest.fixture
def stopped(tact: Running, api: Api) -> Iterator[Stopped]:
    """The store, stopped; running again and ready when the test is over."""
    stopped = Stopped(tact)
    yield stopped
    stopped.resume()
    ready_again(api)


def ready_again(api: Api) -> None:
    eventually(lambda: api.call("GET", "/readyz").status, lambda status: status == 200)


def ask(api: Api, placement: str, customer_id: str = "c1") -> tuple[Answer, float]:
    """Decide, and say how long it took (s)."""
    started = time.perf_counter()
    answer = api.call("POST", "/v1/decide", {"customer_id": customer_id, "placement": placement})
    return answer, time.perf_counter() - started


def test_outbound_is_silent_within_the_deadline(api: Api, stopped: Stopped) -> None:
    answer, took_s = ask(api, "letter")
    assert answer.status == 200
    assert [answer.json[name] for name in ("action", "reason", "offers", "reservation")] == [
        "none",
        "state_unavailable",
        [],
        None,
    ]
    assert took_s < SANITY_S
    assert answer.json["took_ms"] < SANITY_S * 1000


def test_inbound_answers_the_placements_fallback_with_no_probability(api: Api, stopped: Stopped) -> None:
    answer, took_s = ask(api, "home")
    (offer,) = answer.json["offers"]
    assert (answer.status, answer.json["action"], answer.json["reason"]) == (
        200,
        "offer",
        "state_unavailable",
    )
    assert (offer["offer"], offer["content"]) == ("tips", {"title": "Dry feet"})
    assert (offer["selection_probability"], offer["propensity"]) == (None, None)
    assert took_s < SANITY_S
    counted = api.send("GET", "/metrics").raw
    assert b'tact_decisions_total{action="offer",reason="state_unavailable"}' in counted


def test_inbound_without_a_fallback_is_silent(api: Api, stopped: Stopped) -> None:
    answer, took_s = ask(api, "corner")
    assert (answer.status, answer.json["action"], answer.json["reason"]) == (200, "none", "state_unavailable")
    assert took_s < SANITY_S


def test_what_needs_the_store_is_503_with_a_time_to_try_again(api: Api, tact: Running) -> None:
    kept, given_back = (api.reserve("email", "promotion", customer_id) for customer_id in ("keen", "cool"))
    stopped = Stopped(tact)
    try:
        alive, ready, *answers = at_once(
            lambda: api.call("GET", "/livez"),
            lambda: api.call("GET", "/readyz"),
            lambda: api.call("POST", "/v1/contacts/check", check_of("c2")),
            lambda: api.confirm(kept),
            lambda: api.release(given_back),
            lambda: api.call("POST", "/v1/contacts", contact_of("c4")),
            lambda: api.call("POST", "/v1/events", {"type": "page_view", "customer_id": "c2"}),
            lambda: api.call("GET", "/v1/customers/c5"),
        )
    finally:
        stopped.resume()
    for answer in answers:
        assert (answer.status, answer.media) == (503, "application/problem+json"), answer
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json["status"] == 503
    assert alive.status == 200
    assert (ready.status, ready.json["status"]) == (503, "degraded")
    assert ready.json["dependencies"]["store"].startswith("away")
    ready_again(api)
    assert api.confirm(kept).json["state"] == "confirmed"
    assert api.release(given_back).json["state"] == "released"


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Make the calls side by side: each waits for the store until its own deadline."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def check_of(customer_id: str) -> dict[str, object]:
    return {"channel": "email", "category": "promotion", "customer_ids": [customer_id]}


def contact_of(customer_id: str) -> dict[str, object]:
    return {"customer_id": customer_id, "channel": "email", "category": "promotion", "contact_id": "x-1"}


def test_nothing_that_was_refused_is_carried_out_later(api: Api, tact: Running) -> None:
    api.event("quiet", "page_view")
    known = eventually(lambda: api.call("GET", "/v1/customers/quiet"), lambda reply: reply.status == 200)
    before = known.json
    assert before["features"]["views"]["value"] == 1
    stopped = Stopped(tact)
    try:
        at_once(
            *(partial(ask, api, placement, "quiet") for placement in ("letter", "home", "corner")),
            lambda: api.call("POST", "/v1/contacts/check", check_of("quiet")),
            lambda: api.call("POST", "/v1/events", {"type": "page_view", "customer_id": "quiet"}),
            lambda: api.call("POST", "/v1/contacts", contact_of("quiet")),
        )
    finally:
        stopped.resume()
    ready_again(api)
    api.event("after", "page_view")
    eventually(lambda: api.call("GET", "/v1/customers/after").status, lambda status: status == 200)
    after = api.customer("quiet")
    assert after["contacts"] == before["contacts"] == []
    assert after["features"] == before["features"]
    assert api.get("/v1/customers/quiet/decisions")["decisions"] == []
    assert api.decide("quiet", "letter")["action"] == "offer"


def test_a_killed_store_is_started_again_with_everything_acknowledged(api: Api, tact: Running) -> None:
    sent = api.reserve("email", "promotion", "reader")
    assert api.confirm(sent).json["state"] == "confirmed"
    api.event("reader", "page_view")
    victim = tact.pids("valkey")[0]
    os.kill(victim, signal.SIGKILL)
    assert is_gone(victim)
    first, took_s = ask(api, "letter", "reader")
    assert first.status == 200
    assert took_s < SANITY_S
    assert first.json["action"] == "none"
    assert first.json["reason"] in ("state_unavailable", "contact_policy")
    ready_again(api)
    assert tact.pids("valkey") != [victim]
    assert api.decide("reader", "letter")["reason"] == "contact_policy"
    assert [contact["state"] for contact in api.customer("reader")["contacts"]] == ["confirmed"]
    eventually(lambda: api.customer("reader"), lambda c: c["features"]["views"]["value"] == 1)
    assert api.decide("c9", "home")["reason"] is None
