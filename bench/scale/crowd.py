"""Light pollers: simulated pollers that decide together, from one watch of the demand and one of the owners.

A topic goes to the poller that ranks first among those that are ready, and after CLAIM_SECONDS to one of this process
when that one, a real poller or one of another process, has not taken it. Light pollers never balance loads; they accept
what real ones hand over to them.
"""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections import deque
from typing import NoReturn

from bench.scale.nodes import KeyWatch, Place
from bench.scale.served_topics import Served
from pollcast.poller.claim_queue import FEW_TOPICS, GATHER_SECONDS
from pollcast.poller.ranking import bucket, rank
from pollcast.services import clock
from pollcast.services.coordination import claims
from pollcast.services.coordination.claims import Claim
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import NodeRecord, OwnerRecord
from pollcast.services.coordination.session import Session

CLAIM_SECONDS = 1.0
"""Time that light pollers leave a free topic to the poller that ranks first, in seconds."""

SWEEP_SECONDS = 0.25
"""Interval between two looks at the free topics and at the topics to release, in seconds."""

LINGER_SECONDS = 1.0
"""The linger of all topics, in seconds."""

BATCH = 100
"""Maximum number of topics in a transaction."""


class LightPoller:
    """One light poller: the topics that it is to claim, and those that it holds."""

    def __init__(self, crowd: Crowd, name: str, address: str, served: Served) -> None:
        self.name = name
        self.served = served
        self.lease = 0
        self.claims: dict[str, Claim] = {}
        self._crowd = crowd
        self._address = address
        self._wanted: dict[str, None] = {}
        self._unwanted: dict[str, Claim] = {}
        self._wake = asyncio.Event()

    def want(self, topic: str) -> None:
        """Claim the topic as soon as possible."""
        self._wanted[topic] = None
        self._wake.set()

    def wants(self, topic: str) -> bool:
        """Return whether the topic is still to be claimed."""
        return topic in self._wanted

    def give_up(self, topic: str) -> None:
        """Release the topic as soon as possible, if it is held."""
        if topic in self.claims:
            self._unwanted[topic] = self.claims[topic]
            self._wake.set()

    def gained(self, claim: Claim) -> None:
        """Hold the topic."""
        if self.claims.get(claim.topic) != claim:
            self.claims[claim.topic] = claim
            self.served.gained(claim.topic, claim.epoch)

    def lost(self, topic: str) -> None:
        """Hold the topic no more."""
        if self.claims.pop(topic, None) is not None:
            self.served.lost(topic)

    async def own(self, session: Session) -> NoReturn:
        """Claim and release topics under this session until cancelled."""
        self.lease = session.lease
        self._crowd.leases[session.lease] = self
        for topic in list(self.claims):
            self.lost(topic)
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted or self._unwanted:
                if len(self._wanted) < FEW_TOPICS <= self._crowd.free:
                    await asyncio.sleep(GATHER_SECONDS)  # as the claim queue of a real poller does
                unwanted = [self._unwanted.pop(topic) for topic in list(itertools.islice(self._unwanted, BATCH))]
                await self._release(unwanted)
                wanted = list(itertools.islice(self._wanted, BATCH))
                await self._claim(session, wanted)
                for topic in wanted:
                    self._wanted.pop(topic, None)

    async def _claim(self, session: Session, batch: list[str]) -> None:
        if batch:
            record = OwnerRecord(self.name, self._address, clock.now_rfc3339())
            # The watch of the owners shows what was claimed, in the order of the other changes.
            await claims.claim(self._crowd.etcd, self._crowd.keys, session, record, batch)

    async def _release(self, batch: list[Claim]) -> None:
        if batch:
            await claims.release(self._crowd.etcd, self._crowd.keys, batch)


class Crowd:
    """All light pollers of this process, with the demand, the owners and the ready pollers of the cluster."""

    def __init__(self, place: Place, etcd: Etcd, share: tuple[int, int]) -> None:
        """`share` is the number of this process and the number of processes."""
        self.etcd = etcd
        self.keys = place.keys
        self.pollers: dict[str, LightPoller] = {}
        self.leases: dict[int, LightPoller] = {}
        self.owners: dict[str, int] = {}
        self._first: dict[int, str] = {}  # bucket → the ready poller that ranks first
        self._demand: dict[str, set[str]] = {}  # topic → keys
        self._free: dict[str, float] = {}
        self._planned: dict[str, LightPoller] = {}  # free topic → the poller of this process that is to claim it
        self._ended: deque[tuple[float, str]] = deque()
        self._ready: dict[str, str] = {}  # key → name
        self._share = share
        address = place.etcd[0]
        self.watches = (
            KeyWatch(address, self.keys.nodes("poller"), self._node_put, self._node_deleted),
            KeyWatch(address, self.keys.owners, self._owner_put, self._owner_deleted),
            KeyWatch(address, self.keys.demands(), self._demand_put, self._demand_deleted),
        )

    @property
    def free(self) -> int:
        """The number of topics that have demand and no owner."""
        return len(self._free)

    async def sweep(self) -> None:
        """Claim what others have left free, and release what has lingered, until cancelled."""
        number, processes = self._share
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            while self._ended and self._ended[0][0] <= now():
                topic = self._ended.popleft()[1]
                holder = self.leases.get(self.owners.get(topic, 0))
                if topic not in self._demand and holder is not None:
                    holder.give_up(topic)
            pollers = list(self.pollers.values())
            late = list(itertools.takewhile(lambda free: free[1] < now() - CLAIM_SECONDS, self._free.items()))
            for topic, _ in late:  # the first ones have been free for the longest time
                del self._free[topic]
                self._free[topic] = now()
                dice = zlib.crc32(topic.encode())
                planned = self._planned.get(topic)
                if dice % processes == number and (planned is None or not planned.wants(topic)):
                    self._want(pollers[dice // processes % len(pollers)], topic)

    def _want(self, poller: LightPoller, topic: str) -> None:
        self._planned[topic] = poller
        poller.want(topic)

    def _plan(self, topic: str) -> None:
        self._free.pop(topic, None)
        self._free[topic] = asyncio.get_running_loop().time()
        at = bucket(topic)
        first = self._first.get(at)
        if first is None:
            first = self._first[at] = next(iter(rank(topic, self._ready.values())), "")
        if first in self.pollers:
            self._want(self.pollers[first], topic)

    def _node_put(self, key: str, value: bytes, _lease: int, _revision: int) -> None:
        record = NodeRecord.decode(value)
        self._first.clear()
        if record.state == "ready":
            self._ready[key] = record.node
        else:
            self._ready.pop(key, None)

    def _node_deleted(self, key: str) -> None:
        self._ready.pop(key, None)
        self._first.clear()

    def _demand_put(self, key: str, _value: bytes, _lease: int, _revision: int) -> None:
        topic = self.keys.demanded(key)
        new = topic not in self._demand
        self._demand.setdefault(topic, set()).add(key)
        if new and topic not in self.owners:
            self._plan(topic)

    def _demand_deleted(self, key: str) -> None:
        topic = self.keys.demanded(key)
        keys = self._demand.get(topic, set())
        keys.discard(key)
        if not keys:
            self._demand.pop(topic, None)
            self._free.pop(topic, None)
            self._planned.pop(topic, None)
            self._ended.append((asyncio.get_running_loop().time() + LINGER_SECONDS, topic))

    def _owner_put(self, key: str, _value: bytes, lease: int, revision: int) -> None:
        topic = key[len(self.keys.owners) :]
        before = self.leases.get(self.owners.get(topic, 0))
        self.owners[topic] = lease
        self._free.pop(topic, None)
        self._planned.pop(topic, None)
        if before is not None and before.lease != lease:
            before.lost(topic)
        if poller := self.leases.get(lease):
            poller.gained(Claim(topic, revision, lease))
            if topic not in self._demand:
                self._ended.append((asyncio.get_running_loop().time() + LINGER_SECONDS, topic))

    def _owner_deleted(self, key: str) -> None:
        topic = key[len(self.keys.owners) :]
        if poller := self.leases.get(self.owners.pop(topic, 0)):
            poller.lost(topic)
        if topic in self._demand:
            self._plan(topic)
