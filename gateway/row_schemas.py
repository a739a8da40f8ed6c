"""The JSON Schemas of queries' rows, which a gateway learns from pollers (docs/reference/http.md#openapi).

A gateway has no database, so it asks a poller when somebody wants to know, at most once in FRESH_SECONDS as long as the
answers are complete. All gateways begin with the same poller, which then has the answers already. What one poller
cannot answer, because it has another catalogue or does not reach the source, the next one is asked. Whoever waits for
that waits DEADLINE_SECONDS at most; what is not known then is left out, and what was known before stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import grpc.aio

from pollcast.services.catalogue.definitions import Definition
from pollcast.services.process import logs
from pollcast.services.process.addresses import HostPort
from pollcast.v1 import feed_pb2, feed_pb2_grpc

log = logs.get_logger("row_schemas")

FRESH_SECONDS = 60.0
"""Time for which a poller's answer is not asked for again, in seconds."""

DEADLINE_SECONDS = 2.0
"""Maximum time to wait for the answers of all pollers, in seconds."""

ANSWER_SECONDS = 0.9
"""Maximum time to wait for one answer of one poller, in seconds; a poller in order takes at most half a second."""

PAUSE_SECONDS = 1.0
"""Minimum time between two times that pollers are asked, in seconds."""

BATCH = 200
"""Maximum number of queries in one request."""

CURRENT, PENDING = feed_pb2.FEED_ROW_STATE_CURRENT, feed_pb2.FEED_ROW_STATE_PENDING
REFUSED, LATER = feed_pb2.FEED_ROW_STATE_REFUSED, feed_pb2.FEED_ROW_STATE_LATER

Stubs: TypeAlias = "Mapping[HostPort, feed_pb2_grpc.FeedAsyncStub]"
"""The services of the connected pollers, by address."""


@dataclass(slots=True)
class Known:
    """The knowledge of the rows of queries with one definition."""

    schema: bytes = b""
    """The JSON Schema of a row; empty when it is not known."""
    due: float = float("-inf")
    """Time from which pollers are asked again, in seconds."""


class RowSchemas:
    """The schemas of the rows of a gateway's queries. `stubs` returns the pollers in the order of their addresses."""

    def __init__(
        self,
        stubs: Callable[[], Stubs],
        clock: Callable[[], float] = time.monotonic,
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        """Wait for pollers for so many seconds at most."""
        self.changes = 0
        """The number of times that a schema has changed."""
        self._stubs = stubs
        self._clock = clock
        self._deadline = deadline
        self._known: dict[Definition, Known] = {}
        self._turn = asyncio.Lock()  # whoever has it asks for all who wait
        self._not_before = float("-inf")

    def schema(self, definition: Definition) -> bytes:
        """Return the schema of the rows of queries with this definition; empty when it is not known."""
        known = self._known.get(definition)
        return b"" if known is None else known.schema

    async def refresh(self, definitions: Collection[Definition]) -> None:
        """Ask pollers about what is not known, or has been known for long, and wait for their answers for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadline), self._turn:
                self._known = {each: self._known.get(each) or Known() for each in definitions}
                now = self._clock()
                due = [each for each, known in self._known.items() if now >= known.due]
                due.sort(key=lambda each: bool(self._known[each].schema))  # what is not known comes first
                if not due or now < self._not_before or not self._stubs():
                    return
                try:
                    await self._ask(dict.fromkeys(due))
                finally:
                    self._not_before = self._clock() + PAUSE_SECONDS

    async def _ask(self, due: dict[Definition, None]) -> None:
        """Ask one poller after the other until all queries are answered, which are then removed from `due`."""
        asked = set[HostPort]()
        while due:
            address = next((each for each in self._stubs() if each not in asked), None)
            if address is None:
                return
            asked.add(address)
            await self._ask_poller(address, due)

    async def _ask_poller(self, address: HostPort, due: dict[Definition, None]) -> None:
        """Ask one poller until it has no answer to come."""
        left = list(due)
        while left:
            batch, stub = left[:BATCH], self._stubs().get(address)
            answer = None if stub is None else await _answer(stub, batch)
            if answer is None:
                return
            pending = []
            for definition, row in zip(batch, answer.rows, strict=False):
                self._take(definition, row)
                if row.state == PENDING:
                    pending.append(definition)
                elif row.state in (CURRENT, REFUSED, LATER):
                    due.pop(definition, None)
            left = pending + left[BATCH:]

    def _take(self, definition: Definition, row: feed_pb2.FeedRow) -> None:
        """Take a poller's answer. One that could not ask the source says what it knows from before."""
        known = self._known.get(definition)
        if known is None:  # the catalogue does not have it any more
            return
        if row.state in (CURRENT, REFUSED):
            known.due = self._clock() + FRESH_SECONDS
        elif known.schema:
            return
        if row.schema != known.schema:
            known.schema = row.schema
            self.changes += 1


async def _answer(stub: feed_pb2_grpc.FeedAsyncStub, definitions: list[Definition]) -> feed_pb2.FeedRows | None:
    """Return a poller's answer; None when there is none in time, or its stream ends meanwhile."""

    async def call() -> feed_pb2.FeedRows:
        return await stub.Describe(feed_pb2.FeedQueries(definitions=definitions), timeout=ANSWER_SECONDS)

    asking = asyncio.create_task(call())  # the end of the link cancels the call, and would cancel who awaits it
    try:
        await asyncio.wait([asking])
    finally:
        asking.cancel()
    if asking.cancelled():
        return None
    error = asking.exception()
    if isinstance(error, grpc.aio.AioRpcError):
        log.debug("a poller does not describe queries", detail=error.code().name)
        return None
    if isinstance(error, grpc.aio.UsageError):  # the link has closed its channel since it was asked for the stub
        return None
    return asking.result()
