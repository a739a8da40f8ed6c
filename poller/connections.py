"""Connections to one database: opened when they are needed, kept while they are idle, and never trusted blindly.

`psycopg_pool` is not used: it does not report why a connection cannot be opened, it replaces connections that nobody
needs, and it would not know which of them to distrust. Here at most `size` connections exist. An idle connection that
its server has closed is noticed before it is used, TCP keepalives keep the others known to firewalls on the way and
reveal a dead peer, and `discard_idle` drops all idle ones after one has died silently. While the database cannot be
reached, one connection is attempted at a time, and the server's words are logged once. Before the first one that
succeeds, connections are attempted although nobody needs one (`reach`): the poller's readiness depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus
from psycopg.types.string import ByteaBinaryLoader

from pollcast.poller.chunk_cursor import ChunkCursor
from pollcast.services.process import logs
from pollcast.services.process.database_url import server_words

log = logs.get_logger("database")

CONNECT_SECONDS = 3
"""Default timeout for opening a connection, in seconds."""

RECONNECT_SECONDS = 0.5
"""Minimum time between two connection attempts while the database cannot be reached, in seconds."""

REACH_SECONDS = 5.0
"""Maximum time between two connection attempts that nobody waits for, before the first success, in seconds."""

IDLE_SECONDS = 600.0
"""Time after which an idle connection is closed, in seconds, unless it is the only one."""

LIFETIME_SECONDS = 3600.0
"""Age at which a connection is closed after its statement, in seconds."""

KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 3000,
}
"""Settings of TCP that a database URL may override: probes after 10 s of silence, at most 3 s without an
acknowledgement (in milliseconds, on Linux)."""


CANCEL_SECONDS = 1.0
"""Maximum time that the server has to take the request to cancel a statement, in seconds."""


class Unreachable(psycopg.OperationalError):
    """No connection to the database could be opened in time. The message is the server's or libpq's."""


class Connection(AsyncConnection[Any]):
    """One connection to the database."""

    opened_at = 0.0
    """Time when the connection was opened, in seconds on the event loop's clock."""

    @property
    def broken(self) -> bool:
        """Whether the connection cannot be used any more, as far as is known without asking the server."""
        return self.closed or self.pgconn.status != ConnStatus.OK

    @property
    def occupied(self) -> bool:
        """Whether the connection is within a transaction or a pipeline."""
        pgconn = self.pgconn
        return pgconn.transaction_status != TransactionStatus.IDLE or pgconn.pipeline_status != PipelineStatus.OFF

    def heard_from_server(self) -> None:
        """Read what the server has sent while the connection was idle, such as the reason why it has closed it."""
        with contextlib.suppress(psycopg.Error):
            self.pgconn.consume_input()  # the reason
            self.pgconn.consume_input()  # the end

    async def cancel_safe(self, *, timeout: float = CANCEL_SECONDS) -> None:
        """Cancel the statement that runs. Raises psycopg.Error when the server does not take the request.

        The connection is broken then: psycopg, which cancels the statement of a task that is cancelled, would wait for
        its end, and a frozen server never answers. It would also give the request 5 s.
        """
        try:
            await super().cancel_safe(timeout=min(timeout, CANCEL_SECONDS))
        except psycopg.Error:
            self.cut()
            raise

    def cut(self) -> None:
        """End the connection for whoever waits for the server. Harmless when it is closed."""
        if not self.closed:
            with socket.socket(fileno=os.dup(self.fileno())) as copy, contextlib.suppress(OSError):
                copy.shutdown(socket.SHUT_RDWR)


def connection_options(url: str, application_name: str) -> dict[str, Any]:
    """Return the options of psycopg for every connection of a poller. Raises psycopg.ProgrammingError when libpq does
    not accept `url`."""
    given = conninfo_to_dict(url)
    return {
        "autocommit": True,
        "prepare_threshold": None,
        "client_encoding": "utf8",
        "application_name": application_name,
        "connect_timeout": given.get("connect_timeout") or CONNECT_SECONDS,
        **{name: value for name, value in KEEPALIVE.items() if given.get(name) is None},
    }


class Connections:
    """The connections to one database, made by `Connections.open`. Release every connection that `acquire` returned."""

    def __init__(self, url: Callable[[], str], size: int, application_name: str) -> None:
        self._url = url
        self._application_name = application_name
        self._size = size
        self._idle: list[tuple[Connection, float]] = []  # each with the time since when, the longest idle first
        self._open = 0  # connections, idle or in use
        self._attempts: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._trouble: str | None = None  # reason why the last attempt failed; None after one that succeeded
        self._next_attempt = 0.0
        self._changed = asyncio.Event()
        self._closed = False
        self.reached = asyncio.Event()
        """Event that is set once a connection has been opened for the first time."""

    @property
    def trouble(self) -> str | None:
        """Reason why the last attempt to connect failed, in the words of the server; None after a success."""
        return self._trouble

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: Callable[[], str], size: int, application_name: str) -> AsyncIterator[Connections]:
        """Provide connections within a scope, and attempt the first one at once. `url` returns the present URL.

        Raises psycopg.ProgrammingError when libpq does not accept the URL.
        """
        conninfo_to_dict(url())
        connections = cls(url, size, application_name)
        connections._attempt()
        try:
            yield connections
        finally:
            await connections._close()

    async def reach(self) -> None:
        """Attempt connections, less and less often, until one has been opened for the first time."""
        pause = RECONNECT_SECONDS
        while not self.reached.is_set():
            self._attempt()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.reached.wait()
            pause = min(2 * pause, REACH_SECONDS)

    async def acquire(self, seconds: float) -> Connection:
        """Return a connection, an idle one or a new one. Raises Unreachable when there is none after this time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        self._waiting += 1
        try:
            while True:
                connection = await self._take_idle()
                if connection is not None:
                    return connection
                now = loop.time()
                if now >= deadline:
                    raise Unreachable(self._trouble or f"no connection could be opened within {seconds:g} s")
                self._attempt()
                until = min(deadline, self._next_attempt) if self._next_attempt > now else deadline
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(until - now):
                        await self._changed.wait()
        finally:
            self._waiting -= 1

    async def release(self, connection: Connection) -> None:
        """Take the connection back. One that is broken, old or within a transaction is closed.

        The last one that is old is replaced at once, so that no poll has to wait until a connection has begun.
        """
        now = asyncio.get_running_loop().time()
        usable, old = not connection.broken and not connection.occupied, now - connection.opened_at > LIFETIME_SECONDS
        if self._closed or not usable or old:
            await self._discard(connection)
            if usable and not self._open:
                self._attempt()
        else:
            self._idle.append((connection, now))
            if now - self._idle[0][1] > IDLE_SECONDS:
                await self._discard(self._idle.pop(0)[0])
        self._changed.set()

    async def discard_idle(self) -> None:
        """Close all idle connections, because another one has died without a word from its server."""
        while self._idle:
            await self._discard(self._idle.pop()[0])

    # --- details

    async def _take_idle(self) -> Connection | None:
        while self._idle:
            connection, _ = self._idle.pop()  # the one used last: the others may become superfluous
            connection.heard_from_server()
            if not connection.broken:
                return connection
            await self._discard(connection)
        return None

    async def _discard(self, connection: Connection) -> None:
        self._open -= 1
        await connection.close()

    def _attempt(self) -> None:
        """Begin to open a connection, if another one is needed and an attempt is due."""
        now = asyncio.get_running_loop().time()
        most = 1 if self._trouble is not None else max(1, self._waiting)
        room = self._size - self._open - len(self._attempts)
        if not self._closed and room > 0 and len(self._attempts) < most and now >= self._next_attempt:
            task = asyncio.create_task(self._connect())
            self._attempts.add(task)
            task.add_done_callback(self._attempts.discard)

    async def _connect(self) -> None:
        url = self._url()
        try:
            connection = await Connection.connect(
                url, **connection_options(url, self._application_name), cursor_factory=ChunkCursor
            )
        except (psycopg.Error, OSError, ValueError) as error:
            self._failed(server_words(error, url))
        else:
            loop = asyncio.get_running_loop()
            # The binary format of text is its bytes in UTF-8, which psycopg's C code returns as they are.
            connection.adapters.register_loader("text", ByteaBinaryLoader)
            connection.opened_at = loop.time()
            self._open += 1
            self._idle.append((connection, connection.opened_at))
            if self._trouble is not None:
                log.info("connected to the database")
            self._trouble, self._next_attempt = None, 0.0
            self.reached.set()
        self._changed.set()

    def _failed(self, reason: str) -> None:
        if reason != self._trouble:
            log.warning("can't connect to the database", reason=reason)
        self._trouble = reason
        self._next_attempt = asyncio.get_running_loop().time() + RECONNECT_SECONDS

    async def _close(self) -> None:
        self._closed = True
        for task in list(self._attempts):
            task.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        await self.discard_idle()
