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
import math
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from dataclasses import replace

import psycopg

from pollcast.poller.answer import Answer
from pollcast.poller.chunk_cursor import ChunkCursor, Command, Transaction
from pollcast.poller.connections import Connection, Connections, Unreachable
from pollcast.poller.lanes import Lane, Lanes, SlowStatements
from pollcast.poller.poll_error import QUERY_CANCELED, PollError, Scope, busy, classify, given_up, unreachable
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

    @property
    def state(self) -> str:
        """`ok`, `not reached yet` before the first attempt has ended, or why the last attempt to connect failed."""
        return self._connections.trouble or ("ok" if self.reached else "not reached yet")

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
    ) -> list[Answer | PollError]:
        """Run statements of the query one after the other, each in a transaction of its own, in one round trip.

        Return the answer of each, or those of the first ones, at least of one: the others have to be run again. That
        happens when one of them loses its connection, or when they take longer together than one of them may. One that
        takes longer than `limit` seconds is given up (poller/haste.py).
        """
        outcomes = await self._without_outgrown(statements, query, known, limit)
        if isinstance(outcomes[-1], LostConnection):
            last = slice(len(outcomes) - 1, len(outcomes))
            outcomes[-1:] = await self._without_outgrown(statements[last], query, known[last], limit)
        found: list[Answer | PollError] = []
        for outcome in outcomes:
            if isinstance(outcome, Answer):
                await asyncio.to_thread(outcome.check) if outcome.large else outcome.check()
            found.append(outcome.error if isinstance(outcome, LostConnection) else outcome)
        return found

    async def _without_outgrown(
        self,
        statements: Sequence[Statement],
        query: Query,
        known: Sequence[Sequence[list[Row] | None]],
        limit: float | None,
    ) -> list[Answer | PollError | LostConnection]:
        """Run the statements as soon as they may have a connection; run one that outgrows the reserve once more."""
        outcomes = await self._in_lane(statements, query, known, limit)
        while isinstance(outcomes[-1], Outgrown):
            last = slice(len(outcomes) - 1, len(outcomes))
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
        try:
            connection = await self._connections.acquire(min(max(WAIT_SECONDS, query.timeout), MAX_CONNECT_SECONDS))
        except Unreachable as error:
            self._lanes.release(lane)
            return [unreachable(str(error))]
        except BaseException:
            self._lanes.release(lane)
            raise
        answers = [Answer(query, topics, digests=each.digests) for each, topics in zip(statements, known, strict=True)]
        try:
            outcomes = await self._try(connection, statements, answers, query, allowed, limited=allowed == limit)
        finally:
            await self._connections.release(connection)
            self._lanes.release(lane)
        for key, answer, outcome in zip(keys, answers, outcomes, strict=False):
            self._slow.record_of(query.name, key, isinstance(outcome, Outgrown) or answer.cost > RESERVE_SECONDS)
        if outcomes[-1] is Outgrown.OUTGROWN and limit is not None and allowed == limit < query.timeout:
            outcomes[-1] = given_up()
        return outcomes

    async def _try(
        self,
        connection: Connection,
        statements: Sequence[Statement],
        answers: Sequence[Answer],
        query: Query,
        allowed: float,
        *,
        limited: bool,
    ) -> list[Outcome]:
        """Run the statements on the connection, and return the outcomes of the first ones, or of all.

        When they are `limited`, a statement that is canceled counts as given up, whoever has canceled it.
        """
        loop, guard, cursor = asyncio.get_running_loop(), Guard(connection), ChunkCursor(connection)
        outcomes: list[Outcome] = []
        sent = ended = loop.time()
        with guard.allowing(GRACE_SECONDS):
            for statement, answer in zip(statements, answers, strict=True):
                before = loop.time()
                try:
                    if answer is answers[0]:
                        common, transactions = self._transactions(statements, query, allowed)
                        await cursor.send(common, transactions, lambda: guard.allow(allowed + GRACE_SECONDS))
                    await _read(cursor, statement, answer)
                    outcomes.append(answer)
                except psycopg.Error as error:
                    # A statement may have begun before the answer of the one before it was read.
                    timed_out = limited or loop.time() - guard.begun >= allowed * _CANCELED_BEFORE
                    outcomes.append(await self._outcome(error, connection, guard, query, allowed, timed_out))
                ended = loop.time()
                answer.seconds = ended - (min(guard.begun, ended) if answer is answers[0] else before)
                if answer is answers[-1] or not isinstance(outcomes[-1], Answer | PollError) or not cursor.waiting:
                    break
                if ended - sent > allowed:
                    await _abandon(connection)
                    break
                guard.allow(allowed + GRACE_SECONDS)
        latency = max(0.0, ended - sent - sum(answer.seconds for answer in answers))
        for answer in answers[: len(outcomes)]:
            answer.latency = latency / len(outcomes)
        return outcomes

    async def _outcome(
        self,
        error: psycopg.Error,
        connection: Connection,
        guard: Guard,
        query: Query,
        allowed: float,
        timed_out: bool,
    ) -> PollError | LostConnection | Outgrown:
        """Return the outcome of a statement that ended with this error."""
        lost = connection.broken or _fatal(error)
        if guard.broke or (guard.renewed and connection.broken and error.sqlstate is None):
            await self._connections.discard_idle()  # it died without a word
        if not guard.renewed:
            poll_error = classify(error, query)
            return LostConnection(poll_error) if lost else poll_error
        # The server had just begun the transaction, so if this happens twice the statement is at fault.
        if guard.broke:
            return LostConnection(replace(classify(error, query), scope=Scope.TOPIC_OR_SIZE))
        if lost:
            return LostConnection(replace(classify(error, query), scope=Scope.TOPIC))
        if error.sqlstate == QUERY_CANCELED and timed_out and allowed < query.timeout:
            return Outgrown.OUTGROWN
        return classify(error, query, connected=True, timed_out=timed_out)

    def _transactions(
        self, statements: Sequence[Statement], query: Query, seconds: float
    ) -> tuple[Command, list[Transaction]]:
        timeout = max(1, round(seconds * 1000))
        values = timeout, min(timeout, round(LOCK_SECONDS * 1000)), application_name(self._node, query.name)
        transactions = []
        for statement in statements:
            settings = None
            if statement.settings:
                names, given = zip(*statement.settings, strict=True)
                settings = Command(SET_LOCALLY, (list(names), list(given)))
            transactions.append(Transaction(Command(statement.sql.encode(), statement.params), settings))
        return Command(SET_OWN, tuple(map(str, values))), transactions


class LostConnection:
    """The error of a statement whose connection broke. The statement may succeed on another connection."""

    __slots__ = ("error",)

    def __init__(self, error: PollError) -> None:
        self.error = error


class Outgrown(enum.Enum):
    """The outcome of a statement that has taken all the time that it has here, but not the query's timeout."""

    OUTGROWN = enum.auto()


Outcome = Answer | PollError | LostConnection | Outgrown
"""The outcome of one statement."""


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
        self.begun = math.inf
        """Time when `allow` was first called, in seconds on the event loop's clock."""
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

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
        if not self.renewed:
            self.renewed, self.begun = True, self._loop.time()
        self._start(seconds)

    def _start(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._break)

    def _break(self) -> None:
        self.broke = True
        self._connection.cut()
