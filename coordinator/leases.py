"""The keys on each lease, and the leases that belong to no node. Pure: a part of coordinator/view.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pollcast.services.coordination.operations import KeyEvent


class Leases:
    """The leases of one namespace. Lease 0 stands for keys without a lease."""

    def __init__(self) -> None:
        self.keys: dict[int, dict[str, int]] = {}  # the keys on each lease, with their mod_revision
        self._since: dict[int, float] = {}  # when each lease was first seen, or its last node left
        self._leaseless: dict[str, float] = {}  # when each key without a lease was written
        self._lease_of: dict[str, int] = {}
        self._nodes: Counter[int] = Counter()  # the number of nodes' entries on each lease

    def changed(self, event: KeyEvent, now: float) -> None:
        """Take in one event of the mirror. Times are loop times in seconds."""
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
        """Note that a node's entry is on the lease."""
        self._nodes[lease] += 1

    def node_went(self, lease: int, now: float) -> None:
        """Note that a node's entry is no longer on the lease."""
        self._nodes[lease] -= 1
        if not self._nodes[lease]:
            del self._nodes[lease]
            if lease in self._since:
                self._since[lease] = now

    def since(self, key: str, otherwise: float) -> float:
        """Return when a key without a lease was written; `otherwise` when it has a lease or is gone."""
        return self._leaseless.get(key, otherwise)

    def without_node(self) -> Iterator[tuple[int, float]]:
        """Yield each lease that has keys and belongs to no node, with the time since when that is so."""
        return ((lease, since) for lease, since in self._since.items() if not self._nodes[lease])
