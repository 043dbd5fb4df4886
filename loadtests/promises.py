"""What a server promised under load, and whether it kept it: acknowledged means exactly once, whatever crashed.

A request without a usable answer (no connection, 503, silence for want of the store) promises nothing: it may
have been applied or not. Each is kept, so that it can be sent again as it was: by then nothing is left to guess.
Checked before that, the state lies between what was acknowledged and that plus all that may be; afterwards it
must be equal.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = Any
COUNTED = {"page_view": "views", "purchase": "purchases"}


class Answer(NamedTuple):
    """A status and the JSON that came with it."""

    status: int
    body: Json


@dataclass(frozen=True, slots=True)
class Deed:
    """A request that changes something: what it would change, and what its answer promises."""

    path: str
    body: Json
    settle: Callable[[Answer], None]
    """Takes a usable answer into the promises."""
    key: str = ""
    """Its Idempotency-Key."""
    events: tuple[Json, ...] = ()
    reserves: int = 0
    """How many reservations it may make whose ids only the answer names."""
    moves: Mapping[str, str] = field(default_factory=dict)
    """Contacts that it brings into a state, by their ids."""


@dataclass(slots=True)
class Verdict:
    """What a check found: sentences about each promise that was not kept."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Answers that became others when they were asked for again, and refusals that nothing explains."""

    def add(self, other: "Verdict") -> None:
        """Take in what another check found."""
        self.lost += other.lost
        self.doubled += other.doubled
        self.changed += other.changed

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.doubled or self.changed)


def usable(answer: Answer) -> bool:
    """Say whether an answer promises anything."""
    if answer.status == 503:
        return False
    return not (isinstance(answer.body, dict) and answer.body.get("reason") == "state_unavailable")


class Promises:
    """Everything that was acknowledged, and everything that may have been applied."""

    def __init__(self) -> None:
        """Start with nothing promised."""
        self.events: dict[str, Json] = {}
        self.contacts: dict[str, str] = {}
        self.decisions: list[str] = []
        self.maybe: list[Deed] = []
        self.verdict = Verdict()
        self.open: set[str] = set()
        """Reservations that nobody has ended or is about to end."""

    # ------------------------------------------------------------------ what is asked, and what its answer promises

    def sent(self, events: Iterable[Json]) -> Deed:
        """Return events to send, alone or in a pack."""
        pack = tuple(events)

        def settle(answer: Answer) -> None:
            if answer.status != 202 or answer.body["accepted"] != len(pack):
                self.verdict.changed.append(f"events were answered {answer}")
                return
            self.events |= {event["event_id"]: event for event in pack}

        return Deed("/v1/events", list(pack) if len(pack) > 1 else pack[0], settle, events=pack)

    def decided(self, customer_id: str, placement: str, key: str) -> Deed:
        """Return a decide, which may reserve."""

        def settle(answer: Answer) -> None:
            if answer.status != 200:
                self.verdict.changed.append(f"a decide was answered {answer}")
                return
            self.decisions.append(answer.body["decision_id"])
            if answer.body["reservation"] is not None:
                self._reserved(answer.body["reservation"]["id"])

        body = {"customer_id": customer_id, "placement": placement}
        return Deed("/v1/decide", body, settle, key, reserves=1)

    def checked(self, channel: str, offer: str, customer_ids: list[str], key: str) -> Deed:
        """Return a check that reserves each yes for a week."""

        def settle(answer: Answer) -> None:
            if answer.status != 200 or len(answer.body["results"]) != len(customer_ids):
                self.verdict.changed.append(f"a check was answered {answer}")
                return
            for result in answer.body["results"]:
                if result["allowed"]:
                    self._reserved(result["reservation_id"])

        body = {
            "channel": channel,
            "offer": offer,
            "customer_ids": customer_ids,
            "reservation_ttl_s": 604_800,
        }
        return Deed("/v1/contacts/check", body, settle, key, reserves=len(customer_ids))

    def ended(self, reservation_id: str, state: str) -> Deed:
        """Return a reservation's one end: confirmed or released. The same end again is the same answer."""
        self.open.discard(reservation_id)

        def settle(answer: Answer) -> None:
            if answer.status != 200 or answer.body["state"] != state:
                self.verdict.changed.append(f"{state[:-1]} of {reservation_id} was answered {answer}")
                return
            self.contacts[reservation_id] = state

        path = f"/v1/contacts/{reservation_id}/{'confirm' if state == 'confirmed' else 'release'}"
        return Deed(path, None, settle, moves={reservation_id: state})

    def confirmed(self, reservation_ids: list[str]) -> Deed:
        """Return many confirms in one call."""
        self.open.difference_update(reservation_ids)

        def settle(answer: Answer) -> None:
            found = {row["reservation_id"]: row["state"] for row in answer.body["results"]}
            for reservation_id in reservation_ids:
                if found.get(reservation_id) != "confirmed":
                    self.verdict.changed.append(f"confirm of {reservation_id} was answered {found}")
                    continue
                self.contacts[reservation_id] = "confirmed"

        moves = dict.fromkeys(reservation_ids, "confirmed")
        return Deed("/v1/contacts/confirm", {"reservation_ids": reservation_ids}, settle, moves=moves)

    def recorded(self, contact_id: str, customer_id: str, channel: str, offer: str) -> Deed:
        """Return a contact that happened elsewhere."""

        def settle(answer: Answer) -> None:
            if answer.status != 201 or answer.body["contact_id"] != contact_id:
                self.verdict.changed.append(f"contact {contact_id} was answered {answer}")
                return
            self.contacts[contact_id] = "confirmed"

        body = {
            "customer_id": customer_id,
            "channel": channel,
            "offer": offer,
            "category": "promotion",
            "contact_id": contact_id,
        }
        return Deed("/v1/contacts", body, settle, moves={contact_id: "confirmed"})

    def _reserved(self, reservation_id: str) -> None:
        if reservation_id in self.contacts:
            self.verdict.doubled.append(f"{reservation_id} was given out twice")
        self.contacts[reservation_id] = "reserved"
        self.open.add(reservation_id)

    # ------------------------------------------------------------------ what there must be

    def check_features(
        self, found: Mapping[str, Mapping[str, float]], only: Collection[str] | None = None
    ) -> Verdict:
        """Compare the folded features of every customer with the events; `found` is customer to feature to value.

        `only` names the customers to compare, where that is not all of them.
        """
        verdict = Verdict()
        least = _folded(self.events.values())
        unsure = {event["event_id"]: event for deed in self.maybe for event in deed.events}
        most = least + _folded(event for id_, event in unsure.items() if id_ not in self.events)
        for customer_id, feature in sorted({*most, *((c, f) for c, row in found.items() for f in row)}):
            if only is not None and customer_id not in only:
                continue
            value = found.get(customer_id, {}).get(feature, 0)
            low, high = least[customer_id, feature], most[customer_id, feature]
            if value < low:
                verdict.lost.append(f"{feature} of {customer_id} is {value}, {low} were acknowledged")
            elif value > high:
                verdict.doubled.append(f"{feature} of {customer_id} is {value}, only {high} were sent")
        return verdict

    def check_contacts(self, found: Iterable[tuple[str, str]], spare: int = 0) -> Verdict:
        """Compare all contacts in the store with those that were promised; `found` is (contact id, state).

        `spare` is how many more there may be, which others made.
        """
        verdict = Verdict()
        rows = list(found)
        times = Counter(contact_id for contact_id, _ in rows)
        verdict.doubled += [
            f"contact {contact_id} is there {n} times" for contact_id, n in times.items() if n > 1
        ]
        states = dict(rows)
        ways: dict[str, set[str | None]] = {}
        for deed in self.maybe:
            for contact_id, state in deed.moves.items():
                ways.setdefault(contact_id, {None} if contact_id not in self.contacts else set()).add(state)
        for contact_id, state in self.contacts.items():
            allowed = {state, *ways.get(contact_id, ())}
            if states.get(contact_id) not in allowed:
                verdict.lost.append(f"contact {contact_id} is {states.get(contact_id)}, it was {state}")
        unknown = [
            contact_id for contact_id in states if contact_id not in self.contacts and contact_id not in ways
        ]
        if len(unknown) > spare + sum(deed.reserves for deed in self.maybe):
            verdict.doubled.append(f"{len(unknown)} contacts that nobody was told of, such as {unknown[0]}")
        return verdict


def _folded(events: Iterable[Json]) -> Counter[tuple[str, str]]:
    """Count the events as the features do: how many of each kind, and what they are worth in all."""
    found: Counter[tuple[str, str]] = Counter()
    for event in events:
        found[event["customer_id"], COUNTED[event["type"]]] += 1
        found[event["customer_id"], "worth"] += event["properties"]["amount"]
    return found
