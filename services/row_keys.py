"""Row keys with one spelling each. Pure.

Two rows have the same key when the JSON values of their key columns are equal, because clients compare values: numbers
by value (`1.0` and `1.00`), strings regardless of escapes, objects regardless of the order of their names, and of equal
names in an object the last one counts. PostgreSQL writes values of most types in one way only. The exceptions are
`numeric`, which keeps its zeros, and `json`, which keeps the text of its author.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation, Rounded
from functools import lru_cache
from operator import itemgetter
from typing import Any

from pollcast.services.delta import Row

MOST_DIGITS = 40
"""Maximum number of digits before or after the point with which a number is written without an exponent."""

REMEMBERED_KEYS = 16_384
"""Number of keys whose spelling is remembered: at most 10 MiB."""

REMEMBERED_BYTES = 200
"""Maximum size of a key whose spelling is remembered, in bytes."""

_STRING = rb'"(?:[^"\\\x00-\x1f]++|\\["\\bfnrt])*+"'  # as PostgreSQL escapes it, without control characters
_NUMBER = rb"-?(?:[1-9][0-9]{0,39}+(?:\.[0-9]{0,38}[1-9])?|0\.[0-9]{0,38}[1-9])|0"
_VALUE = rb"(?:%b|%b|true|false|null)" % (_STRING, _NUMBER)
_CANONICAL = re.compile(rb"(?:\[%b(?:, %b)*+\]\n)*+" % (_VALUE, _VALUE))
"""Keys that have one spelling, each followed by a line break."""

_FRACTION = re.compile(rb'"(?:[^"\\]++|\\.)*+"|(?<=[\[ ,])-?[0-9]++\.[0-9]++(?=[,\]])')
"""Strings, and numbers with a fraction and without an exponent."""

_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, Rounded])


def with_canonical_keys(rows: list[Row]) -> list[Row]:
    """Return the rows with keys of which equal ones have equal bytes; the same list where they have already."""
    keys = b"".join([key + b"\n" for key, _ in rows])
    if _CANONICAL.fullmatch(keys):
        return rows
    short = _FRACTION.sub(_without_zeros, keys)
    if _CANONICAL.fullmatch(short):
        return [(key, row) for key, (_, row) in zip(short.splitlines(), rows, strict=True)]
    return [(canonical_key(key), row) for key, row in rows]


def canonical_key(key: bytes) -> bytes:
    """Return the spelling of a row key: the same for equal keys."""
    return _remembered(key) if len(key) <= REMEMBERED_BYTES else _canonical(key)


def _canonical(key: bytes) -> bytes:
    if _CANONICAL.fullmatch(key + b"\n"):
        return key
    try:
        return spelled(parsed(key)).encode()
    except (RecursionError, ValueError):  # not JSON that can be read: PostgreSQL writes none
        return key.replace(b"\n", b" ").replace(b"\r", b" ")


_remembered = lru_cache(REMEMBERED_KEYS)(_canonical)
"""Keys that are spelled in another way come with each poll of their topic."""


def _without_zeros(found: re.Match[bytes]) -> bytes:
    text = found[0]
    return text if text.startswith(b'"') else text.rstrip(b"0").rstrip(b".")


class Number(str):
    """The text of a JSON number, as it came."""


def parsed(text: bytes) -> Any:
    """Return a JSON value, with its numbers as `Number`."""
    return json.loads(text, parse_int=Number, parse_float=Number)


def spelled(values: Sequence[Any]) -> str:
    """Return the spelling of a row key, whose values come from `parsed`: the same for equal keys."""
    return f"[{', '.join(map(_text, values))}]"


def _text(value: Any) -> str:
    if isinstance(value, Number):
        return _number(value)
    if isinstance(value, list):
        return spelled(value)
    if isinstance(value, dict):
        members = sorted(value.items(), key=itemgetter(0))
        return f"{{{', '.join(f'{_string(name)}: {_text(each)}' for name, each in members)}}}"
    return _string(value) if isinstance(value, str) else json.dumps(value)


def _string(value: str) -> str:
    # A surrogate that stands alone has no UTF-8: it stays an escape.
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def _number(text: str) -> str:
    try:
        number = _EXACT.create_decimal(text).normalize(_EXACT)
    except (InvalidOperation, Rounded):  # an exponent of more than 18 digits, which only `json` can hold
        return text
    if not number:
        return "0"
    plain = number.adjusted() > -MOST_DIGITS and _exponent(number) > -MOST_DIGITS and number.adjusted() < MOST_DIGITS
    return f"{number:f}" if plain else str(number)


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # JSON has neither NaN nor infinity
    return exponent
