"""policy.yaml: the name, the zone, the groups, how offers are ranked, and how long things are kept."""

import re
from functools import lru_cache
from typing import Any, Final
from zoneinfo import available_timezones

from policies.conditions import ConditionError, Priority, compile_priority
from policies.model import Arbitration, Attribution, Exploration, Groups, Keep
from policies.reading.survey import FILES, Reading
from policies.reading.values import Value

DEFAULT_PRIORITY: Final = "propensity * value * weight - channel_cost"
WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
CURRENCY: Final = re.compile(r"[A-Z]{3}")


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def timezone(value: Value) -> str | None:
    """Return an IANA time zone."""
    text = value.text("a time zone")
    if text is not None and text not in _zones():
        fix = value.near(text, _zones())
        value.fail(
            f'unknown time zone "{text}"', fix if "did you" in fix else "write one such as Europe/London"
        )
        return None
    return text


def read_setup(reading: Reading, root: Value) -> dict[str, Any]:
    """Return the arguments of `PolicySet` that policy.yaml sets; leaves `keep` in the reading."""
    fields = root.fields(FILES["policy.yaml"], required=("policy",))
    if "timezone" not in fields:
        root.warn(
            "no timezone, so UTC holds for customers whose zone is unknown", "add timezone: Europe/London"
        )
    keep = fields.maybe("keep", _keep) or Keep()
    reading.keep = keep
    return {
        "name": fields.read("policy", Value.name, ""),
        "timezones": fields.maybe("timezone", _timezones) or ("UTC",),
        "currency": fields.read("currency", _currency, ""),
        "week_starts": WEEKDAYS.index(fields.read("week_starts", _weekday, "monday")),
        "groups": fields.maybe("groups", _groups) or Groups(),
        "arbitration": fields.maybe("arbitration", lambda value: _arbitration(reading, value))
        or Arbitration(priority=compile_priority(DEFAULT_PRIORITY)),
        "attribution": fields.maybe("attribution", _attribution) or Attribution(),
        "keep": keep,
    }


def _timezones(value: Value) -> tuple[str, ...] | None:
    found = [timezone(member) for member in value.one_or_many()]
    return tuple(dict.fromkeys(zone for zone in found if zone is not None)) or None


def _currency(value: Value) -> str | None:
    text = value.text("a currency")
    if text is not None and not CURRENCY.fullmatch(text):
        value.fail(f'"{text}" is not a currency', "write its three letters, such as GBP")
        return None
    return text


def _weekday(value: Value) -> str | None:
    return value.choice(WEEKDAYS, "a day of the week")


def _groups(value: Value) -> Groups:
    fields = value.fields(("control", "random"))
    control, random = fields.read("control", Value.share, 0.0), fields.read("random", Value.share, 0.0)
    if control + random > 1:
        value.fail("control and random together are more than 100%", "lower one of them")
    for name, share in (("control", control), ("random", random)):
        if share > 0.5 and (member := fields.get(name)) is not None:
            member.warn(f"more than half of all customers are in the {name} group", "lower it")
    return Groups(control, random)


def _arbitration(reading: Reading, value: Value) -> Arbitration:
    fields = value.fields(("priority", "threshold", "exploration"))
    return Arbitration(
        priority=fields.maybe("priority", lambda member: _priority(reading, member))
        or compile_priority(DEFAULT_PRIORITY),
        threshold=fields.read("threshold", Value.number, 0.0),
        exploration=fields.maybe("exploration", _exploration) or Exploration(),
    )


def _priority(reading: Reading, value: Value) -> Priority | None:
    source = value.text("an expression", f"write an expression such as {DEFAULT_PRIORITY}")
    if source is None:
        return None
    try:
        priority = compile_priority(source)
    except ConditionError as error:
        value.fail(error.detail, error.fix)
        return None
    if "opt_out" in priority.names:
        reading.opt_out_read = value
    return priority


def _exploration(value: Value) -> Exploration:
    fields = value.fields(("alpha", "floor", "shortlist"))
    default = Exploration()
    return Exploration(
        alpha=fields.read("alpha", lambda alpha: alpha.number(0), default.alpha),
        floor=fields.read("floor", Value.share, default.floor),
        shortlist=fields.read("shortlist", lambda shortlist: shortlist.whole(1, 1000), default.shortlist),
    )


def _attribution(value: Value) -> Attribution:
    fields = value.fields(("impression", "accept"))
    default = Attribution()
    return Attribution(
        fields.read("impression", Value.duration, default.impression_ms),
        fields.read("accept", Value.duration, default.accept_ms),
    )


def _keep(value: Value) -> Keep:
    fields = value.fields(("contacts", "events", "decisions"))
    default = Keep()
    return Keep(
        fields.read("contacts", Value.duration, default.contacts_ms),
        fields.read("events", Value.duration, default.events_ms),
        fields.read("decisions", Value.duration, default.decisions_ms),
    )
