"""A lease as a scope: what hangs on the lease lives as long as the body, and the body as long as the lease.

`async with Session.open(etcd, ttl) as session` grants a lease and renews it every third of its time. etcd out of reach
is not loss: the body goes on, and `margin()` says for how long the lease is known to hold (counted on the monotonic
clock from when the renewal was *sent*). Only etcd's own word ends it: the body is cancelled and LeaseLost raised. On
the way out the lease is revoked, so that peers see all keys go in one event; where that fails they go when the lease's
time is up. `keep_session` starts over with a new session for as long as the service lives.

Modelled on etcd's client/v3/concurrency/session.go.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn, TypeVar

from pollcast.services.coordination import metrics
from pollcast.services.coordination.client import CALL_SECONDS, Etcd
from pollcast.services.coordination.keys import lease_hex
from pollcast.services.errors import EtcdError, LeaseLost, unwrapped
from pollcast.services.process import logs

log = logs.get_logger("session")

T = TypeVar("T")

RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 2.0


def backoff(attempt: int) -> float:
    """Seconds before trying again: from 0.1 doubling to 2, each half of that to all of it, so that nobody runs in
    step."""
    return min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1.0)


class Session:
    """A lease that is being renewed. Made by `open`."""

    def __init__(self, etcd: Etcd, lease: int, ttl: float, sent: float) -> None:
        self.lease = lease
        self.ttl = ttl  # seconds
        self.valid_until = sent + ttl  # on the loop's clock
        self.reachable = True  # whether the last renewal was answered
        self._etcd = etcd
        self._doubt = asyncio.Event()

    def margin(self) -> float:
        """Seconds for which the lease is known to hold; negative when that is not known any more."""
        return self.valid_until - asyncio.get_running_loop().time()

    def verify(self) -> None:
        """Asks etcd about the lease now: for who has reason to doubt it."""
        self._doubt.set()

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(etcd: Etcd, ttl: float) -> AsyncIterator[Session]:
        """Raises EtcdError when no lease is granted, LeaseLost when it ends before the body does."""
        session = await Session._grant(etcd, ttl)
        async with session._scope():
            yield session

    @staticmethod
    async def _grant(etcd: Etcd, ttl: float) -> Session:
        sent = asyncio.get_running_loop().time()
        lease, granted = await etcd.lease_grant(ttl)
        return Session(etcd, lease, granted, sent)

    @contextlib.asynccontextmanager
    async def _scope(self) -> AsyncIterator[None]:
        lost = False
        try:
            async with asyncio.TaskGroup() as tasks:
                renewal = tasks.create_task(self._renew(), name="lease renewal")
                try:
                    yield
                finally:
                    renewal.cancel()
        except BaseExceptionGroup as group:
            lost = group.subgroup(LeaseLost) is not None
            if lost and group.split(EtcdError)[1] is None:
                raise LeaseLost(f"lease {lease_hex(self.lease)} is gone") from None
            raise unwrapped(group) from None
        finally:
            if not lost:
                await self._revoke()

    async def _renew(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            pause = self.ttl / 3 if not failures else min(backoff(failures), self.ttl / 4)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._doubt.wait()
            self._doubt.clear()
            sent = loop.time()
            try:
                ttl = await self._etcd.lease_keepalive(self.lease, timeout=min(CALL_SECONDS, self.ttl / 3))
            except EtcdError as error:
                failures += 1
                if self.reachable:
                    log.warning(
                        "lease not renewed", lease=lease_hex(self.lease), margin=self.margin(), detail=error.detail
                    )
                self.reachable = False
                continue
            if ttl <= 0:
                raise LeaseLost(f"lease {lease_hex(self.lease)} is gone")
            if not self.reachable:
                log.info("lease renewed again", lease=lease_hex(self.lease))
            self.valid_until, self.reachable, failures = sent + ttl, True, 0

    async def _revoke(self) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS + 0.5):
                await self._etcd.lease_revoke(self.lease)
        except LeaseLost:
            return  # somebody else did
        except (EtcdError, TimeoutError) as error:
            log.warning("lease not revoked", lease=lease_hex(self.lease), ttl=self.ttl, detail=str(error))


async def keep_session(
    etcd: Etcd, ttl: float, body: Callable[[Session], Awaitable[T]], stop: asyncio.Event | None = None
) -> T | None:
    """Runs the body under a session, again under a new one whenever the lease is lost, until it returns. While etcd is
    out of reach it waits for it. `stop` ends the waiting, not the body: None when there was none to finish."""
    failures = 0
    while stop is None or not stop.is_set():
        try:
            session = await Session._grant(etcd, ttl)
        except EtcdError as error:
            if not failures:
                log.warning("no lease granted, trying on", detail=error.detail)
            await _pause(backoff(failures), stop)
            failures += 1
            continue
        failures = 0
        log.info("session opened", lease=lease_hex(session.lease), ttl=session.ttl)
        try:
            with metrics.holding(session.margin):
                async with session._scope():
                    return await body(session)
        except LeaseLost as error:
            metrics.SESSIONS_LOST.inc()
            # Before Python 3.13 a task group that fails while its task is being cancelled swallows the cancellation.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from error
            log.warning("session lost, starting over", detail=error.detail)
    return None


async def _pause(seconds: float, stop: asyncio.Event | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await (stop or asyncio.Event()).wait()
