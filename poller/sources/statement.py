"""Statements of any kind of source: SQL with placeholders and their values, as one unit to be run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.values import Value, pg_type

Values: TypeAlias = Mapping[str, Value]
"""Values of one topic, by the names of the parameters."""

Params: TypeAlias = tuple[Any, ...]
"""Values of a statement's placeholders in their order, as the kind's session binds them."""

Columns: TypeAlias = tuple[tuple[str, Hashable], ...]
"""The columns of a result: the name of each, and its type as the source's descriptions have it (PostgreSQL: the OID of
the type, that of the base type for a domain)."""


Kind: TypeAlias = Literal[
    "bool", "int", "bigint", "float", "numeric", "date", "time", "timestamp", "timestamptz", "uuid", "text", "json"
]
"""A type of values without parts, for `pollcast types`. `int` has at most 32 bits, `bigint` has 64; `text` is whatever
rows have as a string, and `json` whatever JSON can be."""


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with placeholders, and their values."""

    sql: str
    params: Params
    settings: tuple[tuple[str, str | None], ...] = ()
    """Settings that the transaction has while the statement runs; None stands for the setting's default."""
    digests: bool = False
    """Whether the statement compares digests: its rows are (topic, number, key, row, …), with a row of number 0 before
    those of each topic that changed, whose key is the new digest. The query's own columns follow, all NULL."""
    described: bool = False
    """Whether the columns of the answer are of interest: `Answer.columns`, which is set for no rows as well."""
    probe: bool = False
    """Whether the statement is the query's probe: of its rows only the first counts, and that has no key."""
    shared: Callable[[], Statement] | None = field(default=None, compare=False)
    """For one topic of several that can share a statement: makes the shared statement for this topic only."""

    def key_of(self, query: Query) -> tuple[str, ...]:
        """Return the columns of the key that its rows have."""
        return () if self.probe else query.key

    def most_rows(self, query: Query) -> int:
        """Return the number of rows after which no more are of interest: one more than the result may have."""
        return 1 if self.probe else query.max_rows + 1


def types(query: Query, values: Values) -> tuple[str, ...]:
    """Return the PostgreSQL types of the parameters, ordered by name. That of a list is the type of its elements."""
    return tuple(pg_type(query.params[name].type, values[name]) for name in sorted(query.params))


def sharing_key(query: Query, values: Values) -> Hashable:
    """Return what topics of the query must have in common to share a statement: the types of their parameters and the
    settings of their transaction."""
    return types(query, values), query.setting_values(values)
