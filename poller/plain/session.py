"""A session on a server that speaks PostgreSQL's protocol: it runs each query as it is written.

What a server has beyond that is used (`Features`, which the driver finds out once per connection): read-only
transactions, `statement_timeout`, and several statements in one round trip. A server without the first needs a user who
may only read. A server without the second is sent a request to cancel when a statement has taken its time; with it too,
a little later, for there are servers that accept the setting and do not heed it. The guard breaks the connection of one
that heeds neither.

Statements share a round trip only where the server ends each by itself, because a request to cancel names no statement:
it ends the one that the server runs when it arrives. For the same reason a connection is closed when the request may
have come too late for its statement, or when a result was left because it was too long.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import psycopg

from pollcast.poller.plain.dialect import Bound, PlainDialect
from pollcast.poller.plain.encoding import encoder
from pollcast.poller.plain.errors import canceled
from pollcast.poller.plain.text_cursor import Command, TextCursor
from pollcast.poller.postgresql.connection import Connection
from pollcast.poller.postgresql.errors import QUERY_CANCELED
from pollcast.poller.postgresql.row_types import description, kind_of
from pollcast.poller.postgresql.session import PostgresqlSession
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.describing import row_type
from pollcast.poller.sources.guard import GRACE_SECONDS, Guard
from pollcast.poller.sources.outcome import Outcome, Trip
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.raw_rows import KnownRows
from pollcast.poller.sources.row_encoder import NoSuchColumn, RowEncoder
from pollcast.poller.sources.row_type import Column, RowType
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.statement import Statement
from pollcast.poller.sources.trips import in_turn, timed_out
from pollcast.services.catalogue.query import Query
from pollcast.services.process import logs

log = logs.get_logger("database")

BEGIN, ROLLBACK = Command(b"start transaction read only"), Command(b"rollback")

OWN_TIME_SECONDS = 0.5
"""Time beyond the statement's that a server with `statement_timeout` has to end it, in seconds."""

_DIALECT = PlainDialect()


@dataclass(frozen=True, slots=True)
class Features:
    """Features that a server has beyond simple queries."""

    read_only: bool
    """Whether there are read-only transactions."""
    timeout: bytes
    """Statement that sets `statement_timeout`, with `%d` for its milliseconds; empty without the setting."""
    pipeline: bool
    """Whether several statements may share a round trip."""


class PlainSession(PostgresqlSession):
    """The Session (poller/sources/source.py) of one connection to a server that speaks PostgreSQL's protocol."""

    def __init__(self, connection: Connection, node: str, opened_at: float, features: Features) -> None:
        super().__init__(connection, node, opened_at)
        self._features = features
        self._timeout = 0  # the server's present statement_timeout, in milliseconds; 0 while it is not set
        self._spent = False  # whether the server may still act on a statement of the past

    @property
    def usable(self) -> bool:
        """Whether the connection is neither broken nor within a transaction, nor in disorder."""
        return not self._spent and super().usable

    async def run(self, trip: Trip) -> list[Outcome]:
        """Run the statements of the trip, and return the outcomes of the first ones, or of all."""
        if self._features.pipeline and (self._features.timeout or len(trip.statements) == 1):
            return await self._run(trip)
        outcomes: list[Outcome] = []
        ends = asyncio.get_running_loop().time() + trip.seconds
        for statement, answer in zip(trip.statements, trip.answers, strict=True):
            outcomes += await self._run(replace(trip, statements=[statement], answers=[answer]))
            late = asyncio.get_running_loop().time() > ends
            if late or not self.usable or not isinstance(outcomes[-1], Answer | PollError):
                break
        return outcomes

    async def _row_type(self, query: Query, seconds: float) -> RowType | PollError:
        command = _command(_DIALECT.alone(query, samples(query)))
        found = await description(self._connection, command.sql, command.types)
        return row_type(
            [Column((found.fname(at) or b"").decode(), kind_of(found.ftype(at))) for at in range(found.nfields)]
        )

    async def _run(self, trip: Trip) -> list[Outcome]:
        """Run the statements, all of which are sent at once."""
        guard = Guard(self._connection.cut)
        cursor = TextCursor(self._connection, pipeline=self._features.pipeline)

        async def read(statement: Statement, answer: Answer) -> Outcome:
            try:
                if answer is trip.answers[0]:
                    await self._send(cursor, trip, lambda: guard.allow(trip.seconds + GRACE_SECONDS))
                async with self._canceling(trip.seconds):
                    await self._read(cursor, trip.query, statement, answer)
            except psycopg.Error as error:
                return self._outcome(canceled(error) if timed_out(trip, guard) else error, guard, trip)
            except NoSuchColumn as error:
                await self._leave()
                return error.error
            if statement.described:
                answer.columns = cursor.columns
            return answer

        outcomes = await in_turn(trip, guard, read, self._in_order)
        if len(outcomes) < len(trip.answers) and self._in_order(outcomes[-1]):
            await self._leave()
        return outcomes

    def _in_order(self, outcome: Outcome) -> bool:
        """Return whether the answer to the next statement can be read after this outcome."""
        return isinstance(outcome, Answer | PollError) and not self._spent and not self._connection.broken

    async def _send(self, cursor: TextCursor, trip: Trip, begun: Callable[[], None]) -> None:
        """Send the statements, and what the server needs to know before and after them."""
        features, segments = self._features, []
        timeout = max(1, round(trip.seconds * 1000))
        sets_timeout = bool(features.timeout) and timeout != self._timeout
        if sets_timeout:
            segments.append([Command(features.timeout % timeout)])
        for statement in trip.statements:
            segments.append([BEGIN, _command(statement)] if features.read_only else [_command(statement)])
            if features.read_only:
                segments.append([ROLLBACK])
        await cursor.send(segments, begun)
        if sets_timeout:
            self._timeout = 0
            await cursor.receive()
            self._timeout = timeout
        elif not features.read_only:
            begun()  # nothing is answered before the query

    async def _read(self, cursor: TextCursor, query: Query, statement: Statement, answer: Answer) -> None:
        """Receive the answer to the next statement; leave it when it is too long."""
        try:
            await self._read_rows(cursor, query, statement, answer)
        except psycopg.Error:
            await self._roll_back(cursor)
            raise
        await self._roll_back(cursor)

    async def _read_rows(self, cursor: TextCursor, query: Query, statement: Statement, answer: Answer) -> None:
        rows: KnownRows | None = None
        async with contextlib.aclosing(cursor.rows()) as chunks:
            async for chunk in chunks:
                rows = rows or KnownRows(_row_encoder(cursor.columns, statement.key_of(query)), answer)
                rows.add(chunk[: 1 - answer.rows] if statement.probe else chunk)
                if answer.full:
                    await self._leave()
                    return
        if rows is not None:
            rows.end()

    async def _roll_back(self, cursor: TextCursor) -> None:
        """Receive the end of the transaction."""
        if self._features.read_only and not self._spent and not self._connection.broken:
            await cursor.receive()

    @contextlib.asynccontextmanager
    async def _canceling(self, seconds: float) -> AsyncIterator[None]:
        """Have the server cancel the statement when it has taken this time, and does not end it itself."""
        loop = asyncio.get_running_loop()
        requests: list[asyncio.Task[None]] = []
        wait = seconds + OWN_TIME_SECONDS if self._features.timeout else seconds
        timer = loop.call_later(wait, lambda: requests.append(loop.create_task(self._cancel())))
        try:
            yield
        except psycopg.Error as error:
            self._spent = self._spent or (bool(requests) and error.sqlstate != QUERY_CANCELED)
            raise
        else:
            self._spent = self._spent or bool(requests)
        finally:
            timer.cancel()
            if requests:
                await requests[0]

    async def _leave(self) -> None:
        """End what the server still does for this connection, which has to be closed after that."""
        self._spent = True
        await self._cancel()

    async def _cancel(self) -> None:
        try:
            await self._connection.cancel_safe(timeout=GRACE_SECONDS)
        except psycopg.Error as error:
            log.info("a statement could not be canceled", detail=type(error).__name__)


@lru_cache(maxsize=1024)
def _row_encoder(columns: tuple[tuple[str, int], ...], key: tuple[str, ...]) -> RowEncoder:
    """Return the encoder of rows with these columns. Raises NoSuchColumn if the key has another one."""
    return RowEncoder([(name, encoder(type)) for name, type in columns], key)


def _command(statement: Statement) -> Command:
    bound: Sequence[Bound] = statement.params
    values = [None if each.text is None else each.text.encode() for each in bound]
    return Command(statement.sql.encode(), values, [each.number for each in bound])
