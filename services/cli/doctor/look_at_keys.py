"""Observation of Pollcast's keys in etcd: the nodes, then as many others as time allows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import orjson

from pollcast.services.cli.doctor.observations import KeysSeen
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, LeaderRecord, NodeRecord, OwnerRecord
from pollcast.services.coordination.operations import Kv, parse_kv, to_bytes

KEYS_SECONDS = 2.5
"""Time for reading the keys, in seconds."""

SETTLE_SECONDS = 1.0
"""Time after which a topic that had no owner is looked at again, in seconds: one that was just joined has one then."""


@dataclass
class Listed:
    """The keys of a namespace as far as they were read."""

    total: int = 0
    leader: str | None = None
    without_lease: list[str] = field(default_factory=list)
    demanded: set[str] = field(default_factory=set)
    owners: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    def take(self, kv: Kv, keys: Keys) -> None:
        """Take in one key. A value that is garbled counts as absent."""
        self.total += 1
        if not kv.lease:
            self.without_lease.append(kv.key)
        with contextlib.suppress(ValueError):
            if (demand := keys.parse_demand(kv.key)) is not None:
                self.demanded.add(demand[0])
            elif (owned := keys.parse_owner(kv.key)) is not None:
                self.owners[owned] = OwnerRecord.decode(kv.value).node
            elif kv.key == keys.leader:
                self.leader = LeaderRecord.decode(kv.value).node


async def read_records(etcd: Etcd, keys: Keys) -> list[tuple[NodeRecord, str | None]]:
    """Return every node's entry, by role and name, with the hash of its catalogue. Raises EtcdError."""
    found: list[tuple[NodeRecord, str | None]] = []
    for kv in (await etcd.range(keys.nodes())).kvs:
        with contextlib.suppress(ValueError):  # not an entry of Pollcast
            record = NodeRecord.decode(kv.value)
            catalogue = orjson.loads(kv.value).get("catalogue")
            found.append((record, catalogue if isinstance(catalogue, str) else None))
    return sorted(found, key=lambda each: (each[0].role, each[0].node))


async def look_at_keys(etcd: Etcd, keys: Keys, nodes: set[str]) -> KeysSeen:
    """Return what is seen of the keys. `nodes` are the names of the pollers that have an entry. Raises EtcdError."""
    listed = await _list(etcd, keys)
    unowned = listed.demanded - listed.owners.keys() if listed.complete else set()
    strangers = {topic for topic, owner in listed.owners.items() if owner not in nodes}
    if unowned or strangers:
        await asyncio.sleep(SETTLE_SECONDS)
        again = await _list(etcd, keys)
        unowned &= again.demanded - again.owners.keys() if again.complete else set()
        strangers &= {topic for topic, owner in again.owners.items() if owner == listed.owners[topic]}
    return KeysSeen(
        listed.total,
        leader=listed.leader,
        without_lease=tuple(sorted(listed.without_lease)),
        unowned=tuple(sorted(unowned)),
        strangers=tuple((topic, listed.owners[topic]) for topic in sorted(strangers)),
        complete=listed.complete,
    )


async def _list(etcd: Etcd, keys: Keys) -> Listed:
    listed = Listed()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KEYS_SECONDS):
            async with contextlib.aclosing(_pages(etcd, f"{keys.namespace}/")) as pages:
                async for page in pages:
                    for kv in page:
                        listed.take(kv, keys)
            listed.complete = True
    return listed


async def _pages(etcd: Etcd, prefix: str) -> AsyncGenerator[list[Kv], None]:
    start: bytes | None = to_bytes(prefix)
    revision = None
    while start is not None:
        page = await etcd.page(prefix, start, revision)
        yield [parse_kv(kv) for kv in page.kvs]
        revision, start = page.revision, page.next_start
