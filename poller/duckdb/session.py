"""A session on a DuckDB database: a connection of the instance within this process, and a thread that uses it.

DuckDB computes outside of Python's lock, so a statement disturbs the event loop only while its rows become Python
values, a few hundred at a time. A statement that has taken its time is interrupted, again and again, for an interrupt
between two of its steps is forgotten. One that does not heed that is left to its thread, and its session is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, TypeVar

import duckdb

from pollcast.poller.duckdb.dialect import CACHED, DuckdbDialect, described, wrapped
from pollcast.poller.duckdb.errors import classify, is_fatal
from pollcast.poller.duckdb.instance import Instance, sql_type
from pollcast.poller.duckdb.values import KINDS, Form, form_of, name_of
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.describing import row_type
from pollcast.poller.sources.guard import GRACE_SECONDS
from pollcast.poller.sources.outcome import LostConnection, Outcome, Outgrown, Trip
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.row_encoder import NoSuchColumn, RowEncoder, each
from pollcast.poller.sources.row_type import Column, RowType
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.source import Description
from pollcast.poller.sources.statement import Statement
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollStale

CHUNK_ROWS = 256
"""Number of rows that become Python values at a time."""

INTERRUPT_SECONDS = 0.05
"""Time between two interrupts of a statement, in seconds."""

_DIALECT = DuckdbDialect()

T = TypeVar("T")


class DuckdbSession:
    """The Session (poller/sources/source.py) of one connection to a DuckDB database."""

    def __init__(
        self,
        instance: Instance,
        cursor: duckdb.DuckDBPyConnection,
        opened_at: float,
        closed: Callable[[], None],
    ) -> None:
        """Use the cursor of the instance; call `closed` at the end."""
        self.opened_at = opened_at
        """Time when the connection was opened, in seconds on the event loop's clock."""
        self._instance = instance
        self._cursor = cursor
        self._closed = closed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="duckdb")
        self._work: asyncio.Future[Any] | None = None
        self._usable = True

    @property
    def usable(self) -> bool:
        """Whether another trip can be made: nothing runs, and the file is the present one."""
        return self._usable and self._work is None

    def look(self) -> None:
        """Find out whether the file is still that of the path."""
        self._usable = self._usable and self._instance.present()

    async def close(self) -> None:
        """Close the connection, as soon as what still runs has been interrupted."""
        self._usable = False
        if self._work is not None and not await self._interrupted(self._work):
            self._work.add_done_callback(lambda _: self._close())
        else:
            self._close()

    def _close(self) -> None:
        self._thread.shutdown(wait=False)
        self._cursor.close()
        self._closed()

    async def run(self, trip: Trip) -> list[Outcome]:
        """Run the statements of the trip, and return the outcomes of the first ones, or of all."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + trip.seconds
        outcomes: list[Outcome] = []
        for statement, answer in zip(trip.statements, trip.answers, strict=True):
            started = loop.time()
            outcomes.append(await self._outcome(partial(self._executed, statement, answer, trip.query), trip))
            answer.seconds = loop.time() - started
            answer.latency = 0.0
            if loop.time() > ends or not self.usable or not isinstance(outcomes[-1], Answer | PollError):
                break
        return outcomes

    async def describe(self, query: Query, seconds: float) -> Description:
        """Have DuckDB describe the query's rows."""
        trip = Trip(query, [], [], seconds, outgrows=False)
        found = await self._outcome(partial(self._row_type, query), trip)
        assert not isinstance(found, Outgrown), "the statement has all of its time"
        return found

    async def _outcome(self, do: Callable[[], T], trip: Trip) -> T | PollError | LostConnection | Outgrown:
        """Have the thread do something within the time of the trip's statements."""
        loop = asyncio.get_running_loop()
        self._work = loop.run_in_executor(self._thread, do)
        self._work.add_done_callback(_exception)
        await asyncio.wait([self._work], timeout=trip.seconds)
        timed_out = not self._work.done()
        if timed_out and not await self._interrupted(self._work):
            reason = f"the query took longer than its timeout of {trip.query.timeout:g} s"
            return PollError(PollStale(reason), Scope.TOPIC_OR_SIZE)
        work: asyncio.Future[T] = self._work
        self._work = None
        try:
            return work.result()
        except NoSuchColumn as error:
            return error.error
        except duckdb.Error as error:
            if timed_out and trip.outgrows:
                return Outgrown.OUTGROWN
            poll_error = classify(error, trip.query, interrupted=timed_out, timed_out=timed_out)
            if is_fatal(error):
                self._instance.broken = True
                self._usable = False
                return LostConnection(poll_error, silently=True)
            return poll_error

    async def _interrupted(self, work: asyncio.Future[Any]) -> bool:
        """Interrupt what runs until it ends; return whether it has."""
        loop = asyncio.get_running_loop()
        until = loop.time() + GRACE_SECONDS
        while not work.done() and loop.time() < until:
            self._cursor.interrupt()
            await asyncio.wait([work], timeout=INTERRUPT_SECONDS)
        return work.done()

    # --- what the thread does

    def _executed(self, statement: Statement, answer: Answer, query: Query) -> Answer:
        """Run the statement, and return the answer with its rows."""
        cursor, params = self._cursor, list(statement.params)
        columns = self._columns(statement)
        forms = [_form(type) for _, type in columns]
        encoders = [(name, each(form.encode)) for (name, _), form in zip(columns, forms, strict=True)]
        encoder = RowEncoder(encoders, statement.key_of(query))
        limit = statement.most_rows(query)
        cursor.execute(wrapped(statement.sql, [form.cast for form in forms], limit), params)
        while not answer.full and (rows := cursor.fetchmany(CHUNK_ROWS)):
            answer.add(encoder.piece(rows))
        if statement.described:
            answer.columns = tuple(columns)
        return answer

    def _row_type(self, query: Query) -> RowType | PollError:
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


def _exception(work: asyncio.Future[Any]) -> None:
    """Take note of the error of a statement, which nobody may wait for."""
    if not work.cancelled():
        work.exception()
