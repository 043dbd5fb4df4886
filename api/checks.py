"""`POST /v1/contacts/check`: one question about many customers, or a stream of rows with flat memory."""

from collections.abc import AsyncIterator
from typing import Final

import orjson

from api.bodies import JSON_MAX, LINE_MAX, check_row, convert, parse_json
from api.call import JSON, NDJSON, REPLAYED, Call, Reply, Stream, invalid
from api.problems import Problem
from engine.errors import TactError
from engine.judging.answer import Json
from engine.runtime import Engine
from engine.services.checking import Row
from engine.services.idempotency import unpack
from engine.services.requests import CheckRequest, CheckRow
from engine.services.sending import checked_item, item_of

_STREAM_ROWS: Final = 200
"""Rows of a streamed check that are judged side by side."""


async def check(engine: Engine, call: Call) -> Reply | Stream:
    """`POST /v1/contacts/check`, as JSON or as a stream of rows."""
    if call.media(JSON, NDJSON) == NDJSON:
        return await _stream(engine, call)
    call.query()
    raw = await call.body(JSON_MAX)
    request = convert(parse_json(raw), CheckRequest)
    plan = await engine.checking.active()
    ttl_ms = None if request.reservation_ttl_s is None else _ttl_ms(request.reservation_ttl_s)
    item = item_of(plan, request.category, request.offer)
    checked_item(plan, request.channel, item)
    used = call.idempotency("contacts/check", raw)
    used = used if request.reserve else None
    if used is not None:
        stored = await engine.store.claim(used.key, used.body_hash, used.ttl_ms)
        if stored is not None and (body := unpack(stored, used)):
            return Reply(200, body, REPLAYED)
    rows = [
        Row(number, customer_id, request.channel, item, ttl_ms)
        for number, customer_id in enumerate(request.customer_ids)
    ]
    seed = used.key.encode() if used is not None else b""
    results = await engine.checking.check(rows, take=request.reserve, seed=seed)
    said: Json = {"policy_version": (await engine.checking.plan()).policy.version}
    if not request.reserve:
        said["advisory"] = True
    body = orjson.dumps(said | {"results": results})
    if used is not None:
        await engine.store.answer(used.key, used.pack(body), used.ttl_ms)
    return Reply(200, body)


async def _stream(engine: Engine, call: Call) -> Stream:
    query = call.query("reserve", "reservation_ttl_s")
    reserve = query.get("reserve", "true")
    if reserve not in ("true", "false"):
        raise invalid("reserve is true or false", "/reserve")
    ttl_ms = None
    if "reservation_ttl_s" in query:
        ttl_ms = _ttl_ms(_number(query["reservation_ttl_s"], "reservation_ttl_s"))
    used = call.idempotency("contacts/check-stream", b"")
    seed = used.key.encode() if used is not None else b""
    await engine.checking.active()
    return Stream(_answers(engine, call, take=reserve == "true", ttl_ms=ttl_ms, seed=seed))


async def _answers(
    engine: Engine, call: Call, *, take: bool, ttl_ms: int | None, seed: bytes
) -> AsyncIterator[bytes]:
    waiting: list[Row | Json] = []
    number = 0
    async for line in call.lines():
        if line is None or line.strip():
            waiting.append(await _row(engine, line, number, ttl_ms))
            number += 1
        if len(waiting) >= _STREAM_ROWS:
            yield await _judged(engine, waiting, take=take, seed=seed)
            waiting = []
    if waiting:
        yield await _judged(engine, waiting, take=take, seed=seed)


async def _row(engine: Engine, line: bytes | None, number: int, ttl_ms: int | None) -> Row | Json:
    customer_id = None
    try:
        if line is None:
            raise invalid(f"the line is over {LINE_MAX // 1024} KB")
        asked = check_row(line)
        if asked is None:
            value = parse_json(line)
            customer_id = value.get("customer_id") if isinstance(value, dict) else None
            asked = convert(value, CheckRow)
        customer_id = asked.customer_id
        plan = await engine.checking.plan()
        item = item_of(plan, asked.category, asked.offer)
        checked_item(plan, asked.channel, item)
    except (Problem, TactError) as refused:
        said = customer_id if isinstance(customer_id, str) else None
        return {"customer_id": said, "error": _sentence(refused)}
    return Row(number, asked.customer_id, asked.channel, item, ttl_ms)


async def _judged(engine: Engine, waiting: list[Row | Json], *, take: bool, seed: bytes) -> bytes:
    rows = [row for row in waiting if isinstance(row, Row)]
    judged = iter(await engine.checking.check(rows, take=take, seed=seed) if rows else ())
    said = [next(judged) if isinstance(row, Row) else row for row in waiting]
    if not take:
        said = [row if "error" in row else row | {"advisory": True} for row in said]
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in said)


def _sentence(refused: Problem | TactError) -> str:
    if isinstance(refused, Problem) and refused.errors:
        pointer, detail = refused.errors[0]
        return f"{pointer}: {detail}" if pointer else detail
    return refused.detail


def _ttl_ms(seconds: float) -> int:
    if not 1 <= seconds <= 604_800:
        raise invalid("reservation_ttl_s is 1 to 604800 seconds", "/reservation_ttl_s")
    return round(seconds * 1000)


def _number(text: str, name: str) -> float:
    try:
        value = parse_json(text.encode()) if len(text) <= 32 else None
    except Problem:
        value = None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise invalid(f"{name} is a number", f"/{name}")
    return float(value)
