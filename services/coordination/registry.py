"""A node's entry under `nodes/`: it exists as long as the node's session, with the node's current state.

The entry is written again when somebody deletes or overwrites it. A name belongs to one live node: when the entry is on
another lease, the registration waits for that lease to end (the node crashed and was restarted), revokes it when the
other node's address refuses connections, and raises NodeTaken when the lease is renewed time and again instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Iterable
from typing import NoReturn

from pollcast.services import clock
from pollcast.services.coordination import metrics
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.failure_detector import refuses
from pollcast.services.coordination.keys import Keys, NodeRecord, NodeState, lease_hex
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.coordination.predecessor import Predecessor
from pollcast.services.coordination.session import Session, backoff
from pollcast.services.errors import EtcdRefused, EtcdUnknown, LeaseLost, NodeTaken
from pollcast.services.process import logs
from pollcast.services.process.addresses import HostPort, split_host_port
from pollcast.services.process.settings import Role
from pollcast.services.process.version import VERSION

log = logs.get_logger("registry")

CHECK_SECONDS = 0.25
"""Time between two checks of another node's lease, in seconds."""

ANNOUNCE_SECONDS = 1.0
"""Maximum time that `announce` waits for etcd, in seconds."""


def node_record(
    role: Role, node: str, http: HostPort | None, grpc: HostPort | None, catalogue: str | None = None
) -> NodeRecord:
    """Return the entry of this process in the state `starting`; Registration fills in its lease.

    `catalogue` is the hash of its catalogue, if it has one.
    """
    return NodeRecord(node, role, http, grpc, os.getpid(), VERSION, clock.now_rfc3339(), "0", "starting", catalogue)


class Registration:
    """The entry of this node. `registered` is set while etcd is known to hold it as it should be."""

    def __init__(self, etcd: Etcd, keys: Keys, record: NodeRecord) -> None:
        self.record = record
        self.registered = asyncio.Event()
        metrics.NODE.labels(record.role, record.node, record.version).set(1)
        self._etcd = etcd
        self._key = keys.node(record.role, record.node)
        self._wake = asyncio.Event()
        self._predecessor: Predecessor | None = None

    def set_state(self, state: NodeState) -> None:
        """Set the state; `run` writes it."""
        if state != self.record.state:
            self.record = dataclasses.replace(self.record, state=state)
            self._stale()

    def set_catalogue(self, catalogue: str) -> None:
        """Set the hash of the catalogue; `run` writes it."""
        if catalogue != self.record.catalogue:
            self.record = dataclasses.replace(self.record, catalogue=catalogue)
            self._stale()

    def set_unreached(self, sources: Iterable[str]) -> None:
        """Set the sources that this poller has never reached; `run` writes them."""
        if (unreached := tuple(sorted(sources))) != self.record.unreached:
            self.record = dataclasses.replace(self.record, unreached=unreached)
            self._stale()

    async def announce(self, state: NodeState) -> bool:
        """Set the state and wait at most ANNOUNCE_SECONDS for etcd to have it. Return whether it has."""
        self.set_state(state)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANNOUNCE_SECONDS):
                await self.registered.wait()
        return self.registered.is_set()

    async def run(self, session: Session) -> NoReturn:
        """Keep the entry as it should be. Raises NodeTaken when another live node has the name, and LeaseLost when etcd
        reports that the session's lease is gone."""
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
        if not events:  # the mirror has listed: the entry may have been deleted without an event
            self._wake.set()

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
                    log.warning("node not registered, retrying", detail=error.detail)
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
                continue  # until the entry reads as it should be
            if record is self.record:
                self.registered.set()
                return

    async def _outlive(self, kv: Kv) -> None:
        """Return when the lease of the other entry is gone. Raises NodeTaken when somebody keeps renewing it."""
        now = asyncio.get_running_loop().time
        other = _decode(kv)
        if self._predecessor is None or self._predecessor.lease != kv.lease:
            self._predecessor = Predecessor(kv.lease)
            log.warning(
                "another node has this name, waiting for its lease to end", key=kv.key, lease=lease_hex(kv.lease)
            )
        predecessor = self._predecessor
        while True:
            sent = now()
            left = await self._etcd.lease_ttl(kv.lease)
            if not left:
                return
            predecessor.observe(sent, now(), left)
            if predecessor.lives:
                raise NodeTaken(f"another live node has the name of {kv.key} (lease {lease_hex(kv.lease)})")
            if other is not None and await self._is_gone(other):
                log.info("the other node of this name is gone, revoking its lease", lease=lease_hex(kv.lease))
                with contextlib.suppress(LeaseLost):
                    await self._etcd.lease_revoke(kv.lease)
                return
            await asyncio.sleep(CHECK_SECONDS)

    async def _is_gone(self, other: NodeRecord) -> bool:
        """Return whether the other entry is a former one of this process, or its address refuses connections."""
        if (other.pid, other.started_at) == (self.record.pid, self.record.started_at):
            return True
        # This process listens at its own address, and may have taken it over from the other one.
        if other.grpc is None or other.grpc == self.record.grpc:
            return False
        return await refuses(*split_host_port(other.grpc))


def _decode(kv: Kv) -> NodeRecord | None:
    try:
        return NodeRecord.decode(kv.value)
    except ValueError:
        return None
