"""Values as Python has them as JSON: the same bytes that PostgreSQL's `row_to_json` makes of them. Pure.

For a column of a result, `each` (row_encoder.py) makes an encoder of one of these functions.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from math import isfinite
from typing import Any

import orjson

Encoder = Callable[[Any], bytes]
"""Function that returns the JSON of a value. The value is not None."""


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
