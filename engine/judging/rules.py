"""Which rules look at which items: the static half of the governor, compiled once per policy set.

A rule sees an item when one and the same item meets all of its `when`, on a channel that it looks at, and
carries the value that `each` counts by. The answers depend on the policy set alone, so they are remembered
per (channel, items): judging a customer is then one look-up a contact.
"""

from typing import Final, NamedTuple

from features.facts import Item
from policies.model import AttributeValue, Cap, PolicySet, Suppression, When

MAX_TTL_MS: Final = 604_800_000
"""The longest life of a reservation (ms): live ones are never older."""
_REMEMBERED: Final = 20_000

Each = AttributeValue | None
"""The value that a rule counts by; None for a rule without `each`."""
Counter = tuple[int, Each]
"""One count that is kept apart: the index of the cap and the value of its `each`."""
Kind = tuple[str, tuple[Item, ...]]
"""What rules see of a contact: its channel and its items."""


class Looks(NamedTuple):
    """The rules that look at one item on one channel."""

    suppressions: tuple[int, ...]
    """Indices of the suppressions."""
    caps: tuple[Counter, ...]
    """Each cap's index, and the value that it counts by."""


_NOTHING: Final = Looks((), ())


class Rules:
    """The caps and suppressions of one policy set, ready to be matched."""

    def __init__(self, policy: PolicySet) -> None:
        """Compile the rules of a checked policy set."""
        self.policy = policy
        self.caps = policy.caps
        self.suppressions = policy.suppressions
        self.looks_back_ms = max(
            [cap.per_ms for cap in policy.caps]
            + [cap.gap_ms for cap in policy.caps]
            + [_CALENDAR_MS[cap.calendar] for cap in policy.caps if cap.calendar]
            + [MAX_TTL_MS]
        )
        self.conditional = any(rule.while_ is not None for rule in policy.suppressions)
        """Whether any rule looks at a condition."""
        self._looks: dict[tuple[str, Item], Looks] = {}
        self._counters: dict[Kind, tuple[Counter, ...]] = {}

    def is_inbound(self, channel: str) -> bool:
        """Say whether customers come to us here; a channel that the policy no longer has is outbound."""
        known = self.policy.channels.get(channel)
        return known is not None and known.kind == "inbound"

    def counts_contacts(self, channel: str) -> bool:
        """Say whether contacts on this channel are reserved: always outbound, inbound when a cap names it."""
        return not self.is_inbound(channel) or any(_names_inbound(cap.when, channel) for cap in self.caps)

    def obeys(self, item: Item) -> bool:
        """Say whether the item's category obeys caps, gaps, quiet hours, suppressions and consent."""
        category = self.policy.categories.get(item.category)
        return category is None or category.obeys_caps

    def cap_each(self, index: int, channel: str, item: Item) -> tuple[bool, Each]:
        """Say whether cap `index` looks at this item on this channel, and the value that it counts by."""
        cap = self.caps[index]
        if self.is_inbound(channel) and not _names_inbound(cap.when, channel):
            return False, None
        if not self.meets(cap.when, channel, item):
            return False, None
        return self._each(cap, channel, item)

    def looks(self, channel: str, item: Item) -> Looks:
        """Return the rules that look at the item on the channel; none where its category obeys none."""
        key = (channel, item)
        known = self._looks.get(key)
        if known is None:
            known = self._looks_at(channel, item) if self.obeys(item) else _NOTHING
            if len(self._looks) >= _REMEMBERED:
                self._looks.clear()
            self._looks[key] = known
        return known

    def _looks_at(self, channel: str, item: Item) -> Looks:
        caps = []
        for index in range(len(self.caps)):
            looks, each = self.cap_each(index, channel, item)
            if looks:
                caps.append((index, each))
        suppressions = (
            index for index, rule in enumerate(self.suppressions) if self.suppresses(rule, channel, item)
        )
        return Looks(tuple(suppressions), tuple(caps))

    def counters(self, kind: Kind) -> tuple[Counter, ...]:
        """Return every count that a contact of this kind adds one to."""
        known = self._counters.get(kind)
        if known is None:
            found: dict[Counter, None] = {}
            channel, items = kind
            for item in items:
                category = self.policy.categories.get(item.category)
                if category is not None and not category.counts_toward_caps:
                    continue
                for index in range(len(self.caps)):
                    looks, each = self.cap_each(index, channel, item)
                    if looks:
                        found[index, each] = None
            known = tuple(found)
            if len(self._counters) >= _REMEMBERED:
                self._counters.clear()
            self._counters[kind] = known
        return known

    def meets(self, when: When, channel: str, item: Item) -> bool:
        """Say whether the item, in a message on the channel, meets all of `when`."""
        if when.kind and ("inbound" if self.is_inbound(channel) else "outbound") not in when.kind:
            return False
        if when.channel and channel not in when.channel:
            return False
        if when.category and item.category not in when.category:
            return False
        if when.offer and item.offer not in when.offer:
            return False
        return all(self._attribute(item, name) in values for name, values in when.attributes)

    def suppresses(self, suppression: Suppression, channel: str, item: Item) -> bool:
        """Say whether a suppression looks at this item on this channel."""
        return self.meets(suppression.when, channel, item)

    def _attribute(self, item: Item, name: str) -> AttributeValue | None:
        offer = self.policy.offers.get(item.offer) if item.offer is not None else None
        return offer.attributes.get(name) if offer is not None else None

    def _each(self, cap: Cap, channel: str, item: Item) -> tuple[bool, Each]:
        if not cap.each:
            return True, None
        if cap.each == "offer":
            value: Each = item.offer
        elif cap.each == "category":
            value = item.category
        elif cap.each == "channel":
            value = channel
        else:
            value = self._attribute(item, cap.each.removeprefix("attribute."))
        return value is not None, value


_CALENDAR_MS: Final = {"day": 26 * 3_600_000, "week": 8 * 86_400_000, "month": 32 * 86_400_000}


def _names_inbound(when: When, channel: str) -> bool:
    return channel in when.channel or "inbound" in when.kind
