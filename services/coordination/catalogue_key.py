"""The catalogue key of a node: the definition of each of its queries (docs/reference/etcd.md#catalogues).

The node's value has the hash of its catalogue. While all gateways and pollers have the same hash, that says everything,
and there is no such key.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import NoReturn

from pollcast.services.catalogue.definitions import Definitions
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.desired_keys import DesiredKeys
from pollcast.services.coordination.keys import CatalogueRecord, Keys, NodeRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.session import Session
from pollcast.services.process.settings import Role


class CatalogueKey:
    """The key of this node, which is kept on the lease of each session while another node's catalogue differs."""

    def __init__(self, etcd: Etcd, keys: Keys, role: Role, node: str) -> None:
        self._etcd = etcd
        self._keys = keys
        self._key = keys.catalogue(role, node)
        self._desired = DesiredKeys(etcd, "catalogue")
        self._catalogue = ""
        self._value = b""
        self._hashes: dict[str, str | None] = {}  # by the keys of gateways and pollers

    def set(self, catalogue: str, definitions: Definitions) -> None:
        """Set the hash and the definitions of this node's catalogue."""
        self._catalogue = catalogue
        self._value = CatalogueRecord(catalogue, dict(definitions)).encode()
        self._decide()

    async def run(self, session: Session) -> NoReturn:
        """Keep the key on the session's lease. Raises LeaseLost when etcd has ended the session."""
        own = Mirror(self._etcd, self._key, self._changed)
        nodes = Mirror(self._etcd, self._keys.nodes(), self._nodes_changed)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(own.run(), name="own catalogue key")
            tasks.create_task(nodes.run(), name="hashes of catalogues")
            await self._desired.run(session, own)
        raise AssertionError("unreachable")

    def _changed(self, events: list[KeyEvent]) -> None:
        mine = [event for event in events if event.kv.key == self._key]  # another node's name may begin with this one's
        if mine or not events:
            self._desired.changed(mine)

    def _nodes_changed(self, events: list[KeyEvent]) -> None:
        for event in events:
            parsed = self._keys.parse_node(event.kv.key)
            if parsed is None or parsed[0] == "coordinator":
                continue
            self._hashes.pop(event.kv.key, None)
            if not event.deleted:
                with contextlib.suppress(ValueError):  # an entry of another program is that of no node
                    self._hashes[event.kv.key] = NodeRecord.decode(event.kv.value).catalogue
        self._decide()

    def _decide(self) -> None:
        if any(each not in (None, self._catalogue) for each in self._hashes.values()):
            self._desired.put(self._key, self._value)
        else:
            self._desired.drop(self._key)
