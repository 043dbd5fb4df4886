"""One mistake in the example policy set is one problem, at its file and line, with a way out."""

# ruff: noqa: E501  # a row of a table is one case, and reads best as one line

from pathlib import Path

import pytest

import policies
from policies.loader import load_dir, load_files
from policies.model import PolicyError, Problem

RETAIL = Path(policies.__file__).parent / "retail"


def retail() -> dict[str, str]:
    return dict(load_dir(RETAIL).policy.files)


def problems_of(files: dict[str, str]) -> list[Problem]:
    with pytest.raises(PolicyError) as caught:
        load_files(files)
    return caught.value.problems


def seeded(files: dict[str, str], file: str, old: str, new: str) -> int:
    """Put one mistake into a file and return the line of its first changed character."""
    assert files[file].count(old) >= 1, (file, old)
    start = files[file].index(old)
    changed = next(
        (place for place, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), len(new)
    )
    files[file] = files[file].replace(old, new, 1)
    return files[file].count("\n", 0, start + changed) + 1


# file, what stands there, the mistake, part of the field, part of the detail, part of the fix
MISTAKES = [
    # policy.yaml
    ("policy.yaml", "policy: retail", "policy: on", "policy", "true or false", "quotes"),
    ("policy.yaml", "currency: GBP", "curency: GBP", "curency", "unknown key", '"currency"'),
    ("policy.yaml", "currency: GBP", "currency: pounds", "currency", "not a currency", "GBP"),
    ("policy.yaml", "Europe/London", "Europe/Londn", "timezone", "unknown time zone", "Europe/London"),
    ("policy.yaml", "monday", "mondy", "week_starts", "not a day of the week", "monday"),
    ("policy.yaml", "control: 2%", "control: 0.02", "groups.control", "percentage", "5%"),
    ("policy.yaml", "control: 2%", "control: 120%", "groups.control", "at most 100%", "0 to 100"),
    ("policy.yaml", "control: 2%", "control: 99.5%", "groups", "more than 100%", "lower"),
    ("policy.yaml", "propensity * value", "propensty * value", "arbitration.priority", "propensty", '"propensity"'),
    ("policy.yaml", "threshold: 0.0", 'threshold: "0.0"', "arbitration.threshold", "a number", "without quotes"),
    ("policy.yaml", "threshold: 0.0", "threshold: .inf", "arbitration.threshold", "a number", "0.5"),
    ("policy.yaml", "shortlist: 32", "shortlist: 0", "arbitration.exploration.shortlist", "at least 1", "1"),
    ("policy.yaml", "alpha: 0.3", "alpha: -1", "arbitration.exploration.alpha", "at least 0", "0 or more"),
    ("policy.yaml", "impression: 1h", "impression: 60", "attribution.impression", "a duration", "7d"),
    ("policy.yaml", "decisions: 90d", "decisions: 0d", "keep.decisions", "a duration", "above 0"),
    ("policy.yaml", "events: 400d", "contacts: 400d", "keep.contacts", "already in line", "keep one"),
    # channels.yaml
    ("channels.yaml", "web:   {kind: inbound}", "web:   {kind: inbund}", "channels.web.kind", "inbund", '"inbound"'),
    ("channels.yaml", "cost: 0.002", "cost: -1", "channels.email.cost", "at least 0", "0 or more"),
    ("channels.yaml", 'from: "21:00"', "from: 21:00", "channels.email.quiet_hours.from", "number", "quotes"),
    ("channels.yaml", 'to: "08:00"', 'to: "8:00"', "channels.email.quiet_hours.to", "time of day", "HH:MM"),
    ("channels.yaml", 'to: "08:00"', 'to: "21:00"', "channels.email.quiet_hours", "end where they begin", "different"),
    ("channels.yaml", "reservation_ttl: 30m", "reservation_ttl: 8d", "channels.email.reservation_ttl", "7 days", "7d"),
    ("channels.yaml", "max: 400, per: day", "max: 1.0, per: day", "channels.call.capacity.max", "whole number", "whole"),
    ("channels.yaml", "max: 400, per: day", "max: 400, per: week", "channels.call.capacity.per", "week", "day"),
    ("channels.yaml", "{channel: web, slots: 2}", "{channel: wbe, slots: 2}", "placements.product_page.channel", "wbe", '"web"'),
    ("channels.yaml", "{channel: web, slots: 2}", "{channel: web, slots: 101}", "placements.product_page.slots", "at most 100", "100"),
    ("channels.yaml", "fallback: store-finder", "fallback: store-findr", "placements.home_hero.fallback", "unknown offer", '"store-finder"'),
    # offers.yaml
    ("offers.yaml", "obeys_caps: false", "obeys_caps: no", "categories.transactional.obeys_caps", "true or false", "true or false"),
    ("offers.yaml", "category: promotion", "category: promotoin", "offers[0].category", "unknown category", '"promotion"'),
    ("offers.yaml", "[home_hero, newsletter]", "[home_hero, newsleter]", "offers[0].placements[1]", "unknown placement", '"newsletter"'),
    ("offers.yaml", "value: 12.00", "value: 012.00", "offers[0].value", "a number", "without quotes"),
    ("offers.yaml", "value: 12.00", "value: 1_200", "offers[0].value", "a number", "without quotes"),
    ("offers.yaml", "prior: 2%", "prior: 2", "offers[0].prior", "a percentage", "5%"),
    ("offers.yaml", "until: 2027-01-31", "until: 2026-10-31", "offers[0].valid.until", "before from", "later"),
    ("offers.yaml", "until: 2027-01-31", "until: 2027-02-31", "offers[0].valid.until", "not in the calendar", "exists"),
    ("offers.yaml", "features.views_7d >= 1", "features.veiws_7d >= 1", "offers[0].eligible", "veiws_7d", '"views_7d"'),
    ("offers.yaml", "features.views_7d >= 1", 'features.views_7d >= "1"', "offers[0].eligible", "no order", "numbers"),
    ("offers.yaml", "features.views_7d >= 1 &&", "features.views_7d >= 1 and", "offers[0].eligible", "unexpected", "&&"),
    ("offers.yaml", "max: 5000.00", "max: 5000.0000001", "offers[0].budget.max", "6 decimals", "round"),
    ("offers.yaml", "cost_per_accept: 3.00", "cost_per_accept: 0", "offers[0].budget.cost_per_accept", "more than 0", "amount"),
    ("offers.yaml", "url: /boots}", "url: 2026-11-01}", "offers[0].content.url", "a date", "quotes"),
    ("offers.yaml", "discount: 0.2}", "discount: [0.2]}", "offers[0].attributes.discount", "a list", "one value"),
    ("offers.yaml", "id: boot-care", "id: winter-boots", "offers[1].id", "already taken", "another name"),
    ("offers.yaml", "id: boot-care", "id: 1:30", "offers[1].id", "base 60", "quotes"),
    ("offers.yaml", "weight: 1.2", "weigth: 1.2", "offers[0].weigth", "unknown key", '"weight"'),
    # contact_policy.yaml
    ("contact_policy.yaml", "max: 1, per: 24h", "max: 0, per: 24h", "caps[0].max", "at least 1", "1"),
    ("contact_policy.yaml", "max: 1, per: 24h", "max: 1, per: 24", "caps[0].per", "a duration", "7d"),
    ("contact_policy.yaml", "max: 1, per: 24h", "max: 1, per: 401d", "caps[0].per", "keep.contacts", "shorten"),
    ("contact_policy.yaml", "gap: 4h, ", "gap: 4h, max: 1,", "caps[1]", "either a gap", "one of the two"),
    ("contact_policy.yaml", "max: 1, per: 24h,", "per: 24h,", "caps[0]", "max is missing", "max: 1"),
    ("contact_policy.yaml", "channel: email}", "channel: emial}", "caps[2].when.channel", "unknown channel", '"email"'),
    ("contact_policy.yaml", "{channel: call}", "{chanel: call}", "caps[3].when.chanel", "unknown key", '"channel"'),
    ("contact_policy.yaml", "[promotion, loyalty]", "[promotion, loyality]", "caps[5].when.category[1]", "unknown category", '"loyalty"'),
    ("contact_policy.yaml", "each: attribute.line", "each: attribute.lien", "caps[7].each", "attribute", '"line"'),
    ("contact_policy.yaml", "name: promo-month", "name: quiet_hours", "caps[5].name", "no rule may bear it", "another name"),
    ("contact_policy.yaml", "name: after-unsubscribe", "name: any-daily", "suppressions[2].name", "already taken", "another"),
    ("contact_policy.yaml", "event: complaint", "event: complain", "suppressions[0].after.event", "event type", '"complaint"'),
    ("contact_policy.yaml", "for: 60d", "for: 390d", "suppressions[1].for", "keep.events", "shorten"),
    ("contact_policy.yaml", "open_cases > 0", "open_case > 0", "suppressions[4].while", "open_case", '"open_cases"'),
    ("contact_policy.yaml", "while: profile.open_cases > 0", "while: profile.open_cases", "suppressions[4].while", "an int", "compare"),
    ("contact_policy.yaml", ", for: 60d", "", "suppressions[1]", "how long", "for: 30d"),
    # features.yaml, profile.yaml, models.yaml, questions.yaml
    ("features.yaml", "count: [page_view]", "count: [page_veiw]", "features.views_7d.count[0]", "page_veiw", '"page_view"'),
    ("features.yaml", "within: 365d", "within: 401d", "features.spend_365d.within", "keep.events", "shorten"),
    ("features.yaml", "half_life: 14d, keep: 5", "half_life: 14d, within: 3d", "features.interests.within", "within", ""),
    ("features.yaml", "hits: 1, trials: 5}", "hits: 6, trials: 5}", "features.email_open_rate.prior", "more hits", "trials"),
    ("features.yaml", "rate: [accept], per: [impression],", "rate: [accept],", "features.offer_accept_rate.per", "missing", "add per"),
    ("features.yaml", "sum: amount", "summ: amount", "features.spend_30d", "kind is missing", "count"),
    ("profile.yaml", "tier:           {type: string,", "tier:           {type: text,", "profile.tier.type", "not a type", "string"),
    ("profile.yaml", "household:      {type: number, default: 1}", "household:      {type: number, default: one}", "profile.household.default", "a number", "0.5"),
    ("profile.yaml", "app_user: ", "timezone: {type: string}\n  app_user: ", "profile.timezone", "built in", "remove"),
    ("models.yaml", "context.device, ", "kontext.device, ", "models.accept.inputs[2]", "no input", "context.KEY"),
    ("models.yaml", "features.rejects_30d", "features.rejects", "models.opt_out.inputs[1]", "rejects", '"rejects_30d"'),
    ("models.yaml", "  accept:  ", "  yes-please: ", "models", "accept is missing", "predicts: accept"),
    ("questions.yaml", "sets: profile.shops_for", "sets: profile.owned", "questions[0].sets", "a string", "type string"),
    ("questions.yaml", "[myself, family, gifts]", "[]", "questions[0].answers", "empty", "at least one"),
    ("questions.yaml", "[myself, family, gifts]", "[yes, family, gifts]", "questions[0].answers[0]", "true or false", "quotes"),
    # tests
    ("tests/caps.yaml", "category: service}]}", "category: servce}]}", "[0].customer.contacts[0].category", "servce", '"service"'),
    ("tests/caps.yaml", "rules: [any-daily, breather]", "rules: [any-dayly, breather]", "[0].expect.rules[0]", "any-dayly", '"any-daily"'),
    ("tests/caps.yaml", "at: 2026-11-21T09:00:00Z", "at: 2026-11-22T09:00:00Z", "[0].customer.contacts[0].at", "later than", "earlier"),
    ("tests/evening.yaml", "now: 2026-11-21T22:30:00Z", "now: 2026-11-21T22:30:00", "[0].now", "UTC", "Z at the end"),
    ("tests/evening.yaml", "views_7d: 4", "views_7d: 4.5", "[0].customer.features.views_7d", "whole number", "whole"),
    ("tests/evening.yaml", "marketing_email: granted", "marketing_mail: granted", "[0].customer.consent.marketing_mail", "purpose", '"marketing_email"'),
    ("tests/evening.yaml", "reason: quiet_hours", "reason: quite_hours", "[0].expect.reason", "not a reason", '"quiet_hours"'),
    ("tests/evening.yaml", "offer: order-update}", "offer: gift-card}", "[3].ask.check.category", "promotion", "leave category out"),
    ("tests/deciding.yaml", "decide: {placement: agent_desk}", "decide: {placement: agent_dsk}", "[0].ask.decide.placement", "agent_dsk", '"agent_desk"'),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake[0]}: {mistake[2]}")
def test_one_mistake_is_one_problem_at_its_line(mistake: tuple[str, str, str, str, str, str]) -> None:
    file, old, new, field, detail, fix = mistake
    files = retail()
    line = seeded(files, file, old, new)
    (problem,) = problems_of(files)
    assert (problem.file, problem.field) == (file, field)
    assert problem.line == line
    assert detail in problem.detail
    assert fix in problem.fix


def test_thirty_mistakes_at_once_are_thirty_problems() -> None:
    files = retail()
    expected: list[tuple[str, int, str]] = []
    for file, old, new, field, _, _ in MISTAKES:
        keeps_lines = old.count("\n") == new.count("\n")
        whole = [other[0] for other in expected].count(file) < 8
        if keeps_lines and whole and files[file].count(old) and not file.startswith("tests/"):
            trial = dict(files)
            line = seeded(trial, file, old, new)
            if line not in [at for where, at, _ in expected if where == file]:
                files = trial
                expected.append((file, line, field))
    found = {(problem.file, problem.line, problem.field) for problem in problems_of(files)}
    assert len(expected) >= 30
    assert set(expected) <= found


def test_eight_mistakes_in_four_files_are_reported_in_the_order_of_files_and_lines() -> None:
    files = retail()
    seeds = [
        ("channels.yaml", "web:   {kind: inbound}", "web:   {kind: inbund}"),
        ("channels.yaml", "cost: 0.002", "cost: cheap"),
        ("contact_policy.yaml", "max: 1, per: 24h", "max: none, per: 24h"),
        ("contact_policy.yaml", "for: 60d", "for: 60 days"),
        ("offers.yaml", "value: 12.00", "value: 12,00"),
        ("offers.yaml", "prior: 2%", "prior: two"),
        ("policy.yaml", "currency: GBP", "currency: gbp"),
        ("policy.yaml", "week_starts: monday", "week_starts: Monday"),
    ]
    expected = [(file, seeded(files, file, old, new)) for file, old, new in seeds]
    assert [(problem.file, problem.line) for problem in problems_of(files)] == expected
