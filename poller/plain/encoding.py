"""The encoding of rows that a server of PostgreSQL's protocol sends as text: the JSON that PostgreSQL would make. Pure.

A value arrives as the text that its type's output function writes, with the number of its type. From these two follows
what PostgreSQL's `row_to_json` would write:

- Numbers are themselves, exact decimals included; `NaN` and infinity, which JSON lacks, are strings.
- Booleans are `true` and `false`, `json` and `jsonb` are themselves.
- Dates and times are strings in ISO 8601: a `T` between day and time, and an offset with hours and minutes.
- Arrays of types that are known here are JSON arrays, of any depth.
- Everything else is a string with the value's text: `bytea` is `\\x…`, an interval what the server writes.

A type that PostgreSQL lacks, or whose number is a database's own (enums, composite types, extensions), is unknown here:
its value is a string. That is what PostgreSQL makes of an enum too. Of a composite value, PostgreSQL makes an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TypeAlias

import psycopg

from pollcast.poller.sources.row_encoder import ColumnEncoder, or_null
from pollcast.poller.sources.text_encoding import numbers, texts, themselves

Values: TypeAlias = tuple[bytes | None, ...]
"""The texts of one row's values."""


# --- values of one type -----------------------------------------------------------------------------------------------

_HOURS_ONLY = re.compile(rb"(?<=[0-9][+-][0-9]{2})(?= BC|$)")
_TRUE = {b"t", b"true"}


def encode_bool(values: list[bytes]) -> list[bytes]:
    """Return `true` and `false`."""
    return [b"true" if value in _TRUE else b"false" for value in values]


def encode_timestamp(values: list[bytes]) -> list[bytes]:
    """Return moments in ISO 8601."""
    return [b'"%b"' % value.replace(b" ", b"T", 1) for value in values]


def encode_timestamptz(values: list[bytes]) -> list[bytes]:
    """Return moments with their offset in ISO 8601."""
    return [b'"%b"' % _HOURS_ONLY.sub(b":00", value.replace(b" ", b"T", 1)) for value in values]


_BYTE = re.compile(rb"\\(\\|[0-3][0-7]{2})")


def encode_bytea(values: list[bytes]) -> list[bytes]:
    """Return strings of hexadecimal digits after `\\x`, also of values in the format of `bytea_output = escape`."""
    if all(value.startswith(b"\\x") for value in values):
        return [b'"\\%b"' % value for value in values]
    return [b'"\\\\x%b"' % _BYTE.sub(_byte, value).hex().encode() for value in values]


def _byte(found: re.Match[bytes]) -> bytes:
    return b"\\" if found[1] == b"\\" else bytes([int(found[1], 8)])


def encode_vector(encode: ColumnEncoder, values: list[bytes]) -> list[bytes]:
    """Return arrays whose elements have a space between them, as those of `int2vector`."""
    return [b"[%b]" % b",".join(encode(value.split())) for value in values]


_ARRAY_TOKEN = re.compile(rb'([{},;])|"((?:[^"\\]++|\\.)*+)"|([^{},;"]++)', re.DOTALL)
_ARRAY_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


def encode_array(encode: ColumnEncoder, delimiter: bytes, values: list[bytes]) -> list[bytes]:
    """Return JSON arrays of PostgreSQL's texts of arrays: `{{1,2},{NULL,3}}` → `[[1,2],[null,3]]`."""
    return [_array(encode, delimiter, value) for value in values]


def _array(encode: ColumnEncoder, delimiter: bytes, text: bytes) -> bytes:
    if text.startswith(b"["):  # the bounds, which JSON lacks
        text = text.partition(b"=")[2]
    elements: list[bytes | None] = []
    parts: list[bytes] = []  # the text of the array, with `%b` in place of each element
    bare = b""  # the pieces of an element without quotes, which may hold what delimits others
    for mark, quoted, plain in _ARRAY_TOKEN.findall(text):
        if mark == b"{":
            parts.append(b"[")
        elif mark in (delimiter, b"}") and mark:
            if bare:
                elements.append(None if bare == b"NULL" else bare)
                parts.append(b"%b")
                bare = b""
            parts.append(b"]" if mark == b"}" else b",")
        elif mark or plain:
            bare += mark or plain
        else:
            elements.append(_ARRAY_ESCAPE.sub(rb"\1", quoted))
            parts.append(b"%b")
    return b"".join(parts) % tuple(or_null(encode, elements))


# --- the types that are known -----------------------------------------------------------------------------------------

_BOX = 603
_PG_SNAPSHOT = 5038, 5039  # a type and its array, which psycopg does not list


def _scalars() -> Iterator[tuple[int, ColumnEncoder]]:
    """Yield the numbers of PostgreSQL's own types, except arrays, with their encoders."""
    named: dict[str, ColumnEncoder] = {
        **dict.fromkeys(("int2", "int4", "int8", "float4", "float8", "numeric"), numbers),
        **dict.fromkeys(("json", "jsonb"), themselves),
        "bool": encode_bool,
        "bytea": encode_bytea,
        "timestamp": encode_timestamp,
        "timestamptz": encode_timestamptz,
        "int2vector": partial(encode_vector, numbers),
        "oidvector": partial(encode_vector, texts),
    }
    for type in psycopg.adapters.types:
        yield type.oid, named.get(type.name, texts)


def _encoders() -> dict[int, ColumnEncoder]:
    found = dict(_scalars())
    for each in psycopg.adapters.types:
        if each.array_oid:
            found[each.array_oid] = partial(encode_array, found[each.oid], b";" if each.oid == _BOX else b",")
    type, array = _PG_SNAPSHOT
    return {**found, type: texts, array: partial(encode_array, texts, b",")}


ENCODERS = _encoders()
"""The encoder of each type that is known, by its number."""


def encoder(type: int) -> ColumnEncoder:
    """Return the encoder of columns of the type with this number."""
    return ENCODERS.get(type, texts)
