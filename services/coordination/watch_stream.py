"""The stream that carries all watches of a process: opens it, reads it, notices when it is dead, and goes on elsewhere.

`run` serves one stream after the other. Each begins with a check of etcd's history (`verify`), so that nothing of an
etcd that has lost its data is taken for a continuation; then all watches are requested from where they were
(watches.py). A stream ends when its member closes it, does not answer, or is left for a better one.

**Signs of life.** Any answer of the member (to a call, to a keep-alive, on the stream) shows that it is alive, and
sessions renew their leases more often than every QUIET_SECONDS, so at rest nothing is sent for the sake of the stream
but one request for progress every PROGRESS_SECONDS. A member that was not heard for QUIET_SECONDS, or did not answer
some call in time, is asked with a read; the stream ends when that is not answered either.

**A stream that is dead although its member is alive** is silent, as is one to which nothing happens, so silence is a
reason to doubt only once etcd's revision is known to have moved on. etcd answers a request for progress on the stream;
one that was asked and is silent STALL_SECONDS later is dead. `etcd grpc-proxy` drops these requests. A stream that has
never seen one answered is therefore given up only after RENEW_SECONDS of silence: resuming costs one message per watch
and delivers what the old stream may have missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc.aio

from pollcast.services.coordination import metrics
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.backoff import backoff
from pollcast.services.coordination.endpoints import HAS_LEADER, Endpoint, Endpoints, metadata, to_etcd_error
from pollcast.services.coordination.history import History
from pollcast.services.coordination.watches import PROGRESS, Inbox, Watch, WatchTable
from pollcast.services.errors import EtcdError, EtcdRefused, NewIncarnation
from pollcast.services.process import logs

log = logs.get_logger("watches")

QUIET_SECONDS = 3.0
"""Time without any answer of the member after which it is asked for one, in seconds."""

STALL_SECONDS = 2.0
"""Time that an answer to that may take, in seconds."""

PROGRESS_SECONDS = 10.0
"""Time without a message on the stream after which its progress is requested, in seconds."""

RENEW_SECONDS = 60.0
"""Time without a message after which a stream that does not answer about progress is replaced, in seconds."""


class StreamMoved(Exception):
    """The stream is to go on at another member, although this one answers."""


class WatchStream:
    """The watches of a process. `healthy` while they are served."""

    def __init__(
        self,
        endpoints: Endpoints,
        history: History,
        verify: Callable[[Endpoint], Awaitable[None]],
        on_header: Callable[[Any], object],
    ) -> None:
        """`verify` checks that the member is alive and holds the history as it is known; it raises EtcdError. After
        each message `on_header` gets the header."""
        self.healthy = False
        self._failure: BaseException | None = None
        self._endpoints = endpoints
        self._history = history
        self._verify = verify
        self._on_header = on_header
        self._table = WatchTable()
        self._work = asyncio.Event()  # set when the table has requests to write

    def add(self, key: bytes, end: bytes, next_revision: int, inbox: Inbox) -> Watch:
        """Begin a watch (see WatchTable.add)."""
        if self._failure is not None:
            inbox.fail(self._failure)
        watch = self._table.add(key, end, next_revision, inbox)
        self._changed()
        return watch

    def discard(self, watch: Watch) -> None:
        """End a watch."""
        self._table.discard(watch)
        self._changed()

    def end_all(self, error: EtcdError) -> None:
        """End every watch with this error."""
        self._table.end_all(error)
        self._changed()

    async def run(self) -> NoReturn:
        """Serve the watches until cancelled."""
        try:
            await self._serve()
        except BaseException as error:
            self._failure = error
            for inbox in self._table.inboxes():
                inbox.fail(error)
            raise

    def _changed(self) -> None:
        self._work.set()
        metrics.WATCHES.set(len(self._table))

    async def _serve(self) -> NoReturn:
        failures = 0
        while True:
            while not len(self._table):
                self._work.clear()
                await self._work.wait()
            endpoint = self._endpoints.current
            served = OneStream(endpoint, self._endpoints, self._history, self._table, self._work, self._on_header)
            try:
                await self._verify(endpoint)
                self._table.reset()
                async with contextlib.aclosing(served):
                    self.healthy = True
                    await served.run(self._verify)
            except StreamMoved:
                metrics.RESUMES.labels("moved").inc()
                continue
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, EtcdError) as error:
                failures = 0 if served.was_useful else failures
                detail = (error if isinstance(error, EtcdError) else to_etcd_error(error, endpoint)).detail
                if not failures:
                    log.warning("watches broke, resuming", watches=len(self._table), detail=detail)
                metrics.RESUMES.labels("broke").inc()
                self._endpoints.leave(endpoint)
                self._table.reset()
            self.healthy = False
            await asyncio.sleep(backoff(failures))
            failures += 1


class Silence:
    """The time since a stream's last message, and what follows from it. Pure: `now` is any clock, in seconds."""

    def __init__(self, now: float, revision: int) -> None:
        """`revision` is etcd's, as far as it is known."""
        self._heard_at = now
        self._asked_at: float | None = None  # when progress was requested, if that is not answered yet
        self._revision = revision

    def broken(self, now: float, revision: int) -> None:
        """Note a message."""
        self._heard_at, self._asked_at, self._revision = now, None, revision

    def asked(self, now: float) -> None:
        """Note that progress was requested."""
        self._asked_at = now

    def due(self, *, answers: bool) -> float:
        """Return when to ask, or to judge the want of an answer. `answers`: whether the member has ever answered."""
        if self._asked_at is None:
            return self._heard_at + PROGRESS_SECONDS
        return self._asked_at + (STALL_SECONDS if answers else RENEW_SECONDS)

    def is_death(self, revision: int) -> bool:
        """Return whether the stream is dead, now that it is due: asked in vain, although etcd has moved on."""
        return self._asked_at is not None and revision > self._revision


class OneStream:
    """One Watch stream to one member. `was_useful` once a message has been received."""

    def __init__(
        self,
        endpoint: Endpoint,
        endpoints: Endpoints,
        history: History,
        table: WatchTable,
        work: asyncio.Event,
        on_header: Callable[[Any], object],
    ) -> None:
        self.was_useful = False
        self._endpoint = endpoint
        self._endpoints = endpoints
        self._history = history
        self._table = table
        self._work = work
        self._on_header = on_header
        self._token: str | None = None
        self._call: Any = None
        self._waits: dict[str, asyncio.Future[Any]] = {}
        self._silence = Silence(asyncio.get_running_loop().time(), history.heard)
        self._incarnation = history.incarnation

    async def run(self, verify: Callable[[Endpoint], Awaitable[None]]) -> NoReturn:
        """Serve the table's watches. Raises an error when the stream has ended."""
        loop = asyncio.get_running_loop()
        self._token = await self._endpoints.token()
        self._call = self._endpoint.watch.Watch(metadata=metadata(self._token, HAS_LEADER))
        self._endpoint.doubted.clear()
        self._endpoints.moved.clear()
        await self._ask()
        while True:
            self._work.clear()
            for request in self._table.take_requests():
                await self._write(request)
            self._wait_for("message", self._call.read)
            self._wait_for("work", self._work.wait)
            self._wait_for("doubt", self._endpoint.doubted.wait)
            self._wait_for("move", self._endpoints.moved.wait)
            await asyncio.wait(self._waits.values(), timeout=self._pause(), return_when=asyncio.FIRST_COMPLETED)
            if self._take("message"):
                await self._received()
            self._take("work")
            if self._take("move"):
                self._endpoints.moved.clear()
                if self._endpoints.current is not self._endpoint:
                    raise StreamMoved
            if self._take("verified"):
                pass
            if self._take("doubt") or self._endpoint.is_silent(loop.time() - QUIET_SECONDS):
                self._endpoint.doubted.clear()
                self._wait_for("verified", lambda: verify(self._endpoint))
            await self._check_progress()

    async def aclose(self) -> None:
        """End the stream."""
        if self._call is not None:
            self._call.cancel()
        for waiting in self._waits.values():
            waiting.cancel()
        if self._waits:
            await asyncio.wait(self._waits.values())
        for waiting in self._waits.values():
            if not waiting.cancelled():
                waiting.exception()
        self._waits.clear()

    # --- inside

    def _wait_for(self, what: str, begin: Callable[[], Awaitable[Any]]) -> None:
        """Begin to wait for something, unless that has begun already."""
        if what not in self._waits:
            self._waits[what] = asyncio.ensure_future(begin())

    def _take(self, what: str) -> bool:
        """Return whether it has happened, and then wait for it no more. Raises the error of the waiting."""
        if what not in self._waits or not self._waits[what].done():
            return False
        if what != "message":
            self._waits.pop(what).result()
        return True

    async def _received(self) -> None:
        response = self._waits.pop("message").result()
        if response is grpc.aio.EOF:
            raise EtcdRefused(f"{self._endpoint.address} ended the watches: {await self._call.details()}")
        if self._history.incarnation != self._incarnation:
            raise NewIncarnation  # the message may be of the one before
        self._endpoint.answered()
        self.was_useful = True
        if response.watch_id == PROGRESS:
            self._endpoint.answers_progress = True
        self._on_header(response.header)
        self._silence.broken(asyncio.get_running_loop().time(), self._history.heard)
        if response.canceled and self._endpoints.refused(self._token, response.cancel_reason):
            raise EtcdRefused(f"etcd refuses the token: {response.cancel_reason}")
        if response.events:
            self._history.saw(response.events[-1])
        inbox = self._table.receive(response)
        if inbox is not None:
            await inbox.uncrowded()

    async def _write(self, request: Any) -> None:
        async with asyncio.timeout(STALL_SECONDS):
            await self._call.write(request)

    async def _ask(self) -> None:
        """Request progress."""
        await self._write(op.progress_request())
        self._silence.asked(asyncio.get_running_loop().time())

    def _pause(self) -> float:
        """Return the seconds until something is to be checked."""
        due = self._silence.due(answers=self._endpoint.answers_progress)
        if "verified" not in self._waits:
            due = min(due, self._endpoint.heard_at + QUIET_SECONDS)
        return max(0.01, due - asyncio.get_running_loop().time())

    async def _check_progress(self) -> None:
        if asyncio.get_running_loop().time() < self._silence.due(answers=self._endpoint.answers_progress):
            return
        if self._silence.is_death(self._history.heard):
            raise EtcdRefused(f"the watches are silent at {self._endpoint.address}, although etcd moved on")
        await self._ask()
