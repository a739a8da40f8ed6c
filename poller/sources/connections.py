"""Connections to one database: opened when they are needed, kept while they are idle, and never trusted blindly.

No pool of a driver is used, such as `psycopg_pool`: it does not report why a connection cannot be opened, it replaces
connections that nobody needs, and it would not know which of them to distrust. Here at most `size` connections exist.
An idle connection that its server has closed is noticed before it is used, and `discard_idle` drops all idle ones after
one has died silently. While the database cannot be reached, one connection is attempted at a time, and the server's
words are logged once. Before the first one that succeeds, connections are attempted although nobody needs one
(`reach`): the poller's readiness depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from pollcast.poller.sources.outcome import Unreachable, not_understood
from pollcast.poller.sources.source import Driver, Session
from pollcast.services.process import logs

log = logs.get_logger("database")

RECONNECT_SECONDS = 0.5
"""Minimum time between two connection attempts while the database cannot be reached, in seconds."""

REACH_SECONDS = 5.0
"""Maximum time between two connection attempts that nobody waits for, before the first success, in seconds."""

IDLE_SECONDS = 600.0
"""Time after which an idle connection is closed, in seconds, unless it is the only one."""

LIFETIME_SECONDS = 3600.0
"""Age at which a connection is closed after its statement, in seconds."""


class Replaced(Exception):
    """The connections were closed before a statement has got one: others have taken their place."""


class Connections:
    """The connections to one database, made by `Connections.open`. Release every connection that `acquire` returned."""

    def __init__(self, driver: Driver, url: Callable[[], str], size: int, node: str, logged: Mapping[str, str]) -> None:
        self._driver = driver
        self._url = url
        self._node = node
        self._logged = logged
        self._size = size
        self._idle: list[tuple[Session, float]] = []  # each with the time since when, the longest idle first
        self._open = 0  # connections, idle or in use
        self._attempts: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._trouble: str | None = None  # reason why the last attempt failed; None after one that succeeded
        self._next_attempt = 0.0
        self._changed = asyncio.Event()
        self._closed = False
        self.reached = asyncio.Event()
        """Event that is set once a connection has been opened for the first time."""
        self.attempted = asyncio.Event()
        """Event that is set once an attempt to open a connection has ended."""

    @property
    def trouble(self) -> str | None:
        """Reason why the last attempt to connect failed, in the words of the server; None after a success."""
        return self._trouble

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, driver: Driver, url: Callable[[], str], size: int, node: str, logged: Mapping[str, str]
    ) -> AsyncIterator[Connections]:
        """Provide connections within a scope, and attempt the first one at once. `url` returns the present URL.

        Log lines have the fields `logged`. Raises ValueError when the driver does not accept the URL.
        """
        driver.check_url(url())
        connections = cls(driver, url, size, node, logged)
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

    async def acquire(self, seconds: float) -> Session:
        """Return a connection, an idle one or a new one. Raises Unreachable when there is none after this time, and
        Replaced when they are closed meanwhile."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        self._waiting += 1
        try:
            while True:
                if self._closed:
                    raise Replaced
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

    async def release(self, connection: Session) -> None:
        """Take the connection back. One that is broken, old or within a transaction is closed.

        The last one that is old is replaced at once, so that no poll has to wait until a connection has begun.
        """
        now = asyncio.get_running_loop().time()
        usable, old = connection.usable, now - connection.opened_at > LIFETIME_SECONDS
        if self._closed or not usable or old:
            await self._discard(connection)
            if usable and not self._open:
                self._attempt()
        else:
            self._idle.append((connection, now))
            if now - self._idle[0][1] > IDLE_SECONDS:
                await self._discard(self._idle.pop(0)[0])
        self._changed.set()

    async def discard(self, connection: Session) -> None:
        """Take back and close the connection, which cannot be trusted any more."""
        await self._discard(connection)
        self._changed.set()

    async def discard_idle(self) -> None:
        """Close all idle connections, because another one has died without a word from its server."""
        while self._idle:
            await self._discard(self._idle.pop()[0])

    # --- details

    async def _take_idle(self) -> Session | None:
        while self._idle:
            connection, _ = self._idle.pop()  # the one used last: the others may become superfluous
            connection.look()
            if connection.usable:
                return connection
            await self._discard(connection)
        return None

    async def _discard(self, connection: Session) -> None:
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
        try:
            connection = await self._driver.connect(self._url(), self._node)
        except Unreachable as error:
            self._failed(str(error))
        except Exception as error:  # a driver that fails on what a server sends is trouble of this source only
            reason = str(not_understood(error))
            if reason != self._trouble:
                log.error("a driver has failed", exc_info=error, **self._logged)
            self._failed(reason)
        else:
            self._open += 1
            self._idle.append((connection, connection.opened_at))
            if self._trouble is not None:
                log.info("connected to the database", **self._logged)
            self._trouble, self._next_attempt = None, 0.0
            self.reached.set()
        self._attempts -= {asyncio.current_task()}  # before whoever waits looks whether there is one
        self.attempted.set()
        self._changed.set()

    def _failed(self, reason: str) -> None:
        if reason != self._trouble:
            log.warning("can't connect to the database", reason=reason, **self._logged)
        self._trouble = reason
        self._next_attempt = asyncio.get_running_loop().time() + RECONNECT_SECONDS

    async def _close(self) -> None:
        self._closed = True
        self._changed.set()
        for task in list(self._attempts):
            task.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        await self.discard_idle()
