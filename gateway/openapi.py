"""The description of a gateway's HTTP interface in OpenAPI 3.1 (docs/reference/http.md#openapi). Pure.

It has one path for each query, with the parameters that clients may send: neither SQL nor parameters that are bound
from claims. The schemas of rows come from the pollers (gateway/row_schemas.py). Of a row that no poller has described,
only the columns of its key are named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from pollcast.gateway import openapi_parts as parts
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import Param, Query

Json: TypeAlias = dict[str, Any]
"""A JSON object."""

TYPES: Mapping[str, Json] = {
    "text": {"type": "string"},
    "int": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "double"},
    "numeric": {"type": "number"},
    "bool": {"type": "boolean"},
    "date": {"type": "string", "format": "date"},
    "timestamptz": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
}
"""The schema of each type of a parameter."""

NUMBERS = ("int", "float", "numeric")
"""Types whose bounds a schema can have."""

EXACT = 2**53
"""The integers up to this one are the same in all readers of JSON."""


def openapi(
    catalog: Catalog, version: str, prefix: str | None, rows: Mapping[str, object] | None = None, *, tokens: bool
) -> Json:
    """Return the document. `tokens` is whether clients need one; `version` is that of Pollcast.

    `rows` has the schemas of rows that are known, by the query's name, in a form that the caller can serialise.
    """
    paths: Json = {}
    for query in catalog.queries.values():
        paths[f"/live/{query.name}"] = {"get": _live(query, (rows or {}).get(query.name))}
    for query in catalog.queries.values():
        paths[f"/poke/{query.name}"] = {"post": _poke(query)}
    components = parts.components()
    document: Json = {
        "openapi": "3.1.1",
        "info": {"title": "Pollcast", "version": version, "summary": "Live results of database queries."},
        "servers": [{"url": prefix or "/"}],
        "tags": [
            {"name": "live", "description": "The results of the catalogue's queries."},
            {"name": "poke", "description": "Hints that something changed."},
            {"name": "gateway", "description": "The catalogue, and the gateway itself."},
        ],
        "paths": paths | parts.fixed_paths(tokens=tokens),
        "components": components,
    }
    if tokens:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        document["security"] = [{"token": []}]
    return document


def _live(query: Query, row: object | None) -> Json:
    """Return the description of `GET /live/<query>`, whose rows have this schema."""
    snapshot = parts.snapshot(_any_row(query) if row is None else row, query.key)
    polled = f"The database is polled every {query.interval * 1000:g} ms while somebody watches."
    roles = f" For tokens with one of the roles {', '.join(query.roles)}." if query.roles else ""
    return {
        "operationId": f"live_{query.name}",
        "tags": ["live"],
        "summary": query.title or query.name,
        "description": polled + roles,
        "parameters": [*_parameters(query), *parts.CONDITIONS],
        "responses": parts.live_responses(snapshot),
    }


def _any_row(query: Query) -> Json:
    """Return the schema of rows that no poller has described."""
    row: Json = {"type": "object", "additionalProperties": True}
    if query.key:
        columns = {column: {"description": "A column of the key."} for column in query.key}
        row |= {"properties": columns, "required": list(query.key)}
    return row


def _poke(query: Query) -> Json:
    """Return the description of `POST /poke/<query>`."""
    return {
        "operationId": f"poke_{query.name}",
        "tags": ["poke"],
        "summary": f"Have {query.name} polled at once",
        "description": "Without parameters, all topics of the query that somebody watches are polled.",
        "parameters": [parameter | {"required": False} for parameter in _parameters(query)],
        "responses": parts.POKE_RESPONSES,
    }


def _parameters(query: Query) -> list[Json]:
    return [_parameter(param) for param in query.params.values() if param.claim is None]


def _parameter(param: Param) -> Json:
    """Return the description of a query's parameter."""
    found: Json = {"name": param.name, "in": "query", "required": param.required}
    schema = _schema(param)
    if param.is_list:
        schema = {"type": "array", "items": schema, "maxItems": param.max_items}
        found |= {"style": "form", "explode": True}
        if isinstance(param.default, tuple):
            schema["default"] = [_value(param, text) for text in param.default]
    elif isinstance(param.default, str):
        schema["default"] = _value(param, param.default)
    if limits := _limits(param):
        found["description"] = limits
    return found | {"schema": schema}


def _schema(param: Param) -> Json:
    """Return the schema of one value of a parameter."""
    schema = dict(TYPES[param.type])
    if param.enum is not None:
        schema["enum"] = [_value(param, text) for text in param.enum]
    if param.max_length is not None:
        schema["maxLength"] = param.max_length
    if param.type in NUMBERS:
        if param.min is not None:
            schema["minimum"] = _value(param, param.min)
        if param.max is not None:
            schema["maximum"] = _value(param, param.max)
    return schema


def _limits(param: Param) -> str:
    """Return the limits that a schema cannot express, as a sentence; empty if there are none."""
    if param.type in NUMBERS:
        return ""
    said = [f"{word} {bound}" for word, bound in (("at least", param.min), ("at most", param.max)) if bound is not None]
    text = ", ".join(said)
    return text[:1].upper() + text[1:] + "." if text else ""


def _value(param: Param, text: str) -> object:
    """Return the JSON value of a canonical text."""
    if param.type == "bool":
        return text == "true"
    if param.type in NUMBERS:
        number = float(text)
        return int(text) if number.is_integer() and abs(number) <= EXACT and "." not in text else number
    return text
