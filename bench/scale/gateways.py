"""Simulated gateways: many gateways in one process, without clients. `python -m bench.scale.gateways ORDER`.

Each has a lease and an entry of its own, writes the demand for its share of the topics in batches as a gateway does,
reports them to coordinators, and attaches those of real pollers to their Feed, as far as they are told which pollers
are real. The first update of each attached topic is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import orjson
import uvloop

from bench.scale.listeners import listen
from bench.scale.nodes import OPTIONS, KeyWatch, Place, SimulatedNode, obey, served
from pollcast.services import clock
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import DemandRecord, OwnerRecord
from pollcast.services.coordination.session import Session
from pollcast.services.errors import EtcdUnknown
from pollcast.services.process import logs
from pollcast.v1 import feed_pb2, feed_pb2_grpc, report_pb2

log = logs.get_logger("gateways")

BATCH = 100
"""Maximum number of keys in a transaction."""

GATHER_SECONDS = 0.01
"""Time over which attachments are gathered into one request, in seconds."""


class LightGateway:
    """One simulated gateway and its topics, and the Reportable of them. `touch` is called with each that changes."""

    def __init__(self, etcd: Etcd, place: Place, name: str, catalog: Catalog, touch: Callable[[str], None]) -> None:
        self.watched: dict[str, None] = {}
        self.name = name
        self._etcd = etcd
        self._keys = place.keys
        self._session: Session | None = None
        self._queries = list(catalog.queries)
        self._touch = touch

    def topics(self) -> Iterable[str]:
        """Return the topics that this gateway watches."""
        return list(self.watched)

    async def hold(self, session: Session) -> None:
        """Use this session from now on, and write the demand of its topics under it."""
        self._session = session
        await self._write(list(self.watched), put=True)
        await asyncio.Event().wait()

    async def demand(self, topics: list[str], *, wanted: bool) -> None:
        """Write or delete the demand for these topics."""
        for topic in topics:
            if wanted:
                self.watched[topic] = None
            else:
                self.watched.pop(topic, None)
        await self._write(topics, put=wanted)
        for topic in topics:
            self._touch(topic)

    def begin(self) -> report_pb2.NodeReport:
        """Return a report as of now, without topics."""
        return report_pb2.NodeReport(node=self.name, role="gateway", now=clock.now_us(), queries=self._queries)

    def add(self, report: report_pb2.NodeReport, topic: str) -> bool:
        """Add the description of a topic; return False when this gateway does not watch it."""
        if topic in self.watched:
            report.watched.add(topic=topic, clients=1, state="live")
        return topic in self.watched

    def unsettled(self, _topic: str) -> bool:
        """Return False: nothing changes by itself."""
        return False

    async def _write(self, topics: list[str], *, put: bool) -> None:
        assert self._session is not None
        value = DemandRecord(self.name, clock.now_rfc3339()).encode()
        for start in range(0, len(topics), BATCH):
            keys = [self._keys.demand(topic, self.name) for topic in topics[start : start + BATCH]]
            operations = [op.put(key, value, self._session.lease) if put else op.delete(key) for key in keys]
            while True:
                try:
                    await self._etcd.txn([], operations)
                    break
                except EtcdUnknown as error:
                    log.warning("demand written again", detail=error.detail)


class Link:
    """A simulated gateway's stream to a real poller."""

    def __init__(self, gateway: str, address: str) -> None:
        self.attached: set[str] = set()
        self.seen: set[str] = set()
        self._gateway = gateway
        self._address = address
        self._queue: list[str] = []
        self._filled = asyncio.Event()

    def attach(self, topic: str) -> None:
        """Ask for the topic's updates."""
        if topic not in self.attached:
            self.attached.add(topic)
            self._queue.append(topic)
            self._filled.set()

    def detach(self, topic: str) -> None:
        """Forget the topic, which another poller owns; the poller sends no more of it by itself."""
        self.attached.discard(topic)
        self.seen.discard(topic)

    async def run(self) -> None:
        """Attach topics and note their first updates, until the poller ends the stream."""
        try:
            async with (
                grpc.aio.insecure_channel(self._address, options=OPTIONS) as channel,
                asyncio.TaskGroup() as t,
            ):
                call = feed_pb2_grpc.FeedStub(channel).Subscribe()
                writing = t.create_task(self._write(call))
                async for updates in call:
                    for update in updates.updates:
                        if update.topic in self.attached:
                            self.seen.add(update.topic)
                writing.cancel()
        except* (grpc.aio.AioRpcError, asyncio.InvalidStateError) as ended:
            log.info("link ended", poller=self._address, why=str(ended.exceptions[0]))

    async def _write(self, call: Any) -> None:
        await call.write(feed_pb2.FeedRequest(gateway=self._gateway))
        while True:
            await self._filled.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._filled.clear()
            topics, self._queue = self._queue, []
            await call.write(
                feed_pb2.FeedRequest(
                    attach=[feed_pb2.Attach(topic=topic) for topic in topics if topic in self.attached]
                )
            )


class Gateways:
    """All simulated gateways of this process, with the owners of topics by real pollers."""

    def __init__(self, place: Place, real: list[str], tasks: asyncio.TaskGroup) -> None:
        self.gateways: list[LightGateway] = []
        self.links: dict[tuple[str, str], Link] = {}
        self.owners = KeyWatch(place.etcd[0], place.keys.owners, self._owner_put, self._owner_deleted)
        self._real = set(real)
        self._keys = place.keys
        self._tasks = tasks
        self._owner: dict[str, str] = {}  # topic of a real poller → the poller's address

    def attach_all(self, gateway: LightGateway, topics: list[str]) -> None:
        """Attach those of the topics that a real poller owns."""
        for topic in topics:
            if topic in self._owner:
                self._link(gateway, self._owner[topic]).attach(topic)

    def missing(self) -> int:
        """Return the number of attached topics without any update so far."""
        return sum(len(link.attached) - len(link.seen) for link in self.links.values())

    def _link(self, gateway: LightGateway, address: str) -> Link:
        link = self.links.get((gateway.name, address))
        if link is None:
            link = self.links[gateway.name, address] = Link(gateway.name, address)
            self._tasks.create_task(link.run())
        return link

    def _owner_put(self, key: str, value: bytes, _lease: int, _revision: int) -> None:
        topic = key[len(self._keys.owners) :]
        self._leave(topic)
        record = OwnerRecord.decode(value)
        if record.node in self._real:
            self._owner[topic] = record.grpc
            for gateway in self.gateways:
                if topic in gateway.watched:
                    self._link(gateway, record.grpc).attach(topic)

    def _owner_deleted(self, key: str) -> None:
        self._leave(key[len(self._keys.owners) :])

    def _leave(self, topic: str) -> None:
        address = self._owner.pop(topic, None)
        for gateway in self.gateways if address is not None else ():
            if link := self.links.get((gateway.name, address or "")):
                link.detach(topic)


async def main(order: dict[str, Any]) -> None:
    """Run the gateways that the order names until the standard input ends."""
    place = Place(tuple(order["etcd"]), order["namespace"], order["ttl"], order["catalog"])
    catalog = catalogue.load(Path(place.catalog))
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        crowd = Gateways(place, order["real"], tasks)
        nodes: dict[str, SimulatedNode] = {}

        def touch(name: str, topic: str) -> None:
            nodes[name].reporting.touch(topic)

        for name in order["names"]:
            server = await stack.enter_async_context(served(place, name, None, ""))
            client = await stack.enter_async_context(Etcd.open(place.settings(name)))
            gateway = LightGateway(client, place, name, catalog, partial(touch, name))
            crowd.gateways.append(gateway)
            nodes[name] = SimulatedNode(place, client, server, "gateway", name, [gateway.hold], gateway)

        async def execute(what: dict[str, Any]) -> dict[str, Any]:
            """Carry out an order: `start` registers the gateways, `demand` and `leave` change the demand of each for
            its share of `topics`, `state` only answers."""
            match what["do"]:
                case "start":
                    running.append(tasks.create_task(crowd.owners.run()))
                    running.append(tasks.create_task(listen(place.etcd[0], what["listens"], len(nodes))))
                    await crowd.owners.following.wait()
                    running.extend(tasks.create_task(node.run()) for node in nodes.values())
                case "demand" | "leave":
                    wanted = what["do"] == "demand"

                    async def change(number: int, gateway: LightGateway) -> None:
                        count = len(crowd.gateways)
                        share = [t for t in what["topics"] if int(t.partition("=")[2]) % count == number]
                        await gateway.demand(share, wanted=wanted)
                        if wanted:
                            crowd.attach_all(gateway, share)

                    async with asyncio.TaskGroup() as changes:
                        for number, gateway in enumerate(crowd.gateways):
                            changes.create_task(change(number, gateway))
            lost = sum(node.sessions - 1 for node in nodes.values() if node.sessions)
            attached = sum(len(link.attached) for link in crowd.links.values())
            return {"missing": crowd.missing(), "attached": attached, "lost": lost}

        running: list[asyncio.Task[None]] = []
        await obey(execute)
        for task in running:
            task.cancel()
        raise SystemExit(0)  # links have no end of their own


if __name__ == "__main__":
    logs.configure(level=30)
    uvloop.run(main(orjson.loads(sys.argv[1])))
