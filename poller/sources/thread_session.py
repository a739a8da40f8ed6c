"""Sessions of drivers whose calls block: a thread of its own for each, as for DuckDB, SQLite, ODBC or any DB-API.

A kind supplies what its thread does: `execute` runs one statement and adds its rows to the answer, `row_type` describes
a query. It also says how a running call is interrupted from another thread, and what an error means. The event loop is
disturbed only while rows become Python values, so `execute` should add a few hundred at a time.

A call that has taken its time is interrupted, again and again, for drivers forget an interrupt between two steps. One
that does not heed that is left to its thread, and its session is given up. While it goes on, its statement is not begun
again.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, TypeVar

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.guard import GRACE_SECONDS
from pollcast.poller.sources.outcome import LostConnection, Outcome, Outgrown, Trip
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.row_encoder import NoSuchColumn
from pollcast.poller.sources.row_type import RowType
from pollcast.poller.sources.source import Description
from pollcast.poller.sources.statement import Statement
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollStale

CHUNK_ROWS = 256
"""Maximum number of rows that become Python values at a time."""

INTERRUPT_SECONDS = 0.05
"""Time between two interrupts of a call, in seconds."""

MOST_ABANDONED = 2
"""Number of statements with the same text that may go on although nobody waits for them any more."""

T = TypeVar("T")


class Abandoned:
    """The statements of one engine that go on, heeding no interrupt, although nobody waits for them any more.

    Each holds a thread, and memory that the engine does not count.
    """

    def __init__(self) -> None:
        self._statements: list[Statement] = []

    def __len__(self) -> int:
        return len(self._statements)

    def __contains__(self, statement: Statement) -> bool:
        """Return whether the statement, or MOST_ABANDONED with the same text, still go on: it would do no better."""
        values = [each.params for each in self._statements if each.sql == statement.sql]
        return statement.params in values or len(values) >= MOST_ABANDONED

    def add(self, statement: Statement) -> None:
        """Add a statement that goes on."""
        self._statements.append(statement)

    def discard(self, statement: Statement) -> None:
        """Remove a statement that has ended."""
        self._statements.remove(statement)


class ThreadSession(ABC):
    """A Session (source.py) whose calls run in a thread. Subclasses say what they are."""

    errors: ClassVar[type[Exception]]
    """The class of the driver's errors."""

    def __init__(self, name: str, abandoned: Abandoned | None = None) -> None:
        """Use a thread of this name. Sessions of one engine within this process should share `abandoned`."""
        self.opened_at = asyncio.get_running_loop().time()
        """Time when the connection was opened, in seconds on the event loop's clock."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._work: asyncio.Future[Any] | None = None
        self._statement: Statement | None = None  # the one that the work is about
        self._abandoned = Abandoned() if abandoned is None else abandoned
        self._heedless = False  # whether the work was interrupted in vain
        self._usable = True

    @abstractmethod
    def execute(self, statement: Statement, answer: Answer, query: Query) -> None:
        """Run the statement, and add its rows to the answer. It runs in the thread."""

    @abstractmethod
    def row_type(self, query: Query) -> RowType | PollError:
        """Return the type of the query's rows. It runs in the thread."""

    @abstractmethod
    def interrupt(self) -> None:
        """Interrupt what the thread does. It may be called when that has just ended."""

    @abstractmethod
    def classify(self, error: Exception, query: Query, *, interrupted: bool) -> PollError | LostConnection:
        """Return the outcome for an error of the driver. `interrupted`: the call was interrupted at its timeout."""

    @abstractmethod
    def end(self) -> None:
        """Close the connection, when nothing runs any more."""

    @property
    def usable(self) -> bool:
        """Whether another trip can be made: nothing runs, and no connection was lost."""
        return self._usable and self._work is None

    @abstractmethod
    def look(self) -> None:
        """Find out, without waiting, whether the connection still serves."""

    async def close(self) -> None:
        """Close the connection, as soon as what still runs has ended; interrupt it if that has not been in vain yet."""
        self._usable = False
        work, statement = self._work, self._statement
        if work is None or (not self._heedless and await self._interrupted(work)):
            self._close()
            return
        assert statement is not None, "work is about a statement"
        self._abandoned.add(statement)
        work.add_done_callback(lambda _: self._close_abandoned(statement))

    async def run(self, trip: Trip) -> list[Outcome]:
        """Run the statements of the trip, and return the outcomes of the first ones, or of all."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + trip.seconds
        outcomes: list[Outcome] = []
        for statement, answer in zip(trip.statements, trip.answers, strict=True):
            started = loop.time()
            outcomes.append(await self._executed(statement, answer, trip))
            answer.seconds = loop.time() - started
            answer.latency = 0.0
            if loop.time() > ends or not self.usable or not isinstance(outcomes[-1], Answer | PollError):
                break
        return outcomes

    async def describe(self, query: Query, seconds: float) -> Description:
        """Have the source describe the query's rows."""
        trip = Trip(query, [], [], seconds, outgrows=False)
        found = await self._outcome(Statement(query.sql, ()), partial(self.row_type, query), trip)
        assert not isinstance(found, Outgrown), "the statement has all of its time"
        return found

    async def _executed(self, statement: Statement, answer: Answer, trip: Trip) -> Outcome:
        """Have the thread run the statement."""
        outcome = await self._outcome(statement, partial(self.execute, statement, answer, trip.query), trip)
        return answer if outcome is None else outcome

    async def _outcome(
        self, statement: Statement, do: Callable[[], T], trip: Trip
    ) -> T | PollError | LostConnection | Outgrown:
        """Have the thread do something about a statement within the time of the trip's statements."""
        if statement in self._abandoned:
            return PollError(_timeout(trip), Scope.TOPIC_OR_SIZE, "it still runs, for it heeds no interrupt")
        loop = asyncio.get_running_loop()
        self._statement = statement
        self._work = loop.run_in_executor(self._thread, do)
        self._work.add_done_callback(_exception)
        await asyncio.wait([self._work], timeout=trip.seconds)
        timed_out = not self._work.done()
        if timed_out and not await self._interrupted(self._work):
            self._heedless = True
            return PollError(_timeout(trip), Scope.TOPIC_OR_SIZE)
        work: asyncio.Future[T] = self._work
        self._work = None
        try:
            return work.result()
        except NoSuchColumn as error:
            return error.error
        except self.errors as error:
            if timed_out and trip.outgrows:
                return Outgrown.OUTGROWN
            found = self.classify(error, trip.query, interrupted=timed_out)
            self._usable = self._usable and not isinstance(found, LostConnection)
            return found

    async def _interrupted(self, work: asyncio.Future[Any]) -> bool:
        """Interrupt what runs until it ends; return whether it has."""
        loop = asyncio.get_running_loop()
        until = loop.time() + GRACE_SECONDS
        while not work.done() and loop.time() < until:
            self.interrupt()
            await asyncio.wait([work], timeout=INTERRUPT_SECONDS)
        return work.done()

    def _close_abandoned(self, statement: Statement) -> None:
        self._abandoned.discard(statement)
        self._close()

    def _close(self) -> None:
        self._thread.shutdown(wait=False)
        self.end()


def _timeout(trip: Trip) -> PollStale:
    return PollStale(f"the query took longer than its timeout of {trip.query.timeout:g} s")


def _exception(work: asyncio.Future[Any]) -> None:
    """Take note of the error of a call, which nobody may wait for."""
    if not work.cancelled():
        work.exception()
