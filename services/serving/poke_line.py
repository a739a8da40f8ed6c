"""The pokes that are sent to one poller: one request at a time, with all pokes that have come meanwhile.

A poke leaves at once when no request is under way. Pokes for the same topics that wait together are one, and get the
same answer; so a flood of pokes costs one request after the other, and what waits is bounded. A poke that finds no room
or gets no answer in time counts 0: it is lost, which costs time only (docs/reference/http.md#poke).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable

import grpc.aio

from pollcast.services.catalogue.topics import Poke
from pollcast.services.process import logs
from pollcast.services.process.cancellation import heeding_cancellation
from pollcast.v1 import feed_pb2, feed_pb2_grpc

log = logs.get_logger("pokes")

ANSWER_SECONDS = 1.0
"""Maximum time that a poke waits for the answer of a poller, and that a request takes, in seconds."""

MAX_POKES = 1000
"""Maximum number of pokes in one request."""

MAX_WAITING_BYTES = 512 * 1024
"""Maximum size of the pokes that wait for the next request, in bytes of their topics."""

POKE_BYTES = 64
"""Size that a poke counts for in addition to its topic, in bytes."""

Answer = asyncio.Future[int | None]
"""The number of topics that a poller polls for a poke; None when the poke is lost."""

Batch = dict[Poke, Answer]
"""Pokes, each with its answer to come."""


async def ask(lines: Iterable[PokeLine], poke: Poke, on_lost: Callable[[str], None]) -> int:
    """Send a poke to several pollers, and return the number of topics that they poll for it.

    `on_lost` is called with the name of the query for each poller that has no room for the poke, or does not answer in
    time.
    """
    answers = [line.put(poke) for line in lines]
    waiting = [answer for answer in answers if answer is not None]
    if waiting:
        await asyncio.wait(waiting, timeout=ANSWER_SECONDS)
    counts = [answer.result() if answer is not None and answer.done() else None for answer in answers]
    for _ in range(counts.count(None)):
        on_lost(poke.query)
    return sum(filter(None, counts))


class PokeLine:
    """The pokes for one poller, which are sent inside `open`; outside of it they wait for it, and are lost in time."""

    def __init__(self) -> None:
        self._waiting: Batch = {}
        self._waiting_bytes = 0
        self._wake = asyncio.Event()

    def put(self, poke: Poke) -> Answer | None:
        """Send the poke soon, and return its answer to come; None when too many others wait."""
        answer = self._waiting.get(poke)
        if answer is None:
            size = len(poke.topic) + POKE_BYTES
            if self._waiting_bytes + size > MAX_WAITING_BYTES:
                return None
            self._waiting_bytes += size
            answer = self._waiting[poke] = asyncio.get_running_loop().create_future()
            self._wake.set()
        return answer

    @contextlib.asynccontextmanager
    async def open(self, stub: feed_pb2_grpc.FeedAsyncStub) -> AsyncIterator[None]:
        """Send pokes inside the scope."""
        sending = asyncio.create_task(self._send(stub))
        try:
            yield
        finally:
            sending.cancel()
            await asyncio.wait((sending,))
            self._answer(self._take_all(), [])
        if not sending.cancelled():
            sending.result()

    async def _send(self, stub: feed_pb2_grpc.FeedAsyncStub) -> None:
        while True:
            await self._wake.wait()
            batch, counts = self._take(), list[int | None]()
            try:
                pokes = [feed_pb2.FeedPoke(topic=poke.topic, whole=poke.whole, any=poke.any) for poke in batch]
                with heeding_cancellation(grpc.aio.AioRpcError):
                    answer = await stub.Poke(feed_pb2.FeedPokes(pokes=pokes), timeout=ANSWER_SECONDS)
                counts = list(answer.topics)
            except grpc.aio.AioRpcError as error:
                log.debug("pokes lost", pokes=len(batch), detail=error.code().name)
            finally:
                self._answer(batch, counts)

    def _take(self) -> Batch:
        """Take the pokes of the next request, the earliest first."""
        if len(self._waiting) <= MAX_POKES:
            return self._take_all()
        batch = {poke: self._waiting.pop(poke) for poke in list(self._waiting)[:MAX_POKES]}
        self._waiting_bytes -= sum(len(poke.topic) + POKE_BYTES for poke in batch)
        return batch

    def _take_all(self) -> Batch:
        batch, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        self._wake.clear()
        return batch

    def _answer(self, batch: Batch, counts: list[int | None]) -> None:
        """Give each poke its count; those without one are lost."""
        for answer, count in itertools.zip_longest(batch.values(), counts[: len(batch)]):
            answer.set_result(count)
