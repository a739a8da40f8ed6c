"""The clients of the soak: residents that stay from the beginning to the end, and guests that come and go.

A resident always returns to its own gateway, so that two measurements see the same clients in the same place. Guests
connect to any gateway, join shared topics and ones that never come again, read at full speed or not at all, and leave
or die.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from bench.clients.calls import GrpcClient
from bench.clients.events import EventSourceClient
from bench.clients.phoenix import PhoenixClient
from bench.clients.polling import JsonClient
from bench.clients.record import Address, LiveClient
from bench.soak.cluster import SoakCluster
from bench.soak.shop import Topics

STAY_SECONDS = (0.2, 12.0)
"""Shortest and longest stay of a guest."""

SOCKET_TOPICS = 90
"""Number of topics of a guest of the flood: a gateway allows a socket 100."""

FLOOD_SECONDS = 1.5
"""Time that a guest of the flood stays, in seconds: its topics are polled once a second."""

BETWEEN_SECONDS = (0.1, 3.0)
"""Shortest and longest time until the next guest takes the place of one that has left."""


def residents(cluster: SoakCluster) -> list[LiveClient]:
    """Return clients of all protocols for every shared topic, spread evenly over the gateways; they are not started."""
    gateways = sorted(cluster.http)
    clients: list[LiveClient] = []
    topics = list(Topics.all_shared())
    for number, topic in enumerate(topics):
        http, grpc = fixed(cluster, gateways[number % len(gateways)])
        presence = {"key": f"resident-{number}"} if topic == "room" else None
        clients.append(PhoenixClient(http, [topic, topics[number - 1]] if presence is None else [topic], presence))
        other_http, other_grpc = fixed(cluster, gateways[(number + 1) % len(gateways)])
        clients.append(EventSourceClient(other_http, topic))
        clients.append(JsonClient(http, topic))
        clients.append(GrpcClient(other_grpc if number % 3 else grpc, topic))
    return clients


def fixed(cluster: SoakCluster, gateway: str) -> tuple[Address, Address]:
    """Return the addresses of a gateway's HTTP and gRPC."""
    return lambda: cluster.http[gateway], lambda: cluster.grpc[gateway]


class Guests:
    """The places that guests take, and the sums of what happened to them."""

    def __init__(self, cluster: SoakCluster, places: int, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.faults: list[str] = []  # violations, and reasons for which guests ended for good
        self._cluster = cluster
        self._places = places
        self._rng = rng
        self._topics = Topics(rng)

    async def come_and_go(self, stop: asyncio.Event) -> None:
        """Fill the places with guests until `stop` is set; all of them have left on return."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._places):
                tasks.create_task(self._place(stop))

    async def flood(self, topics: int) -> None:
        """Let a few guests, one after the other, join this number of topics that never come again."""
        for _ in range(topics // SOCKET_TOPICS):
            guest = PhoenixClient(self._any(self._cluster.http), [self._topics.fresh() for _ in range(SOCKET_TOPICS)])
            guest.start()
            await asyncio.sleep(FLOOD_SECONDS)
            guest.stop()
            self._count(guest, "flood")

    async def _place(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            guest, kind = self._guest()
            slow = self._rng.random() < 0.1
            abruptly = self._rng.random() < 0.4
            guest.start()
            stay = self._rng.uniform(*STAY_SECONDS)
            if slow:
                await _pause(stop, stay / 4)
                guest.pause()
            await _pause(stop, stay)
            guest.stop(abruptly=abruptly)
            self._count(guest, f"{kind}{', slow' if slow else ''}{', died' if abruptly else ''}")
            await _pause(stop, self._rng.uniform(*BETWEEN_SECONDS))

    def _guest(self) -> tuple[LiveClient, str]:
        http, grpc = self._any(self._cluster.http), self._any(self._cluster.grpc)
        makes: list[Callable[[], LiveClient]] = [
            lambda: PhoenixClient(http, self._topics.some(self._rng.randint(1, 8))),
            lambda: PhoenixClient(http, ["room"], {"key": f"guest-{self._rng.randrange(50)}"}),
            lambda: EventSourceClient(http, self._topics.some(1)[0]),
            lambda: JsonClient(http, self._topics.some(1)[0]),
            lambda: GrpcClient(grpc, self._topics.some(1)[0]),
        ]
        guest = self._rng.choice(makes)()
        return guest, guest.record.kind

    def _any(self, addresses: dict[str, tuple[str, int]]) -> Address:
        return lambda: self._rng.choice(sorted(addresses.values()))

    def _count(self, guest: LiveClient, what: str) -> None:
        record = guest.record
        self.counts[what] += 1
        self.refusals += record.refusals
        self.faults += record.violations
        if record.ended:
            self.faults.append(record.ended)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for some time, at most until `stop`."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
