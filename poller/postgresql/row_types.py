"""The types of a query's rows, as PostgreSQL describes them without running the query.

A statement with sample values for the parameters is prepared and described in a read-only transaction that is rolled
back. A column counts as never NULL only if that is certain: it is a column of a table that the table declares NOT NULL,
and the query has nothing that adds NULLs to such columns (nulls.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import psycopg
from psycopg import AsyncRawCursor
from psycopg.abc import PQGen
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from pollcast.poller.postgresql.connection import Connection
from pollcast.poller.postgresql.nulls import nulled_tables
from pollcast.poller.postgresql.statement import columns_statement
from pollcast.poller.sources.describing import row_type
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.row_type import Array, Column, Enumeration, RowType, Type
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.statement import Kind, Statement, Values
from pollcast.services.catalogue.query import Param, Query
from pollcast.services.catalogue.values import INT4

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

TEXTS = frozenset({"text", "varchar", "bpchar", "name", "bytea", "interval"})
"""The most frequent of PostgreSQL's own types that are `text`."""

OWN_TYPES = 10_000
"""The numbers of types below this one are the same in every database of PostgreSQL."""

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
select w.number::pg_catalog.int4
from rows from (pg_catalog.unnest($1::pg_catalog.oid[]), pg_catalog.unnest($2::pg_catalog.int2[]))
    with ordinality as w(relation, attribute, number)
join pg_catalog.pg_class c on c.oid = w.relation
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = w.attribute
where a.attnotnull and (c.relkind = 'p' or c.relkind = 'r' and not c.relhassubclass)
    and not exists (
        select from pg_catalog.pg_constraint n
        where n.conrelid = a.attrelid and n.contype = 'n' and not n.convalidated and n.conkey = array[a.attnum]
    )
"""


Trying: TypeAlias = Callable[[Statement], AbstractAsyncContextManager[Connection]]
"""Function that provides the connection in a read-only transaction with the statement's settings, which is rolled back
in the end."""


@dataclass(frozen=True, slots=True)
class _Described:
    """A column as the database describes it, with the table and the column of it that it comes from, or 0."""

    name: str
    type: int
    table: int
    attribute: int


async def described(connection: Connection, query: Query, trying: Trying) -> RowType | PollError:
    """Return the type of the query's rows, or the error of a query with two columns of one name. Raises psycopg.Error
    when the server refuses the query."""
    columns = await _columns(connection, query, trying)
    types = _Types(connection)
    nulled = await types.tables(nulled_tables(query.sql), query)
    never_null = {
        at for at in await types.never_null(columns) if nulled is not None and columns[at].table not in nulled
    }
    return row_type(
        [Column(each.name, await types.of(each.type), at not in never_null) for at, each in enumerate(columns)]
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


async def _columns(connection: Connection, query: Query, trying: Trying) -> list[_Described]:
    """Return the columns of a query, with integers that are as wide as the query's parameters can be."""
    values = samples(query)
    wide = {name: value for name, param in query.params.items() if (value := _wide(param)) is not None}
    if wide:
        try:
            return await _columns_with(query, dict(values) | wide, trying)
        except psycopg.Error:  # of a function that takes no int8
            if connection.broken:
                raise
    return await _columns_with(query, values, trying)


async def _columns_with(query: Query, values: Values, trying: Trying) -> list[_Described]:
    """Return the columns of a query with these values of its parameters; it is not run."""
    statement = columns_statement(query, [values], together=False)
    try:
        async with trying(statement) as connection:
            return await _described(connection, statement)
    except psycopg.DataError:
        if not query.settings:
            raise
    plain = replace(statement, settings=())  # the settings do not take sample values
    async with trying(plain) as connection:
        return await _described(connection, plain)


async def _described(connection: Connection, statement: Statement) -> list[_Described]:
    found = await description(connection, statement.sql.encode())
    return [
        _Described((found.fname(at) or b"").decode(), found.ftype(at), found.ftable(at), found.ftablecol(at))
        for at in range(found.nfields)
    ]


async def description(connection: Connection, sql: bytes, types: Sequence[int] | None = None) -> PGresult:
    """Prepare a statement whose parameters have these types, and return its description. Raises psycopg.Error."""
    return await connection.wait(_description(connection.pgconn, sql, types))


def _description(pgconn: PGconn, sql: bytes, types: Sequence[int] | None) -> PQGen[PGresult]:
    pgconn.send_prepare(b"", sql, types)
    yield from _succeeded(pgconn)
    pgconn.send_describe_prepared(b"")
    described: PGresult = yield from _succeeded(pgconn)
    return described


def _succeeded(pgconn: PGconn) -> PQGen[PGresult]:
    """Receive the result of a command. Raises psycopg.Error when it has failed."""
    result: PGresult
    (result,) = yield from execute(pgconn)
    if result.status != ExecStatus.COMMAND_OK:
        raise error_from_result(result)
    return result


class _Types:
    """The types of one database, by their numbers."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[int, Type] = {}

    async def of(self, oid: int) -> Type:
        """Return the type with this number."""
        if oid not in self._known:
            self._known[oid] = _own_type(oid) or await self._read(oid)
        return self._known[oid]

    async def never_null(self, columns: Sequence[_Described]) -> set[int]:
        """Return the places of the columns that a table declares NOT NULL, for all rows that the table shows."""
        places = [at for at, each in enumerate(columns) if each.table and each.attribute > 0]
        if not places:
            return set()
        tables, attributes = (
            f"{{{','.join(map(str, numbers))}}}"
            for numbers in zip(*((columns[at].table, columns[at].attribute) for at in places), strict=True)
        )
        return {places[number - 1] for (number,) in await self._ask(_NOT_NULL, tables, attributes)}

    async def tables(self, names: frozenset[str] | None, query: Query) -> frozenset[int] | None:
        """Return the numbers of the tables that the query names so; None for any table, when one of them is unknown."""
        if not names:
            return names if names is None else frozenset()
        if query.settings:  # the search path may be one of them
            return None
        asked = [await self._ask(b"select pg_catalog.to_regclass($1)::pg_catalog.oid", name) for name in names]
        found = {number for ((number,),) in asked}
        return None if None in found else frozenset(found)

    async def _read(self, oid: int) -> Type:
        rows = await self._ask(_TYPE, oid)
        if not rows:
            return "text"
        own, name, form, category, base, element, relation, to_json = rows[0]
        if form == "d":
            return await self.of(base)
        if own and name in KINDS:
            return KINDS[name]
        if category == "A" and element:
            return Array(await self.of(element))
        if form == "e":
            return Enumeration(tuple([label for (label,) in await self._ask(_LABELS, oid)]))
        if form == "c":
            parts = await self._ask(_ATTRIBUTES, relation)
            return RowType(tuple([Column(name, await self.of(type)) for name, type in parts]))
        return "json" if to_json and not own else "text"

    async def _ask(self, sql: bytes, *values: int | str) -> list[tuple[Any, ...]]:
        async with AsyncRawCursor(self._connection) as cursor:
            await cursor.execute(sql, values)
            return await cursor.fetchall()


def kind_of(number: int) -> Kind:
    """Return the type that rows have for a column whose type has this number, as far as every server has it. Pure."""
    known = psycopg.adapters.types.get(number)
    if known is None:
        return "text"
    return KINDS.get(known.name, "text") if known.oid == number else "json"


def _own_type(oid: int) -> Type | None:
    """Return one of PostgreSQL's most frequent own types; None for another one. Pure."""
    known = psycopg.adapters.types.get(oid) if oid < OWN_TYPES else None
    if known is None:
        return None
    kind: Kind | None = "text" if known.name in TEXTS else KINDS.get(known.name)
    return kind if kind is None or oid == known.oid else Array(kind)
