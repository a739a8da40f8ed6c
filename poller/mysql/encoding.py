"""Rows of MySQL's text protocol as JSON, with values as PostgreSQL would write them. Pure.

The server writes each value as a text. Numbers are JSON already, and stay what the server wrote: exact decimals,
integers of 64 bits, doubles in their shortest form. Everything else becomes a string (docs/reference/mysql.md#values).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from pollcast.poller.sources.encoding import binary
from pollcast.poller.sources.row_encoder import ColumnEncoder, each
from pollcast.poller.sources.statement import Kind
from pollcast.poller.sources.text_encoding import checked_json, texts, themselves

BINARY: Final = 63
"""The number of the character set of values that are no text."""

UNSIGNED: Final = 32
"""The flag of a number that has no sign."""

ZEROFILL: Final = 64
"""The flag of a number that is written with zeros before it."""

COMPUTED: Final = 128
"""The flag of bits that MariaDB has computed (`max(flags)`): it writes these as a number in decimal digits."""

# Types of the protocol (enum_field_types)
TINY, SHORT, LONG, FLOAT, DOUBLE, LONGLONG, INT24, YEAR, DECIMAL, NEWDECIMAL = 1, 2, 3, 4, 5, 8, 9, 13, 0, 246
TIMESTAMP, DATE, TIME, DATETIME, BIT, JSON, GEOMETRY = 7, 10, 11, 12, 16, 245, 255
NUMBERS: Final = frozenset({TINY, SHORT, LONG, FLOAT, DOUBLE, LONGLONG, INT24, YEAR, DECIMAL, NEWDECIMAL})


@dataclass(frozen=True, slots=True)
class Column:
    """The description of a result's column."""

    name: str
    type: int
    charset: int
    flags: int
    length: int
    format: str = ""
    """`json` for MariaDB's JSON, whose type is that of a text."""


def encoder(column: Column) -> ColumnEncoder:
    """Return the encoder of the column."""
    if column.type in NUMBERS:
        return each(_without_zeros) if column.flags & ZEROFILL else themselves
    if column.type == BIT:
        number = int if column.flags & COMPUTED else partial(int.from_bytes, byteorder="big")
        return each(lambda value: b'"%b"' % format(number(value), f"0{column.length}b").encode())
    if column.type in _BY_TYPE:
        return _BY_TYPE[column.type]
    if column.format == "json":
        return each(checked_json)
    return each(binary) if column.charset == BINARY else texts


def type_of(column: Hashable) -> Kind:
    """Return the type that rows have for the column."""
    assert isinstance(column, Column)
    if column.type in (TINY, SHORT, INT24, YEAR) or (column.type == LONG and not column.flags & UNSIGNED):
        return "int"
    return "json" if column.format == "json" else _KINDS.get(column.type, "text")


_KINDS: Final[Mapping[int, Kind]] = {
    LONG: "bigint",
    LONGLONG: "bigint",
    FLOAT: "float",
    DOUBLE: "float",
    DECIMAL: "numeric",
    NEWDECIMAL: "numeric",
    DATE: "date",
    DATETIME: "timestamp",
    TIMESTAMP: "timestamptz",
    JSON: "json",
}


def _without_zeros(value: bytes) -> bytes:
    """Return a number without the zeros before it: `00012.50` → `12.50`."""
    short = value.lstrip(b"0")
    return short if short[:1].isdigit() else b"0" + short


def _moment(value: bytes) -> bytes:
    """Return a date and a time as a string in ISO 8601: `2026-01-31 12:00:00.500` → `"2026-01-31T12:00:00.5"`."""
    return b'"%b"' % (_short(value) if b"." in value else value).replace(b" ", b"T")


def _moment_in_utc(value: bytes) -> bytes:
    """Return a date and a time in UTC as a string in ISO 8601."""
    return b'"%b+00:00"' % (_short(value) if b"." in value else value).replace(b" ", b"T")


def _short(value: bytes) -> bytes:
    """Return a time without the zeros at the end of its fraction."""
    return value.rstrip(b"0").rstrip(b".") if b"." in value else value


_BY_TYPE: Final[Mapping[int, ColumnEncoder]] = {
    DATE: each(lambda value: b'"%b"' % value),
    TIME: each(lambda value: b'"%b"' % _short(value)),
    DATETIME: each(_moment),
    TIMESTAMP: each(_moment_in_utc),
    GEOMETRY: each(binary),
    JSON: themselves,
}
