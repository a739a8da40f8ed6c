"""The spelling of topics. Pure: no I/O."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from urllib.parse import urlencode
from uuid import UUID

Value = str | int | float | bool | Decimal | date | datetime | UUID
"""The Python types of a topic's parameters."""


def topic(query: str, /, **params: Value) -> str:
    """Return the topic of a query with these parameters.

    `topic("orders", region="a b", limit=5)` returns `"live:orders?region=a+b&limit=5"`. Raises ValueError when a
    datetime has no time zone.
    """
    if not params:
        return f"live:{query}"
    return f"live:{query}?{urlencode({name: _text(name, value) for name, value in params.items()})}"


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
