"""The types of queries' rows, for which gateways ask when /openapi.json is read (docs/reference/http.md#openapi).

Whoever may read that document must not be able to load a database by it. So each source describes one query at a time,
through its pool but never on the last connection; an answer counts for FRESH_SECONDS, however many gateways ask; of a
budget, descriptions take BUDGET_SHARE at most; and nobody waits for a source that is not reached. What it has said
before is kept meanwhile.

`receive` answers within WAIT_SECONDS with what is known until then, while `run` goes on with the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import orjson

from pollcast.poller import metrics
from pollcast.poller.row_schema import row_schema
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.row_type import RowType
from pollcast.poller.sources.sources import Source
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.definitions import Definition, Definitions
from pollcast.services.catalogue.query import Query
from pollcast.services.process import logs
from pollcast.v1 import feed_pb2

log = logs.get_logger("descriptions")

WAIT_SECONDS = 0.5
"""Maximum time that a gateway waits for the sources, in seconds."""

FRESH_SECONDS = 30.0
"""Time for which a source is not asked again about a query, in seconds."""

MOST_PER_SECOND = 10.0
"""Number of queries a second about which sources are asked in the long run, if there are more than can be fresh."""

RETRY_SECONDS = 2.0
"""Time until a source is asked again that could not be reached, in seconds."""

DESCRIBE_SECONDS = 5.0
"""Maximum time that a source has to describe a query, in seconds."""

BUDGET_SHARE = 0.05
"""Maximum share of a source's `statements_per_minute` that descriptions take."""


@dataclass(slots=True)
class Known:
    """The knowledge of the rows of queries with one definition."""

    schema: bytes = b""
    """The JSON Schema of a row, as the source last described it."""
    state: feed_pb2.FeedRowState.ValueType = feed_pb2.FEED_ROW_STATE_UNANSWERED
    """The state of that when nothing is being asked."""
    due: float = float("-inf")
    """Time from which the source may be asked again, in seconds."""


@dataclass(slots=True)
class Line:
    """The queries that one source is to describe, one after the other."""

    asked: dict[Definition, asyncio.Future[None]] = field(default_factory=dict)
    """A future for each, which is done when it was asked about, or has to wait for the budget."""
    pausing: bool = False
    """Whether it waits for the budget."""
    last_at: float = float("-inf")
    """Time when the source was asked last, in seconds."""
    work: asyncio.Task[None] | None = None


class Descriptions:
    """The answers of the sources about the rows of each query. Give it the catalogue by `take` before anything else."""

    def __init__(
        self, sources: Mapping[str, Source], clock: Callable[[], float] = time.monotonic, wait: float = WAIT_SECONDS
    ) -> None:
        """Let gateways wait for so many seconds at most."""
        self._sources = sources
        self._clock = clock
        self._wait = wait
        self._queries: dict[Definition, Query] = {}
        self._known: dict[Definition, Known] = {}
        self._lines: dict[str, Line] = {}
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()  # set when another catalogue has come into force; each has its own

    def take(self, catalog: Catalog, definitions: Definitions) -> None:
        """Describe the queries of this catalogue from now on."""
        self._queries = {definitions[name]: query for name, query in catalog.queries.items()}
        self._known = {each: self._known.get(each) or Known() for each in self._queries}
        self._taken.set()
        self._taken = asyncio.Event()

    async def receive(self, request: feed_pb2.FeedQueries, _context: object) -> feed_pb2.FeedRows:
        """Answer what is known of the rows of these queries, of which the sources are asked where that is due."""
        now = self._clock()
        waiting: list[asyncio.Future[None]] = []
        for each in request.definitions:
            query = self._queries.get(each)
            if query is None:
                continue
            line = self._lines.setdefault(query.source, Line())
            if each not in line.asked and now >= self._known[each].due:
                line.asked[each] = asyncio.get_running_loop().create_future()
                self._wake.set()
            if each in line.asked and not line.pausing and self._is_reached(query.source):
                waiting.append(line.asked[each])
        if waiting:
            await asyncio.wait(waiting, timeout=self._wait)
        return feed_pb2.FeedRows(rows=map(self._row, request.definitions))

    async def run(self) -> NoReturn:
        """Ask the sources until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                for name, line in self._lines.items():
                    if line.asked and (line.work is None or line.work.done()):
                        line.work = tasks.create_task(self._ask(name, line), name=f"describe the queries of {name}")
        raise AssertionError("unreachable")

    def _row(self, definition: Definition) -> feed_pb2.FeedRow:
        query, known = self._queries.get(definition), self._known.get(definition)
        if query is None or known is None:
            return feed_pb2.FeedRow()
        line = self._lines.get(query.source)
        state = known.state
        if line is not None and definition in line.asked:
            if line.pausing:
                state = feed_pb2.FEED_ROW_STATE_LATER
            elif self._is_reached(query.source):
                state = feed_pb2.FEED_ROW_STATE_PENDING
            else:
                state = feed_pb2.FEED_ROW_STATE_UNANSWERED
        return feed_pb2.FeedRow(schema=known.schema, state=state)

    @property
    def busy(self) -> bool:
        """Whether a source is being asked, or soon will be."""
        return any(line.asked for line in self._lines.values())

    def _is_reached(self, name: str) -> bool:
        """Return whether the source is connected, as far as is known."""
        source = self._sources.get(name)
        return source is not None and source.database.state == "ok"

    async def _ask(self, name: str, line: Line) -> None:
        """Have the source describe what is asked, until there is nothing more, or it cannot answer."""
        while line.asked:
            definition = next(iter(line.asked))
            query, source = self._queries.get(definition), self._sources.get(name)
            if query is not None and source is None:
                self._give_up(line)
                return
            if query is not None and source is not None:  # else the catalogue does not have it any more
                if not await self._has_room(line, source):
                    continue
                line.last_at = self._clock()
                found = await _described(source, query)
                self._record(definition, query, found, finite=source.kind.finite)
                if isinstance(found, PollError) and found.scope is Scope.DATABASE:
                    # While the source is connected, the query may be at fault: the others come first.
                    self._give_up(line, definition if self._is_reached(name) else None)
                    return
            _done(line.asked.pop(definition))

    def _record(self, definition: Definition, query: Query, found: RowType | PollError, *, finite: bool) -> None:
        known = self._known.get(definition)
        if known is None:  # the catalogue does not have it any more
            return
        known.due = self._clock() + max(FRESH_SECONDS, len(self._queries) / MOST_PER_SECOND)
        outcome = "described"
        if isinstance(found, RowType):
            known.schema = orjson.dumps(row_schema(found, query.key, finite=finite))
            known.state = feed_pb2.FEED_ROW_STATE_CURRENT
        elif found.state == "failed":
            known.schema, known.state, outcome = b"", feed_pb2.FEED_ROW_STATE_REFUSED, "refused"
        else:
            known.state, outcome = feed_pb2.FEED_ROW_STATE_UNANSWERED, "stale"
        if isinstance(found, PollError):
            log.debug("a query is not described", query=query.name, reason=found.cause.detail)
        metrics.DESCRIPTIONS.labels(outcome).inc()

    def _give_up(self, line: Line, at_fault: Definition | None = None) -> None:
        """Ask the source again soon, which cannot answer now, except about the query that may be at fault."""
        again = self._clock() + RETRY_SECONDS
        for each, future in line.asked.items():
            known = self._known.get(each)
            if known is not None and each != at_fault:
                known.due = again
                known.state = feed_pb2.FEED_ROW_STATE_UNANSWERED
            _done(future)
        line.asked.clear()

    async def _has_room(self, line: Line, source: Source) -> bool:
        """Wait until the source's budget has room for a description, and let no gateway wait for that. Return False
        when another catalogue, and with it perhaps another budget, has come into force before."""
        per_minute = source.budget.per_minute
        pause = 0.0 if per_minute is None else 60.0 / (per_minute * BUDGET_SHARE)
        wait = line.last_at + pause - self._clock()
        if wait <= 0:
            return True
        line.pausing = True
        for future in line.asked.values():
            _done(future)
        try:
            async with asyncio.timeout(wait):
                await self._taken.wait()
        except TimeoutError:
            return True
        finally:
            line.pausing = False
        return False


async def _described(source: Source, query: Query) -> RowType | PollError:
    """Have the source describe the query's rows when its budget allows."""
    turn = await source.budget.turn(1)
    try:
        return await source.database.describe(query, DESCRIBE_SECONDS, turn.again)
    finally:
        turn.end()


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
