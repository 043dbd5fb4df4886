"""Test cases of a policy set become values, or problems with file and line."""

# ruff: noqa: E501  # a row of a table is one case, and reads best as one line

from pathlib import Path

import pytest

import policies
from features.facts import Contact, Item
from policies.cases import Check, Decide, parse_cases
from policies.loader import load_dir
from policies.model import PolicyError, PolicySet, Problem

RETAIL = Path(policies.__file__).parent / "retail"
NOON = 1_795_262_400_000  # 2026-11-21T12:00:00Z


@pytest.fixture(scope="module")
def retail() -> PolicySet:
    return load_dir(RETAIL).policy


CASE = """\
- name: a case
  now: 2026-11-21T12:00:00Z
  customer: {CUSTOMER}
  ask: {ASK}
  expect: {EXPECT}
"""


def text_of(
    customer: str = "", ask: str = "check: {channel: email, category: service}", expect: str = "allowed: true"
) -> str:
    return CASE.replace("CUSTOMER", customer).replace("ASK", ask).replace("EXPECT", expect)


def problems_of(retail: PolicySet, text: str) -> list[Problem]:
    with pytest.raises(PolicyError) as caught:
        parse_cases({"more.yaml": text}, retail)
    return caught.value.problems


def test_the_example_has_cases_of_every_kind() -> None:
    cases = load_dir(RETAIL).cases
    assert len(cases) >= 12
    assert {type(case.ask) for case in cases} == {Check, Decide}
    assert len({case.name for case in cases}) == len(cases)


def test_a_case_keeps_where_it_stands(retail: PolicySet) -> None:
    first, second = parse_cases({"more.yaml": text_of() + text_of()}, retail)
    assert (first.file, first.line, second.line) == ("more.yaml", 1, 6)


def test_a_whole_situation_becomes_values(retail: PolicySet) -> None:
    customer = """
    timezone: Europe/Paris
    consent: {marketing_email: granted, marketing_call: denied}
    profile: {owned: [boots], tier: null, household: 3, app_user: true, open_cases: 2}
    features: {views_7d: 4, spend_30d: 12, interests: [ski], last_category: null}
    groups: {random: true}
    answers: {shopping-for: family}
    events:
    - {type: x_visit, occurred_at: 2026-11-20T10:00:00Z, properties: {n: 1, when: "2026-11-20"}}
    - {type: reject, offer: parka}
    contacts:
    - {at: 2026-11-20T10:00:00.250Z, channel: email, offer: parka}
    - {at: 2026-11-21T11:59:00Z, channel: call, state: reserved, expires_at: 2026-11-21T12:30:00Z,
       items: [{category: service}, {offer: how-was-it, category: promotion}]}
  """
    text = text_of().replace("  customer: {CUSTOMER}", "").replace("{}", customer)
    (case,) = parse_cases({"more.yaml": text}, retail)
    who = case.customer
    assert case.now == NOON
    assert who.timezone == "Europe/Paris"
    assert who.consent == {"marketing_email": "granted", "marketing_call": "denied"}
    assert who.profile == {
        "owned": ("boots",),
        "tier": None,
        "household": 3.0,
        "app_user": True,
        "open_cases": 2,
    }
    assert who.features == {"views_7d": 4, "spend_30d": 12.0, "interests": ("ski",), "last_category": None}
    assert (who.control, who.random, who.answers) == (False, True, {"shopping-for": "family"})
    assert who.events == (
        {
            "type": "x_visit",
            "occurred_at": "2026-11-20T10:00:00Z",
            "properties": {"n": 1, "when": "2026-11-20"},
        },
        {"type": "reject", "offer": "parka"},
    )
    assert who.contacts == (
        Contact("case-0", NOON - 26 * 3_600_000 + 250, "email", (Item("parka", "promotion"),)),
        Contact(
            "case-1",
            NOON - 60_000,
            "call",
            (Item(None, "service"), Item("how-was-it", "promotion")),
            "reserved",
            NOON + 1_800_000,
        ),
    )


def test_questions_and_answers_become_values(retail: PolicySet) -> None:
    decide = "decide: {placement: newsletter, limit: 2, exclude: [parka], context: {page: /x, n: 1}, explain: true}"
    expect = "action: none, reason: null, offers: [], rules: [consent], eligible_at: 2026-11-22T12:00:00Z"
    text = text_of(ask=decide, expect=expect) + text_of(ask="check: {channel: email, offer: parka}")
    first, second = parse_cases({"more.yaml": text}, retail)
    assert first.ask == Decide(
        placement="newsletter", limit=2, exclude=("parka",), context={"page": "/x", "n": 1}, explain=True
    )
    assert first.expect == {
        "action": "none",
        "reason": None,
        "offers": [],
        "rules": ["consent"],
        "eligible_at": "2026-11-22T12:00:00Z",
    }
    assert second.ask == Check(channel="email", category="promotion", offer="parka")


def test_what_is_spent_and_used_is_said_beside_the_customer(retail: PolicySet) -> None:
    text = text_of() + "  budgets: {winter-boots: 4999.50}\n  capacities: {call: 400}\n"
    (case,) = parse_cases({"more.yaml": text}, retail)
    assert (case.budgets, case.capacities) == ({"winter-boots": 4_999_500_000}, {"call": 400})


@pytest.mark.parametrize(
    ("customer", "field", "detail"),
    [
        ("timezone: Europe/Londn", "customer.timezone", "time zone"),
        ("zone: Europe/London", "customer.zone", "unknown key"),
        ("consent: {marketing_email: yes}", "customer.consent.marketing_email", "true or false"),
        ("consent: {marketing_email: maybe}", "customer.consent.marketing_email", "not a consent"),
        ("profile: {ownd: []}", "customer.profile.ownd", "unknown profile field"),
        ("profile: {owned: boots}", "customer.profile.owned", "a list"),
        ("profile: {open_cases: -1}", "customer.profile.open_cases", "at least 0"),
        ("features: {views: 1}", "customer.features.views", "unknown feature"),
        ("features: {spend_30d: lots}", "customer.features.spend_30d", "a number"),
        ("answers: {shopping: family}", "customer.answers.shopping", "unknown question"),
        ("groups: {holdout: true}", "customer.groups.holdout", "unknown key"),
        ("events: [{type: complained}]", "customer.events[0].type", "event type"),
        ("events: [{occurred_at: 2026-11-20T10:00:00Z}]", "customer.events[0].type", "missing"),
        ("events: [{type: click, occurred_at: 2026-11-21T12:00:01Z}]", "customer.events[0].occurred_at", "later"),
        ("events: [{type: click, occurred_at: 2026-11-21T12:00:00+01:00}]", "customer.events[0].occurred_at", "UTC"),
        ("events: [{type: click, at: 2026-11-20T10:00:00Z}]", "customer.events[0].at", "unknown key"),
        ("events: [{type: click, offer: prka}]", "customer.events[0].offer", "unknown offer"),
        ("contacts: [{channel: email, category: service}]", "customer.contacts[0].at", "missing"),
        ("contacts: [{at: 2026-11-21T13:00:00Z, channel: email, category: service}]", "customer.contacts[0].at", "later"),
        ("contacts: [{at: 2026-11-20T13:00:00Z, channel: email}]", "customer.contacts[0]", "missing"),
        ("contacts: [{at: 2026-11-20T13:00:00Z, channel: emil, category: service}]", "customer.contacts[0].channel", "emil"),
        ("contacts: [{at: 2026-11-20T13:00:00Z, channel: email, category: service, state: reserved}]", "customer.contacts[0]", "expires_at"),
        ("contacts: [{at: 2026-11-20T13:00:00Z, channel: email, category: service, expires_at: 2026-11-21T13:00:00Z}]", "customer.contacts[0].expires_at", "reservation"),
        ("contacts: [{at: 2026-11-20T13:00:00Z, channel: email, category: service, state: sent}]", "customer.contacts[0].state", "state"),
        ("contacts: [{at: 2026-11-20T13:00:00Z, channel: email, items: []}]", "customer.contacts[0].items", "empty"),
        ("contacts: [{at: 2026-11-20T13:00:00Z, channel: email, offer: parka, items: [{offer: parka}]}]", "customer.contacts[0].offer", "items"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_customer_is_one_problem(
    retail: PolicySet, customer: str, field: str, detail: str
) -> None:
    (problem,) = problems_of(retail, text_of(customer))
    assert (problem.file, problem.line, problem.field) == ("more.yaml", 3, f"[0].{field}")
    assert detail in problem.detail


@pytest.mark.parametrize(
    "mistake",
    [
        ("", "allowed: true", 4, "ask", "nothing is asked"),
        ("decid: {placement: newsletter}", "allowed: true", 4, "ask.decid", "unknown key"),
        ("decide: {placement: newsletter}, check: {channel: email}", "action: none", 4, "ask", "one thing"),
        ("decide: {placement: newsletter, limit: 0}", "action: none", 4, "ask.decide.limit", "at least 1"),
        ("decide: {placement: newsletter, exclude: [prka]}", "action: none", 4, "ask.decide.exclude[0]", "prka"),
        ("decide: {placement: newsletter, context: [a]}", "action: none", 4, "ask.decide.context", "a mapping"),
        ("check: {channel: email}", "allowed: true", 4, "ask.check", "missing"),
        ("check: {channel: email, category: service, offer: parka}", "allowed: true", 4, "ask.check.category", "promotion"),
        ("check: {channel: email, category: service}", "", 5, "expect", "nothing is expected"),
        ("check: {channel: email, category: service}", "action: none", 5, "expect.action", "unknown key"),
        ("check: {channel: email, category: service}", "allowed: maybe", 5, "expect.allowed", "true or false"),
        ("check: {channel: email, category: service}", "rules: any-daily", 5, "expect.rules", "a list"),
        ("check: {channel: email, category: service}", "eligible_at: tomorrow", 5, "expect.eligible_at", "UTC"),
        ("decide: {placement: newsletter}", "action: nothing", 5, "expect.action", "not an action"),
        ("decide: {placement: newsletter}", "offers: [parkas]", 5, "expect.offers[0]", "unknown offer"),
    ],
)  # fmt: skip
def test_a_mistake_in_question_or_answer_is_one_problem(
    retail: PolicySet, mistake: tuple[str, str, int, str, str]
) -> None:
    ask, expect, line, field, detail = mistake
    (problem,) = problems_of(retail, text_of(ask=ask, expect=expect))
    assert (problem.line, problem.field) == (line, f"[0].{field}")
    assert detail in problem.detail


def test_a_file_of_cases_is_a_list(retail: PolicySet) -> None:
    (problem,) = problems_of(retail, "name: a case\n")
    assert "a list" in problem.detail


def test_an_empty_file_holds_no_cases(retail: PolicySet) -> None:
    assert parse_cases({"more.yaml": "# later\n"}, retail) == ()
