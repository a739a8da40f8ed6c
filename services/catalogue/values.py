"""Parameter values: the types of the catalogue, and one canonical text for each value
(docs/reference/topics.md#values).

Pure. Topics, etcd and logs carry a value as its canonical text; only the poller turns it into a typed, bound parameter.
A ValueError names the fault and a valid form; it quotes the given text, truncated and escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias, cast

ParamType = Literal["text", "int", "float", "numeric", "bool", "date", "timestamptz", "uuid"]

Value: TypeAlias = str | tuple[str, ...] | None
"""The value of a topic's parameter, in canonical texts: one text; the distinct texts of a list, sorted; None for an
optional parameter that is absent."""

TYPES: Final[tuple[ParamType, ...]] = ("text", "int", "float", "numeric", "bool", "date", "timestamptz", "uuid")
ORDERED: Final[frozenset[ParamType]] = frozenset({"int", "float", "numeric", "date", "timestamptz"})
"""The types that can have `min` and `max`."""

NUMERIC_DIGITS: Final = 1000
"""Maximum number of digits of a `numeric` when it is written without an exponent."""

QUOTED_CHARS: Final = 40
"""Maximum number of characters that a message quotes of a given text."""

INT8: Final = range(-(2**63), 2**63)
"""Values of an `int`: those of PostgreSQL's `int8`."""

INT4: Final = range(-(2**31), 2**31)
INT4_LENGTH: Final = 9
"""Maximum length of a canonical `int` that is known to fit in int4 without being read."""
"""Values of PostgreSQL's `int4`."""

PG_TYPES: Final[dict[ParamType, str]] = {
    "text": "text",
    "int": "int8",
    "float": "float8",
    "numeric": "numeric",
    "bool": "bool",
    "date": "date",
    "timestamptz": "timestamptz",
    "uuid": "uuid",
}
"""PostgreSQL's name of each type; `pg_type` makes an exception for `int`."""

# [0-9] instead of \d, which matches the digits of every script.
# No pattern has two neighbours that match the same character: a text of n characters would take n² steps.
_INT: Final = re.compile(r"([+-]?)([0-9]+)")
_DECIMAL: Final = re.compile(r"([+-]?)(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(?:[eE]([+-]?)([0-9]+))?")
_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
    r"(?:[Zz]|([+-])([0-9]{2})(?::?([0-9]{2}))?)?"
)
_PLUS_LOST: Final = re.compile(r".*[0-9] [0-9]{2}(:?[0-9]{2})?")
_UUID: Final = re.compile(r"([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})")


def quoted(text: str) -> str:
    """Return a given text for a message: escaped, in quotes, truncated after QUOTED_CHARS characters."""
    return repr(text) if len(text) <= QUOTED_CHARS else f"{text[:QUOTED_CHARS]!r}…"


def canonical(type: ParamType, text: str) -> str:
    """Return the canonical text of a value; a canonical text is returned as it is. Raises ValueError when `text` is not
    a value of the type."""
    return _CANONICAL[type](text)


def native_text(value: object) -> str:
    """Return the text of a scalar that TOML or JSON has decoded, ready for `canonical`. Raises ValueError for a table,
    a list or null."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int():
            return str(value)
        case float():
            return repr(value)
        case datetime() | date():
            return value.isoformat()
        case _:
            raise ValueError(f"must be a single value, not {kind(value)}")


def kind(value: object) -> str:
    """Return the kind of a TOML or JSON value for a message: `a string`, `a list`, …"""
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "a list",
        dict: "a table",
        datetime: "a time",
        date: "a date",
    }
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def to_json(type: ParamType, canonical: str) -> str | int | float | bool:
    """Return a value as `/api/queries` shows it: a JSON number for `int` and `float`, a boolean for `bool`, else its
    canonical text, also for `numeric`, which a JSON number would round."""
    match type:
        case "int":
            return int(canonical)
        case "float":
            return float(canonical)
        case "bool":
            return canonical == "true"
        case _:
            return canonical


def compare(type: ParamType, a: str, b: str) -> int:
    """Return -1, 0 or 1 as canonical `a` is less than, equal to or greater than canonical `b`. Only for ORDERED
    types."""
    read = _ORDER[type]
    left, right = read(a), read(b)
    return int(left > right) - int(left < right)


def pg_type(type: ParamType, value: Value) -> str:
    """Return the PostgreSQL type that a value is bound as; for a list the type of its elements.

    An `int` gets the type of a literal in SQL: `int4` where it fits, so that functions such as `substr` accept it, else
    `int8`. NULL and an empty list count as fitting.
    """
    if type == "int":
        if isinstance(value, str):
            return "int4" if len(value) <= INT4_LENGTH or int(value) in INT4 else "int8"
        texts = value or ()
        return "int4" if all(int(text) in INT4 for text in texts) else "int8"
    return PG_TYPES[type]


def array_literal(texts: Sequence[str | None]) -> str:
    """Return PostgreSQL's text of a one-dimensional array with these elements; None is NULL."""
    if not texts:
        return "{}"
    if None not in texts:
        joined = '","'.join(cast(Sequence[str], texts))
        if "\\" not in joined and joined.count('"') == 2 * len(texts) - 2:  # nothing to be escaped
            return f'{{"{joined}"}}'
    return "{" + ",".join(map(_array_element, texts)) + "}"


def _array_element(text: str | None) -> str:
    if text is None:
        return "NULL"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _text(text: str) -> str:
    """Return a `text` unchanged. Raises ValueError when PostgreSQL cannot store it."""
    if "\0" in text:
        raise ValueError("holds a NUL character, which PostgreSQL's text cannot contain")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode: it holds half of a surrogate pair") from None
    return text


def _int(text: str) -> str:
    """Return the canonical text of an `int`: no sign `+`, no leading zeros."""
    match = _INT.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not an int: it must be decimal digits, such as 42 or -7")
    sign, digits = match[1], match[2].lstrip("0") or "0"
    if len(digits) > 19 or int(sign + digits) not in INT8:
        raise ValueError(f"{quoted(text)} is out of range: an int is from {INT8.start} to {INT8.stop - 1}")
    return str(int(sign + digits))


def _float(text: str) -> str:
    """Return the canonical text of a `float`: the shortest that reads back as the same number."""
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError(f"{quoted(text)} is not a float: it must be a finite decimal number, such as 1.5 or 2e-3")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{quoted(text)} is out of range for a float (8 bytes)")
    return repr(value + 0.0)  # -0.0 and 0.0 are equal, so they are the same topic


def _numeric(text: str) -> str:
    """Return the canonical text of a `numeric`: no exponent, no trailing zeros in the fraction."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not a numeric: it must be a finite decimal number, such as 12.50")
    sign, whole, fraction, bare_fraction, exponent_sign, exponent = match.groups()
    fraction = fraction or bare_fraction or ""
    unscaled = (whole or "") + fraction
    digits = unscaled.strip("0")
    if not digits:
        return "0"
    too_long = ValueError(f"{quoted(text)} is too long: a numeric has at most {NUMERIC_DIGITS} digits")
    exponent = (exponent or "").lstrip("0")
    if len(exponent) > 6:
        raise too_long
    # The value is digits * 10**scale.
    trailing = len(unscaled) - len(unscaled.rstrip("0"))
    scale = int((exponent_sign or "") + (exponent or "0")) - len(fraction) + trailing
    if len(digits) + abs(scale) > NUMERIC_DIGITS:
        raise too_long
    minus = "-" if sign == "-" else ""
    if scale >= 0:
        return minus + digits + "0" * scale
    padded = digits.rjust(1 - scale, "0")
    return f"{minus}{padded[:scale]}.{padded[scale:]}"


def _bool(text: str) -> str:
    """Return the canonical text of a `bool`: `true` or `false`."""
    match text:
        case "true" | "1":
            return "true"
        case "false" | "0":
            return "false"
        case _:
            raise ValueError(f"{quoted(text)} is not a bool: it must be true, false, 1 or 0")


def _date(text: str) -> str:
    """Return the canonical text of a `date`, in ISO 8601."""
    return _read_date(text).isoformat()


def _read_date(text: str) -> date:
    """Parse a `date`."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not a date: it must be written as 2026-01-31")
    try:
        return date(*map(int, match.groups()))
    except ValueError as error:
        raise ValueError(f"{quoted(text)} is not a date: {error}") from None


def _timestamptz(text: str) -> str:
    """Return the canonical text of a `timestamptz`: in UTC, with a fraction only if it is not zero."""
    moment = _read_time(text)
    plain = moment.strftime("%H:%M:%S")
    fraction = f".{moment.microsecond:06}".rstrip("0") if moment.microsecond else ""
    return f"{moment.date().isoformat()}T{plain}{fraction}Z"


def _read_time(text: str) -> datetime:
    """Parse a `timestamptz`, which must have a zone."""
    match = _TIME.fullmatch(text)
    right = "it must be written as 2026-01-31T12:00:00Z or 2026-01-31T14:00:00+02:00"
    if match is None:
        if _PLUS_LOST.fullmatch(text):
            raise ValueError(f"{quoted(text)} has a space where its offset begins: send '+' as %2B")
        raise ValueError(f"{quoted(text)} is not a timestamptz: {right}")
    day, hour, minute, second, fraction, sign, zone_hours, zone_minutes = match.groups()
    if sign is None and not text.endswith(("Z", "z")):
        raise ValueError(f"{quoted(text)} has no zone: end it with Z or an offset such as +02:00 ('+' is sent as %2B)")
    micros = (fraction or "").rstrip("0")
    if len(micros) > 6:
        raise ValueError(f"{quoted(text)} is finer than a microsecond, the resolution of a timestamptz")
    offset = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
    if int(zone_minutes or 0) > 59 or offset >= timedelta(hours=24):
        raise ValueError(f"{quoted(text)} has an offset of a day or more, or of more than 59 minutes: {right}")
    try:
        local = datetime.combine(
            _read_date(day),
            datetime.min.time().replace(int(hour), int(minute), int(second or 0), int(micros.ljust(6, "0"))),
            timezone(-offset if sign == "-" else offset),
        )
        return local.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{quoted(text)} lies outside the years 1 to 9999 in UTC") from None
    except ValueError as error:
        raise ValueError(f"{quoted(text)} is not a timestamptz: {error}") from None


def _uuid(text: str) -> str:
    """Return the canonical text of a `uuid`: in lower case, with dashes."""
    match = _UUID.fullmatch(text.lower()) if text.isascii() else None
    if match is None:
        raise ValueError(f"{quoted(text)} is not a uuid: it must be 32 hexadecimal digits as 8-4-4-4-12")
    return "-".join(match.groups())


_CANONICAL: Final[dict[ParamType, Callable[[str], str]]] = {
    "text": _text,
    "int": _int,
    "float": _float,
    "numeric": _numeric,
    "bool": _bool,
    "date": _date,
    "timestamptz": _timestamptz,
    "uuid": _uuid,
}

_ORDER: Final[dict[ParamType, Callable[[str], Any]]] = {
    "int": int,
    "float": float,
    "numeric": Decimal,
    "date": _read_date,
    "timestamptz": _read_time,
}
