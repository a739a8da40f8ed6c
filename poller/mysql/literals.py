"""Values of parameters as literals of MySQL. Pure.

A statement of several topics is one text, and the protocol has no bound parameters for that, so a value becomes a
literal of its type. No character of a client's text stands in it: a text is written in hexadecimal digits, and all
other canonical texts (services/catalogue/values.py) consist of digits, letters and `+-.:`. So a value cannot end its
literal, whatever the server's settings are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sql import Text, split
from pollcast.services.catalogue.values import ParamType, Value

EXACT_DIGITS: Final = 65
"""Maximum number of digits of an exact number in MySQL. A `numeric` with more is a double there."""

EXACT_FRACTION: Final = 30
"""Maximum number of digits after the point of an exact number in MySQL; MariaDB has 38."""

NO_VALUES: Final = "select null from dual where false"
"""The list without values: nothing is `in` it, and everything is `not in` it."""


def bound(query: Query, values: Mapping[str, Value]) -> str:
    """Return the text of the query with the values of one topic in place of its placeholders."""
    return "".join(
        fragment.text
        if isinstance(fragment, Text)
        else literal(query.params[fragment.name].type, values[fragment.name])
        for fragment in split(query.sql)
    )


def literal(type: ParamType, value: Value) -> str:
    """Return a value as SQL: one literal, or those of a list, for `in (…)`."""
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return ", ".join(map(_LITERAL[type], value)) or NO_VALUES
    return _LITERAL[type](value)


def _text(value: str) -> str:
    return f"_utf8mb4 x'{value.encode().hex()}'"


def _signed(value: str) -> str:
    return f"({value})" if value.startswith("-") else value


def _float(value: str) -> str:
    return _signed(value if "e" in value else f"{value}e0")


def _numeric(value: str) -> str:
    whole, _, fraction = value.lstrip("-").partition(".")
    exact = len(whole) + len(fraction) <= EXACT_DIGITS and len(fraction) <= EXACT_FRACTION
    return _signed(value if exact else f"{value}e0")


def _timestamptz(value: str) -> str:
    return f"timestamp'{value.removesuffix('Z').replace('T', ' ')}'"


_LITERAL: Final[dict[ParamType, Callable[[str], str]]] = {
    "text": _text,
    "int": _signed,
    "float": _float,
    "numeric": _numeric,
    "bool": str,
    "date": lambda value: f"date'{value}'",
    "timestamptz": _timestamptz,
    "uuid": _text,
}
