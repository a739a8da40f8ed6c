"""JSON whose numbers keep their value, and row keys that are compared by it. Pure: no I/O.

PostgreSQL writes decimals of any length. As floats they are rounded, so their text is remembered, and two keys whose
floats are equal are still told apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation, Rounded
from json.encoder import encode_basestring_ascii
from typing import Any

MOST_DIGITS = 40
"""Maximum number of digits before or after the point with which a number is written without an exponent."""

FLOAT_CHARACTERS = 16
"""Length up to which the text of a number without exponent is exactly one float: 15 digits and a point."""

_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, Rounded])


class RoundedFloat(float):
    """The float that is nearest to a JSON number with more digits; `text` is that number as it came."""

    __slots__ = ("text",)

    text: str


def loads(text: str | bytes, parse_float: Callable[[str], Any] = float) -> Any:
    """Return the value of a JSON text. `parse_float` is called with the text of each number that has a fraction or an
    exponent, as in `json.loads`. Raises ValueError when the text is not JSON or is nested too deeply."""
    parse = _float if parse_float is float else parse_float
    try:
        try:
            return json.loads(text, parse_float=parse)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer has more digits than Python converts by default
            return json.loads(text, parse_float=parse, parse_int=_int)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def key_text(values: Sequence[Any]) -> str:
    """Return a row key as JSON text: equal keys have equal texts, and no others."""
    return f"[{','.join(map(_text, values))}]"


def _float(text: str) -> float:
    value = float(text)
    if len(text) <= FLOAT_CHARACTERS and "e" not in text and "E" not in text:
        return value
    read = repr(value)
    if read == text or (value - value == 0 and _number(read) == _number(text)):
        return value
    rounded = RoundedFloat(value)
    rounded.text = text
    return rounded


def _int(text: str) -> int | Decimal:
    return int(text) if len(text) <= sys.get_int_max_str_digits() else Decimal(text)


def _text(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(value)
    if kind is int:
        text = str(value)
        return text if len(text) <= MOST_DIGITS else _number(text)
    if kind is float:
        return _number(repr(value))
    if kind is RoundedFloat:
        return _number(value.text)
    if kind is Decimal:
        return _number(str(value))
    if kind is list:
        return key_text(value)
    if kind is dict:
        members = sorted(value.items())
        return f"{{{','.join(f'{encode_basestring_ascii(name)}:{_text(each)}' for name, each in members)}}}"
    return json.dumps(value, default=repr)


def _number(text: str) -> str:
    """Return the one spelling of a number."""
    try:
        number = _EXACT.create_decimal(text).normalize(_EXACT)
    except (InvalidOperation, Rounded):  # an exponent of more than 18 digits, which only `json` can hold
        return text
    if not number:
        return "0"
    exponent = number.as_tuple().exponent
    plain = isinstance(exponent, int) and exponent > -MOST_DIGITS and number.adjusted() < MOST_DIGITS
    return f"{number:f}" if plain else str(number)
