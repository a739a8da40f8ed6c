"""A connection that listens: it runs one command at a time, and receives notifications at any time.

psycopg's own ways are not used. Its generator of notifications occupies the connection, so that no command can be run
meanwhile; notifications that arrive while no such generator runs are kept without bound; and a cancelled command waits
until its server has confirmed that, which a frozen server never does. Here one coroutine reads whatever has arrived,
hands each notification over at once, and keeps nothing. What libpq itself buffers is bounded by what it reads at a time
(a few dozen KB), because the buffer is emptied before more is read. A cancelled coroutine ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import psycopg
from psycopg.errors import Diagnostic
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from pollcast.poller.postgresql.connection import Connection, connection_options

ANSWER_SECONDS = 3.0
"""Maximum time for which a server may send nothing while a command is running, in seconds."""

TURN_SECONDS = 0.005
"""Time after which reading lets the event loop do other work, in seconds."""

SESSION = b"select pg_catalog.pg_backend_pid()"
"""Command whose answer is the number of the session on the server."""

POOLED = "pooled"
"""The `sqlstate` of a refusal that is not the server's: the session has changed."""

POOLED_MESSAGE = "a pooler between here and the database lends the session for single transactions, which cannot listen"
"""Message of that refusal."""

_FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)

OnNotification = Callable[[bytes, bytes], None]
"""Callback for the channel and the payload of a notification. It must not block."""


OpenAnother = Callable[[], contextlib.AbstractAsyncContextManager["ListeningConnection"]]
"""Function that opens another connection of the same kind within a scope."""


class Refused(Exception):
    """The server has answered a command with an error, and the connection still works."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class ListeningConnection:
    """A connection of its own for notifications, made by `ListeningConnection.open`."""

    def __init__(self, connection: Connection, on_notification: OnNotification, open_another: OpenAnother) -> None:
        self._pgconn = connection.pgconn
        self._on_notification = on_notification
        self._open_another = open_another
        self._last_words: str | None = None  # why the server ends the connection
        connection.add_notice_handler(self._on_notice)
        self._awake = asyncio.Event()  # the socket is readable, or `wake` was called
        self._loop = asyncio.get_running_loop()
        self._session: bytes | None = None  # the number of the session that has answered `check`
        self.heard_at = self._loop.time()
        """Time at which the server was last heard from, in seconds on the event loop's clock."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, url: str, application_name: str, on_notification: OnNotification
    ) -> AsyncIterator[ListeningConnection]:
        """Provide a connection within a scope. Raises psycopg.Error, OSError or ValueError when there is none."""
        connection = await Connection.connect(url, **connection_options(url, application_name))
        try:
            yield cls(connection, on_notification, lambda: cls.open(url, application_name, lambda *ignored: None))
        finally:
            await connection.close()

    def wake(self) -> None:
        """End `receive` early."""
        self._awake.set()

    async def receive(self, seconds: float) -> None:
        """Receive what arrives until `wake` is called or something has arrived, at most for this time.

        Raises psycopg.OperationalError when the connection is lost.
        """
        await self._readable(seconds)
        self._read()

    async def check(self) -> None:
        """Ask whether the server is there, and whether the session is this connection's alone.

        A pooler that lends sessions for single transactions answers from another session now and then, or from the same
        one on another connection. Raises what `execute` raises, and Refused for such a pooler.
        """
        session = await self.execute(SESSION)
        if self._session is None and session != str(self._pgconn.backend_pid).encode():  # a pooler has made it up
            other = None
            with contextlib.suppress(psycopg.Error, OSError, Refused):
                async with self._open_another() as connection:
                    other = await connection.execute(SESSION)
            if other == session:
                await self.execute(b"unlisten *")
                raise Refused(POOLED, POOLED_MESSAGE)
        if self._session not in (None, session):
            raise Refused(POOLED, POOLED_MESSAGE)
        self._session = session

    async def execute(self, command: bytes) -> bytes | None:
        """Run a command, and return the first value of the first row of its last result, if it has one.

        Raises Refused for an error of the command, and psycopg.OperationalError when the connection is lost or the
        server does not answer.
        """
        self._pgconn.send_query(command)
        results: list[PGresult] = []
        self.heard_at = self._loop.time()
        while True:
            self._pgconn.flush()
            left = self.heard_at + ANSWER_SECONDS - self._loop.time()
            if left <= 0:
                raise psycopg.OperationalError(f"the server has not answered within {ANSWER_SECONDS:g} s")
            await self._readable(left)
            self._read()
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    return self._value_of(results)
                results.append(result)

    # --- details

    async def _readable(self, seconds: float) -> None:
        """Wait until the socket is readable or `wake` was called, at most for this time."""
        if self._awake.is_set():  # there is more to read: other work comes first
            await asyncio.sleep(0)
        descriptor = self._pgconn.socket
        self._loop.add_reader(descriptor, self._awake.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._awake.wait()
        finally:
            self._loop.remove_reader(descriptor)
            self._awake.clear()

    def _read(self) -> None:
        """Hand over the notifications that have arrived; go on reading until there are no more, or time is up.

        Encrypted bytes may have been read from the socket and not yet be decrypted, and a connection that has ended
        gives its reason first: both take a second attempt.
        """
        until = self._loop.time() + TURN_SECONDS
        attempts = 2
        while attempts:
            attempts -= 1
            try:
                self._pgconn.consume_input()
            except psycopg.OperationalError as error:
                words = self._last_words or str(error).removeprefix("consuming input failed: ")
                raise psycopg.OperationalError(words) from error
            while notification := self._pgconn.notifies():
                self._on_notification(notification.relname, notification.extra)
                attempts = 2
            now = self._loop.time()
            if attempts == 2:
                self.heard_at = now
            if attempts and now >= until:
                self._awake.set()
                return

    def _on_notice(self, notice: Diagnostic) -> None:
        if notice.severity_nonlocalized in ("FATAL", "PANIC"):
            self._last_words = notice.message_primary

    def _value_of(self, results: list[PGresult]) -> bytes | None:
        """Return the first value of the last result. Raises an error when one of the results is an error."""
        self.heard_at = self._loop.time()
        for result in results:
            if result.status in _FAILED:
                sqlstate = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
                message = (result.error_field(DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode()
                if self._pgconn.status != ConnStatus.OK or not sqlstate:
                    raise psycopg.OperationalError(message)
                raise Refused(sqlstate, message)
        last = results[-1] if results else None
        return last.get_value(0, 0) if last is not None and last.ntuples else None
