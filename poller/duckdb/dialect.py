"""The dialect of DuckDB. Pure.

A statement is described before it runs, for the types of its columns decide how their values travel (values.py). So it
has the query's text, from which `described` and `wrapped` make what is sent. Around the query stands a SELECT that
casts the columns by their places, and a limit: DuckDB keeps the order of a derived table's rows.

A parameter is a text that is cast to its type; a list is one parameter, as in `= any(%(x)s)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from pollcast.poller.sources.source import Abilities
from pollcast.poller.sources.statement import Statement, Values, types
from pollcast.poller.sources.topic_by_topic import TopicByTopic
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sql import Placeholder, split
from pollcast.services.catalogue.values import Value

CACHED = 4096
"""Maximum number of texts that are kept."""

DUCKDB_TYPES: Final = {
    "text": "VARCHAR",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "float8": "DOUBLE",
    "numeric": "DECIMAL",
    "bool": "BOOLEAN",
    "date": "DATE",
    "timestamptz": "TIMESTAMPTZ",
    "uuid": "UUID",
}
"""DuckDB's name of the type that each PostgreSQL type of a parameter stands for."""

MAX_DIGITS = 38
"""Maximum number of digits of a DECIMAL."""


class DuckdbDialect(TopicByTopic):
    """The Dialect (poller/sources/source.py) of DuckDB."""

    kind: Final = "duckdb"
    can: Final = Abilities(trips=True)

    def alone(self, query: Query, values: Values) -> Statement:
        """Return the statement that polls one topic."""
        casts = tuple(
            (name, _cast(type, values[name]))
            for name, type in zip(sorted(query.params), types(query, values), strict=True)
        )
        sql, names = _text(query.sql, casts)
        return Statement(sql, tuple(_param(values[name]) for name in names))

    def probe(self, query: Query) -> Statement:
        """Return the statement that runs the query's probe."""
        assert query.probe is not None
        return Statement(_text(query.probe, ())[0], (), probe=True)


def identifier(name: str) -> str:
    """Return a name as SQL, in quotes."""
    return '"' + name.replace('"', '""') + '"'


def described(sql: str) -> str:
    """Return the statement that describes the columns of a query."""
    return f"describe {sql}"


def wrapped(sql: str, casts: Sequence[str], limit: int) -> str:
    """Return the statement that runs a query of so many columns, and casts each to one of these types."""
    columns = ", ".join(f"c{at}" for at in range(len(casts)))
    listed = ", ".join(f"cast(c{at} as {cast})" for at, cast in enumerate(casts))
    # The text comes from the catalogue; values are bound parameters.
    return f"select {listed} from (\n{sql}\n) as q({columns}) limit {limit}"  # noqa: S608


@lru_cache(maxsize=CACHED)
def _text(sql: str, casts: tuple[tuple[str, str], ...]) -> tuple[str, tuple[str, ...]]:
    """Return the text of a query whose parameters have these types, and the parameter of each `$1`, `$2`, …"""
    named = dict(casts)
    names: list[str] = []
    text = ""
    for fragment in split(sql):
        if isinstance(fragment, Placeholder):
            if fragment.name not in names:
                names.append(fragment.name)
            text += f"(cast(${names.index(fragment.name) + 1} as {named[fragment.name]}))"
        else:
            text += fragment.text
    return text, tuple(names)


def _cast(type: str, value: Value) -> str:
    """Return the type that a parameter is cast to."""
    name = DUCKDB_TYPES[type]
    if type == "numeric":
        whole, fraction = _digits(value)
        # A number that has more digits than any DECIMAL is a DOUBLE, as it is when it is written in SQL.
        fits = whole + fraction <= MAX_DIGITS
        name = f"DECIMAL({max(1, whole + fraction)}, {fraction})" if fits else "DOUBLE"
    return f"{name}[]" if isinstance(value, tuple) else name


def _digits(value: Value) -> tuple[int, int]:
    """Return the maximum number of digits before and after the point of a value's texts."""
    texts = value if isinstance(value, tuple) else () if value is None else (value,)
    parts = [re.sub(r"^-?0?", "", text).partition(".") for text in texts]
    return max((len(part[0]) for part in parts), default=1), max((len(part[2]) for part in parts), default=0)


def _param(value: Value) -> str | list[str] | None:
    return list(value) if isinstance(value, tuple) else value
