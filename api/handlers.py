"""What each route does: read the call, ask the engine, answer. No rule of the business lives here."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson

from api.bodies import DECIDE_MAX, JSON_MAX, convert, decide_request, parse_json
from api.call import JSON, NDJSON, REPLAYED, Call, Reply, Stream, answer, invalid
from api.checks import check
from api.events import Reader
from api.metrics import render
from api.problems import Problem
from engine.judging.answer import Json, when
from engine.judging.plan import compile_plan
from engine.runtime import Engine
from engine.services.requests import (
    ConfirmRequest,
    ConsentRequest,
    ContactRequest,
    FilesRequest,
    LinkRequest,
    ProfileRequest,
)
from engine.workers.features import BEAT
from policies.loader import Loaded, load_files
from policies.model import PolicyError


class Handlers:
    """The handlers of one process."""

    def __init__(self, engine: Engine) -> None:
        """Take the wired engine."""
        self.engine = engine
        self.leaving = False
        """Whether this process is about to stop: it still answers, but nobody should begin to ask it."""

    # ------------------------------------------------------------------ decide

    async def decide(self, call: Call) -> Reply:
        """`POST /v1/decide`."""
        call.query()
        call.media(JSON)
        raw = await call.body(DECIDE_MAX)
        request = decide_request(raw)
        if (request.customer_id is None) == (request.identities is None):
            raise invalid("name the customer by either customer_id or identities", "/customer_id")
        used = call.idempotency("decide", raw)
        done = await self.engine.deciding.decide(request, None if request.preview else used)
        return Reply(200, done.body, REPLAYED if done.replayed else ())

    async def decision(self, call: Call) -> Reply:
        """`GET /v1/decisions/{decision_id}`."""
        call.query()
        return answer(await self.engine.records.read(call.path_id("decision_id")))

    async def decisions(self, call: Call) -> Reply:
        """`GET /v1/customers/{customer_id}/decisions`."""
        limit = _whole(call.query("limit").get("limit", "20"), "limit", 1, 1000)
        return answer(await self.engine.records.latest(call.path_id("customer_id"), limit))

    # ------------------------------------------------------------------ contacts

    async def check(self, call: Call) -> Reply | Stream:
        """`POST /v1/contacts/check`."""
        return await check(self.engine, call)

    async def confirm(self, call: Call) -> Reply:
        """`POST /v1/contacts/{reservation_id}/confirm`."""
        call.query()
        reservation_id = call.path_id("reservation_id")
        await call.no_body()
        done = await self.engine.contacts.confirm(reservation_id)
        return answer(done.answer, headers=((b"tact-policy-version", done.policy_version.encode()),))

    async def release(self, call: Call) -> Reply:
        """`POST /v1/contacts/{reservation_id}/release`."""
        call.query()
        reservation_id = call.path_id("reservation_id")
        await call.no_body()
        return answer(await self.engine.contacts.release(reservation_id))

    async def confirm_many(self, call: Call) -> Reply:
        """`POST /v1/contacts/confirm`."""
        call.query()
        value, _ = await call.json()
        request = convert(value, ConfirmRequest)
        return answer({"results": await self.engine.contacts.confirm_many(request.reservation_ids)})

    async def record_contact(self, call: Call) -> Reply:
        """`POST /v1/contacts`."""
        call.query()
        value, _ = await call.json()
        done = await self.engine.contacts.record(convert(value, ContactRequest))
        return answer(
            {"contact_id": done.contact_id, "overrun": bool(done.rules), "rules": list(done.rules)},
            status=201,
        )

    # ------------------------------------------------------------------ events

    async def events(self, call: Call) -> Reply:
        """`POST /v1/events`: one, many or a stream."""
        call.query()
        reader = Reader(self.engine)
        if call.media(JSON, NDJSON) == NDJSON:
            async for line in call.lines():
                await reader.line(line)
        else:
            await reader.value(parse_json(await call.body(JSON_MAX)))
        await reader.flush()
        return reader.reply()

    # ------------------------------------------------------------------ customers

    async def customer(self, call: Call) -> Reply:
        """`GET /v1/customers/{customer_id}`."""
        call.query()
        return answer(await self.engine.people.read(call.path_id("customer_id")))

    async def erase(self, call: Call) -> Reply:
        """`DELETE /v1/customers/{customer_id}`."""
        call.query()
        return answer(await self.engine.people.erase(call.path_id("customer_id")), status=202)

    async def consent(self, call: Call) -> Reply:
        """`PUT /v1/customers/{customer_id}/consent`."""
        call.query()
        customer_id = call.path_id("customer_id")
        value, _ = await call.json()
        consent: Mapping[str, str] = convert(value, ConsentRequest)
        return answer(await self.engine.people.put_consent(customer_id, consent))

    async def profile(self, call: Call) -> Reply:
        """`PUT /v1/customers/{customer_id}/profile`."""
        call.query()
        customer_id = call.path_id("customer_id")
        value, _ = await call.json()
        fields: dict[str, Any] = convert(value, ProfileRequest)
        return answer(await self.engine.people.put_profile(customer_id, fields))

    async def link(self, call: Call) -> Reply:
        """`POST /v1/identities/link`."""
        call.query()
        value, _ = await call.json()
        asked = convert(value, LinkRequest)
        return answer(await self.engine.people.link(asked.customer_id, asked.kind, asked.value))

    async def unlink(self, call: Call) -> Reply:
        """`POST /v1/identities/unlink`."""
        call.query()
        value, _ = await call.json()
        asked = convert(value, LinkRequest)
        return answer(await self.engine.people.unlink(asked.customer_id, asked.kind, asked.value))

    # ------------------------------------------------------------------ policies

    async def active_policy(self, call: Call) -> Reply:
        """`GET /v1/policies/active`."""
        call.query()
        _, version = await self.engine.store.clock()
        plan = await self.engine.plans.get(version)
        newest = (await self.engine.plans.history())[0]
        policy = plan.policy
        return answer(
            {
                "policy_version": policy.version,
                "policy": policy.name,
                "activated_at": when(newest.activated_at),
                "placements": {name: place.channel for name, place in policy.placements.items()},
                "channels": {name: channel.kind for name, channel in policy.channels.items()},
                "categories": list(policy.categories),
                "offers": list(policy.offers),
                "files": policy.files,
            }
        )

    async def policy_versions(self, call: Call) -> Reply:
        """`GET /v1/policies/versions`."""
        call.query()
        history = await self.engine.plans.history()
        _, active = await self.engine.store.clock()
        entries = [
            {
                "policy_version": entry.policy_version,
                "activated_at": when(entry.activated_at),
                "active": number == 0 and entry.policy_version == active,
            }
            for number, entry in enumerate(history)
        ]
        return answer({"versions": entries})

    async def check_policy(self, call: Call) -> Reply:
        """`POST /v1/policies/check`."""
        loaded = await self._files(call)
        return answer({"policy_version": loaded.policy.version, "warnings": _problems(loaded.warnings)})

    async def activate_policy(self, call: Call) -> Reply:
        """`POST /v1/policies/activate`."""
        loaded = await self._files(call)
        plan = compile_plan(loaded.policy)
        previous, at = await self.engine.plans.activate(plan)
        return answer({"policy_version": plan.policy.version, "previous": previous, "activated_at": when(at)})

    async def rollback_policy(self, call: Call) -> Reply:
        """`POST /v1/policies/rollback`."""
        call.query()
        await call.no_body()
        version, previous, at = await self.engine.plans.rollback()
        return answer({"policy_version": version, "previous": previous, "activated_at": when(at)})

    async def _files(self, call: Call) -> Loaded:
        call.query()
        value, _ = await call.json()
        files: Mapping[str, str] = convert(value, FilesRequest).files
        try:
            return load_files(files)
        except PolicyError as refused:
            raise policy_problem(refused) from None

    # ------------------------------------------------------------------ operation

    async def live(self, call: Call) -> Reply:
        """`GET /livez`."""
        call.query()
        return answer({"status": "alive"})

    async def ready(self, call: Call) -> Reply:
        """`GET /readyz`."""
        call.query()
        if self.leaving:
            return answer({"status": "draining", "dependencies": {}}, 503)
        state = {"store": "ok", "policy": "ok", "worker": "ok", "events": self.engine.journal.fault() or "ok"}
        try:
            _, version = await self.engine.store.clock()
            if not version:
                state["policy"] = "none is active"
            if not await self.engine.connection.call("EXISTS", BEAT):
                state["worker"] = "silent: features and suppressing events lag behind"
        except Exception as error:  # noqa: BLE001  # whatever it is, we are not ready, and say why
            state["store"] = f"away: {error}"
            state |= dict.fromkeys(("policy", "worker", "events"), "unknown")
        whole = all(value == "ok" for value in state.values())
        serving = state["store"] == "ok" and state["policy"] == "ok"
        return answer(
            {"status": "ready" if whole else "degraded", "dependencies": state}, 200 if serving else 503
        )

    async def metrics(self, call: Call) -> Reply:
        """`GET /metrics`."""
        call.query()
        return Reply(
            200,
            render(self.engine.customers.measures, self.engine.connection.measures),
            media=b"text/plain; version=0.0.4; charset=utf-8",
        )

    async def quarantine(self, call: Call) -> Reply:
        """`GET /v1/quarantine`."""
        query = call.query("limit", "after")
        limit = _whole(query.get("limit", "100"), "limit", 1, 1000)
        after = query.get("after", "")
        if after and not _is_entry_id(after):
            raise invalid("after is the entry_id of an earlier answer", "/after")
        entries = await self.engine.journal.quarantined(limit, after)
        said = [
            {
                "entry_id": entry.entry_id,
                "reason": entry.reason,
                "events": [event_view(event) for event in entry.events],
            }
            for entry in entries
        ]
        return answer({"entries": said})

    async def requeue(self, call: Call) -> Reply:
        """`POST /v1/quarantine/replay`."""
        call.query()
        await call.no_body()
        sent, unreadable = await self.engine.journal.requeue(100_000)
        return answer({"sent": sent, "unreadable": unreadable})

    async def facts(self, call: Call) -> Stream:
        """`GET /v1/facts`: the raw facts of every customer, for `tact audit`."""
        call.query()
        return Stream(self._facts())

    async def _facts(self) -> AsyncIterator[bytes]:
        async for part in self.engine.people.all_facts():
            yield b"".join(orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE) for said in part)


def policy_problem(refused: PolicyError) -> Problem:
    """Return the problem of a policy set that cannot be used, with every mistake."""
    count = len(refused.problems)
    return Problem(
        422,
        "invalid-policy",
        f"the policy set has {count} mistake{'s' if count > 1 else ''}: see errors, mend them, and send it again",
        extra={"errors": _problems(refused.problems)},
    )


def _problems(problems: Any) -> list[Json]:
    return [
        {"file": p.file, "line": p.line, "field": p.field, "detail": p.detail, "fix": p.fix} for p in problems
    ]


def event_view(event: Any) -> Json:
    """Return an event as a caller would send it."""
    said = {
        "event_id": event.event_id,
        "type": event.type,
        "customer_id": event.customer_id,
        "occurred_at": when(event.occurred_at),
        "channel": event.channel,
        "decision_id": event.decision_id,
        "offer": event.offer,
        "properties": event.properties,
        "identities": event.identities,
    }
    return {name: value for name, value in said.items() if value not in (None, {}, "")}


def _whole(text: str, name: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9) or not low <= int(text) <= high:
        raise invalid(f"{name} is a whole number from {low} to {high}", f"/{name}")
    return int(text)


def _is_entry_id(text: str) -> bool:
    first, _, second = text.partition("-")
    return all(part.isascii() and part.isdigit() and len(part) <= 19 for part in (first, second))
