"""A session on a DuckDB database: a connection of the instance within this process, and a thread that uses it.

DuckDB computes outside of Python's lock, so a statement disturbs the event loop only while its rows become Python
values, a few hundred at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import duckdb

from pollcast.poller.duckdb.dialect import CACHED, DuckdbDialect, described, wrapped
from pollcast.poller.duckdb.errors import classify, is_fatal
from pollcast.poller.duckdb.instance import Instance, sql_type
from pollcast.poller.duckdb.values import KINDS, Form, form_of, name_of
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.describing import row_type
from pollcast.poller.sources.outcome import LostConnection
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.row_encoder import RowEncoder, each
from pollcast.poller.sources.row_type import Column, RowType
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.statement import Statement
from pollcast.poller.sources.thread_session import CHUNK_ROWS, ThreadSession
from pollcast.services.catalogue.query import Query

CHUNK_BYTES = 1024 * 1024
"""Size of rows as JSON that become Python values at a time, in bytes, as far as the rows before them foretell it."""

_DIALECT = DuckdbDialect()


class DuckdbSession(ThreadSession):
    """The Session (poller/sources/source.py) of one connection to a DuckDB database."""

    errors = duckdb.Error

    def __init__(self, instance: Instance, cursor: duckdb.DuckDBPyConnection, closed: Callable[[], None]) -> None:
        """Use the cursor of the instance; call `closed` at the end."""
        super().__init__("duckdb", instance.abandoned)
        self._instance = instance
        self._cursor = cursor
        self._closed = closed

    def look(self) -> None:
        """Find out whether the file is still that of the path."""
        self._usable = self._usable and self._instance.present()

    def interrupt(self) -> None:
        """Interrupt the statement."""
        self._cursor.interrupt()

    def end(self) -> None:
        """Close the connection, and the instance with its last session."""
        self._cursor.close()
        self._closed()

    def classify(self, error: Exception, query: Query, *, interrupted: bool) -> PollError | LostConnection:
        """Return the outcome for an error of DuckDB."""
        found = classify(error, query, interrupted=interrupted, timed_out=interrupted)
        if not is_fatal(error):
            return found
        self._instance.broken = True
        return LostConnection(found, silently=True)

    def execute(self, statement: Statement, answer: Answer, query: Query) -> None:
        """Run the statement, and add its rows to the answer."""
        cursor, params = self._cursor, list(statement.params)
        columns = self._columns(statement)
        forms = [_form(type) for _, type in columns]
        encoders = [(name, each(form.encode)) for (name, _), form in zip(columns, forms, strict=True)]
        encoder = RowEncoder(encoders, statement.key_of(query))
        limit = statement.most_rows(query)
        cursor.execute(wrapped(statement.sql, [form.cast for form in forms], limit), params)
        count = 1  # the first row shows how large rows are
        while not answer.full and (rows := cursor.fetchmany(count)):
            piece = encoder.piece(rows)
            answer.add(piece)
            count = min(CHUNK_ROWS, 4 * count, CHUNK_BYTES // max(len(row) for _, _, row in piece) or 1)
        if statement.described:
            answer.columns = tuple(columns)

    def row_type(self, query: Query) -> RowType | PollError:
        """Return the type of the query's rows."""
        columns = self._columns(_DIALECT.alone(query, samples(query)))
        return row_type(Column(name, KINDS.get(name_of(sql_type(type)), "text")) for name, type in columns)

    def _columns(self, statement: Statement) -> list[tuple[str, str]]:
        """Return the names and types of the query's columns."""
        kept = self._instance.described
        if statement.sql in kept:
            return kept[statement.sql]
        rows = self._cursor.execute(described(statement.sql), list(statement.params)).fetchall()
        columns = [(row[0], row[1]) for row in rows]
        if self._instance.keeps_descriptions:
            if len(kept) >= CACHED:
                kept.clear()
            kept[statement.sql] = columns
        return columns


@lru_cache(maxsize=CACHED)
def _form(type: str) -> Form:
    """Return the form in which values of the type of this name travel."""
    return form_of(sql_type(type))
