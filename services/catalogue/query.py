"""Queries and their parameters, as the catalogue declares them (docs/reference/catalogue.md#queries). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from pollcast.services.catalogue.values import ParamType, Value, array_literal, canonical, compare, quoted, to_json

NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
"""The form of a query's or a parameter's name."""

DEFAULT_MAX_LENGTH: Final = 256
"""Maximum length of a `text` parameter without `max_length`, in characters."""

DEFAULT_MAX_ITEMS: Final = 100
"""Maximum number of values of a list parameter without `max_items`."""

DEFAULT_MAX_BYTES: Final = 16 * 2**20
"""Maximum size of a result whose query has no `max_bytes`, in bytes."""

DEFAULT_SOURCE: Final = "default"
"""The name of the source that POLLCAST_DATABASE_URL names."""

Together: TypeAlias = bool | Literal["auto"]
"""Whether the topics of a query are polled in one statement; `auto` leaves the choice to the poller."""


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a query. `default`, `enum`, `min` and `max` are canonical texts.

    A list parameter has many values of its type, each of which has to satisfy the other fields.
    """

    name: str
    type: ParamType  # of a list: the type of its elements
    required: bool  # True when a client must send it: it has no default, is not optional, and is not bound from a claim
    default: Value = None
    enum: tuple[str, ...] | None = None
    min: str | None = None
    max: str | None = None
    max_length: int | None = None  # in characters; set for every text, None for other types
    claim: str | None = None  # the claim of the token that it is bound from; clients cannot send it then
    max_items: int | None = None  # of a list: the maximum number of values; None for a parameter with one value
    optional: bool = False  # whether it is NULL when it is absent

    @property
    def is_list(self) -> bool:
        """Whether the parameter is a list."""
        return self.max_items is not None

    @property
    def declared_type(self) -> str:
        """The type as the catalogue names it: `text`, or `text[]` for a list."""
        return f"{self.type}[]" if self.is_list else self.type

    @property
    def absent(self) -> Value:
        """The value that an absent parameter has in a canonical topic: None, or the empty list.

        It is that of a parameter for which `may_be_absent`.
        """
        return () if self.is_list else None

    @property
    def may_be_absent(self) -> bool:
        """Whether a canonical topic without the parameter is complete: it is NULL or the empty list there."""
        return self.optional or (self.is_list and self.default == ())

    def values(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Return the value of a list parameter: the distinct canonical texts, sorted. Raises ValueError, which names a
        valid form, for an invalid value and for too many."""
        assert self.max_items is not None
        distinct = sorted({self.value(text) for text in texts})
        if len(distinct) > self.max_items:
            raise ValueError(f"has {len(distinct)} distinct values: at most {self.max_items} are allowed")
        return tuple(distinct)

    def value(self, text: str) -> str:
        """Return the canonical text of one value. Raises ValueError, which names a valid form, for an invalid value."""
        value = canonical(self.type, text)
        if self.max_length is not None and len(value) > self.max_length:
            raise ValueError(f"is {len(value)} characters long: at most {self.max_length} are allowed")
        if self.enum is not None and value not in self.enum:
            raise ValueError(f"{quoted(value)} is not one of {', '.join(map(quoted, self.enum))}")
        if self.min is not None and compare(self.type, value, self.min) < 0:
            raise ValueError(f"{quoted(value)} is too small: the least is {self.min}")
        if self.max is not None and compare(self.type, value, self.max) > 0:
            raise ValueError(f"{quoted(value)} is too large: the most is {self.max}")
        return value

    def public(self) -> dict[str, Any]:
        """Return the parameter's description in `GET /api/queries` (docs/reference/http.md#queries)."""

        def shown(value: Value) -> object:
            """Return a value as JSON."""
            if isinstance(value, tuple):
                return [to_json(self.type, text) for text in value]
            return None if value is None else to_json(self.type, value)

        return {
            "name": self.name,
            "type": self.declared_type,
            "required": self.required,
            "default": shown(self.default),
            "enum": None if self.enum is None else list(self.enum),
            "min": shown(self.min),
            "max": shown(self.max),
            "max_length": self.max_length,
        }


@dataclass(frozen=True, slots=True)
class Query:
    """One entry of the catalogue. Durations are in seconds."""

    name: str
    sql: str  # one SELECT without comments and a trailing `;`; services.catalogue.sql splits it at its placeholders
    title: str | None = None
    key: tuple[str, ...] = ()
    interval: float = 1.0
    timeout: float = 1.0
    linger: float = 5.0
    refresh: float = 60.0
    min_interval: float = 0.1  # minimum time from the start of a poll to the start of one that a hint asks for
    presence: bool = False
    max_rows: int = 10_000
    max_bytes: int = DEFAULT_MAX_BYTES  # maximum size of a result, as the JSON text of its rows
    together: Together = "auto"
    source: str = DEFAULT_SOURCE  # the name of the database that is polled
    kind: str = "postgresql"  # the kind of that source
    probe: str | None = None  # one SELECT likewise, without placeholders
    listen: str | None = None  # the PostgreSQL channel whose notifications make topics due at once
    roles: tuple[str, ...] = ()  # roles that may watch the query; empty: all clients may
    params: Mapping[str, Param] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """The parameter that each of these PostgreSQL settings is set to, for the transaction of a poll."""

    def setting_values(self, values: Mapping[str, Value]) -> tuple[tuple[str, str | None], ...]:
        """Return the settings of a topic with these values, each with its value: the parameter's canonical text,
        PostgreSQL's text of the array for a list, None (the setting's default) for an absent parameter."""
        return tuple((setting, _setting_text(values[param])) for setting, param in self.settings.items())

    def public(self) -> dict[str, Any]:
        """Return the query's description in `GET /api/queries` (docs/reference/http.md#queries).

        It contains neither SQL nor parameters that are bound from claims.
        """
        return {
            "name": self.name,
            "title": self.title,
            "key": list(self.key),
            "interval_ms": round(self.interval * 1000),
            "presence": self.presence,
            "params": [p.public() for p in self.params.values() if p.claim is None],
        }


def _setting_text(value: Value) -> str | None:
    """Return a parameter's value as the text of a PostgreSQL setting."""
    return array_literal(value) if isinstance(value, tuple) else value
