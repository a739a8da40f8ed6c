"""The database as the poller sees it: one statement in, its rows as bytes or a trouble out.

Lives as long as the poller. At most `pool` connections, opened when needed; a database that is not there is no error of
the poller. Each statement runs in a read-only transaction of its own, under the query's timeout as `statement_timeout`
and a short `lock_timeout`, so that it can neither write nor stand in a migration's way; `application_name` names node
and query. Everything is set for the transaction only and nothing is prepared, so pgbouncer may pool transactions. A
server that does not even answer in time (frozen, unplugged) has its connection cut from this side.
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
LOCK_SECONDS = 0.5
GRACE_SECONDS = 1.5
"""Beyond the statement's timeout, before the connection is cut."""
WAIT_SECONDS = 1.0
"""At least so long is waited for a free connection."""
RECONNECT_SECONDS = 0.5
"""A connection that can't be opened is tried again once after this, and then when the next statement asks."""

# What the pool has to say of a database in trouble is said by the topics' states.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


class Database:
    """Build with `Database.open`."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[Any]], node: str) -> None:
        self._pool = pool
        self._node = node

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str, connections: int, node: str) -> AsyncIterator[Database]:
        """A scope. `url` is anything that libpq takes; psycopg.ProgrammingError when it does not."""
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
        """Runs one statement of the query. A connection that was lost while it lay in the pool is no trouble yet: the
        statement is tried once more, on a new one."""
        answer = await self._try(statement, query)
        if isinstance(answer, LostConnection):
            await self._pool.drain()
            answer = await self._try(statement, query)
        return answer.trouble if isinstance(answer, LostConnection) else answer

    async def _try(self, statement: Statement, query: Query) -> Answer | PollError | LostConnection:
        try:
            async with self._pool.connection(timeout=max(WAIT_SECONDS, query.timeout)) as connection:
                _heed_cancellation()
                with _cut_after(connection, query.timeout + GRACE_SECONDS) as cut:
                    try:
                        return await self._run(connection, statement, query)
                    except psycopg.Error as error:
                        trouble = classify(error, query)
                        lost = connection.closed or trouble.scope is Scope.DATABASE
                        if not connection.closed:
                            await _roll_back(connection)
                    return LostConnection(trouble) if lost and not cut() else trouble
        except psycopg.Error as error:  # no connection, or none any more
            return classify(error, query)

    async def _run(self, connection: AsyncConnection[Any], statement: Statement, query: Query) -> Answer:
        timeout = max(1, round(query.timeout * 1000))
        begin = sql.SQL(
            "begin read only; set local statement_timeout = {}; set local lock_timeout = {}; set local jit = off;"
            " set local idle_in_transaction_session_timeout = {}; set local application_name = {}"
        ).format(timeout, min(timeout, round(LOCK_SECONDS * 1000)), 10_000, application_name(self._node, query.name))
        await connection.execute(begin)
        cursor = await connection.execute(statement.sql.encode(), statement.params, binary=True)
        answer: Answer = await cursor.fetchall()
        await connection.execute("commit")
        return answer


class LostConnection:
    """The connection broke under a statement, which may go well on another."""

    __slots__ = ("trouble",)

    def __init__(self, trouble: PollError) -> None:
        self.trouble = trouble


def checked_url(url: str) -> str:
    """SettingsInvalid, which does not repeat it, when libpq could make nothing of the URL."""
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        reason = "is no connection string of PostgreSQL, such as postgresql://user:password@host:5432/database"
        raise SettingsInvalid([Problem("settings", "", "POLLCAST_DATABASE_URL", reason)]) from None
    return url


def application_name(node: str, query: str = "") -> str:
    """What a DBA sees in pg_stat_activity, in at most 63 bytes: the query's name is kept whole as far as it goes."""
    tail = f" {query}" if query else ""
    return f"pollcast {node}"[: max(12, 63 - len(tail))] + tail


async def _configure(connection: AsyncConnection[Any]) -> None:
    # In the binary format text is the bytes themselves, in UTF-8: psycopg's C code takes them as they are.
    connection.adapters.register_loader("text", ByteaBinaryLoader)


async def _roll_back(connection: AsyncConnection[Any]) -> None:
    try:
        await connection.execute("rollback")
    except psycopg.Error as error:
        log.info("connection given up", detail=type(error).__name__)
        await connection.close()


def _heed_cancellation() -> None:
    """The pool waits by asyncio.wait_for, which before Python 3.12 drops a cancellation that comes together with the
    connection: whoever is cancelled while the pool is busy would go on for ever."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextlib.contextmanager
def _cut_after(connection: AsyncConnection[Any], seconds: float) -> Iterator[Callable[[], bool]]:
    """Breaks the connection when the scope lasts longer, even while it is being cancelled: psycopg waits for the
    server's word to end a statement, and a frozen server has none. Gives a function that tells whether it did."""
    done = False

    def cut() -> None:
        nonlocal done
        done = True
        if not connection.closed:
            with socket.socket(fileno=os.dup(connection.fileno())) as copy, contextlib.suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(seconds, cut)
    try:
        yield lambda: done
    finally:
        timer.cancel()
