"""Rows as JSON for sources that deliver values: the same bytes that PostgreSQL's `row_to_json` makes of them. Pure.

A driver gives each column a name and an encoder, a function from a value that is not NULL to the bytes of its JSON. The
encoders below are for values as Python has them, and for texts as servers send them. A `RowEncoder` applies the
encoders to rows, and makes the piece that `Answer.add` takes.
"""

from __future__ import annotations

import datetime
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from math import isfinite
from typing import Any

import orjson

from pollcast.poller.sources.answer import Piece
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollFailed

Encoder = Callable[[Any], bytes]
"""Function that returns the JSON of a value of one column. The value is not None."""


class NoSuchColumn(Exception):
    """The result lacks a column that the query's key names. `error` is the outcome of the statement."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        reason = f"the result has no column {column}, which its key names"
        self.error = PollError(PollFailed(reason), Scope.STATEMENT)


class RowEncoder:
    """An encoder of the rows of one result. Raises NoSuchColumn when a column of the query's key is missing."""

    def __init__(self, query: Query, columns: Sequence[tuple[str, Encoder]]) -> None:
        """Encode rows with these columns: the name and the encoder of each."""
        names = [name for name, _ in columns]
        if missing := [column for column in query.key if column not in names]:
            raise NoSuchColumn(missing[0])
        self._encoders = [encode for _, encode in columns]
        labels = [orjson.dumps(name).replace(b"%", b"%%") for name in names]
        self._row = b"{" + b",".join([label + b":%b" for label in labels]) + b"}"
        self._key = [names.index(column) for column in query.key]
        self._key_row = b"[" + b", ".join([b"%b"] * len(self._key)) + b"]"

    def piece(self, topic: int, rows: Iterable[Sequence[Any]]) -> Piece:
        """Return rows of the topic of this number (from 1) as `Answer.add` takes them. A value of NULL is None."""
        encoded = [
            [b"null" if value is None else encode(value) for value in column]
            for encode, column in zip(self._encoders, zip(*rows, strict=True), strict=False)
        ]
        texts = map(self._row.__mod__, zip(*encoded, strict=True))
        if not self._key:
            return [(topic, b"", text) for text in texts]
        keys = map(self._key_row.__mod__, zip(*[encoded[at] for at in self._key], strict=True))
        return [(topic, key, text) for key, text in zip(keys, texts, strict=True)]


# --- texts as servers send them ---------------------------------------------------------------------------------------

_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*+')
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")


def utf8_text(value: bytes) -> bytes:
    """Return a text in UTF-8 as a JSON string. Raises UnicodeDecodeError when it needs escapes and is not UTF-8."""
    return b'"%b"' % value if _PLAIN.fullmatch(value) else orjson.dumps(value.decode())


def number_text(value: bytes) -> bytes:
    """Return the text of a number as JSON: itself, or a string for one that JSON does not have, such as `NaN`."""
    return value if _NUMBER.fullmatch(value) else utf8_text(value)


def itself(value: bytes) -> bytes:
    """Return JSON as it is."""
    return value


# --- values as Python has them ----------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    """Return a text as a JSON string. Half of a surrogate pair becomes `?`."""
    try:
        return orjson.dumps(value)
    except TypeError:  # half of a surrogate pair
        return orjson.dumps(value.encode("utf-8", "replace").decode("utf-8", "replace"))


def boolean(value: bool) -> bytes:
    """Return a boolean as JSON."""
    return b"true" if value else b"false"


def integer(value: int) -> bytes:
    """Return an integer as JSON, whatever its size."""
    return b"%d" % value


def decimal(value: Decimal) -> bytes:
    """Return an exact number as JSON with all its digits and without an exponent; a string for `NaN` and infinity."""
    if value.is_finite():
        return format(value, "f").encode()
    return b'"NaN"' if value.is_nan() else b'"Infinity"' if value > 0 else b'"-Infinity"'


def floating(value: float) -> bytes:
    """Return a double as JSON with the fewest digits that give it back; a string for `NaN` and infinity."""
    if not isfinite(value):
        return b'"NaN"' if value != value else b'"Infinity"' if value > 0 else b'"-Infinity"'
    shortest = repr(value)
    if "e" not in shortest and abs(value) >= 1e15:  # PostgreSQL begins exponents here, Python at 1e16
        whole, _, fraction = shortest.lstrip("-").removesuffix(".0").partition(".")
        digits = (whole + fraction).rstrip("0")
        point = "." if len(digits) > 1 else ""
        shortest = f"{'-' if value < 0 else ''}{digits[0]}{point}{digits[1:]}e+{len(whole) - 1}"
    return shortest.removesuffix(".0").encode()


def binary(value: bytes) -> bytes:
    """Return bytes as JSON: the string `\\x…` with two hexadecimal digits for each."""
    return b'"\\\\x' + bytes(value).hex().encode() + b'"'


def date(value: datetime.date) -> bytes:
    """Return a date as JSON: `"2026-01-31"`."""
    return b'"%b"' % value.isoformat().encode()


def time(value: datetime.time) -> bytes:
    """Return a time as JSON: `"12:00:00.5"`."""
    return b'"%b"' % _without_zeros(value.isoformat()).encode()


def timestamp(value: datetime.datetime) -> bytes:
    """Return a point in time as JSON: `"2026-01-31T12:00:00"`, one with a time zone in UTC, with `+00:00` after it."""
    if value.tzinfo is None:
        return b'"%b"' % _without_zeros(value.isoformat()).encode()
    there = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return b'"%b+00:00"' % _without_zeros(there.isoformat()).encode()


def _without_zeros(shown: str) -> str:
    return shown.rstrip("0") if "." in shown else shown


def list_of(encode: Encoder) -> Encoder:
    """Return the encoder of lists whose items this one encodes: `[1,2,null]`."""

    def encode_list(values: Iterable[Any]) -> bytes:
        return b"[" + b",".join([b"null" if value is None else encode(value) for value in values]) + b"]"

    return encode_list


def value_of_any_type(value: Any) -> bytes:
    """Return any value as JSON by its type in Python; the text of one whose type is unknown as a string."""
    encode = _BY_TYPE.get(type(value))
    if encode is not None:
        return encode(value)
    if isinstance(value, Mapping):
        items = [text(str(name)) + b":" + value_of_any_type(each) for name, each in value.items()]
        return b"{" + b",".join(items) + b"}"
    if isinstance(value, list | tuple | set | frozenset):
        return b"[" + b",".join(map(value_of_any_type, value)) + b"]"
    return text(str(value))


_BY_TYPE: Mapping[type, Encoder] = {
    type(None): lambda value: b"null",
    bool: boolean,
    int: integer,
    float: floating,
    Decimal: decimal,
    str: text,
    bytes: binary,
    bytearray: binary,
    memoryview: binary,
    datetime.date: date,
    datetime.time: time,
    datetime.datetime: timestamp,
    uuid.UUID: lambda value: b'"%b"' % str(value).encode(),
}
