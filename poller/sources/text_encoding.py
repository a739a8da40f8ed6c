"""Columns of texts, as servers send values, as JSON. Pure.

Each function takes the texts of values of one type, none of them NULL, and returns their JSON. The common cases take a
few calls for many values.
"""

from __future__ import annotations

import json
import re

import orjson

_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*+')
_ESCAPED = re.compile(rb'["\\\x00-\x1f]')
_ESCAPES = {
    **{bytes([code]): b"\\u%04x" % code for code in range(0x20)},
    **{b'"': b'\\"', b"\\": b"\\\\", b"\b": b"\\b", b"\f": b"\\f", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"},
}
_NUMBER = rb"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+"
_NUMBERS = re.compile(rb"%b(?: %b)*+" % (_NUMBER, _NUMBER))
_ONE_NUMBER = re.compile(_NUMBER)


def texts(values: list[bytes]) -> list[bytes]:
    """Return JSON strings with these texts, escaped as PostgreSQL does.

    Servers send UTF-8. Of a text that is not, as in a PostgreSQL database without an encoding, what can't be read is
    replaced.
    """
    joined = b" ".join(values)
    if not joined.isascii() and not _is_utf8(joined):
        values = [value.decode(errors="replace").encode() for value in values]
    if _PLAIN.fullmatch(joined):
        return [b'"%b"' % value for value in values]
    return [b'"%b"' % _ESCAPED.sub(_escape, value) for value in values]


def numbers(values: list[bytes]) -> list[bytes]:
    """Return numbers as they are, and strings for those that JSON lacks, such as `NaN`."""
    if not values or _NUMBERS.fullmatch(b" ".join(values)):
        return values
    return [value if _ONE_NUMBER.fullmatch(value) else texts([value])[0] for value in values]


def themselves(values: list[bytes]) -> list[bytes]:
    """Return JSON as it is."""
    return values


def checked_json(value: bytes) -> bytes:
    """Return JSON as it is, or as a string if it is none: MariaDB and DuckDB take more for JSON than there is."""
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:  # or it has half of a surrogate pair, or a thousand levels
        try:
            json.loads(value.decode(), parse_int=str, parse_float=str, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return texts([value])[0]
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def json_string(text: str) -> bytes:
    """Return the JSON string of a text, as PostgreSQL writes it."""
    return texts([text.encode()])[0]


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _escape(found: re.Match[bytes]) -> bytes:
    return _ESCAPES[found[0]]
