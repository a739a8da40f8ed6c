"""The values of DuckDB's types as JSON. Pure.

DuckDB hands values over as Python has them, which loses months of intervals, nanoseconds and infinite dates, and takes
its time for decimals and dates. So a statement casts what Python lacks to texts, inside of lists, structs and maps as
well: `Form.cast` is the type that values are cast to, and `Form.encode` makes JSON of what then arrives. The texts are
those of DuckDB itself, except that moments are written in ISO 8601.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from pollcast.poller.duckdb.dialect import identifier
from pollcast.poller.sources import encoding
from pollcast.poller.sources.encoding import Encoder
from pollcast.poller.sources.statement import Kind
from pollcast.poller.sources.text_encoding import checked_json


class Type(Protocol):
    """A type, as DuckDB's package describes it (`duckdb.sqltypes.DuckDBPyType`)."""

    @property
    def id(self) -> str:
        """The name of the type without its parameters, in lower case."""

    @property
    def children(self) -> Sequence[tuple[str, Any]]:
        """The types of the parts of a nested type, by their names."""


class Form(NamedTuple):
    """The form in which values of one type travel."""

    cast: str
    """The type that they are cast to."""
    encode: Encoder
    """Function that returns the JSON of a value that has been cast."""


_NUMBER = re.compile(r"(-?)([0-9]*)((?:\.[0-9]+)?)")


def _plain(value: str) -> bytes:
    """Return a text as a JSON string."""
    return encoding.text(value)


def _number(value: str) -> bytes:
    """Return the text of an exact number as JSON."""
    found = _NUMBER.fullmatch(value)
    if found is None:
        return encoding.text(value)
    # A DECIMAL whose digits are all behind the point is written without a zero before it.
    return value.encode() if found[2] else f"{found[1]}0{found[3]}".encode()


def _single(value: str) -> bytes:
    """Return the text of a float of four bytes as JSON."""
    return encoding.floating(float(value))


def _json(value: str) -> bytes:
    """Return JSON as it is; as a string if it is none, for DuckDB accepts `NaN` and commas at the end."""
    return checked_json(value.encode("utf-8", "replace"))


def _empty(value: str) -> bytes:
    """Return a struct without fields."""
    return b"{}"


def _moment(value: str) -> bytes:
    """Return a date or a time stamp as JSON: `2026-01-31 12:00:00` → `"2026-01-31T12:00:00"`."""
    if "(BC)" in value:
        day, _, clock = (part.strip() for part in value.partition("(BC)"))
        value = f"{day}T{clock} BC" if clock else f"{day} BC"
    else:
        value = value.replace(" ", "T", 1)
    return b'"%b"' % value.encode()


def _moment_with_zone(value: str) -> bytes:
    """Return a time stamp with its offset as JSON: `2026-01-31 12:00:00+00` → `"2026-01-31T12:00:00+00:00"`."""
    return _HOURS_ONLY.sub(b":00", _moment(value))


_HOURS_ONLY = re.compile(rb'(?<=[0-9][+-][0-9]{2})(?= BC"|"$)')

_TEXT = Form("VARCHAR", _plain)

_INTEGERS = ("tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint", "uinteger", "ubigint")

_FORMS: Mapping[str, Form] = {
    **{name: Form(name.upper(), encoding.integer) for name in (*_INTEGERS, "uhugeint")},
    **dict.fromkeys(("decimal", "bignum", "varint"), Form("VARCHAR", _number)),
    **dict.fromkeys(("date", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"), Form("VARCHAR", _moment)),
    **dict.fromkeys(("timestamp with time zone", "timestamptz_ns"), Form("VARCHAR", _moment_with_zone)),
    "boolean": Form("BOOLEAN", encoding.boolean),
    "double": Form("DOUBLE", encoding.floating),
    "float": Form("VARCHAR", _single),
    "blob": Form("BLOB", encoding.binary),
    "json": Form("VARCHAR", _json),
    "variant": Form("JSON", _json),
}
"""The forms of types that are neither nested nor written as their text."""


KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("tinyint", "smallint", "integer", "utinyint", "usmallint"), "int"),
    **dict.fromkeys(("bigint", "uinteger"), "bigint"),
    **dict.fromkeys(("ubigint", "hugeint", "uhugeint", "decimal", "bignum", "varint"), "numeric"),
    **dict.fromkeys(("float", "double"), "float"),
    **dict.fromkeys(("timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"), "timestamp"),
    **dict.fromkeys(("list", "array", "map", "struct", "json", "variant"), "json"),
    **dict.fromkeys(("timestamp with time zone", "timestamptz_ns"), "timestamptz"),
    "boolean": "bool",
    "date": "date",
    "time": "time",
    "uuid": "uuid",
}
"""The type that rows have for a column of each type; those of others are texts."""


def name_of(type: Type) -> str:
    """Return the name of a type; DuckDB's own name for JSON is that of texts."""
    return "json" if str(type) == "JSON" else type.id


def form_of(type: Type) -> Form:
    """Return the form in which values of the type travel; those of a type that is unknown travel as texts."""
    name = name_of(type)
    if name in ("list", "array"):
        item = form_of(type.children[0][1])
        return Form(f"{item.cast}[]", encoding.list_of(item.encode))
    if name == "map":
        value = form_of(type.children[1][1])
        return Form(f"MAP(VARCHAR, {value.cast})", _object_of(value.encode))
    if name == "struct" and not type.children:
        return Form("VARCHAR", _empty)
    if name == "struct" and all(field for field, _ in type.children):
        fields = {field: form_of(each) for field, each in type.children}
        listed = ", ".join(f"{identifier(field)} {form.cast}" for field, form in fields.items())
        return Form(f"STRUCT({listed})", _struct_of({field: form.encode for field, form in fields.items()}))
    return _FORMS.get(name, _TEXT)


def _struct_of(fields: Mapping[str, Encoder]) -> Encoder:
    """Return the encoder of a struct with these fields."""
    labels = {field: encoding.text(field) + b":" for field in fields}

    def encode(value: Mapping[str, Any]) -> bytes:
        """Return a struct as a JSON object."""
        members = [
            labels[field] + (b"null" if value[field] is None else encode_field(value[field]))
            for field, encode_field in fields.items()
        ]
        return b"{" + b",".join(members) + b"}"

    return encode


def _object_of(encode_value: Encoder) -> Encoder:
    """Return the encoder of a map whose values this one encodes."""

    def encode(value: Mapping[str, Any]) -> bytes:
        """Return a map as a JSON object, whose names are the texts of its keys."""
        members = [
            encoding.text(name) + b":" + (b"null" if each is None else encode_value(each))
            for name, each in value.items()
        ]
        return b"{" + b",".join(members) + b"}"

    return encode
