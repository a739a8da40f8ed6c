"""The check of a catalogue against a database, by `pollcast check --database-url`.

Every statement that a poller would send (for one topic, for several, the probe) is explained in a read-only
transaction, with default or sample values as parameters. PostgreSQL then plans the query and reports missing objects,
wrong types and missing permissions. It also describes the columns of the result, alone and together, and the type that
each parameter would have if it were a literal. Only a query with a `key` is run, once, to look for rows with the same
key. One connection checks one query after the other. Messages are the server's own: they are for the author of the
catalogue, and are never sent to clients (docs/reference/catalogue.md#checking-a-catalogue).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import Connection

from pollcast.poller.notifications import listen_statement
from pollcast.poller.postgresql.connection import CONNECT_SECONDS
from pollcast.poller.postgresql.described import columns, difference, natural_types, type_note, with_cast
from pollcast.poller.postgresql.digests import forms
from pollcast.poller.postgresql.errors import classify, condition
from pollcast.poller.postgresql.statement import (
    batch_statement,
    columns_statement,
    digest_statement,
    probe_statement,
    query_alias,
    single_statement,
)
from pollcast.poller.postgresql.trying import TIMEOUT_SECONDS, transaction
from pollcast.poller.sources.inspection import Report
from pollcast.poller.sources.poll_error import Scope
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.statement import Statement, Values
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollStale, Problem
from pollcast.services.process.database_url import checked_url

RUN_SECONDS = 2.0
"""Maximum time that a query with a key is run, in seconds, if its own timeout is not shorter."""

INVALID_PARAMETER_VALUE = "22023"
"""SQLSTATE of a value that a PostgreSQL setting does not take."""

COMPARED_TOPICS = 32
"""Number of topics in the shared statement whose plan is compared with that of one topic alone."""


def examine(queries: Sequence[Query], file: str, url: str, found: Report) -> list[Problem]:
    """Check queries on the database at this URL. Add to the report, and return the problems.

    Raises PollStale when the database can't be reached, and SettingsInvalid when libpq does not accept `url`.
    """
    problems: list[Problem] = []
    try:
        with psycopg.connect(
            checked_url(url), autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="pollcast check"
        ) as connection:
            for query in queries:
                problems += _try(connection, query, file, found)
    except psycopg.OperationalError as error:
        raise PollStale(f"the database can't be reached: {error}") from None
    return problems


def _try(connection: Connection, query: Query, file: str, found: Report) -> list[Problem]:
    """Check one query: add to the report, and return the problems."""
    values = samples(query)
    if refused := _refused_settings(connection, query, values):
        if refused.sqlstate != INVALID_PARAMETER_VALUE:
            reason = f"{refused.diag.message_primary} ({condition(refused.sqlstate or '')}, {refused.sqlstate})"
            return [Problem(file, query.name, "settings", reason)]
        found.notes[query.name].append(
            f"it was not tried with its settings, which do not take sample values: {refused.diag.message_primary}"
        )
        query = replace(query, settings={})
    if query.listen is not None and (note := _listen_note(connection, query.listen)):
        found.notes[query.name].append(note)
    if query.settings and _bypasses_row_security(connection):
        found.notes[query.name].append(
            "its settings keep no rows from anybody: the role of the database URL bypasses row-level security"
        )
    types = natural_types(connection, query)
    problems = list(_problems(connection, "sql", single_statement(query, values), query, file))
    if problems:
        problems = [with_cast(problem, query, types) for problem in problems]
    if query.probe is not None:
        problems += _problems(connection, "probe", probe_statement(query), query, file)
    if problems:
        return problems
    notes = found.notes[query.name]
    notes += (note for name, type in types.items() if (note := type_note(query.params[name], type)))
    alone = columns(connection, columns_statement(query, [values], together=False))
    twice = [name for name, number in Counter(name for name, _ in alone).items() if number > 1]
    if twice:
        listed = ", ".join(twice)
        reason = f"two columns of the result have the same name ({listed}): give one another name with AS"
        return [Problem(file, query.name, "sql", reason)]
    if missing := [column for column in query.key if column not in {name for name, _ in alone}]:
        # PostgreSQL takes the name of a function of a row, such as to_json, for a column of the row.
        reason = f"the result has no column {missing[0]}, which its key names"
        return [Problem(file, query.name, "key", reason)]
    if query.key:
        problems += _duplicate_keys(connection, query, values, file, notes)
    if found.one_by_one[query.name] is None and not problems:
        why = batch_refusal(connection, query, file) or difference(connection, query, values, alone)
        found.one_by_one[query.name] = why
        if why is None:
            notes += _plan_note(connection, query, values)
    if not problems:
        topics = [values] if found.one_by_one[query.name] else [values, values]
        statement = digest_statement(query, topics, [None] * len(topics), tuple(alone))
        if refused_digest := next(_problems(connection, "sql", statement, query, file), None):
            notes.append(f"its rows are sent with every poll: PostgreSQL refuses their digest: {refused_digest.reason}")
        else:
            found.digests[query.name] = forms(tuple(alone))
    return problems


def batch_refusal(connection: Connection, query: Query, file: str) -> str | None:
    """Return the reason why PostgreSQL refuses two topics in one statement; None when it accepts them.

    The query must have parameters and be accepted for one topic alone.
    """
    values = samples(query)
    refused = next(_problems(connection, "sql", batch_statement(query, [values, values]), query, file), None)
    return f"PostgreSQL refuses to take its topics together: {refused.reason}" if refused else None


# --- plans ------------------------------------------------------------------------------------------------------------


def _refused_settings(connection: Connection, query: Query, values: Values) -> psycopg.Error | None:
    """Return the error with which PostgreSQL refuses the settings of a topic; None when it accepts them."""
    try:
        with transaction(connection, Statement("", (), query.setting_values(values)), TIMEOUT_SECONDS):
            return None
    except psycopg.Error as error:
        if connection.closed or error.sqlstate is None:
            raise
        return error


def _listen_note(connection: Connection, channel: str) -> str | None:
    """Return what the author has to know about listening to the channel on this database; None when it works."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(listen_statement([channel.encode()], []))
    except psycopg.Error as error:
        if connection.closed or error.sqlstate is None:
            raise
        return f"this database cannot listen ({error.diag.message_primary}): set POLLCAST_LISTEN_URL"
    session = connection.execute("select pg_catalog.pg_backend_pid()").fetchone()
    if session == (connection.info.backend_pid,):
        return None
    return "notifications are lost if the pooler lends sessions for single transactions: set POLLCAST_LISTEN_URL then"


def _bypasses_row_security(connection: Connection) -> bool:
    row = connection.execute(
        "select rolsuper or rolbypassrls from pg_catalog.pg_roles where rolname = current_user"
    ).fetchone()
    return row is not None and row[0]


def _problems(connection: Connection, field: str, text: Statement, query: Query, file: str) -> Iterator[Problem]:
    """Yield the problem of the statement, if there is one.

    Errors caused by sample values (a division by zero, a cast) are ignored: only those of the whole statement count.
    """
    try:
        with transaction(connection, text, TIMEOUT_SECONDS) as cursor:
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


def _plan_note(connection: Connection, query: Query, values: Values) -> Iterator[str]:
    """Yield a note if PostgreSQL would read more of a table for topics together than for one alone.

    Estimated costs are not compared: alone they are those of the sample values, which may occur in no row.
    """
    alone = _whole_tables(connection, single_statement(query, values))
    together = _whole_tables(connection, batch_statement(query, [values] * COMPARED_TOPICS))
    more = [table for table, whole in together.items() if whole and not alone.get(table, False)]
    if more and query.together is not True:
        yield (
            f"together, PostgreSQL reads the whole of {', '.join(more)}, and alone only a part: the poller measures "
            "both, and polls the cheaper way"
        )


def _whole_tables(connection: Connection, statement: Statement) -> dict[str, bool]:
    """Return the tables that the statement's plan reads, each with whether it is read without a condition on an
    index."""
    tables: dict[str, bool] = {}

    def visit(node: dict[str, Any]) -> None:
        if table := node.get("Relation Name"):
            whole = not any(condition in node for condition in ("Index Cond", "Recheck Cond", "TID Cond"))
            tables[table] = tables.get(table, False) or whole
        for child in node.get("Plans", ()):
            visit(child)

    with contextlib.suppress(psycopg.errors.Error), transaction(connection, statement, TIMEOUT_SECONDS) as cursor:
        cursor.execute(b"explain (format json) " + statement.sql.encode(), statement.params)
        row = cursor.fetchone()
        visit(row[0][0]["Plan"] if row is not None else {})
    return tables


# --- keys -------------------------------------------------------------------------------------------------------------


def _duplicate_keys(
    connection: Connection, query: Query, values: Values, file: str, notes: list[str]
) -> Iterator[Problem]:
    """Run the query once, and yield a problem when two of its rows have the same key."""
    statement = single_statement(query, values)
    seconds = min(query.timeout, RUN_SECONDS)
    keys: Counter[str] = Counter()
    try:
        with transaction(connection, statement, seconds) as cursor:
            cursor.execute(statement.sql.encode(), statement.params)
            keys.update(key for _, key, _ in cursor)
    except psycopg.errors.QueryCanceled:
        notes.append(f"its keys were not compared, because it takes longer than {seconds:g} s")
    except psycopg.DatabaseError as error:
        if connection.closed:
            raise
        notes.append(f"its keys were not compared: {error.diag.message_primary} ({error.sqlstate})")
    if twice := next((key for key, number in keys.items() if number > 1), None):
        listed = ", ".join(query.key)
        yield Problem(file, query.name, "key", f"two rows of the result have the same key ({listed}): {twice}")
