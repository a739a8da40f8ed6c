"""The check of a catalogue against a database, by `pollcast check --database-url`; no query is run.

Every statement that a poller would send (for one topic, for several, the probe) is explained in a read-only
transaction, with default or sample values as parameters. PostgreSQL then plans the query and reports missing objects,
wrong types and missing permissions. One connection checks one query after the other. Messages are the server's own:
they are for the author of the catalogue, and are never sent to clients
(docs/reference/catalogue.md#checking-a-catalogue).
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg import Connection, RawCursor

from pollcast.poller.batchable import unbatchable_reason
from pollcast.poller.connections import CONNECT_SECONDS
from pollcast.poller.database import LOCK_SECONDS, SET_LOCALLY
from pollcast.poller.poll_error import Scope, classify, condition
from pollcast.poller.statement import Statement, batch_statement, probe_statement, query_alias, single_statement
from pollcast.services.catalogue.catalog import Catalog, Param, Query
from pollcast.services.catalogue.values import Value
from pollcast.services.errors import CatalogInvalid, PollStale, Problem
from pollcast.services.process.database_url import checked_url

SAMPLES = {
    "text": "x",
    "int": "1",
    "float": "1",
    "numeric": "1",
    "bool": "true",
    "date": "2026-01-31",
    "timestamptz": "2026-01-31T12:00:00Z",
    "uuid": "00000000-0000-0000-0000-000000000001",
}
"""Sample value for each parameter type, in canonical text."""


def check(catalog: Catalog, file: str, url: str | None) -> dict[str, str | None]:
    """Return for each query the reason why its topics can't be polled together; None when they can.

    Without a `url`, the reason is judged by the query's text alone. Raises CatalogInvalid when the database refuses a
    query, PollStale when the database can't be reached, and SettingsInvalid when libpq does not accept `url`.
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
        raise PollStale(f"the database can't be reached: {error}") from None
    if problems:
        raise CatalogInvalid(problems)
    return one_by_one


def _try(connection: Connection, query: Query, file: str, problems: list[Problem]) -> str | None:
    values = {name: _sample(param) for name, param in query.params.items()}
    found = list(_problems(connection, "sql", single_statement(query, values), query, file))
    if query.probe is not None:
        found += _problems(connection, "probe", probe_statement(query), query, file)
    problems += found
    why = unbatchable_reason(query)
    return why if found or why is not None else batch_refusal(connection, query, file)


def batch_refusal(connection: Connection, query: Query, file: str) -> str | None:
    """Return the reason why PostgreSQL refuses two topics in one statement; None when it accepts them.

    The query must have parameters and be accepted for one topic alone.
    """
    values = {name: _sample(param) for name, param in query.params.items()}
    refused = next(_problems(connection, "sql", batch_statement(query, [values, values]), query, file), None)
    return f"PostgreSQL refuses to take its topics together: {refused.reason}" if refused else None


def _sample(param: Param) -> Value:
    if param.default is not None and param.default != ():
        return param.default
    text = param.enum[0] if param.enum else param.min or param.max or SAMPLES[param.type]
    return (text,) if param.is_list else text


def _problems(connection: Connection, field: str, text: Statement, query: Query, file: str) -> Iterator[Problem]:
    """Yield the problem of the statement, if there is one.

    Errors caused by sample values (a division by zero, a cast) are ignored: only those of the whole statement count.
    """
    try:
        with connection.transaction(), RawCursor(connection) as cursor:
            cursor.execute(b"set transaction read only")
            cursor.execute(f"set local lock_timeout = {round(LOCK_SECONDS * 1000)}".encode())
            cursor.execute(b"set local statement_timeout = 10000")
            if text.settings:
                names, setting_values = zip(*text.settings, strict=True)
                cursor.execute(SET_LOCALLY, (list(names), list(setting_values)))
            cursor.execute(b"explain " + text.sql.encode(), text.params)
    except psycopg.Error as error:
        if error.sqlstate is None:
            raise
        poll_error = classify(error, query)
        if poll_error.scope is Scope.STATEMENT and poll_error.state == "failed":
            message = error.diag.message_primary or ""
            if query_alias(query) in message:
                yield Problem(file, query.name, "key", poll_error.cause.detail)
            else:
                yield Problem(file, query.name, field, f"{message} ({condition(error.sqlstate)}, {error.sqlstate})")
        elif poll_error.scope is Scope.DATABASE:
            raise
