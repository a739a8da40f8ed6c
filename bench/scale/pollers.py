"""Simulated pollers: many pollers in one process, without a database. `python -m bench.scale.pollers ORDER`.

They register, claim and release topics by the product's transactions, serve the product's Feed with a result that never
changes, and report. There are three kinds. `product` runs the product's `Ownership` for each poller, so it does all that
a real one does but for polling. `light` decides for all pollers of the process together, from one watch of the demand
and one of the owners: a topic goes to the poller that ranks first among those that are ready, and after CLAIM_SECONDS to
one of this process when that one, a real poller or one of another process, has not taken it. Light pollers never
balance loads; they accept what real ones hand over to them. The third, `idle`, only is registered, so that the real
pollers have all topics in the end, and wait for their turn for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import uvloop

from bench.scale.loop_watch import LoopWatch
from bench.scale.nodes import KeyWatch, Place, SimulatedNode, listen, obey, served
from pollcast.poller.feed import SERVICE, Feed
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.ownership import Ownership
from pollcast.services import clock
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.coordination import claims
from pollcast.services.coordination.claims import Claim
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import NodeRecord, OwnerRecord
from pollcast.services.coordination.session import Session
from pollcast.services.errors import PollcastError
from pollcast.services.process import logs
from pollcast.services.process.settings import EtcdSettings
from pollcast.v1 import report_pb2

CLAIM_SECONDS = 1.0
"""Time that light pollers leave a free topic to the poller that ranks first, in seconds."""

SWEEP_SECONDS = 0.25
"""Interval between two looks at the free topics and at the topics to release, in seconds."""

BATCH = 100
"""Maximum number of topics in a transaction."""

ROW = (b"[1]", b'{"n":1}')


class Served(Mapping[str, OwnedTopic]):
    """The topics of one poller, as its Feed sees them: made when a gateway asks for them."""

    def __init__(self, catalog: Catalog) -> None:
        self.epochs: dict[str, int] = {}
        self.feed = Feed(self)
        self._catalog = catalog
        self._made: dict[str, OwnedTopic] = {}
        self._asked: set[str] = set()

    def gained(self, topic: str, epoch: int) -> None:
        """Serve the topic under this epoch."""
        self.lost(topic)
        self.epochs[topic] = epoch
        if topic in self._asked:
            owned = self[topic]
            self.feed.publish(topic, owned.current_updates(""))

    def lost(self, topic: str) -> None:
        """Serve the topic no more."""
        self.epochs.pop(topic, None)
        if self._made.pop(topic, None) is not None:
            self.feed.forget(topic)

    def linger(self, topic: str) -> float | None:
        """Return the linger of the topic's query, in seconds; None when the catalogue does not have it."""
        try:
            return topics.parse_canonical(topic, self._catalog).query.linger
        except PollcastError:
            return None

    def __getitem__(self, topic: str) -> OwnedTopic:
        epoch = self.epochs.get(topic)
        if epoch is None:
            self._asked.add(topic)
            raise KeyError(topic)
        owned = self._made.get(topic)
        if owned is None:
            owned = OwnedTopic(topics.parse_canonical(topic, self._catalog), epoch, clock.now_us())
            owned.record_result([ROW], clock.now_us())
            self._made[topic] = owned
            self._asked.add(topic)
        return owned

    def __iter__(self) -> Iterator[str]:
        return iter(self.epochs)

    def __len__(self) -> int:
        return len(self.epochs)


class Report:
    """The report of one poller. Most of it is kept from one report to the next, as nothing is polled."""

    def __init__(self, node: str, catalog: Catalog, served: Served) -> None:
        self._report = report_pb2.NodeReport(node=node, role="poller", queries=catalog.queries)
        self._epochs: dict[str, int] = {}
        self._served = served

    def describe(self) -> report_pb2.NodeReport:
        """Return the report as of now."""
        now = clock.now_us()
        self._report.now = now
        if self._epochs != self._served.epochs:
            self._epochs = dict(self._served.epochs)
            del self._report.polled[:]
            for topic, epoch in self._epochs.items():
                self._report.polled.add(
                    topic=topic, epoch=epoch, state="live", owned_since=now, last_polled_at=now, interval_ms=30_000,
                    linger_ms=1000, polls=1, changes=1, rows=1, poll_us=50, receivers=1,
                )  # fmt: skip
        return self._report


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

    async def own(self, session: Session) -> None:
        """Claim and release topics under this session until cancelled."""
        self.lease = session.lease
        self._crowd.leases[session.lease] = self
        for topic in list(self.claims):
            self.lost(topic)
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted or self._unwanted:
                unwanted = [self._unwanted.pop(topic) for topic in list(islice(self._unwanted, BATCH))]
                await self._release(unwanted)
                wanted = list(islice(self._wanted, BATCH))
                await self._claim(session, wanted)
                for topic in wanted:
                    self._wanted.pop(topic, None)

    async def _claim(self, session: Session, batch: list[str]) -> None:
        if batch:
            record = OwnerRecord(self.name, self._address, clock.now_rfc3339())
            found = await claims.claim(self._crowd.etcd, self._crowd.keys, session, record, batch)
            for claim in filter(None, found.values()):
                self._crowd.owners.setdefault(claim.topic, claim.lease)
                self.gained(claim)

    async def _release(self, batch: list[Claim]) -> None:
        if batch:
            found = await claims.release(self._crowd.etcd, self._crowd.keys, batch)
            for topic in [topic for topic, gone in found.items() if gone]:
                self.lost(topic)


class Crowd:
    """All light pollers of this process, with the demand, the owners and the ready pollers of the cluster."""

    def __init__(self, place: Place, etcd: Etcd, share: tuple[int, int]) -> None:
        """`share` is the number of this process and the number of processes."""
        self.etcd = etcd
        self.keys = place.keys
        self.pollers: dict[str, LightPoller] = {}
        self.leases: dict[int, LightPoller] = {}
        self.owners: dict[str, int] = {}
        self.first: dict[str, str] = {}
        self._demand: dict[str, set[str]] = {}  # topic → keys
        self._free: dict[str, float] = {}
        self._ended: deque[tuple[float, str]] = deque()
        self._ready: dict[str, str] = {}  # key → name
        self._share = share
        address = place.etcd[0]
        self.watches = (
            KeyWatch(address, self.keys.nodes("poller"), self._node_put, lambda key: self._ready.pop(key, None)),
            KeyWatch(address, self.keys.owners, self._owner_put, self._owner_deleted),
            KeyWatch(address, self.keys.demands(), self._demand_put, self._demand_deleted),
        )

    async def sweep(self) -> None:
        """Claim what others have left free, and release what has lingered, until cancelled."""
        number, processes = self._share
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            while self._ended and self._ended[0][0] <= now():
                topic = self._ended.popleft()[1]
                if topic not in self._demand and topic in self.owners and (poller := self.leases.get(self.owners[topic])):
                    poller.give_up(topic)
            for topic in [topic for topic, since in self._free.items() if since < now() - CLAIM_SECONDS]:
                self._free[topic] = now()
                if any(poller.wants(topic) for poller in self.pollers.values()):
                    continue
                dice = int.from_bytes(hashlib.blake2b(topic.encode(), digest_size=4).digest())
                if self.pollers and dice % processes == number:
                    list(self.pollers.values())[dice // processes % len(self.pollers)].want(topic)

    def prepare(self, names: list[str], pollers: list[str]) -> None:
        """Note who ranks first for each topic among these pollers. For 100,000 topics and 100 pollers it takes 10 s."""
        self.first = {name: _first(name, pollers) for name in names}

    def _plan(self, topic: str) -> None:
        self._free[topic] = asyncio.get_running_loop().time()
        first = self.first.get(topic, "")
        ready = self._ready.values()
        if first not in ready:
            first = _first(topic, list(ready)) if ready else ""
        if first in self.pollers:
            self.pollers[first].want(topic)

    def _node_put(self, key: str, value: bytes, _lease: int, _revision: int) -> None:
        record = NodeRecord.decode(value)
        if record.state == "ready":
            self._ready[key] = record.node
        else:
            self._ready.pop(key, None)

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
            self._ended.append((asyncio.get_running_loop().time() + 1.0, topic))

    def _owner_put(self, key: str, _value: bytes, lease: int, revision: int) -> None:
        topic = key[len(self.keys.owners) :]
        before = self.leases.get(self.owners.get(topic, 0))
        self.owners[topic] = lease
        self._free.pop(topic, None)
        if before is not None and before.lease != lease:
            before.lost(topic)
        if poller := self.leases.get(lease):
            poller.gained(Claim(topic, revision, lease))
            if topic not in self._demand:
                self._ended.append((asyncio.get_running_loop().time() + 1.0, topic))

    def _owner_deleted(self, key: str) -> None:
        topic = key[len(self.keys.owners) :]
        if poller := self.leases.get(self.owners.pop(topic, 0)):
            poller.lost(topic)
        if topic in self._demand:
            self._plan(topic)


def _first(topic: str, pollers: list[str]) -> str:
    """Return the poller that ranks first (poller/balance.py)."""
    text = f"\0{topic}"
    return max(pollers, key=lambda p: (hashlib.blake2b((p + text).encode(), digest_size=8).digest(), p))


async def main(order: dict[str, Any]) -> None:
    """Run the pollers that the order names until the standard input ends."""
    place = Place(tuple(order["etcd"]), order["namespace"], order["ttl"], order["catalog"])
    catalog = catalogue.load(Path(place.catalog))
    watch = LoopWatch(Path(order["stops"]))
    light, product = order["kind"] == "light", order["kind"] == "product"
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        etcd = await stack.enter_async_context(Etcd.open(EtcdSettings(etcd=place.etcd, namespace=place.namespace)))
        crowd = Crowd(place, etcd, tuple(order["share"]))
        nodes, shown = [], []
        for name in order["names"]:
            topics_of = Served(catalog)
            server = await stack.enter_async_context(served(place, name, topics_of.feed.add_to, SERVICE))
            address = f"{server.host}:{server.port}"
            client = await stack.enter_async_context(Etcd.open(place.settings(name)))
            report = Report(name, catalog, topics_of)
            if product:
                part = Ownership(client, place.keys, name, address, topics_of).run
            else:
                poller = crowd.pollers[name] = LightPoller(crowd, name, address, topics_of)
                part = poller.own
            nodes.append(SimulatedNode(place, client, server, "poller", name, [part], report.describe))
            shown.append(topics_of)

        async def execute(what: dict[str, Any]) -> dict[str, Any]:
            """Carry out an order: `start` registers the pollers, `state` only answers."""
            if what["do"] == "start":
                running.extend(tasks.create_task(key_watch.run()) for key_watch in crowd.watches if light)
                running.append(tasks.create_task(crowd.sweep()))
                running.append(tasks.create_task(watch.run()))
                running.append(tasks.create_task(listen(place.etcd[0], what["listens"] if light else [], len(nodes))))
                for key_watch in crowd.watches if light else ():
                    await key_watch.following.wait()
                running.extend(tasks.create_task(node.run()) for node in nodes)
            elif what["do"] == "prepare" and light:
                crowd.prepare(what["topics"], what["pollers"])
            lost = sum(node.sessions - 1 for node in nodes if node.sessions)
            return {"owned": [len(each) for each in shown], "lost": lost}

        running: list[asyncio.Task[None]] = []
        await obey(execute, watch)
        for task in running:
            task.cancel()


if __name__ == "__main__":
    logs.configure(level=30)
    uvloop.run(main(orjson.loads(sys.argv[1])))
