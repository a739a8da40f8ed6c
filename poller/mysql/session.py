"""A session on MySQL or MariaDB: it runs many statements in one round trip, each in a read-only transaction of its own.

A trip is one multi-statement: the settings of the trip, and for each topic `start transaction read only`, its query and
`commit`. The server refuses to write within such a transaction, and ends a query that takes too long. It does not run
what comes after an error, so a trip ends with the first one; the others are run again in the next.

Whose fault an error is shows afterwards: if the connection still ends the transaction, it is the statement's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache, partial

from asyncmy.errors import MySQLError

from pollcast.poller.mysql.encoding import encoder, type_of
from pollcast.poller.mysql.errors import TIMED_OUT, ServerError, classify
from pollcast.poller.mysql.literals import bound
from pollcast.poller.mysql.trip_text import LOCK_SECONDS, fitting, trip_text
from pollcast.poller.mysql.wire import Wire, column
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.describing import row_type
from pollcast.poller.sources.faults import lost
from pollcast.poller.sources.guard import GRACE_SECONDS, Guard
from pollcast.poller.sources.names import application_name
from pollcast.poller.sources.outcome import LostConnection, Outcome, Trip
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.raw_rows import KnownRows
from pollcast.poller.sources.row_encoder import NoSuchColumn, RowEncoder
from pollcast.poller.sources.row_type import Column
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.source import Description
from pollcast.poller.sources.statement import Statement
from pollcast.poller.sources.trips import blamed, in_turn
from pollcast.services.catalogue.query import Query

LEXICAL_MODES = frozenset(
    {"ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ANSI", "DB2", "MAXDB", "MSSQL", "ORACLE", "POSTGRESQL"}
)
"""Modes of a server in which a text means something else than pollcast.services.catalogue.mysql_text reads in it."""

_ERRORS = (MySQLError, OSError)


class MysqlSession:
    """The Session (poller/sources/source.py) of one connection to MySQL or MariaDB. Call `begin` first."""

    def __init__(self, wire: Wire, node: str, kill: Callable[[bytes], Awaitable[None]]) -> None:
        """Use the connection. `kill` ends what the server does for the connection with this id."""
        self.opened_at = asyncio.get_running_loop().time()
        """Time when the connection was opened, in seconds on the event loop's clock."""
        self._wire = wire
        self._node = node
        self._kill = kill
        self._id = b""
        self._occupied = False  # whether answers of a trip have not been received
        self._heard = False

    async def begin(self) -> None:
        """Set what a query's text and its values mean, whatever the server's own settings are."""
        await self._wire.send("select connection_id(), @@sql_mode")
        ((number, modes),) = [row async for rows in self._wire.rows() for row in rows]
        self._id = number or b""
        mode = ",".join(each for each in (modes or b"").decode().split(",") if each not in LEXICAL_MODES)
        await self._all(f"set names utf8mb4; set sql_mode='{mode}', time_zone='+00:00', autocommit=1")

    @property
    def usable(self) -> bool:
        """Whether the connection is neither broken nor within a trip."""
        return not (self._occupied or self._heard or self._wire.broken)

    def look(self) -> None:
        """Notice what the server has sent while the connection was idle: it does that only when it ends it."""
        self._heard = self._heard or self._wire.heard()

    async def close(self) -> None:
        """Close the connection, and end the trip that it is within: the server would not notice before its end."""
        self._wire.abort()
        if self._occupied:
            await self._kill(self._id)

    async def run(self, trip: Trip) -> list[Outcome]:
        """Run the statements of the trip, and return the outcomes of the first ones, or of all."""
        count = fitting([statement.sql for statement in trip.statements])
        trip = replace(trip, statements=trip.statements[:count], answers=trip.answers[:count])
        guard = Guard(self._wire.abort)

        async def read(statement: Statement, answer: Answer) -> Outcome:
            try:
                if answer is trip.answers[0]:
                    await self._wire.send(self._text(trip))
                    guard.allow(trip.seconds + GRACE_SECONDS)
                return await self._read(trip.query, statement, answer)
            except _ERRORS as error:
                return await self._outcome(error, guard, trip)

        self._occupied = True
        outcomes = await in_turn(trip, guard, read, lambda last: isinstance(last, Answer) and not self._wire.broken)
        if len(outcomes) < len(trip.answers) and isinstance(outcomes[-1], Answer):
            self._wire.abort()  # and so `close` ends the rest of the trip
        else:
            self._occupied = False
        return outcomes

    async def describe(self, query: Query, seconds: float) -> Description:
        """Have the server describe the query's rows."""
        guard, text = Guard(self._wire.abort), bound(query, samples(query))
        with guard.allowing(seconds + GRACE_SECONDS):
            self._occupied = True
            try:
                await self._all(f"set lock_wait_timeout={LOCK_SECONDS}")
                columns = [column(each) for each in await self._wire.describe(text)]
            except _ERRORS as error:
                told = _told(error)
                if told is None or self._wire.broken:
                    self._wire.abort()
                    return LostConnection(lost(str(error)), guard.broke)
                self._occupied = False
                return classify(told, query, connected=True, timed_out=False)
        self._occupied = False
        return row_type(Column(each.name, type_of(each)) for each in columns)

    async def _read(self, query: Query, statement: Statement, answer: Answer) -> Answer | PollError:
        """Receive the answers to a statement and to those around it."""
        key, most = statement.key_of(query), statement.most_rows(query)
        await self._next()
        await self._next()
        if statement.described:
            answer.columns = tuple((each.name, each) for each in map(column, self._wire.descriptions))
        outcome: Answer | PollError = answer
        rows: KnownRows | None = None
        try:
            rows = KnownRows(_row_encoder(self._wire.descriptions, key), answer)
        except NoSuchColumn as missing:
            outcome = missing.error
        count = 0
        async for raw in self._wire.rows():
            if rows is not None:
                rows.add(raw)
            count += len(raw)
            if count > most or (answer.full and count < most):  # a query may have a limit of its own
                self._wire.abort()
                return outcome
        if rows is not None:
            rows.end()
        await self._next()
        return outcome

    async def _outcome(self, error: Exception, guard: Guard, trip: Trip) -> Outcome:
        """Return the outcome of a statement that ended with this error, and end its transaction."""
        told = _told(error)
        with contextlib.suppress(*_ERRORS):
            if told is not None:
                await self._all("rollback")
            else:
                self._wire.abort()
        return blamed(
            trip,
            guard,
            partial(_poll_error, error, trip.query),
            lost=told is None or self._wire.broken,
            silently=told is None,
            canceled=told is not None and told.number in TIMED_OUT,
        )

    def _text(self, trip: Trip) -> str:
        statements = [statement.sql for statement in trip.statements]
        name = application_name(self._node, trip.query.name)
        most = trip.statements[0].most_rows(trip.query)
        return trip_text(statements, trip.seconds, most, name, mariadb=self._wire.mariadb)

    async def _next(self) -> None:
        if not await self._wire.next():
            raise ConnectionError("the server has answered fewer statements than were sent")

    async def _all(self, sql: str) -> None:
        """Run statements without rows."""
        await self._wire.send(sql)
        while await self._wire.next():
            pass


@lru_cache(maxsize=1024)
def _row_encoder(descriptions: tuple[bytes, ...], key: tuple[str, ...]) -> RowEncoder:
    """Return the encoder of rows whose columns are described so. Raises NoSuchColumn if the key has another column."""
    columns = [column(each) for each in descriptions]
    return RowEncoder([(each.name, encoder(each)) for each in columns], key)


def _poll_error(error: Exception, query: Query, *, connected: bool, timed_out: bool) -> PollError:
    told = _told(error)
    return lost(str(error)) if told is None else classify(told, query, connected=connected, timed_out=timed_out)


def _told(error: Exception) -> ServerError | None:
    """Return the error that the server has sent; None for one of the connection."""
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate is None:
        return None
    number, message = error.args
    return ServerError(number, sqlstate, message)
