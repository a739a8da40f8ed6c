"""The poller's connections to the database: they run one statement at a time and return its rows as bytes, or an error.

A `Database` lasts as long as the poller. It opens at most `pool` connections, when they are needed; an unreachable
database is an error of the polls, not of the poller. Each statement runs in a read-only transaction of its own, with
the query's timeout as `statement_timeout` and a short `lock_timeout`, so that it can neither write nor block a
migration; `application_name` names the node and the query. All settings apply to the transaction only and no statement
is prepared, so pgbouncer may pool transactions. A connection to a server that does not answer in time (because it is
frozen or unplugged) is broken from this side.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import ByteaBinaryLoader
from psycopg_pool import AsyncConnectionPool

from pollcast.poller.answer import Answer
from pollcast.poller.poll_error import PollError, Scope, classify
from pollcast.poller.statement import Statement
from pollcast.services.catalogue.catalog import Query
from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process import logs

log = logs.get_logger("database")

CONNECT_SECONDS = 3
"""Default timeout for opening a connection, in seconds."""

LOCK_SECONDS = 0.5
"""Maximum time that a statement waits for a lock, in seconds."""

GRACE_SECONDS = 1.5
"""Time beyond the statement's timeout after which the connection is broken, in seconds."""

WAIT_SECONDS = 1.0
"""Minimum timeout of the wait for a free connection, in seconds."""

RECONNECT_SECONDS = 0.5
"""Time after which a failed connection attempt is repeated, in seconds; later attempts wait for the next statement."""

SET_LOCALLY = b"select set_config(name, value, true) from unnest($1::text[], $2::text[]) as s(name, value)"
"""Statement that sets each of the named settings to its value for the transaction; NULL stands for the default."""

# The states of topics report a database that can't be reached; the pool's own warnings would repeat that.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class Database:
    """A pool of connections to the database, made by `Database.open`."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[Any]], node: str) -> None:
        self._pool = pool
        self._node = node

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str, connections: int, node: str) -> AsyncIterator[Database]:
        """Provide a database within a scope. `url` is any connection string of libpq.

        Raises psycopg.ProgrammingError when libpq does not accept `url`.
        """
        kwargs: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": None,
            "client_encoding": "utf8",
            "application_name": application_name(node),
            "connect_timeout": conninfo_to_dict(url).get("connect_timeout") or CONNECT_SECONDS,
            "cursor_factory": AsyncRawCursor,
        }
        pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            url,
            kwargs=kwargs,
            min_size=1,
            max_size=connections,
            open=False,
            configure=_configure,
            reconnect_timeout=RECONNECT_SECONDS,
            name="poller",
        )
        await pool.open(wait=False)
        try:
            yield cls(pool, node)
        finally:
            await pool.close()

    async def execute(self, statement: Statement, query: Query) -> Answer | PollError:
        """Run one statement of the query. If the connection was lost, run it once more on a new one: the connection may
        have broken while it was idle in the pool."""
        answer = await self._try(statement, query)
        if isinstance(answer, LostConnection):
            await self._pool.drain()
            answer = await self._try(statement, query)
        return answer.error if isinstance(answer, LostConnection) else answer

    async def _try(self, statement: Statement, query: Query) -> Answer | PollError | LostConnection:
        try:
            async with self._pool.connection(timeout=max(WAIT_SECONDS, query.timeout)) as connection:
                _heed_cancellation()
                with _break_after(connection, query.timeout + GRACE_SECONDS) as broken:
                    try:
                        return await self._run(connection, statement, query)
                    except psycopg.Error as error:
                        poll_error = classify(error, query)
                        lost = connection.closed or poll_error.scope is Scope.DATABASE
                        if not connection.closed:
                            await _roll_back(connection)
                    return LostConnection(poll_error) if lost and not broken() else poll_error
        except psycopg.Error as error:  # no connection could be opened, or it is gone
            return classify(error, query)

    async def _run(self, connection: AsyncConnection[Any], statement: Statement, query: Query) -> Answer:
        timeout = max(1, round(query.timeout * 1000))
        begin = sql.SQL(
            "begin read only; set local statement_timeout = {}; set local lock_timeout = {}; set local jit = off;"
            " set local idle_in_transaction_session_timeout = {}; set local application_name = {}"
        ).format(timeout, min(timeout, round(LOCK_SECONDS * 1000)), 10_000, application_name(self._node, query.name))
        await connection.execute(begin)
        if statement.settings:
            names, values = zip(*statement.settings, strict=True)
            await connection.execute(SET_LOCALLY, (list(names), list(values)))
        cursor = await connection.execute(statement.sql.encode(), statement.params, binary=True)
        answer: Answer = await cursor.fetchall()
        await connection.execute("commit")
        return answer


class LostConnection:
    """The error of a statement whose connection broke. The statement may succeed on another connection."""

    __slots__ = ("error",)

    def __init__(self, error: PollError) -> None:
        self.error = error


def checked_url(url: str) -> str:
    """Return the database URL. Raises SettingsInvalid, without repeating the URL, when libpq does not accept it."""
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        reason = "is not a PostgreSQL connection string such as postgresql://user:password@host:5432/database"
        raise SettingsInvalid([Problem("settings", "", "POLLCAST_DATABASE_URL", reason)]) from None
    return url


def application_name(node: str, query: str = "") -> str:
    """Return the application name for pg_stat_activity, in at most 63 bytes; the node is shortened before the query."""
    tail = f" {query}" if query else ""
    return f"pollcast {node}"[: max(12, 63 - len(tail))] + tail


async def _configure(connection: AsyncConnection[Any]) -> None:
    # The binary format of text is its bytes in UTF-8, which psycopg's C code returns as they are.
    connection.adapters.register_loader("text", ByteaBinaryLoader)


async def _roll_back(connection: AsyncConnection[Any]) -> None:
    try:
        await connection.execute("rollback")
    except psycopg.Error as error:
        log.info("closing a broken connection", detail=type(error).__name__)
        await connection.close()


def _heed_cancellation() -> None:
    """Raise CancelledError if the current task has been cancelled.

    The pool waits by asyncio.wait_for, which before Python 3.12 drops a cancellation that comes together with the
    connection: a task cancelled while the pool is busy would never end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextlib.contextmanager
def _break_after(connection: AsyncConnection[Any], seconds: float) -> Iterator[Callable[[], bool]]:
    """Break the connection when the scope lasts longer than this, and yield a function that returns whether it did.

    The connection is broken even while the scope is being cancelled: psycopg waits for the server to confirm the end of
    a statement, which a frozen server never does.
    """
    broken = False

    def break_connection() -> None:
        nonlocal broken
        broken = True
        if not connection.closed:
            with socket.socket(fileno=os.dup(connection.fileno())) as copy, contextlib.suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(seconds, break_connection)
    try:
        yield lambda: broken
    finally:
        timer.cancel()
