"""The pokes that a coordinator receives (docs/reference/grpc.md#cluster): it asks the pollers that own the topics.

The owner of a topic is known from its key, and only that poller is asked; for a whole query every poller is. A channel
to a poller is opened by its first poke, and is kept until the poller's entry is gone from etcd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import grpc.aio
from prometheus_client import Counter

from pollcast.coordinator.view import View
from pollcast.services.catalogue.topics import Poke
from pollcast.services.process.addresses import HostPort
from pollcast.services.serving.poke_line import PokeLine, ask
from pollcast.v1 import feed_pb2_grpc

POKES = Counter("pollcast_coordinator_pokes", "Pokes that this coordinator accepted.", ["query"])
LOST_POKES = Counter(
    "pollcast_coordinator_lost_pokes",
    "Pokes that a poller did not answer in time, each counted for each such poller.",
    ["query"],
)

Connect = Callable[[HostPort], grpc.aio.Channel]
"""Function that returns a channel to the service at an address."""


class Pokes:
    """The pokes of one coordinator, which `run` sends."""

    def __init__(self, view: View, connect: Connect) -> None:
        self._view = view
        self._connect = connect
        self._lines: dict[HostPort, PokeLine] = {}
        self._change = asyncio.Event()

    async def poke(self, poke: Poke) -> int:
        """Have the topics polled at once, and return their number. A poller that does not answer counts 0."""
        POKES.labels(poke.query).inc()
        lines = map(self._line, self._pollers(poke))
        return await ask(lines, poke, lambda query: LOST_POKES.labels(query).inc())

    def nodes_changed(self) -> None:
        """Close the channels to the pollers that are gone."""
        self._change.set()

    async def run(self) -> None:
        """Open channels and send pokes until cancelled."""
        tasks: dict[HostPort, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._change.clear()
                present = set(self._addresses())
                for address in self._lines.keys() - present:
                    del self._lines[address]
                for address in tasks.keys() - self._lines.keys():
                    tasks.pop(address).cancel()
                for address in self._lines.keys() - tasks.keys():
                    tasks[address] = group.create_task(self._serve(address, self._lines[address]))
                await self._change.wait()

    async def _serve(self, address: HostPort, line: PokeLine) -> None:
        async with self._connect(address) as channel, line.open(feed_pb2_grpc.FeedStub(channel)):
            await asyncio.get_running_loop().create_future()  # until cancelled

    def _line(self, address: HostPort) -> PokeLine:
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = PokeLine()
            self._change.set()
        return line

    def _pollers(self, poke: Poke) -> Iterable[HostPort]:
        """Return the addresses of the pollers that may own the topics."""
        if poke.whole or poke.any:
            return self._addresses()
        topic = self._view.topics.get(poke.topic)
        node = None if topic is None or topic.owner is None else self._view.nodes.get(("poller", topic.owner.node))
        return () if node is None or not node.record.grpc else (node.record.grpc,)

    def _addresses(self) -> list[HostPort]:
        """Return the addresses of all pollers."""
        nodes = self._view.nodes.items()
        return [view.record.grpc for (role, _), view in nodes if role == "poller" and view.record.grpc]
