"""Trying a statement on a database without changing anything: sample values for parameters, and a transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from psycopg import Connection, RawCursor

from pollcast.poller.postgresql.session import LOCK_SECONDS, SET_LOCALLY
from pollcast.poller.sources.statement import Statement, Values
from pollcast.services.catalogue.query import Param, Query
from pollcast.services.catalogue.values import Value

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

TIMEOUT_SECONDS = 10.0
"""Maximum time to plan a query, in seconds."""


def samples(query: Query) -> Values:
    """Return a value for each parameter of the query: its default, or a sample."""
    return {name: _sample(param) for name, param in query.params.items()}


def _sample(param: Param) -> Value:
    if param.default is not None and param.default != ():
        return param.default
    text = param.enum[0] if param.enum else param.min or param.max or SAMPLES[param.type]
    return (text,) if param.is_list else text


@contextlib.contextmanager
def transaction(connection: Connection, statement: Statement, seconds: float) -> Iterator[RawCursor]:
    """Provide a cursor in a read-only transaction with the statement's settings and this timeout."""
    with connection.transaction(force_rollback=True), RawCursor(connection) as cursor:
        cursor.execute(b"set transaction read only")
        cursor.execute(f"set local lock_timeout = {round(LOCK_SECONDS * 1000)}".encode())
        cursor.execute(f"set local statement_timeout = {max(1, round(seconds * 1000))}".encode())
        cursor.execute(b"set local jit = off")
        if statement.settings:
            names, values = zip(*statement.settings, strict=True)
            cursor.execute(SET_LOCALLY, (list(names), list(values)))
        yield cursor
