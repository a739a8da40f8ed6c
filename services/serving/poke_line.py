"""The pokes that are sent to one poller: one request at a time, with all pokes that have come meanwhile.

A poke leaves at once when no request is under way. Pokes for the same topics that wait together are one, and get the
same answer; so a flood of pokes costs one request after the other, and what waits is bounded. A poke that finds no room
or gets no answer in time counts 0: it is lost, which costs time only (docs/reference/http.md#poke).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable

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

Batch = dict[Poke, asyncio.Future[int | None]]
"""Pokes, each with the number of topics that the poller polls for it; None for one that is lost."""


class PokeLine:
    """The pokes for one poller, which are sent inside `open`; outside of it they wait for it, and are lost in time."""

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        """`on_lost` receives the query of a poke that found no room or got no answer."""
        self._on_lost = on_lost
        self._waiting: Batch = {}
        self._waiting_bytes = 0
        self._wake = asyncio.Event()

    async def ask(self, poke: Poke) -> int:
        """Send the poke, and return the number of topics that the poller polls for it."""
        answer = self._waiting.get(poke)
        if answer is None:
            size = len(poke.topic) + POKE_BYTES
            if self._waiting_bytes + size > MAX_WAITING_BYTES:
                self._on_lost(poke.query)
                return 0
            self._waiting_bytes += size
            answer = self._waiting[poke] = asyncio.get_running_loop().create_future()
            self._wake.set()
        done, _ = await asyncio.wait((answer,), timeout=ANSWER_SECONDS)
        count = answer.result() if done else None
        if count is None:
            self._on_lost(poke.query)
            return 0
        return count

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
