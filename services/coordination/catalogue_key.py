"""The catalogue key of a node: the definition of each of its queries (docs/reference/etcd.md#catalogues).

The node's value has the hash of its catalogue. While all gateways and pollers have the same hash, that says everything,
and there is no such key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NoReturn

from pollcast.services.catalogue.definitions import Definitions
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.desired_keys import DesiredKeys
from pollcast.services.coordination.keys import CatalogueRecord, Keys, NodeRecord
from pollcast.services.coordination.mirror import KeptMirror, Mirror
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.coordination.session import Session
from pollcast.services.process.settings import Role

NO_CATALOGUE: Final = ""
"""The hash of a node that polls and serves nothing by a catalogue, as far as its entry shows."""


class CatalogueKey:
    """The key of this node, which is kept on the lease of each session while another node's catalogue differs."""

    def __init__(self, etcd: Etcd, keys: Keys, role: Role, node: str) -> None:
        self._etcd = etcd
        self._nodes = keys.nodes()
        self._key = keys.catalogue(role, node)
        self._desired = DesiredKeys(etcd, "catalogue")
        self._catalogue = ""
        self._value = b""
        self._others: Mapping[str, str] = {}  # of all nodes, the hashes of the catalogues that count

    def set(self, catalogue: str, definitions: Definitions) -> None:
        """Set the hash and the definitions of this node's catalogue."""
        self._catalogue = catalogue
        self._value = CatalogueRecord(catalogue, dict(definitions)).encode()
        self._decide()

    async def run(self, session: Session) -> NoReturn:
        """Keep the key on the session's lease. Raises LeaseLost when etcd has ended the session."""
        own = Mirror(self._etcd, self._key, self._changed)
        hashes = KeptMirror(self._etcd, self._nodes, _hash_of, lambda _: self._decide())
        self._others = hashes.items
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(own.run(), name="own catalogue key")
            tasks.create_task(hashes.run(), name="hashes of catalogues")
            await self._desired.run(session, own)
        raise AssertionError("unreachable")

    def _changed(self, events: list[KeyEvent]) -> None:
        mine = [event for event in events if event.kv.key == self._key]  # another node's name may begin with this one's
        if mine or not events:
            self._desired.changed(mine)

    def _decide(self) -> None:
        if set(self._others.values()) <= {self._catalogue, NO_CATALOGUE}:
            self._desired.drop(self._key)
        else:
            self._desired.put(self._key, self._value)


def _hash_of(kv: Kv) -> str:
    """Return the hash of the catalogue of a gateway or a poller; of other entries, NO_CATALOGUE."""
    try:
        record = NodeRecord.decode(kv.value)
    except ValueError:  # of another program
        return NO_CATALOGUE
    return NO_CATALOGUE if record.role == "coordinator" else record.catalogue or NO_CATALOGUE
