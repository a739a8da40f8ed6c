"""The life of a node in the cluster, the same for gateways, pollers and coordinators.

A node is `starting` until its entry is in etcd and the service has read from etcd what it needs, then `ready`, and
`draining` once it is asked to stop (by a signal, or by a drain request in etcd). `Node` keeps the session, and under it
the registration, the drain requests and the parts of the service that need a lease. When the lease is lost, all of them
start over under a new session. `Readiness` answers `/readyz`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.drain import DrainRequests
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.coordination.registry import Registration
from pollcast.services.coordination.session import Session, keep_session
from pollcast.services.process import logs
from pollcast.services.process.settings import Role
from pollcast.services.serving import rpc

log = logs.get_logger("node")

LeasedPart = Callable[[Session], Coroutine[Any, Any, None]]
"""A part of a service that runs for as long as one session."""


class Readiness:
    """The answer to `/readyz`: whether this node should receive clients (docs/reference/http.md#health).

    Set `synced` when the node has read from etcd what it needs. It is never reset: an etcd outage is reported in the
    answer and does not make the node unready. `describe` returns further fields of the answer, and `obstacle` why the
    node cannot do its work yet, if it cannot."""

    def __init__(
        self,
        role: Role,
        stop: asyncio.Event,
        describe: Callable[[], dict[str, object]],
        obstacle: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.stop = stop
        self.synced = False
        self._role = role
        self._describe = describe
        self._obstacle = obstacle

    @property
    def draining(self) -> bool:
        """Whether the node is shutting down."""
        return self.stop.is_set()

    def answer(self) -> tuple[bool, dict[str, object]]:
        """Return whether the node is ready, and the JSON body."""
        if self.draining:
            return False, {"status": "draining", "reason": f"this {self._role} is shutting down"} | self._describe()
        reason = self._obstacle() or (None if self.synced else "not in sync with etcd yet")
        if reason is not None:
            return False, {"status": "starting", "reason": reason} | self._describe()
        return True, {"status": "ready"} | self._describe()


def healthz() -> tuple[bool, dict[str, object]]:
    """Return the answer to `/healthz`: a process that answers is alive."""
    return True, {"status": "ok"}


class Node:
    """A service process as a node of the cluster.

    `synced` returns when the service has read from etcd what it needs beyond its own entry. `parts` run under each
    session, beside the registration and the drain requests."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        record: NodeRecord,
        server: rpc.RpcServer,
        readiness: Readiness,
        *,
        synced: Callable[[], Awaitable[object]] | None = None,
        parts: Sequence[LeasedPart] = (),
    ) -> None:
        self.registration = Registration(etcd, keys, record)
        self.session: Session | None = None  # the present one, or the last one
        self._etcd = etcd
        self._drain_requests = DrainRequests(etcd, keys, record.role, record.node, readiness.stop)
        self._server = server
        self._readiness = readiness
        self._synced = synced
        self._parts = parts
        self._was_ready = False
        self._offered = True

    async def run(self, ttl: float, until: asyncio.Event, leave: Callable[[], Awaitable[None]] | None = None) -> None:
        """Run the parts under a session, again under a new one whenever the lease is lost, until `until` is set.

        `ttl` is the lease's time to live in seconds. `leave` is called inside the session that is open when `until` is
        set, before the lease is revoked; it is not called when there is none. Raises NodeTaken when another live node
        has this name."""

        async def term(session: Session) -> None:
            self.session = session
            parts = (self.registration.run, self._drain_requests.run, *self._parts)
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(part(session)) for part in parts]
                running.append(tasks.create_task(self._become_ready()))
                await until.wait()
                if leave is not None:
                    await leave()
                for task in running:
                    task.cancel()

        await keep_session(self._etcd, ttl, term, until)

    def offer(self, offered: bool) -> None:
        """Set whether the node is `ready` in etcd once it can be. While it is not offered, it is `starting` there,
        though it answers `/readyz` as one that is ready."""
        self._offered = offered
        if self._readiness.synced and not self._readiness.draining:
            self.registration.set_state("ready" if offered else "starting")

    async def start_draining(self) -> None:
        """Report that this node drains: to gRPC health checks, and in its entry in etcd (waiting at most a second)."""
        await self._server.set_serving(False)
        await self.registration.announce("draining")

    async def _become_ready(self) -> None:
        await self.registration.registered.wait()
        if self._synced is not None:
            await self._synced()
        if self._readiness.draining:
            return
        self._readiness.synced = True
        await self._server.set_serving(True)
        self.offer(self._offered)
        if not self._was_ready:
            log.info("ready", node=self.registration.record.node)
        self._was_ready = True
