"""A database: it runs one statement at a time on a connection, and returns its answer or an error.

A `Database` lasts as long as the poller. An unreachable database is an error of the polls, not of the poller. A
connection that is lost is replaced, and the statement is run once more. The last free connection is the reserve
(lanes.py): a statement may have it for RESERVE_SECONDS, and one that takes longer is run again on another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.connections import Connections, Replaced
from pollcast.poller.sources.lanes import Lane, Lanes, SlowStatements
from pollcast.poller.sources.outcome import LostConnection, Outcome, Outgrown, Trip, Unreachable
from pollcast.poller.sources.poll_error import PollError, busy, given_up, not_understood, unreachable
from pollcast.poller.sources.row_type import RowType
from pollcast.poller.sources.source import Description, Driver, Session
from pollcast.poller.sources.statement import Statement
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sources import NOT_REACHED_YET
from pollcast.services.delta import Row
from pollcast.services.process import logs

log = logs.get_logger("database")

T = TypeVar("T")

WAIT_SECONDS = 1.0
"""Minimum timeout of the wait for a connection, in seconds."""

MAX_CONNECT_SECONDS = 5.0
"""Maximum time that a statement waits for a new connection, in seconds."""

RESERVE_SECONDS = 0.5
"""Time from which a statement is slow, in seconds: it does not get the last connection."""


class Database:
    """A database with a bounded number of connections, made by `Database.open`."""

    def __init__(self, connections: Connections, count: int) -> None:
        self.width = max(1, count - 1)
        """Number of statements that one query may have under way: all connections but the reserve."""
        self._connections = connections
        self._lanes = Lanes(count)
        self._slow = SlowStatements()
        self._failures: set[type[Exception]] = set()  # kinds of errors of the driver itself that were logged

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        driver: Driver,
        url: str | Callable[[], str],
        connections: int,
        node: str,
        logged: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Database]:
        """Provide a database within a scope. `url` is one that the driver accepts, or returns the present one.

        Log lines have the fields `logged`. Raises ValueError when the driver does not accept the URL.
        """
        current = url if callable(url) else lambda: url
        async with Connections.open(driver, current, connections, node, logged or {}) as opened:
            database = cls(opened, connections)
            try:
                yield database
            finally:
                database._lanes.close()

    @property
    def state(self) -> str:
        """`ok`, `not reached yet` before the first attempt has ended, or why the last attempt to connect failed."""
        return self._connections.trouble or ("ok" if self.reached else NOT_REACHED_YET)

    @property
    def reached(self) -> bool:
        """Whether the database has been reached since the start."""
        return self._connections.reached.is_set()

    async def reach(self) -> None:
        """Try to reach the database until that has succeeded once."""
        await self._connections.reach()

    async def wait_reached(self) -> None:
        """Wait until the database has been reached for the first time."""
        await self._connections.reached.wait()

    async def wait_attempted(self) -> None:
        """Wait until the first attempt to connect has ended, whatever came of it."""
        await self._connections.attempted.wait()

    async def execute(
        self, statement: Statement, query: Query, known: Sequence[list[Row] | None] = (None,)
    ) -> Answer | PollError:
        """Run one statement of the query, and return its answer. `known` holds the last result of each of its topics.

        If the connection was lost, the statement is run once more on another: the connection may have broken while it
        was idle.
        """
        (outcome,) = await self.execute_each([statement], query, [known])
        return outcome

    async def execute_each(
        self,
        statements: Sequence[Statement],
        query: Query,
        known: Sequence[Sequence[list[Row] | None]],
        limit: float | None = None,
        again: Callable[[], Awaitable[None]] | None = None,
    ) -> list[Answer | PollError]:
        """Run statements of the query one after the other, each in a transaction of its own, in one round trip.

        Return the answer of each, or those of the first ones, at least of one: the others have to be run again. That
        happens when one of them loses its connection, or when they take longer together than one of them may. One that
        takes longer than `limit` seconds is given up (poller/haste.py). `again` is awaited before a statement is run
        once more. Raises Replaced (connections.py) when the connections are closed before a statement gets one.
        """
        outcomes = await self._without_outgrown(statements, query, known, limit, again)
        if isinstance(outcomes[-1], LostConnection):
            last = slice(len(outcomes) - 1, len(outcomes))
            if again is not None:
                await again()
            outcomes[-1:] = await self._without_outgrown(statements[last], query, known[last], limit, again)
        found: list[Answer | PollError] = []
        for outcome in outcomes:
            if isinstance(outcome, Answer):
                await asyncio.to_thread(outcome.check) if outcome.large else outcome.check()
            found.append(outcome.error if isinstance(outcome, LostConnection) else outcome)
        return found

    async def describe(
        self, query: Query, seconds: float, again: Callable[[], Awaitable[None]] | None = None
    ) -> RowType | PollError:
        """Have a connection describe the query's rows, which may take so long, and return their type.

        It never uses the reserve. If the connection was lost, another one is asked once more, after `again`.
        """
        described = await self._described(query, seconds)
        if isinstance(described, LostConnection):
            if again is not None:
                await again()
            described = await self._described(query, seconds)
        return described.error if isinstance(described, LostConnection) else described

    async def _described(self, query: Query, seconds: float) -> Description:
        lane = await self._lanes.acquire(slow=True, seconds=WAIT_SECONDS)
        if lane is None:
            return busy()
        try:
            connection = await self._connections.acquire(WAIT_SECONDS)
            return await self._asked(connection, connection.describe(query, seconds), query)
        except Replaced:
            return unreachable("its connections are being replaced")
        except Unreachable as error:
            return unreachable(str(error))
        finally:
            self._lanes.release(lane)

    async def _asked(self, connection: Session, asking: Awaitable[T], query: Query) -> T | LostConnection:
        """Await what the connection was asked, and take it back.

        What a server sends must not end the polls of other sources: when the driver fails, that is a lost connection.
        The first failure of each type is logged; polls that end so are logged as any other error.
        """
        take_back = self._connections.release
        try:
            return await asking
        except Exception as error:
            if type(error) not in self._failures:
                self._failures.add(type(error))
                log.error("a driver has failed", query=query.name, exc_info=error)
            take_back = self._connections.discard
            return LostConnection(not_understood(error))
        finally:
            await take_back(connection)

    async def _without_outgrown(
        self,
        statements: Sequence[Statement],
        query: Query,
        known: Sequence[Sequence[list[Row] | None]],
        limit: float | None,
        again: Callable[[], Awaitable[None]] | None,
    ) -> list[Answer | PollError | LostConnection]:
        """Run the statements as soon as they may have a connection; run one that outgrows the reserve once more."""
        outcomes = await self._in_lane(statements, query, known, limit)
        while isinstance(outcomes[-1], Outgrown):
            last = slice(len(outcomes) - 1, len(outcomes))
            if again is not None:
                await again()
            outcomes[-1:] = await self._in_lane(statements[last], query, known[last], limit)
        return [outcome for outcome in outcomes if not isinstance(outcome, Outgrown)]

    async def _in_lane(
        self,
        statements: Sequence[Statement],
        query: Query,
        known: Sequence[Sequence[list[Row] | None]],
        limit: float | None,
    ) -> list[Outcome]:
        keys = [_identity(statement, len(topics)) for statement, topics in zip(statements, known, strict=True)]
        slow = any(self._slow.slow(key, query.name) for key in keys)
        quick = not slow and all(self._slow.quick(key, query.name) for key in keys)
        lane = await self._lanes.acquire(slow, max(WAIT_SECONDS, query.timeout), quick)
        if lane is None:
            return [busy()]
        most = query.timeout if limit is None else min(query.timeout, limit)
        allowed = min(most, RESERVE_SECONDS) if lane is Lane.RESERVE else most
        answers = [Answer(query, topics, digests=each.digests) for each, topics in zip(statements, known, strict=True)]
        trip = Trip(query, statements, answers, allowed, allowed < query.timeout, limited=allowed == limit)
        try:
            connection = await self._connections.acquire(min(max(WAIT_SECONDS, query.timeout), MAX_CONNECT_SECONDS))
            run = await self._asked(connection, connection.run(trip), query)
            outcomes: list[Outcome] = [run] if isinstance(run, LostConnection) else run
            if isinstance(outcomes[-1], LostConnection) and outcomes[-1].silently:
                await self._connections.discard_idle()
        except Unreachable as error:
            return [unreachable(str(error))]
        finally:
            self._lanes.release(lane)
        for key, answer, outcome in zip(keys, answers, outcomes, strict=False):
            self._slow.record_of(query.name, key, isinstance(outcome, Outgrown) or answer.cost > RESERVE_SECONDS)
        if outcomes[-1] is Outgrown.OUTGROWN and limit is not None and allowed == limit < query.timeout:
            outcomes[-1] = given_up()
        return outcomes


def _identity(statement: Statement, topics: int) -> Hashable:
    """Return what tells a statement from others of its query: the values of a single topic, not those of several."""
    return (statement.sql, str(statement.params)) if topics == 1 else statement.sql
