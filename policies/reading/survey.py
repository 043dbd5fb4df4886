"""What a policy set declares, found before anything is checked, and what the readers of its files share.

References go in circles (a placement names its fallback offer, an offer its placements), so all names are
gathered first. `None` stands for the names of a file that could not be read: a reference to it is then not a
second mistake.
"""

from collections.abc import Mapping

import msgspec

from features.event import TYPES
from policies.conditions import Condition, ConditionError, compile_condition
from policies.model import Keep
from policies.reading.nodes import Listing, Node, Report, Scalar, Spoilt, Table
from policies.reading.values import Value

FILES = {
    "policy.yaml": (
        "policy",
        "timezone",
        "currency",
        "week_starts",
        "groups",
        "arbitration",
        "attribution",
        "keep",
    ),
    "channels.yaml": ("channels", "placements"),
    "offers.yaml": ("categories", "offers"),
    "contact_policy.yaml": ("caps", "suppressions"),
    "features.yaml": ("features",),
    "profile.yaml": ("profile",),
    "models.yaml": ("models",),
    "questions.yaml": ("questions",),
}
"""The files of a policy set and their keys."""

REQUIRED = ("policy.yaml", "channels.yaml", "offers.yaml")

KnownNames = frozenset[str] | None


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """The names that a policy set declares; None where they could not be read."""

    channels: KnownNames
    placements: KnownNames
    categories: KnownNames
    offers: KnownNames
    attributes: KnownNames
    features: KnownNames
    profile: KnownNames
    rules: KnownNames
    questions: KnownNames
    consents: KnownNames


def survey(nodes: Mapping[str, Node | None]) -> Names:
    """Return the declared names of all files, `nodes` by file name; a file that is not there has None."""

    def names(file: str, section: str, key: str = "") -> KnownNames:
        node = _section(nodes, file, section)
        if isinstance(node, Table):
            return frozenset(node.entries)
        if isinstance(node, Listing):
            return frozenset(filter(None, (_text(member, key) for member in node.members)))
        return None

    caps, suppressions = (
        names("contact_policy.yaml", section, "name") for section in ("caps", "suppressions")
    )
    return Names(
        channels=names("channels.yaml", "channels"),
        placements=names("channels.yaml", "placements"),
        categories=names("offers.yaml", "categories"),
        offers=names("offers.yaml", "offers", "id"),
        attributes=_attributes(_section(nodes, "offers.yaml", "offers")),
        features=names("features.yaml", "features"),
        profile=names("profile.yaml", "profile"),
        rules=None if caps is None or suppressions is None else caps | suppressions,
        questions=names("questions.yaml", "questions", "id"),
        consents=_consents(_section(nodes, "channels.yaml", "channels")),
    )


def _section(nodes: Mapping[str, Node | None], file: str, section: str) -> Node:
    """Return a section's node: an empty table where it may be left out, `Spoilt` where it cannot be read."""
    root = nodes.get(file)
    nothing = Spoilt(1) if file in REQUIRED else Table(1, {})
    if root is None:
        return nothing
    if not isinstance(root, Table):
        return Spoilt(1)
    if section in root.entries:
        return root.entries[section].node
    misspelt = root.entries.keys() - set(FILES[file])
    return Spoilt(1) if misspelt else nothing


def _text(node: Node, key: str) -> str:
    entry = node.entries.get(key) if isinstance(node, Table) else None
    return entry.node.text if entry is not None and isinstance(entry.node, Scalar) else ""


def _attributes(offers: Node) -> KnownNames:
    if not isinstance(offers, Listing):
        return None
    found: set[str] = set()
    for offer in offers.members:
        entry = offer.entries.get("attributes") if isinstance(offer, Table) else None
        if entry is not None and isinstance(entry.node, Table):
            found.update(entry.node.entries)
    return frozenset(found)


def _consents(channels: Node) -> KnownNames:
    if not isinstance(channels, Table):
        return None
    return frozenset(filter(None, (_text(entry.node, "consent") for entry in channels.entries.values())))


class Reading:
    """What the readers of all files share."""

    def __init__(self, report: Report, names: Names) -> None:
        self.report = report
        self.names = names
        self.keep = Keep()
        self.env: dict[str, str] = {}
        """Types of conditions, by dotted name; `dyn` for what was declared but could not be read."""
        self.opt_out_read: Value | None = None
        """The priority, where it reads the chance of an opt-out."""
        self.offer_categories: dict[str, str] = {}
        """Category by offer, once offers.yaml was read."""
        self.conditions: dict[str, Condition | ConditionError] = {}

    def condition(self, value: Value) -> Condition | None:
        """Return a compiled condition; one source is compiled once."""
        source = value.text("a condition", "write a condition such as features.views_7d >= 1")
        if source is None:
            return None
        compiled = self.conditions.get(source)
        if compiled is None:
            roots = {"features": self.names.features, "profile": self.names.profile}
            unread = frozenset(root for root, names in roots.items() if names is None)
            try:
                compiled = compile_condition(source, self.env, open_roots=unread)
            except ConditionError as error:
                compiled = error
            self.conditions[source] = compiled
        if isinstance(compiled, ConditionError):
            value.fail(compiled.detail, compiled.fix)
            return None
        return compiled

    def event_type(self, value: Value) -> str | None:
        """Return an event type: a built-in one, or one of one's own that begins with x_."""
        text = value.name("an event type")
        if text is None or text in TYPES or (text.startswith("x_") and len(text) > 2):
            return text
        hint = value.near(text, TYPES)
        own = f"types of your own begin with x_: x_{text}"
        value.fail(f'unknown event type "{text}"', hint if "did you" in hint else own)
        return None

    def event_types(self, value: Value) -> tuple[str, ...] | None:
        """Return a list of event types."""
        found = [self.event_type(member) for member in value.members(some=True)]
        return tuple(text for text in found if text is not None) or None
