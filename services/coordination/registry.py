"""A node's entry under `nodes/`: there as long as its session is, with the state that it is in.

`run(session)` writes the entry, and writes it again when somebody deletes or overwrites it. A name belongs to one
live node: if the entry hangs on another lease, it waits for that lease to end (the node crashed and is back
already), and raises NodeTaken when the lease goes on living.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from typing import NoReturn

from pollcast.services import clock
from pollcast.services.coordination import metrics
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord, NodeState, lease_hex
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.coordination.session import Session, backoff
from pollcast.services.errors import EtcdRefused, EtcdUnknown, LeaseLost, NodeTaken
from pollcast.services.process import logs
from pollcast.services.process.settings import HostPort, Role
from pollcast.services.process.version import VERSION

log = logs.get_logger("registry")

LOOK_SECONDS = 0.25  # between looks at another's lease
GRACE_SECONDS = 2.0  # for which a lease may outlive the time that it had left
ANNOUNCE_SECONDS = 1.0


def node_record(role: Role, node: str, http: HostPort | None, grpc: HostPort | None) -> NodeRecord:
    """The entry of this process, which is starting; its lease is filled in by Registration."""
    return NodeRecord(node, role, http, grpc, os.getpid(), VERSION, clock.now_rfc3339(), "0", "starting")


class Registration:
    """This node's entry."""

    def __init__(self, etcd: Etcd, keys: Keys, record: NodeRecord) -> None:
        self.record = record
        self.registered = asyncio.Event()  # set while etcd has the entry as it should be, as far as is known
        metrics.NODE.labels(record.role, record.node, record.version).set(1)
        self._etcd = etcd
        self._key = keys.node(record.role, record.node)
        self._wake = asyncio.Event()

    def set_state(self, state: NodeState) -> None:
        """Noted at once, written by `run`."""
        if state != self.record.state:
            self.record = dataclasses.replace(self.record, state=state)
            self._stale()

    async def announce(self, state: NodeState) -> bool:
        """Sets the state and waits for etcd to have it, at most a second; whether it has."""
        self.set_state(state)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANNOUNCE_SECONDS):
                await self.registered.wait()
        return self.registered.is_set()

    async def run(self, session: Session) -> NoReturn:
        """Raises NodeTaken when another live node has the name, LeaseLost when the session is over."""
        self.record = dataclasses.replace(self.record, lease=lease_hex(session.lease))
        self._stale()
        mirror = Mirror(self._etcd, self._key, lambda events: self._changed(events, session))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(mirror.run(), name="mirror of the node's entry")
                await self._keep(session)
        finally:
            self.registered.clear()
        raise AssertionError("unreachable")

    def _stale(self) -> None:
        self.registered.clear()
        self._wake.set()

    def _changed(self, events: list[KeyEvent], session: Session) -> None:
        for event in events:
            if event.kv.key == self._key and not self._is_mine(event.kv, session):
                self._stale()

    def _is_mine(self, kv: Kv, session: Session) -> bool:
        return kv.lease == session.lease and kv.value == self.record.encode()

    async def _keep(self, session: Session) -> NoReturn:
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._write(session)
                failures = 0
            except (LeaseLost, NodeTaken):
                raise
            except (EtcdRefused, EtcdUnknown) as error:
                if not failures:
                    log.warning("node not registered, trying on", detail=error.detail)
                await asyncio.sleep(backoff(failures))
                failures += 1
                self._wake.set()

    async def _write(self, session: Session) -> None:
        while True:
            kv = await self._etcd.get(self._key)
            record = self.record
            if kv is None or not self._is_mine(kv, session):
                if kv is not None and kv.lease not in (0, session.lease):
                    await self._outlive(kv)
                    kv = await self._etcd.get(self._key)
                compare = op.absent(self._key) if kv is None else op.unchanged(self._key, kv.mod_revision)
                await self._etcd.txn([compare], [op.put(self._key, record.encode(), session.lease)])
                continue  # until it is read as it should be
            if record is self.record:
                self.registered.set()
                return

    async def _outlive(self, kv: Kv) -> None:
        """Returns when the lease of the entry is gone."""
        now = asyncio.get_running_loop().time
        left = await self._etcd.lease_ttl(kv.lease)
        until = now() + left + GRACE_SECONDS
        if left:
            log.warning("another node has this name, waiting for its lease to end", key=kv.key, seconds=left)
        while left:
            await asyncio.sleep(LOOK_SECONDS)
            before, left = left, await self._etcd.lease_ttl(kv.lease)
            if left > before or now() > until:
                raise NodeTaken(f"another live node has the name of {kv.key} (lease {lease_hex(kv.lease)})")
