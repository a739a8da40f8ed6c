"""Trying a statement on PostgreSQL without changing anything, in a transaction that is rolled back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from psycopg import Connection, RawCursor

from pollcast.poller.postgresql.session import LOCK_SECONDS, SET_LOCALLY
from pollcast.poller.sources.statement import Statement

TIMEOUT_SECONDS = 10.0
"""Maximum time to plan a query, in seconds."""


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
