"""The types of a query's rows, as the database describes them without running the query (`pollcast types`).

A statement with sample values for the parameters is prepared and described in a read-only transaction that is rolled
back. A column counts as never NULL only if that is certain: it is a column of a table that the table declares NOT NULL,
and the query has nothing that adds NULLs to such columns.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import psycopg
from psycopg import Connection
from psycopg.pq import ExecStatus

from pollcast.poller.postgresql.connection import CONNECT_SECONDS
from pollcast.poller.postgresql.errors import condition
from pollcast.poller.postgresql.statement import columns_statement
from pollcast.poller.postgresql.trying import TIMEOUT_SECONDS, transaction
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.statement import Kind, Statement
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import Param, Query
from pollcast.services.catalogue.sql import check_select, tokens
from pollcast.services.catalogue.values import INT4
from pollcast.services.errors import CatalogInvalid, PollStale, Problem
from pollcast.services.process.database_url import checked_url


@dataclass(frozen=True, slots=True)
class Enumeration:
    """An enumerated type."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Array:
    """An array, whose elements may be NULL."""

    element: Type


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a row. `nullable` is False when the column is certainly never NULL."""

    name: str
    type: Type
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A composite type, or the row of a query."""

    columns: tuple[Column, ...]


Type: TypeAlias = Kind | Enumeration | Array | Row
"""The type of a value."""

KINDS: Mapping[str, Kind] = {
    "bool": "bool",
    "int2": "int",
    "int4": "int",
    "int8": "bigint",
    "float4": "float",
    "float8": "float",
    "numeric": "numeric",
    "date": "date",
    "time": "time",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    "uuid": "uuid",
    "json": "json",
    "jsonb": "json",
    "record": "json",
    "_record": "json",
    "anyarray": "json",  # of statistics: arrays of whatever type
}
"""The kinds of PostgreSQL's own types; the others are `text`."""

_TYPE = b"""
select t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace, t.typname::pg_catalog.text,
    t.typtype::pg_catalog.text, t.typcategory::pg_catalog.text, t.typbasetype, t.typelem, t.typrelid,
    exists (
        select from pg_catalog.pg_cast c
        where c.castsource = t.oid and c.casttarget = 'pg_catalog.json'::pg_catalog.regtype and c.castmethod = 'f'
    )
from pg_catalog.pg_type t where t.oid = $1
"""

_LABELS = b"select enumlabel::pg_catalog.text from pg_catalog.pg_enum where enumtypid = $1 order by enumsortorder"

_ATTRIBUTES = b"""
select attname::pg_catalog.text, atttypid from pg_catalog.pg_attribute
where attrelid = $1 and attnum > 0 and not attisdropped order by attnum
"""

# A table that others inherit from also has the rows of these, which may be NULL; partitions have the same constraints.
_NOT_NULL = b"""
select a.attnotnull and (c.relkind = 'p' or c.relkind = 'r' and not c.relhassubclass)
    and not exists (
        select from pg_catalog.pg_constraint n
        where n.conrelid = a.attrelid and n.contype = 'n' and not n.convalidated and n.conkey = array[a.attnum]
    )
from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
where a.attrelid = $1 and a.attnum = $2
"""


def row_types(catalog: Catalog, file: str, url: str) -> dict[str, Row]:
    """Return the type of each query's rows, by the query's name.

    Raises CatalogInvalid when the database refuses a query, PollStale when it can't be reached, and SettingsInvalid
    when libpq does not accept `url`.
    """
    found: dict[str, Row] = {}
    problems: list[Problem] = []
    try:
        with psycopg.connect(
            checked_url(url), autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="pollcast types"
        ) as connection:
            types = _Types(connection)
            for name, query in catalog.queries.items():
                try:
                    found[name] = _row(connection, types, query)
                except _Refused as refused:
                    problems.append(Problem(file, name, "sql", str(refused)))
    except psycopg.OperationalError as error:
        raise PollStale(f"the database can't be reached: {error}") from None
    if problems:
        raise CatalogInvalid(problems)
    return found


class _Refused(Exception):
    """The database's refusal of a query."""


@dataclass(frozen=True, slots=True)
class _Described:
    """A column as the database describes it, with the table and the column of it that it comes from, or 0."""

    name: str
    type: int
    table: int
    attribute: int


def _row(connection: Connection, types: _Types, query: Query) -> Row:
    values = samples(query)
    described = _describe(connection, query, columns_statement(query, [values], together=False))
    wide = {name: _wide(param) for name, param in query.params.items()}
    if any(wide.values()):
        values = dict(values) | {name: value for name, value in wide.items() if value}
        with contextlib.suppress(_Refused):  # of a function that takes no int8
            described = _describe(connection, query, columns_statement(query, [values], together=False))
    if twice := [name for name, number in Counter(column.name for column in described).items() if number > 1]:
        raise _Refused(f"two columns of the result have the same name ({', '.join(twice)}): give one another name")
    kept = not adds_nulls(query.sql)
    return Row(
        tuple(
            Column(each.name, types.of(each.type), not (kept and types.never_null(each.table, each.attribute)))
            for each in described
        )
    )


def _wide(param: Param) -> str | tuple[str, ...] | None:
    """Return a value of the parameter that PostgreSQL takes as an `int8`; None when it has none."""
    if param.type != "int" or param.enum is not None:
        return None
    most, least = INT4.stop, INT4.start - 1
    if param.max is None or int(param.max) >= most:
        value = str(max(most, int(param.min or most)))
    elif param.min is None or int(param.min) <= least:
        value = str(min(least, int(param.max)))
    else:
        return None
    return (value,) if param.is_list else value


def _describe(connection: Connection, query: Query, statement: Statement) -> list[_Described]:
    """Return the columns of a statement, which is not run. Raises _Refused."""
    try:
        with transaction(connection, statement, TIMEOUT_SECONDS):
            return _described(connection, statement)
    except psycopg.DataError:
        if not query.settings:
            raise
    plain = replace(statement, settings=())  # the settings do not take sample values
    with transaction(connection, plain, TIMEOUT_SECONDS):
        return _described(connection, plain)


def _described(connection: Connection, statement: Statement) -> list[_Described]:
    prepared = connection.pgconn.prepare(b"", statement.sql.encode())
    if prepared.status != ExecStatus.COMMAND_OK:
        state = (prepared.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
        message = (prepared.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
        if not state:
            raise psycopg.OperationalError(prepared.get_error_message())
        raise _Refused(f"{message} ({condition(state)}, {state})")
    found = connection.pgconn.describe_prepared(b"")
    return [
        _Described((found.fname(at) or b"").decode(), found.ftype(at), found.ftable(at), found.ftablecol(at))
        for at in range(found.nfields)
    ]


def adds_nulls(sql: str) -> bool:
    """Return whether the query has a word that can make a column NULL which its table declares NOT NULL.

    These are the outer joins, and grouping by several sets of columns.
    """
    words = [token.text for token in tokens(check_select(sql)) if token.kind not in ("space", "hint")]
    for word, then in zip(words, [*words[1:], ""], strict=True):
        if word in ("left", "right", "full") and then in ("join", "outer"):
            return True
        if word in ("rollup", "cube") or (word == "grouping" and then == "sets"):
            return True
    return False


class _Types:
    """The types of one database, by their numbers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[int, Type] = {}

    def of(self, oid: int) -> Type:
        """Return the type with this number."""
        if oid not in self._known:
            self._known[oid] = self._read(oid)
        return self._known[oid]

    def never_null(self, table: int, attribute: int) -> bool:
        """Return whether the column of a table is declared NOT NULL, for all rows that the table shows."""
        rows = self._ask(_NOT_NULL, table, attribute) if table and attribute > 0 else []
        return bool(rows and rows[0][0])

    def _read(self, oid: int) -> Type:
        rows = self._ask(_TYPE, oid)
        if not rows:
            return "text"
        own, name, form, category, base, element, relation, to_json = rows[0]
        if form == "d":
            return self.of(base)
        if own and name in KINDS:
            return KINDS[name]
        if category == "A" and element:
            return Array(self.of(element))
        if form == "e":
            return Enumeration(tuple(label for (label,) in self._ask(_LABELS, oid)))
        if form == "c":
            return Row(tuple(Column(column, self.of(type)) for column, type in self._ask(_ATTRIBUTES, relation)))
        return "json" if to_json and not own else "text"

    def _ask(self, sql: bytes, *numbers: int) -> list[tuple[Any, ...]]:
        with psycopg.RawCursor(self._connection) as cursor:
            return cursor.execute(sql, numbers).fetchall()
