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

Every row of every poll passes here, so values are encoded by columns, and the common cases by a few calls for many
rows: whether any text needs an escape is asked once for all texts of a column. Rows and keys are put together by the
`%` of a template, whose `%b` are the places of values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import psycopg

from pollcast.poller.sources.answer import Piece
from pollcast.poller.sources.encoding import NoSuchColumn

Encoder: TypeAlias = Callable[[list[bytes]], list[bytes]]
"""A function from the texts of values of one type, none of them NULL, to their JSON."""

Values: TypeAlias = tuple[bytes | None, ...]
"""The texts of one row's values."""


class TextEncoder:
    """An encoder of the rows of one result."""

    __slots__ = ("_encoders", "_key", "_key_at", "_row")

    def __init__(self, columns: Sequence[tuple[str, int]], key: Sequence[str]) -> None:
        """Encode rows with these columns, each a name and the number of its type.

        Raises NoSuchColumn when a column of the key is missing.
        """
        names = [name for name, _ in columns]
        self._encoders = [ENCODERS.get(type, encode_text) for _, type in columns]
        if missing := [name for name in key if name not in names]:
            raise NoSuchColumn(missing[0])
        self._key_at = [names.index(name) for name in key]
        members = [json_string(name).replace(b"%", b"%%") + b":%b" for name in names]
        self._row = b"{%b}" % b",".join(members)
        self._key = b"[%b]" % b", ".join([b"%b"] * len(self._key_at)) if key else b""

    def piece(self, rows: Sequence[Values]) -> Piece:
        """Return the rows as those of topic 1: the topic, the JSON text of the key, and that of the row."""
        if not rows:
            return []
        columns = [
            _nullable(encode, values) for encode, values in zip(self._encoders, zip(*rows, strict=True), strict=True)
        ]
        row, key = self._row, self._key
        texts = [row % values for values in zip(*columns, strict=True)] if columns else [row] * len(rows)
        if not self._key_at:
            return [(1, b"", text) for text in texts]
        keys = zip(*(columns[at] for at in self._key_at), strict=True)
        return [(1, key % values, text) for values, text in zip(keys, texts, strict=True)]


def _nullable(encode: Encoder, values: Sequence[bytes | None]) -> list[bytes]:
    """Return the JSON of values, of which those that are None are NULL."""
    given = [value for value in values if value is not None]
    if len(given) == len(values):
        return encode(given)
    encoded = iter(encode(given))
    return [b"null" if value is None else next(encoded) for value in values]


# --- values of one type -----------------------------------------------------------------------------------------------

_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*+')
_ESCAPED = re.compile(rb'["\\\x00-\x1f]')
_ESCAPES = {
    **{bytes([code]): b"\\u%04x" % code for code in range(0x20)},
    **{b'"': b'\\"', b"\\": b"\\\\", b"\b": b"\\b", b"\f": b"\\f", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"},
}
_NUMBER = rb"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+"
_NUMBERS = re.compile(rb"%b(?: %b)*+" % (_NUMBER, _NUMBER))
_ONE_NUMBER = re.compile(_NUMBER)
_HOURS_ONLY = re.compile(rb"(?<=[0-9][+-][0-9]{2})(?= BC|$)")
_TRUE = {b"t", b"true"}


def encode_text(values: list[bytes]) -> list[bytes]:
    """Return JSON strings with these texts, escaped as PostgreSQL does."""
    if _PLAIN.fullmatch(b"".join(values)):
        return [b'"%b"' % value for value in values]
    return [b'"%b"' % _ESCAPED.sub(_escape, value) for value in values]


def _escape(found: re.Match[bytes]) -> bytes:
    return _ESCAPES[found[0]]


def encode_number(values: list[bytes]) -> list[bytes]:
    """Return numbers as they are, and strings for those that JSON lacks."""
    if not values or _NUMBERS.fullmatch(b" ".join(values)):
        return values
    return [value if _ONE_NUMBER.fullmatch(value) else encode_text([value])[0] for value in values]


def encode_bool(values: list[bytes]) -> list[bytes]:
    """Return `true` and `false`."""
    return [b"true" if value in _TRUE else b"false" for value in values]


def encode_json(values: list[bytes]) -> list[bytes]:
    """Return JSON as it is."""
    return values


def encode_timestamp(values: list[bytes]) -> list[bytes]:
    """Return moments in ISO 8601."""
    return [b'"%b"' % value.replace(b" ", b"T", 1) for value in values]


def encode_timestamptz(values: list[bytes]) -> list[bytes]:
    """Return moments with their offset in ISO 8601."""
    return [b'"%b"' % _HOURS_ONLY.sub(b":00", value.replace(b" ", b"T", 1)) for value in values]


def encode_bytea(values: list[bytes]) -> list[bytes]:
    """Return strings of hexadecimal digits after `\\x`."""
    if all(value.startswith(b"\\x") for value in values):
        return [b'"\\%b"' % value for value in values]
    return encode_text(values)


def encode_vector(encode: Encoder, values: list[bytes]) -> list[bytes]:
    """Return arrays whose elements have a space between them, as those of `int2vector`."""
    return [b"[%b]" % b",".join(encode(value.split())) for value in values]


_ARRAY_TOKEN = re.compile(rb'([{},;])|"((?:[^"\\]++|\\.)*+)"|([^{},;"]++)', re.DOTALL)
_ARRAY_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


def encode_array(encode: Encoder, delimiter: bytes, values: list[bytes]) -> list[bytes]:
    """Return JSON arrays of PostgreSQL's texts of arrays: `{{1,2},{NULL,3}}` → `[[1,2],[null,3]]`."""
    return [_array(encode, delimiter, value) for value in values]


def _array(encode: Encoder, delimiter: bytes, text: bytes) -> bytes:
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
    return b"".join(parts) % tuple(_nullable(encode, elements))


def json_string(text: str) -> bytes:
    """Return the JSON string of a text, as PostgreSQL writes it."""
    return encode_text([text.encode()])[0]


# --- the types that are known -----------------------------------------------------------------------------------------

_BOX = 603
_PG_SNAPSHOT = 5038, 5039  # a type and its array, which psycopg does not list


def _scalars() -> Iterator[tuple[int, Encoder]]:
    """Yield the numbers of PostgreSQL's own types, except arrays, with their encoders."""
    named: dict[str, Encoder] = {
        **dict.fromkeys(("int2", "int4", "int8", "float4", "float8", "numeric"), encode_number),
        **dict.fromkeys(("json", "jsonb"), encode_json),
        "bool": encode_bool,
        "bytea": encode_bytea,
        "timestamp": encode_timestamp,
        "timestamptz": encode_timestamptz,
        "int2vector": partial(encode_vector, encode_number),
        "oidvector": partial(encode_vector, encode_text),
    }
    for type in psycopg.adapters.types:
        yield type.oid, named.get(type.name, encode_text)


def _encoders() -> dict[int, Encoder]:
    found = dict(_scalars())
    for each in psycopg.adapters.types:
        if each.array_oid:
            found[each.array_oid] = partial(encode_array, found[each.oid], b";" if each.oid == _BOX else b",")
    type, array = _PG_SNAPSHOT
    return {**found, type: encode_text, array: partial(encode_array, encode_text, b",")}


ENCODERS = _encoders()
"""The encoder of each type that is known, by its number."""
