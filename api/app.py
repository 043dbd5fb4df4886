"""The ASGI app: one FastAPI with one OpenAPI; the hot routes are taken ahead of its routing, or of ASGI altogether.

All ways lead to the same handlers through `_reply`, so an answer does not depend on the way. Paths are
matched as they were sent, still percent-encoded, so an id may hold a slash.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.call import Call, Disconnected, Receive, Reply, Scope, Send, Stream
from api.handlers import Handlers
from api.http.whole import Answer
from api.metrics import observe
from api.openapi import describe
from api.problems import PROBLEM, Problem
from api.routes import ROUTES, Route
from engine.errors import Conflict, TactError
from engine.judging.answer import Json
from engine.runtime import Engine
from engine.store.connection import StoreUnavailable

log = logging.getLogger("tact.api")

Opener = Callable[[], Any]
_PLAIN_CONTACT: Final = re.compile(rb"/v1/contacts/[A-Za-z0-9_.~%-]+/[a-z]+")
"""Anything else in a target (a query, say) is for ASGI to take apart."""
_JSON_HEADER: Final = (b"content-type", b"application/json")


class App:
    """The whole API of one process; `open_engine` is awaited at start-up."""

    def __init__(self, open_engine: Opener) -> None:
        """Take an async function that returns a wired engine."""
        self._open_engine = open_engine
        self.handlers: Handlers | None = None
        self.fastapi = FastAPI(title="Tact", lifespan=self._lifespan, redirect_slashes=False)
        for route in ROUTES:
            self.fastapi.add_api_route(
                route.path,
                _endpoint(self, route),
                methods=[route.method],
                summary=route.summary,
                name=route.summary,
                include_in_schema=False,
            )
        self.fastapi.add_exception_handler(HTTPException, _http_problem)
        describe(self.fastapi)
        self._hot = {
            (route.method, route.path.encode()): route
            for route in ROUTES
            if route.hot and "{" not in route.path
        }
        self._hot_ends = {
            (route.method, route.path.rpartition("/")[2]): route
            for route in ROUTES
            if route.hot and "{" in route.path
        }
        self._answers = {
            (method.encode(), path): self._answer(route, {}) for (method, path), route in self._hot.items()
        }

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        engine: Engine = await self._open_engine()
        self.handlers = Handlers(engine)
        following = asyncio.create_task(engine.models.follow())
        yield
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await engine.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI event."""
        if scope["type"] != "http":
            await self.fastapi(scope, receive, send)
            return
        raw: bytes = scope["raw_path"] if scope.get("raw_path") else scope["path"].encode()
        raw = raw.partition(b"?")[0]
        route = self._hot.get((scope["method"], raw))
        if route is not None:
            await self.respond(route, Call(scope, receive, {}), send)
            return
        path = raw.decode("latin-1")
        parts = path.split("/")
        if len(parts) == 5 and parts[1] == "v1" and parts[2] == "contacts":
            route = self._hot_ends.get((scope["method"], parts[4]))
            if route is not None:
                await self.respond(route, Call(scope, receive, {"reservation_id": parts[3]}), send)
                return
        await self.fastapi({**scope, "path": path}, receive, send)

    def hot(self, method: bytes, target: bytes) -> Answer | None:
        """Return who answers a hot route without ASGI (see `whole`), or None."""
        answer = self._answers.get((method, target))
        if answer is None and _PLAIN_CONTACT.fullmatch(target):
            parts = target.decode().split("/")
            route = self._hot_ends.get((method.decode(), parts[4]))
            if route is not None:
                answer = self._answer(route, {"reservation_id": parts[3]})
        return answer

    def _answer(self, route: Route, path_ids: Mapping[str, str]) -> Answer:
        return lambda headers, body: self._whole(route, Call.whole(headers, body, path_ids))

    async def _whole(self, route: Route, call: Call) -> Reply:
        started = time.perf_counter()
        reply = await self._reply(route, call)
        assert isinstance(reply, Reply)  # noqa: S101  # only NDJSON is answered with a stream
        observe(route.path, reply.status, time.perf_counter() - started)
        return reply

    async def _reply(self, route: Route, call: Call) -> Reply | Stream:
        """Run a route's handler; nothing that a caller sends makes a 5xx. Disconnected passes through."""
        try:
            assert self.handlers is not None  # noqa: S101  # the server opens the app before it accepts
            return await route.handler(self.handlers, call)
        except Disconnected:
            raise
        except Exception as error:  # noqa: BLE001  # the last line: everything becomes a problem
            return failure(error)

    async def respond(self, route: Route, call: Call, send: Send) -> None:
        """Run a route's handler and send what comes of it."""
        started = time.perf_counter()
        try:
            reply = await self._reply(route, call)
        except Disconnected:
            return
        if isinstance(reply, Stream):
            status = await _send_stream(reply, send)
        else:
            status = reply.status
            await _send_reply(reply, send)
        observe(route.path, status, time.perf_counter() - started)


async def _send_reply(reply: Reply, send: Send) -> None:
    headers = [
        (b"content-type", reply.media),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def _send_stream(reply: Stream, send: Send) -> int:
    """Send the pieces as they come; a fault before the first of them still gets a proper answer."""
    started = False
    try:
        async for piece in reply.pieces:
            if not started:
                started = True
                await send(
                    {
                        "type": "http.response.start",
                        "status": 200,
                        "headers": [(b"content-type", reply.media)],
                    }
                )
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except Disconnected:
        return 499
    except Exception as error:  # the last line, as above
        if started:
            # The status is gone: cutting the stream short is the only honest sign that is left.
            log.warning("a stream was cut short: %s", error)
            raise
        whole = failure(error)
        await _send_reply(whole, send)
        return whole.status
    if not started:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", reply.media)]}
        )
    await send({"type": "http.response.body", "body": b""})
    return 200


def failure(error: Exception) -> Reply:
    """Return the answer that an error becomes."""
    if isinstance(error, StoreUnavailable):
        after = str(max(1, round(error.retry_after_s)))
        problem = Problem(
            503,
            "store-unavailable",
            "the store does not answer: try again in a moment",
            headers=[("retry-after", after)],
        )
    elif isinstance(error, TactError):
        problem = _from_engine(error)
    elif isinstance(error, Problem):
        problem = error
    else:
        log.error("a bug answered a request with 500", exc_info=error)
        problem = Problem(500, "bug", "Tact has a bug here: the log of the server says where")
    headers = tuple((name.encode(), value.encode()) for name, value in problem.headers)
    return Reply(problem.status, problem.body(), headers, PROBLEM)


def _from_engine(error: TactError) -> Problem:
    extra: Json = {}
    if isinstance(error, Conflict):
        extra = {"reasons": error.reasons if error.reasons is not None else []}
        if error.state:
            extra["state"] = error.state
        if error.reasons is not None:
            extra["eligible_at"] = error.eligible_at
    headers = [("retry-after", "1")] if error.status == 503 else []
    errors = [(error.pointer, error.detail)] if error.pointer else []
    return Problem(error.status, error.kind, error.detail, errors=errors, headers=headers, extra=extra)


def _endpoint(app: App, route: Route) -> Any:
    async def endpoint(request: Request) -> Response:
        return _Answer(app, route, Call(request.scope, request.receive, dict(request.path_params)))

    return endpoint


class _Answer(Response):
    """Lets FastAPI hand the call over to `respond`."""

    def __init__(self, app: App, route: Route, call: Call) -> None:
        self._app = app
        self._route = route
        self._call = call
        self.background = None
        self.status_code = route.status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # the call has both
        await self._app.respond(self._route, self._call, send)


async def _http_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for it
    if error.status_code == 404:
        problem = Problem(404, "no-route", "there is no such route: /docs lists them all")
    elif error.status_code == 405:
        problem = Problem(405, "method-not-allowed", "the route takes another method: /docs says which")
    else:
        problem = Problem(error.status_code, "refused", str(error.detail))
    return Response(
        problem.body(), problem.status, headers=dict(error.headers or {}), media_type=PROBLEM.decode()
    )
