"""The poller's database: it runs one statement at a time on a connection, and returns its answer or an error.

A `Database` lasts as long as the poller. An unreachable database is an error of the polls, not of the poller. Each
statement runs in a read-only transaction of its own, with the query's timeout as `statement_timeout` and a short
`lock_timeout`, so that it can neither write nor block a migration; `application_name` names the node and the query. All
settings apply to the transaction only and no statement is prepared, so pgbouncer may pool transactions.

The connection itself decides whose fault an error is: while it works, an error is one of the statement, whatever its
class. A broken connection is replaced, and the statement is run once more. A connection whose server does not answer in
time (because it is frozen or unplugged) is broken from this side. The last free connection is the reserve
(poller/lanes.py): a statement may have it for RESERVE_SECONDS, and one that takes longer is run again on another.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import socket
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from dataclasses import replace

import psycopg

from pollcast.poller.answer import Answer
from pollcast.poller.chunk_cursor import ChunkCursor, Command
from pollcast.poller.connections import Connection, Connections, Unreachable
from pollcast.poller.lanes import Lane, Lanes, SlowStatements
from pollcast.poller.poll_error import QUERY_CANCELED, PollError, Scope, busy, classify, unreachable
from pollcast.poller.statement import Statement
from pollcast.services.catalogue.query import Query
from pollcast.services.delta import Row
from pollcast.services.process import logs

log = logs.get_logger("database")

LOCK_SECONDS = 0.5
"""Maximum time that a statement waits for a lock, in seconds."""

GRACE_SECONDS = 1.5
"""Time beyond the statement's timeout after which the connection is broken, in seconds; also the time that a server has
to begin the transaction, which shows that the connection works."""

WAIT_SECONDS = 1.0
"""Minimum timeout of the wait for a connection, in seconds."""

MAX_CONNECT_SECONDS = 5.0
"""Maximum time that a statement waits for a new connection, in seconds."""

RESERVE_SECONDS = 0.5
"""Time from which a statement is slow, in seconds: it does not get the last connection."""

SET_OWN = (
    b"select pg_catalog.set_config('statement_timeout', $1, true), pg_catalog.set_config('lock_timeout', $2, true),"
    b" pg_catalog.set_config('application_name', $3, true), pg_catalog.set_config('jit', 'off', true),"
    b" pg_catalog.set_config('idle_in_transaction_session_timeout', '10000', true)"
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

_CANCELED_BEFORE = 0.9
"""Share of the timeout below which a canceled statement was not canceled by the timeout."""


class Database:
    """A database with a bounded number of connections, made by `Database.open`."""

    def __init__(self, connections: Connections, count: int, node: str) -> None:
        self.width = max(1, count - 1)
        """Number of statements that one query may have under way: all connections but the reserve."""
        self._connections = connections
        self._lanes = Lanes(count)
        self._slow = SlowStatements()
        self._node = node

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str | Callable[[], str], connections: int, node: str) -> AsyncIterator[Database]:
        """Provide a database within a scope. `url` is any connection string of libpq, or returns the present one.

        Raises psycopg.ProgrammingError when libpq does not accept `url`.
        """
        async with Connections.open(
            url if callable(url) else lambda: url, connections, application_name(node)
        ) as opened:
            yield cls(opened, connections, node)

    async def execute(
        self, statement: Statement, query: Query, known: Sequence[list[Row] | None] = (None,)
    ) -> Answer | PollError:
        """Run one statement of the query, and return its answer. `known` holds the last result of each of its topics.

        If the connection was lost, the statement is run once more on another: the connection may have broken while it
        was idle.
        """
        outcome = await self._in_lane(statement, query, known)
        if isinstance(outcome, LostConnection):
            outcome = await self._in_lane(statement, query, known)
        if isinstance(outcome, LostConnection):
            outcome = outcome.error
        if isinstance(outcome, Answer):
            await asyncio.to_thread(outcome.check) if outcome.large else outcome.check()
        return outcome

    async def _in_lane(
        self, statement: Statement, query: Query, known: Sequence[list[Row] | None]
    ) -> Answer | PollError | LostConnection:
        """Run the statement as soon as it may have a connection: one that outgrows the reserve, once more elsewhere."""
        key = _identity(statement, len(known))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(WAIT_SECONDS, query.timeout)
        while True:
            slow, quick = self._slow.slow(key, query.name), self._slow.quick(key, query.name)
            lane = await self._lanes.acquire(slow, deadline - loop.time(), quick)
            if lane is None:
                return busy()
            allowed = min(query.timeout, RESERVE_SECONDS) if lane is Lane.RESERVE else query.timeout
            try:
                connection = await self._connections.acquire(min(max(WAIT_SECONDS, query.timeout), MAX_CONNECT_SECONDS))
            except Unreachable as error:
                self._lanes.release(lane)
                return unreachable(str(error))
            except BaseException:
                self._lanes.release(lane)
                raise
            began = loop.time()
            answer = Answer(query, known, digests=statement.digests)
            try:
                outcome = await self._try(connection, statement, answer, query, allowed)
            finally:
                await self._connections.release(connection)
                self._lanes.release(lane)
            answer.seconds = loop.time() - began
            outgrown = isinstance(outcome, Outgrown)
            self._slow.record_of(query.name, key, outgrown or answer.seconds > RESERVE_SECONDS)
            if not isinstance(outcome, Outgrown):
                return outcome
            deadline = loop.time() + max(WAIT_SECONDS, query.timeout)

    async def _try(
        self, connection: Connection, statement: Statement, answer: Answer, query: Query, allowed: float
    ) -> Answer | PollError | LostConnection | Outgrown:
        guard = Guard(connection)
        allowed_at_all = allowed + GRACE_SECONDS
        with guard.allowing(GRACE_SECONDS):
            try:
                await self._read(connection, statement, answer, query, allowed, lambda: guard.allow(allowed_at_all))
            except psycopg.Error as error:
                timed_out = guard.seconds >= allowed * _CANCELED_BEFORE
                lost = connection.broken or _fatal(error)
                if not lost:
                    await _roll_back(connection)
                if guard.broke or (guard.renewed and connection.broken and error.sqlstate is None):
                    await self._connections.discard_idle()  # it died without a word
                if not guard.renewed:
                    poll_error = classify(error, query)
                    return LostConnection(poll_error) if lost else poll_error
                # The server had just begun the transaction, so if this happens twice the statement is at fault.
                if guard.broke:
                    return LostConnection(replace(classify(error, query), scope=Scope.TOPIC_OR_SIZE))
                if lost or connection.broken:
                    return LostConnection(replace(classify(error, query), scope=Scope.TOPIC))
                if error.sqlstate == QUERY_CANCELED and timed_out and allowed < query.timeout:
                    return Outgrown.OUTGROWN
                return classify(error, query, connected=True, timed_out=timed_out)
        return answer

    async def _read(
        self,
        connection: Connection,
        statement: Statement,
        answer: Answer,
        query: Query,
        seconds: float,
        begun: Callable[[], None],
    ) -> None:
        """Run the statement, and add its rows to the answer. `begun` is called when the transaction has begun."""
        timeout = max(1, round(seconds * 1000))
        values = timeout, min(timeout, round(LOCK_SECONDS * 1000)), application_name(self._node, query.name)
        settings: list[Command] = [(SET_OWN, tuple(map(str, values)))]
        if statement.settings:
            names, given = zip(*statement.settings, strict=True)
            settings.append((SET_LOCALLY, (list(names), list(given))))
        cursor = ChunkCursor(connection)
        chunks = cursor.transaction(settings, statement.sql.encode(), statement.params, begun)
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                answer.add(chunk)
        if statement.described:
            answer.columns = cursor.columns[DIGEST_COLUMNS if statement.digests else 0 :]


class LostConnection:
    """The error of a statement whose connection broke. The statement may succeed on another connection."""

    __slots__ = ("error",)

    def __init__(self, error: PollError) -> None:
        self.error = error


class Outgrown(enum.Enum):
    """The outcome of a statement that has taken all the time that the reserve gives it."""

    OUTGROWN = enum.auto()


def application_name(node: str, query: str = "") -> str:
    """Return the application name for pg_stat_activity, in at most 63 bytes; the node is shortened before the query."""
    tail = f" {query}" if query else ""
    return f"pollcast {node}"[: max(12, 63 - len(tail))] + tail


def _identity(statement: Statement, topics: int) -> Hashable:
    """Return what tells a statement from others of its query: the values of a single topic, not those of several."""
    return (statement.sql, str(statement.params)) if topics == 1 else statement.sql


def _fatal(error: psycopg.Error) -> bool:
    """Return whether the server has ended the connection with this error; one that SQL raises can't do that."""
    return error.diag.severity_nonlocalized in ("FATAL", "PANIC")


async def _roll_back(connection: Connection) -> None:
    try:
        await connection.execute("rollback")
    except psycopg.Error as error:
        log.info("closing a broken connection", detail=type(error).__name__)
        await connection.close()


class Guard:
    """A guard that breaks a connection when its server does not answer in time.

    The connection is broken even while its user is being cancelled: psycopg waits for the server to confirm the end of
    a statement, which a frozen server never does.
    """

    def __init__(self, connection: Connection) -> None:
        self.broke = False
        """Whether the time was up."""
        self.renewed = False
        """Whether `allow` was called, as the server has answered."""
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """The time since the last time was allowed, in seconds."""
        return self._loop.time() - self._since

    @contextlib.contextmanager
    def allowing(self, seconds: float) -> Iterator[None]:
        """Break the connection when the scope lasts longer than this, unless more is allowed."""
        self._start(seconds)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def allow(self, seconds: float) -> None:
        """Allow the scope this time from now on."""
        self.renewed = True
        self._start(seconds)

    def _start(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._since = self._loop.time()
        self._timer = self._loop.call_later(seconds, self._break)

    def _break(self) -> None:
        self.broke = True
        if not self._connection.closed:
            with socket.socket(fileno=os.dup(self._connection.fileno())) as copy, contextlib.suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)
