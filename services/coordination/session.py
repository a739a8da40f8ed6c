"""A lease as a scope: keys on the lease live as long as the body, and the body as long as the lease.

`async with Session.open(etcd, ttl) as session` grants a lease and renews it every third of its time to live. While etcd
cannot be reached, the body goes on, and `margin()` returns for how long the lease is known to hold, counted on the
monotonic clock from when the last renewal was *sent*. Only etcd's own report that the lease is gone ends the scope, and
the loss of etcd's data: the body is cancelled and LeaseLost raised. The lease may have survived in the data that etcd
was restored from. It is then given back and another one granted, so that whatever the body knew of its keys is gone
with it (docs/reference/etcd.md#lost-data). On leaving the scope the lease is revoked, so that peers see all its keys go
in one event; if that fails, the keys go when the lease expires. `keep_session` starts over with a new session for as
long as the service lives.

Modelled on etcd's client/v3/concurrency/session.go.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn, TypeVar

from pollcast.services.coordination import metrics
from pollcast.services.coordination.backoff import backoff
from pollcast.services.coordination.client import CALL_SECONDS, Etcd
from pollcast.services.coordination.keys import lease_hex
from pollcast.services.errors import EtcdError, LeaseLost, unwrapped
from pollcast.services.process import logs

__all__ = ["Session", "backoff", "keep_session"]

log = logs.get_logger("session")

T = TypeVar("T")


class Session:
    """A lease that is being renewed. Create it with `open`."""

    def __init__(self, etcd: Etcd, lease: int, ttl: float, sent: float, incarnation: int | None = None) -> None:
        self.lease = lease
        self.ttl = ttl  # seconds
        self.valid_until = sent + ttl  # loop time
        self.reachable = True  # whether etcd responded to the last renewal
        self._etcd = etcd
        self._incarnation = etcd.incarnation if incarnation is None else incarnation
        self._renew_now = asyncio.Event()

    def margin(self) -> float:
        """Return the seconds for which the lease is known to hold, negative when it may have expired."""
        return self.valid_until - asyncio.get_running_loop().time()

    def verify(self) -> None:
        """Renew the lease now. Call it when something suggests that the lease is gone."""
        self._renew_now.set()

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(etcd: Etcd, ttl: float) -> AsyncIterator[Session]:
        """Grant a lease and keep it for the body. Raises EtcdError when no lease is granted, and LeaseLost when it ends
        before the body does."""
        session = await Session._grant(etcd, ttl)
        async with session._scope():
            yield session

    @staticmethod
    async def _grant(etcd: Etcd, ttl: float) -> Session:
        sent, incarnation = asyncio.get_running_loop().time(), etcd.incarnation
        lease, granted = await etcd.lease_grant(ttl)
        return Session(etcd, lease, granted, sent, incarnation)

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
        with self._etcd.on_new_incarnation(self.verify):
            await self._renew_until_lost()
        raise AssertionError("unreachable")

    async def _renew_until_lost(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            pause = self.ttl / 3 if not failures else min(backoff(failures), self.ttl / 4)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._renew_now.wait()
            self._renew_now.clear()
            if self._etcd.incarnation != self._incarnation:
                await self._revoke()
                raise LeaseLost(f"etcd has lost its data since it granted lease {lease_hex(self.lease)}")
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
            return  # another process revoked it
        except (EtcdError, TimeoutError) as error:
            log.warning("lease not revoked", lease=lease_hex(self.lease), ttl=self.ttl, detail=str(error))


async def keep_session(
    etcd: Etcd, ttl: float, body: Callable[[Session], Awaitable[T]], stop: asyncio.Event | None = None
) -> T | None:
    """Run the body under a session, again under a new one whenever the lease is lost, and return its result. While etcd
    grants no lease, retry. Setting `stop` ends the retries, not a running body; the result is then None."""
    failures = 0
    while stop is None or not stop.is_set():
        try:
            session = await Session._grant(etcd, ttl)
        except EtcdError as error:
            if not failures:
                log.warning("no lease granted, retrying", detail=error.detail)
            await _pause(backoff(failures), stop)
            failures += 1
            continue
        failures = 0
        log.info("session opened", lease=lease_hex(session.lease), ttl=session.ttl)
        try:
            with metrics.session_open(session.margin):
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
