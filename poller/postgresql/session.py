"""A session on PostgreSQL: it runs statements on one connection, each in a read-only transaction of its own.

Each transaction has the trip's time as `statement_timeout` and a short `lock_timeout`, so that it can neither write nor
block a migration; `application_name` names the node and the query. All settings apply to the transaction only and no
statement is prepared, so pgbouncer may pool transactions.

The connection itself decides whose fault an error is: while it works, an error is one of the statement, whatever its
class. A connection whose server does not answer in time (because it is frozen or unplugged) is broken from this side.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import psycopg

from pollcast.poller.postgresql.chunk_cursor import ChunkCursor, Command, Transaction
from pollcast.poller.postgresql.connection import Connection
from pollcast.poller.postgresql.errors import QUERY_CANCELED, classify, condition
from pollcast.poller.postgresql.row_types import described
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.guard import GRACE_SECONDS, Guard
from pollcast.poller.sources.names import application_name
from pollcast.poller.sources.outcome import LostConnection, Outcome, Trip
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.row_type import RowType
from pollcast.poller.sources.source import Description
from pollcast.poller.sources.statement import Statement
from pollcast.poller.sources.trips import blamed, in_turn
from pollcast.services.catalogue.query import Query
from pollcast.services.process import logs

log = logs.get_logger("database")

LOCK_SECONDS = 0.5
"""Maximum time that a statement waits for a lock, in seconds."""

SET_OWN = (
    b"select pg_catalog.set_config('transaction_read_only', 'on', true),"
    b" pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('lock_timeout', $2, true),"
    b" pg_catalog.set_config('application_name', $3, true), pg_catalog.set_config('jit', 'off', true)"
)
"""Statement that sets the settings of every poll for the transaction; times are in milliseconds."""

SET_LOCALLY = (
    b"select pg_catalog.set_config(name, value, true)"
    b" from rows from (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]))"
    b" as s(name, value)"
)
"""Statement that sets each of the named settings to its value for the transaction; NULL stands for the default."""

DIGEST_COLUMNS = 4
"""Number of columns before the query's own in the answer of a statement that compares digests."""


class PostgresqlSession:
    """The Session (poller/sources/source.py) of one connection to PostgreSQL."""

    def __init__(self, connection: Connection, node: str, opened_at: float) -> None:
        self.opened_at = opened_at
        """Time when the connection was opened, in seconds on the event loop's clock."""
        self._connection = connection
        self._node = node

    @property
    def usable(self) -> bool:
        """Whether the connection is neither broken nor within a transaction."""
        return not self._connection.broken and not self._connection.occupied

    def look(self) -> None:
        """Read what the server has sent while the connection was idle."""
        self._connection.heard_from_server()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def describe(self, query: Query, seconds: float) -> Description:
        """Have the server describe the query's rows."""
        guard = Guard(self._connection.cut)
        try:
            with guard.allowing(seconds + GRACE_SECONDS):
                return await self._row_type(query, seconds)
        except psycopg.Error as error:
            if self._connection.broken or _fatal(error):
                return LostConnection(classify(error, query), guard.broke)
            found, state = classify(error, query, connected=True), error.sqlstate
            named = f"{error.diag.message_primary} ({condition(state)}, {state})" if state else found.message
            return replace(found, message=named)

    async def _row_type(self, query: Query, seconds: float) -> RowType | PollError:
        return await described(self._connection, query, lambda statement: self._trying(query, statement, seconds))

    @contextlib.asynccontextmanager
    async def _trying(self, query: Query, statement: Statement, seconds: float) -> AsyncIterator[Connection]:
        """Provide the connection in a transaction as a poll has it, which is rolled back."""
        common, (transaction,) = self._transactions(Trip(query, [statement], [], seconds, outgrows=False))
        connection = self._connection
        async with connection.transaction(force_rollback=True), psycopg.AsyncRawCursor(connection) as cursor:
            for command in (common, transaction.settings):
                if command is not None:
                    await cursor.execute(*command)
            yield connection

    async def run(self, trip: Trip) -> list[Outcome]:
        """Run the statements of the trip, and return the outcomes of the first ones, or of all."""
        guard, cursor = Guard(self._connection.cut), ChunkCursor(self._connection)

        async def read(statement: Statement, answer: Answer) -> Outcome:
            try:
                if answer is trip.answers[0]:
                    common, transactions = self._transactions(trip)
                    await cursor.send(common, transactions, lambda: guard.allow(trip.seconds + GRACE_SECONDS))
                await _read(cursor, statement, answer)
            except psycopg.Error as error:
                return self._outcome(error, guard, trip)
            return answer

        def more(outcome: Outcome) -> bool:
            return isinstance(outcome, Answer | PollError) and bool(cursor.waiting)

        outcomes = await in_turn(trip, guard, read, more)
        if len(outcomes) < len(trip.answers) and more(outcomes[-1]):
            await _abandon(self._connection)
        return outcomes

    def _outcome(self, error: psycopg.Error, guard: Guard, trip: Trip) -> Outcome:
        """Return the outcome of a statement that ended with this error."""
        broken = self._connection.broken
        return blamed(
            trip,
            guard,
            partial(classify, error, trip.query),
            lost=broken or _fatal(error),
            silently=broken and error.sqlstate is None,
            canceled=error.sqlstate == QUERY_CANCELED,
        )

    def _transactions(self, trip: Trip) -> tuple[Command, list[Transaction]]:
        timeout = max(1, round(trip.seconds * 1000))
        name = application_name(self._node, trip.query.name)
        values = timeout, min(timeout, round(LOCK_SECONDS * 1000)), name
        transactions = []
        for statement in trip.statements:
            settings = None
            if statement.settings:
                names, given = zip(*statement.settings, strict=True)
                settings = Command(SET_LOCALLY, (list(names), list(given)))
            transactions.append(Transaction(Command(statement.sql.encode(), statement.params), settings))
        return Command(SET_OWN, tuple(map(str, values))), transactions


def _fatal(error: psycopg.Error) -> bool:
    """Return whether the server has ended the connection with this error; one that SQL raises can't do that."""
    return error.diag.severity_nonlocalized in ("FATAL", "PANIC")


async def _read(cursor: ChunkCursor, statement: Statement, answer: Answer) -> None:
    """Receive the answer to the next statement."""
    async with contextlib.aclosing(cursor.rows()) as chunks:
        async for chunk in chunks:
            answer.add(chunk)
    if statement.described:
        answer.columns = cursor.columns[DIGEST_COLUMNS if statement.digests else 0 :]


async def _abandon(connection: Connection) -> None:
    """Cancel the statement that the connection has just begun; those after it end when the connection is closed."""
    try:
        await connection.cancel_safe(timeout=GRACE_SECONDS)
    except psycopg.Error as error:
        log.info("a statement could not be canceled", detail=type(error).__name__)
