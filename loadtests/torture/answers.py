"""Every yes and every no that clients were told, judged by the facts."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from loadtests.torture.judge import FOREVER, Held, History, Item, Rule, State
from loadtests.torture.wire import Said, Verdict, ms
from loadtests.torture.world import OFFERS, PLACED, SLOTS


class Judgement:
    """Whether every yes and every no of a wave is explained by the facts."""

    def __init__(self, histories: Mapping[str, History], rules: tuple[Rule, ...], verdict: Verdict) -> None:
        """Judge by these histories."""
        self.histories = histories
        self.verdict = verdict
        self.judged = 0
        self.refusals = 0
        self._contacts = {
            held.contact_id: (history, held) for history in histories.values() for held in history.held
        }
        self._empty = History(rules, "UTC", [])
        self._spans = {rule.name: rule.gap or rule.per for rule in rules}

    def learn(self, said: list[Said]) -> None:
        """Note by when each event was surely folded: its customer was seen with as many as had been sent."""
        events: dict[str, list[int]] = {}
        for one in said:
            if one.op == "event":
                events.setdefault(one.asked["customer_id"], []).append(one.sent)
        for one in said:
            history = self.histories.get(one.asked) if one.op == "look" else None
            if history is None or one.status != 200:
                continue
            seen = one.body["features"]["complaints"]["value"]
            if seen == sum(sent <= one.answered for sent in events[one.asked]):
                history.marks = [
                    (at, min(known, one.answered) if at <= one.answered else known, kind)
                    for at, known, kind in history.marks
                ]

    def judge(self, said: Said) -> None:
        """Judge one answer."""
        if said.op == "check" and said.status == 200:
            self._check(said)
        elif said.op == "decide" and said.status == 200:
            self._decide(said)
        elif said.op == "confirm" and said.status == 409 and said.body.get("reasons"):
            self._late(said)
        elif said.op == "confirm" and said.status == 200:
            self._sent(said)

    def _check(self, said: Said) -> None:
        self.check(said, said.asked["body"]["customer_ids"])

    def check(self, said: Said, names: list[str], passed: Collection[str] = ()) -> None:
        """Judge a check; `names` are its customers by the names of their histories, some may be passed over."""
        body = said.asked["body"]
        item = Item(body["offer"], OFFERS[body["offer"]][0])
        earlier: dict[str, list[Held]] = {}
        for customer_id, row in zip(names, said.body["results"], strict=True):
            if customer_id in passed:
                continue
            history = self.histories.get(customer_id, self._empty)
            before = earlier.setdefault(customer_id, [])
            real = next((held.contact_id for held in before if held.contact_id), "")
            reasons = {reason["rule"]: ms(reason["eligible_at"]) for reason in row.get("reasons", ())}
            eligible_at = ms(row["eligible_at"]) if reasons else None
            own = row.get("reservation_id", "")
            hints = self._hints(reasons)
            if own:
                made = next((h for h in history.held if h.contact_id == own), None)
                if made is None:
                    continue  # it is lost, which is told elsewhere
                hints = [made.made]
                before.append(made)
                others = tuple(before[:-1])
            else:
                others = tuple(before)
                if row["allowed"]:
                    before.append(Held("", body["channel"], (item,), said.sent, FOREVER))
            self.judged += 1
            self.refusals += not row["allowed"]
            mine = self._of_this_call(history, said, own or real)
            states = history.states(said.sent, said.answered, hints, others, before=mine)
            if not any(history.explains(s, body["channel"], item, reasons, eligible_at) for s in states):
                near = [change for change in history.changes if said.sent - 5 <= change.at <= said.answered]
                self.verdict.breach(
                    "false answers",
                    f"check of {customer_id} for {body}, sent {said.sent}, answered {said.answered}: {row}; {near}",
                )

    @staticmethod
    def _of_this_call(history: History, said: Said, contact_id: str) -> str:
        """Return the contact of this call that was written first for this customer."""
        if not contact_id:
            return ""
        ids = {row.get("reservation_id") for row in said.body["results"]}
        for change in history.changes:
            if not change.ends and change.held.contact_id in ids:
                return change.held.contact_id
        return contact_id

    def _decide(self, said: Said) -> None:
        answer, customer_id = said.body, said.asked["body"]["customer_id"]
        if answer["reason"] == "state_unavailable":
            self.verdict.breach("odd answers", f"decide was answered {answer}")
            return
        history = self.histories.get(customer_id, self._empty)
        placement = answer["placement"]
        channel, slots = SLOTS[placement]
        chosen = {offer["offer"] for offer in answer["offers"]}
        said_rules = {entry["rule"]: entry["offers"] for entry in answer["suppressed"]}
        own = answer["reservation"]["id"] if answer["reservation"] is not None else ""
        hints = [ms(entry["eligible_at"]) for entry in answer["suppressed"]]
        if own:
            hints = [next((h.made for h in history.held if h.contact_id == own), said.sent)]
            if own not in {held.contact_id for held in history.held}:
                return
        self.judged += 1
        self.refusals += not chosen
        for state in history.states(said.sent, said.answered, hints, before=own):
            live = history.live(state)
            stopped = {
                offer: history.blocked(state, live, channel, Item(offer, OFFERS[offer][0]), state.now)
                for offer in PLACED[placement]
            }
            free = {offer for offer, rules in stopped.items() if not rules}
            counts = Counter(rule for rules in stopped.values() for rule in rules)
            if chosen <= free and len(chosen) == min(slots, len(free)) and counts == said_rules:
                return
        self.verdict.breach("false answers", f"decide for {customer_id}: {answer}")

    def _late(self, said: Said) -> None:
        """Judge the refusal of a confirm: of a live one only the suppressions, of an expired one everything."""
        history, held = self._contact(said.asked)
        if held is None:
            return
        self.refusals += 1
        reasons = {reason["rule"]: ms(reason["eligible_at"]) for reason in said.body["reasons"]}
        states = history.states(said.sent, said.answered, self._hints(reasons), excluding=held.contact_id)
        self._confirms(history, held, states, said, set(reasons))

    def _sent(self, said: Said) -> None:
        """Judge a confirm that was granted, when it was the first to be told: no rule stood in its way."""
        history, held = self._contact(said.asked)
        if held is None or held.end_known != said.answered or held.confirmed > said.answered:
            return
        own = held.contact_id
        states = history.states(
            said.sent, said.answered, [held.confirmed], excluding=own, before=own, ending=True
        )
        self._confirms(history, held, states, said, set())

    def _confirms(
        self, history: History, held: Held, states: Iterator[State], said: Said, wanted: set[str]
    ) -> None:
        self.judged += 1
        for state in states:
            live = history.live(state)
            stops: set[str] = set()
            for item in held.items:
                stops |= history.blocked(state, live, held.channel, item, state.now)
            if state.now < held.expires:
                stops &= {"after-complaint"}
            if stops == wanted:
                return
        self.verdict.breach("false answers", f"confirm of {held} was answered {said.body}")

    def _hints(self, reasons: Mapping[str, int]) -> list[int]:
        """Return moments of judgement that an `eligible_at` gives away, where a live reservation set it."""
        return [free - self._spans[name] for name, free in reasons.items() if self._spans.get(name)]

    def _contact(self, contact_id: str) -> tuple[History, Held | None]:
        found = self._contacts.get(contact_id)
        return found if found is not None else (self._empty, None)
