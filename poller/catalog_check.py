"""Each query of a catalogue tried on the database without running it: what `pollcast check --database-url` says.

Every statement that a poller would send (alone, together, the probe) is explained, with its parameters' defaults or
made-up values, in a read-only transaction: PostgreSQL then finds what does not exist, has the wrong type, or is not
allowed, and plans the query. One connection, one query after the other. The words are the server's own: they are for
the catalogue's author, and are never sent to clients.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg import Connection, RawCursor

from pollcast.poller.batchable import unbatchable_reason
from pollcast.poller.database import CONNECT_SECONDS, LOCK_SECONDS, checked_url
from pollcast.poller.poll_error import QUERY_ALIAS, Scope, classify, condition
from pollcast.poller.statement import Statement, batch_statement, probe_statement, single_statement
from pollcast.services.catalogue.catalog import Catalog, Param, Query
from pollcast.services.errors import CatalogInvalid, PollStale, Problem

MADE_UP = {
    "text": "x",
    "int": "1",
    "float": "1",
    "numeric": "1",
    "bool": "true",
    "date": "2026-01-31",
    "timestamptz": "2026-01-31T12:00:00Z",
    "uuid": "00000000-0000-0000-0000-000000000001",
}


def check(catalog: Catalog, file: str, url: str | None) -> dict[str, str | None]:
    """By query, why its topics can't be polled together; None where they are. Without a `url`, as the text tells.
    CatalogInvalid with what the database refuses; PollStale when it can't be reached; SettingsInvalid when libpq does
    not take `url`.
    """
    if url is None:
        return {name: unbatchable_reason(query) for name, query in catalog.queries.items()}
    problems: list[Problem] = []
    one_by_one: dict[str, str | None] = {}
    try:
        with psycopg.connect(
            checked_url(url), autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="pollcast check"
        ) as connection:
            for name, query in catalog.queries.items():
                one_by_one[name] = _try(connection, query, file, problems)
    except psycopg.OperationalError as error:
        raise PollStale(f"the database can't be asked: {error}") from None
    if problems:
        raise CatalogInvalid(problems)
    return one_by_one


def _try(connection: Connection, query: Query, file: str, problems: list[Problem]) -> str | None:
    values = {name: _made_up(param) for name, param in query.params.items()}
    found = list(_problems(connection, "sql", single_statement(query, values), query, file))
    if query.probe is not None:
        found += _problems(connection, "probe", probe_statement(query), query, file)
    problems += found
    why = unbatchable_reason(query)
    return why if found or why is not None else batch_refusal(connection, query, file)


def batch_refusal(connection: Connection, query: Query, file: str) -> str | None:
    """Why PostgreSQL does not take two topics of a query, which has parameters and is fine alone, in one statement."""
    values = {name: _made_up(param) for name, param in query.params.items()}
    refused = next(_problems(connection, "sql", batch_statement(query, [values, values]), query, file), None)
    return f"PostgreSQL refuses to take its topics together: {refused.reason}" if refused else None


def _made_up(param: Param) -> str:
    if param.default is not None:
        return param.default
    if param.enum:
        return param.enum[0]
    return param.min or param.max or MADE_UP[param.type]


def _problems(connection: Connection, field: str, text: Statement, query: Query, file: str) -> Iterator[Problem]:
    """At most one. Values that are made up may be wrong (a division by zero, a cast): only a fault of the statement as
    a whole counts."""
    try:
        with connection.transaction(), RawCursor(connection) as cursor:
            cursor.execute(b"set transaction read only")
            cursor.execute(f"set local lock_timeout = {round(LOCK_SECONDS * 1000)}".encode())
            cursor.execute(b"set local statement_timeout = 10000")
            cursor.execute(b"explain " + text.sql.encode(), text.params)
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise
        trouble = classify(error, query)
        if trouble.scope is Scope.STATEMENT and trouble.state == "failed":
            said = error.diag.message_primary or ""
            if QUERY_ALIAS in said:
                yield Problem(file, query.name, "key", trouble.error.detail)
            else:
                yield Problem(file, query.name, field, f"{said} ({condition(error.sqlstate)}, {error.sqlstate})")
        elif trouble.scope is Scope.DATABASE:
            raise
