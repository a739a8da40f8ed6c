"""The election of one leader among the coordinators: the leader is the one that holds the leader key on its lease.

The key is free when the leader's lease has ended, when somebody has deleted the key, or when the key has no lease.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, LeaderRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.session import Session, backoff
from pollcast.services.errors import EtcdRefused, EtcdUnknown, LeaseLost
from pollcast.services.process import logs

log = logs.get_logger("election")


class Election:
    """The candidacy of this coordinator. `leading` is true while the mirror shows that it holds the leader key."""

    def __init__(self, etcd: Etcd, keys: Keys, node: str) -> None:
        self.leading = False
        self._etcd = etcd
        self._key = keys.leader
        self._value = LeaderRecord(node).encode()
        self._wake = asyncio.Event()

    async def run(self, session: Session) -> NoReturn:
        """Take the leader key whenever it is free. Raises LeaseLost when etcd reports that the session's lease is
        gone."""
        mirror = Mirror(self._etcd, self._key, lambda events: self._changed(events, session))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(mirror.run(), name="mirror of the leader")
                await mirror.synced.wait()
                await self._campaign(session, mirror)
        finally:
            self.leading = False
        raise AssertionError("unreachable")

    def _changed(self, events: list[KeyEvent], session: Session) -> None:
        for event in events:
            if event.kv.key == self._key:
                leading = event.kv.lease == session.lease and not event.deleted
                if leading != self.leading:
                    log.info("leading" if leading else "not leading any more")
                self.leading = leading
        self._wake.set()  # also when the mirror has merely listed: a key that was written may be gone without an event

    async def _campaign(self, session: Session, mirror: Mirror) -> NoReturn:
        """Write the key each time the mirror shows that it is free."""
        failures = 0
        while True:
            kv = mirror.items.get(self._key)
            if kv is not None and kv.lease:
                self._wake.clear()
                await self._wake.wait()
                continue
            free = op.absent(self._key) if kv is None else op.unchanged(self._key, kv.mod_revision)
            self._wake.clear()
            try:
                await self._etcd.txn([free], [op.put(self._key, self._value, session.lease)])
                failures = 0
                await self._wake.wait()  # until the mirror shows the winner
            except LeaseLost:
                raise
            except (EtcdRefused, EtcdUnknown) as error:
                if not failures:
                    log.warning("leader key not written, retrying", detail=error.detail)
                await asyncio.sleep(backoff(failures))
                failures += 1
