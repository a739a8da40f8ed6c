"""The columns and parameters of a query, as PostgreSQL describes them without running the query."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import Connection

from pollcast.poller.postgresql.statement import columns_statement, untyped_statement
from pollcast.poller.postgresql.trying import TIMEOUT_SECONDS, transaction
from pollcast.poller.sources.statement import Statement, Values
from pollcast.services.catalogue.query import Param, Query
from pollcast.services.catalogue.values import PG_TYPES
from pollcast.services.errors import Problem


def columns(connection: Connection, statement: Statement) -> list[tuple[str, int]]:
    """Return the name and the type's number of each column of the statement, which is described and not run."""
    with transaction(connection, statement, TIMEOUT_SECONDS):
        prepared = connection.pgconn.prepare(b"", statement.sql.encode())
        described = connection.pgconn.describe_prepared(b"")
        names = [(described.fname(at) or b"").decode() for at in range(described.nfields)]
        columns = list(zip(names, map(described.ftype, range(described.nfields)), strict=True))
    return [] if prepared.error_message else columns


def difference(connection: Connection, query: Query, values: Values, alone: Sequence[tuple[str, int]]) -> str | None:
    """Return a message with the columns that are different together; None when there are none."""
    together = columns(connection, columns_statement(query, [values, values], together=True))
    if together == alone:
        return None
    changed = [f"{a} and {b}" for (a, _), (b, _) in zip(alone, together, strict=False) if a != b]
    return f"PostgreSQL describes its columns otherwise together ({', '.join(changed) or 'by type or number'})"


def natural_types(connection: Connection, query: Query) -> dict[str, str]:
    """Return the types, as PostgreSQL names them, that parameters would have if they were literals in quotes.

    Placeholders with a cast do not count. A query that PostgreSQL refuses so has no types.
    """
    sql, names = untyped_statement(query)
    found: dict[str, str] = {}
    with transaction(connection, Statement(sql, ()), TIMEOUT_SECONDS) as cursor:
        if connection.pgconn.prepare(b"", sql.encode()).error_message:
            return {}
        described = connection.pgconn.describe_prepared(b"")
        for name, oid in zip(names, map(described.param_type, range(described.nparams)), strict=False):
            cursor.execute(b"select pg_catalog.format_type($1, null)", (oid,))
            row = cursor.fetchone()
            assert row is not None
            type = row[0].replace("character", "bpchar") if row[0] in _PADDED else row[0]
            if name not in found or _is_own(found[name], query.params[name]):
                found[name] = type
    return found


_PADDED = {"character", "character[]"}  # as a cast, `character` would shorten a value to one character

_OWN_TYPES = {*PG_TYPES.values(), "bigint", "integer", "smallint", "double precision", "real", "boolean"} | {
    *("timestamp with time zone", "timestamp without time zone", "character varying", "name", "unknown", "oid")
}
"""Types with which the types of parameters compare as a literal does."""


def with_cast(problem: Problem, query: Query, types: dict[str, str]) -> Problem:
    """Return a problem with types with the casts that avoid it."""
    if "42883" not in problem.reason and "42804" not in problem.reason:
        return problem
    casts = [f"%({name})s::{type}" for name, type in types.items() if not _is_own(type, query.params[name])]
    return Problem(
        problem.file, problem.query, problem.field, problem.reason + (f": write {', '.join(casts)}" if casts else "")
    )


def type_note(param: Param, type: str) -> str | None:
    """Return a note if a literal would be of a type that compares in another way than the parameter's."""
    if param.type != "text" or _is_own(type, param):
        return None
    return (
        f"{param.name} is compared as text, a literal would be {type}: write %({param.name})s::{type} if it should "
        f"compare as {type} does"
    )


def _is_own(type: str, param: Param) -> bool:
    return (type.removesuffix("[]") if param.is_list else type) in _OWN_TYPES
