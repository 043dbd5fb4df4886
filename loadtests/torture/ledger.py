"""What clients were told of their contacts, compared with the facts: there once, and in the state acknowledged."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from loadtests.torture.judge import FOREVER, Held, History, Item, Rule
from loadtests.torture.wire import Said, Verdict, ms
from loadtests.torture.world import TTL_MS


class Ledger:
    """Everything that clients were told of one wave's contacts."""

    def __init__(self, rules: tuple[Rule, ...], names: Mapping[str, str] | None = None) -> None:
        """`names` maps customer ids that are one person to one name, after merges."""
        self.rules = rules
        self.names = names or {}
        self.made: dict[str, tuple[int, int, int]] = {}
        """Contact id to (made at, expires at, first known)."""
        self.customer: dict[str, str] = {}
        """Tag to customer."""
        self.acknowledged: dict[str, dict[str, int]] = {}
        """Contact id to each end that was acknowledged, and when first."""
        self.unanswered = 0

    def take(self, said: Said, verdict: Verdict) -> None:
        """Take in one answer."""
        if said.status == 0:
            self.unanswered += 1
        elif said.op == "again":
            if said.status != 200 or said.body != said.asked:
                verdict.breach("odd answers", f"a retry was answered {said.status} {said.body}")
        elif said.op in {"check", "decide"}:
            self._taken(said, verdict)
        elif said.op in {"confirm", "release"}:
            self._ended(said, said.asked, said.status, said.body, verdict)
        elif said.op == "bulk":
            for contact_id, row in zip(said.asked, said.body["results"], strict=True):
                status = 200 if row["state"] == "confirmed" else 404 if row["state"] == "unknown" else 409
                confirm = said._replace(op="confirm")
                self._ended(confirm, contact_id, status, row, verdict)
        elif said.status not in {200, 202}:
            verdict.breach("odd answers", f"{said.op} was answered {said.status} {said.body}")

    def _taken(self, said: Said, verdict: Verdict) -> None:
        if said.status != 200:
            verdict.breach("odd answers", f"{said.op} was answered {said.status} {said.body}")
            return
        body = said.asked["body"]
        if said.op == "decide":
            if said.body["reservation"] is not None:
                taken = said.body["reservation"]
                ttl = TTL_MS[said.body["channel"]]
                self._made(taken["id"], body["customer_id"], ms(taken["expires_at"]), ttl, said, verdict)
            return
        for customer_id, row in zip(body["customer_ids"], said.body["results"], strict=True):
            if "reservation_id" in row:
                ttl = round(body["reservation_ttl_s"] * 1000)
                self._made(row["reservation_id"], customer_id, ms(row["expires_at"]), ttl, said, verdict)

    def _made(
        self, contact_id: str, customer_id: str, expires: int, ttl: int, said: Said, verdict: Verdict
    ) -> None:
        if contact_id in self.made:
            verdict.breach("doubled", f"{contact_id} was given out twice")
        if not said.sent <= expires - ttl <= said.answered:
            verdict.breach("odd answers", f"{contact_id} was made at {expires - ttl}, outside of its request")
        self.made[contact_id] = (expires - ttl, expires, said.answered)
        self.customer[contact_id[:16]] = self.names.get(customer_id, customer_id)

    def _ended(self, said: Said, contact_id: str, status: int, body: Any, verdict: Verdict) -> None:
        state = "confirmed" if said.op == "confirm" else "released"
        if status == 200:
            if body["state"] != state:
                verdict.breach("wrong states", f"{said.op} of {contact_id} was answered {body}")
            ends = self.acknowledged.setdefault(contact_id, {})
            ends[state] = min(ends.get(state, FOREVER), said.answered)
        elif status == 404:
            verdict.breach("lost", f"{contact_id} was unknown at its {said.op}")
        elif status != 409:
            verdict.breach("odd answers", f"{said.op} of {contact_id} was answered {status} {body}")

    def histories(self, facts: list[Any], zones: Mapping[str, str], verdict: Verdict) -> dict[str, History]:
        """Compare the facts with what was told; returns the history of each customer of the ledger."""
        found: dict[str, History] = {}
        there: Counter[str] = Counter()
        for row in facts:
            tags = (row["customer"], *(contact["contact_id"][:16] for contact in row["contacts"]))
            customer_id = next((self.customer[tag] for tag in tags if tag in self.customer), None)
            if customer_id is None:
                continue
            held = []
            for contact in row["contacts"]:
                there[contact["contact_id"]] += 1
                held.append(self._held(contact, verdict))
            marks = sorted((mark["at"], FOREVER, mark["type"]) for mark in row["events"])
            found[customer_id] = History(self.rules, zones[customer_id], held, marks)
        for contact_id in self.made:
            if there[contact_id] == 0:
                verdict.breach("lost", f"{contact_id} was given out and is not there")
        for contact_id, times in there.items():
            if times > 1:
                verdict.breach("doubled", f"{contact_id} is there {times} times")
        untold = [contact_id for contact_id in there if contact_id not in self.made]
        if len(untold) > 12 * self.unanswered:
            verdict.breach("doubled", f"{len(untold)} contacts that nobody was told of, such as {untold[0]}")
        return found

    def _held(self, contact: Any, verdict: Verdict) -> Held:
        contact_id, state, at = contact["contact_id"], contact["state"], contact["at"]
        made, expires, known = self.made.get(contact_id, (at, contact["expires_at"] or at, FOREVER))
        ends = self.acknowledged.get(contact_id, {})
        if len(ends) > 1:
            verdict.breach("wrong states", f"{contact_id} was confirmed and released")
        if (ends and state not in ends) or (not ends and state != "reserved" and not self.unanswered):
            verdict.breach("wrong states", f"{contact_id} is {state}, acknowledged was {ends or 'nothing'}")
        if state == "reserved" and (at, contact["expires_at"]) != (made, expires):
            verdict.breach("wrong states", f"{contact_id} is {contact}, told was {made} to {expires}")
        items = tuple(Item(item["offer"], item["category"]) for item in contact["items"])
        return Held(
            contact_id,
            contact["channel"],
            items,
            made,
            expires,
            confirmed=at if state == "confirmed" else FOREVER,
            released=at if state == "released" else FOREVER,
            made_known=known,
            end_known=ends.get(state, FOREVER),
        )
