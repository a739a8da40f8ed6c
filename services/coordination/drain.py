"""Drain requests through etcd, with the same effect as SIGTERM.

`request_drain` writes a key for the node on the node's own lease: it goes with the node, and means nothing to another
node that takes the name later. `DrainRequests` is the node's side.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import DrainRecord, Foreign, Keys
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.session import Session
from pollcast.services.errors import UnknownNode
from pollcast.services.process import logs
from pollcast.services.process.settings import Role

log = logs.get_logger("drain")


async def request_drain(etcd: Etcd, keys: Keys, node: str) -> list[Role]:
    """Request every node of this name to drain, and return their roles. Repeating it is harmless. Raises UnknownNode
    when there is no such node, and EtcdError when etcd does not answer."""
    roles: list[Role] = []
    for kv in (await etcd.range(keys.nodes())).kvs:
        parsed = keys.parse_node(kv.key)
        if parsed is None or parsed[1] != node or not kv.lease:
            continue
        role = parsed[0]
        request = op.put(keys.drain(role, node), DrainRecord(node).encode(), kv.lease)
        if (await etcd.txn([op.on_lease(kv.key, kv.lease)], [request])).succeeded:
            roles.append(role)
    if not roles:
        raise UnknownNode(f"no node {node!r} is in the cluster")
    return roles


class DrainRequests:
    """The drain requests for this node: sets `stop` when there is one."""

    def __init__(self, etcd: Etcd, keys: Keys, role: Role, node: str, stop: asyncio.Event) -> None:
        self._etcd = etcd
        self._key = keys.drain(role, node)
        self._stop = stop
        self._foreign = Foreign()

    async def run(self, session: Session) -> NoReturn:
        """Follow the node's drain key; only one on this session's lease counts."""
        await Mirror(self._etcd, self._key, lambda events: self._changed(events, session)).run()

    def _changed(self, events: list[KeyEvent], session: Session) -> None:
        for event in events:
            if event.kv.key != self._key or event.deleted:
                continue
            if event.kv.lease == session.lease:
                if not self._stop.is_set():
                    log.info("asked to drain", key=self._key)
                self._stop.set()
            elif not event.kv.lease:
                self._foreign.report(self._key, event.kv.mod_revision, "has no lease")
