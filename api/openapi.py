"""One OpenAPI for all routes, made from the route table and from the very types that decode the bodies."""

from typing import Any, Final

import msgspec
from fastapi import FastAPI

from api.routes import ROUTES, Route
from engine.services.requests import Id

_PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong and how to mend it"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_ID_SCHEMA: Final = msgspec.json.schema(Id)
_REFUSALS: Final = {
    "400": "The body cannot be read",
    "404": "There is no such thing",
    "408": "The request took too long to arrive",
    "409": "It contradicts what has already happened",
    "413": "The body is too large",
    "415": "The media type is not understood",
    "422": "The request says something that cannot be",
    "503": "The store does not answer, or more requests came than can be served; Retry-After says when to try again",
}


def describe(app: FastAPI) -> None:
    """Make the app serve this description at /openapi.json and /docs."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(document())
        return made

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to replace it


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    bodies = [route.body for route in ROUTES if route.body is not None]
    schemas, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    by_route = dict(zip([id(body) for body in bodies], schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, by_route.get(id(route.body))
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tact",
            "version": "0.1.0",
            "description": "Picks each customer's next best action within milliseconds, or keeps silent.",
        },
        "paths": paths,
        "components": {"schemas": {**components, "Problem": _PROBLEM}},
    }


def _operation(route: Route, body: dict[str, Any] | None) -> dict[str, Any]:
    said: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{route.path.replace('/', '_').replace('{', '').replace('}', '')}",
        "tags": [route.scope],
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if body is not None:
        content: dict[str, Any] = {"application/json": {"schema": body, "example": route.request}}
        if route.ndjson:
            content["application/x-ndjson"] = {"schema": {"type": "string"}}
        said["requestBody"] = {"required": True, "content": content}
    return said


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": _ID_SCHEMA}
        for part in route.path.split("/")
        if part.startswith("{")
    ]
    found += [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": text}
        for name, schema, text in route.query
    ]
    if route.idempotent:
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
                "description": "makes a retry return the first answer, for 24 hours",
            }
        )
    return found


def _responses(route: Route) -> dict[str, Any]:
    media = "application/json"
    if route.path == "/metrics":
        media = "text/plain"
    elif route.path == "/v1/facts":
        media = "application/x-ndjson"
    content: dict[str, Any] = {
        "schema": {"type": "object"} if media == "application/json" else {"type": "string"}
    }
    if route.response is not None:
        content["example"] = route.response
    contents = {media: content}
    if route.ndjson and route.path.endswith("check"):
        contents["application/x-ndjson"] = {"schema": {"type": "string"}}
    found = {str(route.status): {"description": "Done", "content": contents}}
    for status, text in _REFUSALS.items():
        found[status] = {
            "description": text,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return found
