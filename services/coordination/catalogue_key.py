"""The catalogue key of a node: the definition of each of its queries (docs/reference/etcd.md#catalogues)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NoReturn

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.desired_keys import DesiredKeys
from pollcast.services.coordination.keys import CatalogueRecord, Keys
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.session import Session
from pollcast.services.process.settings import Role


class CatalogueKey:
    """The key of this node, which is written on the lease of each session."""

    def __init__(self, etcd: Etcd, keys: Keys, role: Role, node: str) -> None:
        self._etcd = etcd
        self._key = keys.catalogue(role, node)
        self._desired = DesiredKeys(etcd, "catalogue")

    def set(self, catalogue: str, definitions: Mapping[str, str]) -> None:
        """Write the definitions of the catalogue with this hash."""
        self._desired.put(self._key, CatalogueRecord(catalogue, dict(definitions)).encode())

    async def run(self, session: Session) -> NoReturn:
        """Keep the key on the session's lease. Raises LeaseLost when etcd has ended the session."""
        own = Mirror(self._etcd, self._key, self._changed)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(own.run(), name="own catalogue key")
            await self._desired.run(session, own)
        raise AssertionError("unreachable")

    def _changed(self, events: list[KeyEvent]) -> None:
        mine = [event for event in events if event.kv.key == self._key]  # another node's name may begin with this one's
        if mine or not events:
            self._desired.changed(mine)
