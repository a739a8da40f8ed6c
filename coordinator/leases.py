"""Which keys hang on which lease, and which leases are no node's. Pure: a part of coordinator/view.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pollcast.services.coordination.operations import KeyEvent


class Leases:
    """Of the keys of one namespace. Lease 0 stands for keys without one."""

    def __init__(self) -> None:
        self.keys: dict[int, dict[str, int]] = {}  # the keys that hang on each, with their mod_revision
        self._since: dict[int, float] = {}  # since when each is known, or its last node is gone
        self._leaseless: dict[str, float] = {}  # keys without a lease, since when
        self._lease_of: dict[str, int] = {}
        self._nodes: Counter[int] = Counter()  # how many nodes' entries hang on each

    def changed(self, event: KeyEvent, now: float) -> None:
        key = event.kv.key
        before = self._lease_of.pop(key, None)
        if before is not None:
            self.keys[before].pop(key, None)
            if not self.keys[before]:
                del self.keys[before], self._since[before]
            self._leaseless.pop(key, None)
        if not event.deleted:
            if not event.kv.lease:
                self._leaseless[key] = now
            self._lease_of[key] = event.kv.lease
            self.keys.setdefault(event.kv.lease, {})[key] = event.kv.mod_revision
            self._since.setdefault(event.kv.lease, now)

    def node_came(self, lease: int) -> None:
        self._nodes[lease] += 1

    def node_went(self, lease: int, now: float) -> None:
        self._nodes[lease] -= 1
        if not self._nodes[lease]:
            del self._nodes[lease]
            if lease in self._since:
                self._since[lease] = now

    def since(self, key: str) -> float:
        """When a key that has no lease was written."""
        return self._leaseless[key]

    def nobodys(self) -> Iterator[tuple[int, float]]:
        """The leases that keys hang on and that are no node's, each with the time since when that is so."""
        return ((lease, since) for lease, since in self._since.items() if not self._nodes[lease])
