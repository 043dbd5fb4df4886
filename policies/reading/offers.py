"""offers.yaml: what may be offered, and its categories."""

from typing import Any

from policies.model import AttributeValue, Budget, Category, Offer
from policies.reading.survey import FILES, Reading
from policies.reading.values import Value


def read_offers(reading: Reading, root: Value) -> tuple[dict[str, Category], dict[str, Offer]]:
    """Return categories by name and offers by id, in file order."""
    fields = root.fields(FILES["offers.yaml"], required=("categories", "offers"))
    categories, listed = fields.get("categories"), fields.get("offers")
    offers: dict[str, Offer] = {}
    lines: dict[str, int] = {}
    for value in listed.members() if listed else []:
        offer = _offer(reading, value, lines)
        offers[offer.id] = offer
    return {
        name: _category(name, value) for name, value in (categories.named() if categories else {}).items()
    }, offers


def _category(name: str, value: Value) -> Category:
    fields = value.fields(("obeys_caps", "counts_toward_caps"))
    return Category(
        name, fields.read("obeys_caps", Value.flag, True), fields.read("counts_toward_caps", Value.flag, True)
    )


def unique(value: Value, lines: dict[str, int], what: str) -> str | None:
    """Return a name that no other entry bears; `lines` keeps where each was first used."""
    name = value.name(what)
    if name is None:
        return None
    if name in lines:
        value.fail(f'{what} "{name}" is already taken in line {lines[name]}', "give it another name")
        return None
    lines[name] = value.node.line
    return name


def _offer(reading: Reading, value: Value, lines: dict[str, int]) -> Offer:
    names = reading.names
    keys = ("id", "category", "placements", "value", "weight", "prior", "valid", "eligible")
    fields = value.fields((*keys, "attributes", "budget", "content"), required=("id", "category"))
    valid_from, valid_until = fields.read("valid", _valid, (None, None))
    return Offer(
        id=fields.read("id", lambda id_: unique(id_, lines, "the id"), ""),
        category=fields.read(
            "category", lambda name: name.reference(names.categories, "a category", "offers.yaml"), ""
        ),
        placements=fields.read("placements", lambda listed: _placements(reading, listed), ()),
        value=fields.read("value", Value.number, 0.0),
        weight=fields.read("weight", lambda weight: weight.number(0), 1.0),
        prior=fields.read("prior", Value.share, 0.01),
        valid_from=valid_from,
        valid_until=valid_until,
        eligible=fields.maybe("eligible", reading.condition),
        attributes=fields.read("attributes", _attributes, {}),
        budget=fields.maybe("budget", _budget),
        content=fields.read("content", _content, {}),
    )


def _placements(reading: Reading, value: Value) -> tuple[str, ...]:
    found = [
        member.reference(reading.names.placements, "a placement", "channels.yaml")
        for member in value.members()
    ]
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _valid(value: Value) -> Any:
    fields = value.fields(("from", "until"))
    start, until = fields.maybe("from", Value.day), fields.get("until")
    end = until.day() if until is not None else None
    if start is not None and end is not None and until is not None and end < start:
        until.fail(f"until {end} is before from {start}", "write a later date")
    return start, end


def _attributes(value: Value) -> dict[str, AttributeValue]:
    scalars = {name: member.scalar() for name, member in value.named().items()}
    return {name: scalar for name, scalar in scalars.items() if scalar is not None}


def _budget(value: Value) -> Budget | None:
    fields = value.fields(("max", "cost_per_accept", "per"), required=("max", "cost_per_accept"))
    most, cost = fields.maybe("max", Value.money_micro), fields.maybe("cost_per_accept", Value.money_micro)
    per = fields.read("per", lambda period: period.choice(("total", "day"), "a period of budgets"), "total")
    if most is None or cost is None:
        return None
    if cost > most:
        value.fail("one accept costs more than the whole budget", "raise max or lower cost_per_accept")
    return Budget(most, cost, "day" if per == "day" else "total")


def _content(value: Value) -> dict[str, Any] | None:
    return value.json() if value.table() is not None else None
