"""The JSON Schema of a query's rows, for `/openapi.json` (docs/reference/http.md#openapi). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pollcast.poller.sources.row_type import Array, Enumeration, RowType, Type
from pollcast.poller.sources.statement import Kind

Json: TypeAlias = dict[str, Any]
"""A JSON object."""

KINDS: Mapping[Kind, Json] = {
    "bool": {"type": "boolean"},
    "int": {"type": "integer", "format": "int32"},
    "bigint": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "double"},
    "numeric": {"type": "number"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time-local"},
    "timestamp": {"type": "string", "format": "date-time-local"},
    "timestamptz": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "text": {"type": "string"},
    "json": {},
}
"""The schema of each kind. Formats without an offset are those of OpenAPI's registry."""

NOT_FINITE: Json = {"pattern": "^(NaN|-?Infinity)$"}
"""The addition to the schema of a number that may be a string, because JSON has no such number."""

OF_THE_KEY = "A column of the key."
"""The description of the columns by which a client tells rows."""


def row_schema(row: RowType, key: Sequence[str] = (), *, finite: bool = False) -> Json:
    """Return the schema of a query's rows. `finite` is whether no number can be NaN or infinite."""
    schema = _object(row, finite)
    for column in key:
        if column in schema["properties"]:
            schema["properties"][column]["description"] = OF_THE_KEY
    return schema


def _object(row: RowType, finite: bool) -> Json:
    return {
        "type": "object",
        "properties": {each.name: _schema(each.type, finite, nullable=each.nullable) for each in row.columns},
        "required": [each.name for each in row.columns],
        "additionalProperties": False,
    }


def _schema(type: Type, finite: bool, *, nullable: bool = True) -> Json:
    """Return the schema of a column, an element or a part of a composite value."""
    if isinstance(type, Enumeration):
        schema: Json = {"type": "string"}
        if type.labels:
            schema["enum"] = [*type.labels, None] if nullable else list(type.labels)
    elif isinstance(type, Array):
        schema = {"type": "array", "items": _schema(type.element, finite)}
    elif isinstance(type, RowType):
        schema = _object(type, finite)
    else:
        schema = dict(KINDS[type])
    types = [schema.pop("type")] if "type" in schema else []
    if types == ["number"] and not finite:
        types.append("string")
        schema |= NOT_FINITE
    if types and nullable:
        types.append("null")
    return {"type": types if len(types) > 1 else types[0]} | schema if types else schema
