"""The parts of the OpenAPI document that are the same for every catalogue (docs/reference/http.md#openapi). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
"""A JSON object."""

_TIME: Json = {"type": "string", "format": "date-time"}


def _header(name: str, description: str, schema: Json | None = None) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": schema or {"type": "string"}}


CONDITIONS: list[Json] = [
    _header("If-None-Match", "The entity tag of a result that the client has: 304 if it is still the current one."),
    _header("Prefer", "`wait=N`, with If-None-Match: wait up to N seconds (at most 60) for another result."),
    _header("Last-Event-ID", "For an event stream: the version of the result that the client has."),
]
"""Header parameters of a request for a result."""


def _error(status: str, description: str) -> Json:
    return {status: {"description": description, "content": {"application/json": {"schema": _ref("Error")}}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_TOPIC_ERRORS: Json = {
    **_error("400", "`invalid_params`: a parameter is wrong or missing."),
    **_error("401", "`unauthorized`: a token is needed, or the token is wrong."),
    **_error("403", "`forbidden`: the token's roles or claims do not suffice, or the Origin is not allowed."),
    **_error("404", "`unknown_query`: the catalogue has no such query any more."),
}

_BUSY: Json = _error("503", "`draining` or `too_many_connections`: use another gateway, or come back.")

POKE_RESPONSES: Json = {
    "202": _answer(
        "The number of topics that are polled for it.",
        {"type": "object", "properties": {"topics": {"type": "integer", "minimum": 0}}, "required": ["topics"]},
    ),
    **_TOPIC_ERRORS,
}
"""The responses to a poke."""


def snapshot(row: object, key: Sequence[str]) -> Json:
    """Return the schema of a result whose rows have this schema."""
    return {
        "type": "object",
        "properties": {
            "version": _ref("Version"),
            "polled_at": _TIME,
            "key": _key(key),
            "rows": {"type": "array", "items": row},
        },
        "required": ["version", "polled_at", "key", "rows"],
    }


def _key(columns: Sequence[str]) -> Json:
    """Return the schema of the key's columns, whose names the description has: generators of clients refuse a `const`
    that is an array."""
    named = f"The columns of the key: {', '.join(columns)}." if columns else "There is no key."
    strings = {"type": "array", "items": {"type": "string"}}
    return strings | {"minItems": len(columns), "maxItems": len(columns), "description": named}


def live_responses(result: Json) -> Json:
    """Return the responses to a request for a result with this schema."""
    headers = {
        "ETag": {"description": "The version of the result, in quotes.", "schema": {"type": "string"}},
        "Preference-Applied": {"description": "The wait that was applied.", "schema": {"type": "string"}},
    }
    return {
        "200": {
            "description": "The current result; as an event stream, the result and all its changes from then on.",
            "headers": headers,
            "content": {
                "application/json": {"schema": result},
                "text/csv": {"schema": {"type": "string", "description": "The rows, below the columns' names."}},
                "text/event-stream": {
                    "schema": {"type": "string", "description": "The events `snapshot`, `delta` and `status`."}
                },
            },
        },
        "304": {"description": "The client has the current result.", "headers": headers},
        **_TOPIC_ERRORS,
        **_error("500", "`failed`: the query itself is at fault."),
        **_BUSY,
        **_error("504", "`timeout`: there is no result yet after 10 seconds."),
    }


def components() -> Json:
    """Return the components that paths refer to."""
    nothing = {"type": "null"}
    param = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "type": {"type": "string"},
            "required": {"type": "boolean"},
            "default": {"description": "A value of the parameter's type, or null."},
            "enum": {"anyOf": [{"type": "array", "items": {"type": "string"}}, nothing]},
            "min": {"description": "A value of the parameter's type, or null."},
            "max": {"description": "A value of the parameter's type, or null."},
            "max_length": {"type": ["integer", "null"]},
        },
        "required": ["name", "type", "required", "default", "enum", "min", "max", "max_length"],
    }
    query = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "title": {"type": ["string", "null"]},
            "key": {"type": "array", "items": {"type": "string"}},
            "interval_ms": {"type": "integer"},
            "presence": {"type": "boolean"},
            "params": {"type": "array", "items": _ref("Param")},
        },
        "required": ["name", "title", "key", "interval_ms", "presence", "params"],
    }
    return {
        "schemas": {
            "Version": {
                "type": "string",
                "pattern": "^[0-9]+-[0-9]+$",
                "description": "The version of a result: it never goes back. Its form has no meaning for clients.",
            },
            "Error": {
                "type": "object",
                "properties": {
                    "reason": {"type": "string", "description": "A word for programs."},
                    "detail": {"type": "string", "description": "A sentence for people."},
                },
                "required": ["reason", "detail"],
            },
            "Query": query,
            "Param": param,
        }
    }


def fixed_paths(*, tokens: bool) -> Json:
    """Return the paths that every gateway has. `tokens` is whether clients need one; some of these need none."""
    free: Json = {"security": []} if tokens else {}
    queries = {"type": "object", "properties": {"queries": {"type": "array", "items": _ref("Query")}}}
    state = {"type": "object", "properties": {"status": {"type": "string"}}}
    refused = {status: _TOPIC_ERRORS[status] for status in ("401", "403")}

    def get(name: str, summary: str, responses: Json, extra: Json | None = None) -> Json:
        operation = {"operationId": name, "tags": ["gateway"], "summary": summary, "responses": responses}
        return {"get": operation | (extra or {})}

    return {
        "/api/queries": get(
            "queries", "The catalogue", {"200": _answer("What clients may know of each query.", queries), **refused}
        ),
        "/openapi.json": get(
            "openapi", "This document", {"200": _answer("An OpenAPI document.", {"type": "object"}), **refused}
        ),
        "/healthz": get("healthz", "Whether the gateway lives", {"200": _answer("It does.", state)}, free),
        "/readyz": get(
            "readyz",
            "Whether the gateway should get clients",
            {"200": _answer("It should.", state), "503": _answer("It should not, for the reason given.", state)},
            free,
        ),
        "/metrics": get(
            "metrics",
            "Metrics in the text format of Prometheus",
            {"200": {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
            free,
        ),
    }
