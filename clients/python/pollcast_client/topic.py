"""The spelling of topics. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime
from decimal import Decimal
from urllib.parse import urlencode
from uuid import UUID

Value = str | int | float | bool | Decimal | date | datetime | UUID
"""The Python types of a parameter's value."""


def topic(query: str, /, **params: Value | Collection[Value] | None) -> str:
    """Return the topic of a query with these parameters, without those that are None.

    `topic("orders", region="a b", limit=5)` returns `"live:orders?region=a+b&limit=5"`. The values of a list parameter
    are a list, a tuple or a set: `topic("orders", regions=["north", "south"])` returns
    `"live:orders?regions=north&regions=south"`. Raises ValueError when a datetime has no time zone.
    """
    pairs = [(name, _text(name, value)) for name, given in params.items() for value in _values(given)]
    return f"live:{query}?{urlencode(pairs)}" if pairs else f"live:{query}"


def _values(given: Value | Collection[Value] | None) -> Collection[Value]:
    if given is None:
        return ()
    return given if isinstance(given, Collection) and not isinstance(given, str) else (given,)


def _text(name: str, value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{name}: a datetime needs a time zone, as in datetime.now(UTC)")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float):
        return repr(value)
    return str(value)
