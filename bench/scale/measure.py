"""The measurements of one cluster: from nothing to every topic owned, at rest, per event, and listings."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from bench.scale.cluster import Cluster, Size, Usage
from bench.stage import SOCKET, Stage
from pollcast.v1 import cluster_pb2, cluster_pb2_grpc

START_SECONDS = 120.0
"""Time within which every topic must have an owner and a result, in seconds."""
REST_SECONDS = 10.0
QUIET_SECONDS = 2.0
"""Time without a change of a key after which a cluster is at rest, in seconds."""


@dataclass(frozen=True)
class Phase:
    """The cost of one phase: seconds, CPU seconds by process, etcd's counters, the longest stop of each loop."""

    seconds: float
    cpu: dict[str, float]
    etcd: dict[str, float]
    stops: dict[str, float]

    @property
    def changes(self) -> float:
        """The number of keys that were put or deleted."""
        return self.etcd["puts"] + self.etcd["deletes"]


@dataclass
class Views:
    """The cost of views of the cluster: the coordinator's CPU seconds, and their duration, in seconds."""

    page: tuple[float, float] = (0.0, 0.0)
    """The first PAGE topics: CPU, time."""
    listing: tuple[float, float] = (0.0, 0.0)
    """All topics, page by page: CPU, time."""
    top: float = 0.0
    """CPU per second of a watch of the TOP first topics, beyond that of the coordinator at rest."""
    top_bytes: float = 0.0
    """Bytes per second of that watch."""


NOTHING = Phase(1.0, {}, {"puts": 0.0, "deletes": 0.0}, {})
"""A phase that was not measured."""


@dataclass
class Result:
    """The measurements of a cluster of one size."""

    size: Size
    owned_seconds: float = 0.0
    results_seconds: float = 0.0
    start: Phase = NOTHING
    rest: Phase = NOTHING
    churn: Phase | None = None
    join: Phase | None = None
    kill: Phase | None = None
    joined: list[tuple[float, int, int, int]] = field(default_factory=list)
    """Seconds after a poller joined, its topics, the least and the most topics of a poller."""
    views: Views = field(default_factory=Views)
    killed: tuple[int, float] = (0, 0.0)
    """The topics of a killed poller, and the seconds until all of them have another owner."""
    listings: tuple[float, float] = (0.0, 0.0)
    """Listings of mirrors by all real services, when nothing was wanted yet and in the end."""
    rss: dict[str, int] = field(default_factory=dict)
    empty: dict[str, int] = field(default_factory=dict)
    owned_by: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    watchers: float = 0.0

    def per_change(self, name: str) -> float:
        """Return the CPU of a process per change of a key while topics came and went, in microseconds, beyond what the
        process uses at rest."""
        if self.churn is None or not self.churn.changes:
            return 0.0
        idle = self.rest.cpu[name] / self.rest.seconds * self.churn.seconds
        return 1e6 * (self.churn.cpu[name] - idle) / self.churn.changes


class Meter:
    """A scope's start: `stop` returns the phase since then."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._began = time.monotonic()
        self._stops = cluster.stops()
        self._before = cluster.usage()

    def stop(self) -> Phase:
        """Return what was used since this meter was made."""
        seconds = time.monotonic() - self._began
        after = self._cluster.usage()
        now = self._cluster.stops()
        stops = {name: now[name].since(before) for name, before in self._stops.items() if name in now}
        return Phase(seconds, _less(after, self._before, "cpu"), _less(after, self._before, "etcd"), stops)


def _less(after: Usage, before: Usage, what: str) -> dict[str, float]:
    new, old = getattr(after, what), getattr(before, what)
    return {name: new[name] - old.get(name, 0.0) for name in new}


async def start_up(cluster: Cluster, result: Result) -> None:
    """Want all topics at once, and measure until each has an owner, and a result if its owner is real."""
    size = cluster.size
    meter = Meter(cluster)
    began = time.monotonic()

    async def join(number: int) -> None:
        topics = size.served_by(number)
        port = cluster.services[size.gateways_named(real=True)[number]].port
        await cluster.swarms[number].ask(
            do="connect", n=len(topics), port=port, path=SOCKET, send=Stage.joins(topics), until='"snapshot"',
            concurrency=len(topics), beats=True,
        )  # fmt: skip

    async def owned() -> None:
        await cluster.until(
            lambda: cluster.count(cluster.keys.owners) == size.topics, START_SECONDS, "every topic has an owner"
        )
        result.owned_seconds = time.monotonic() - began

    async def results() -> None:
        for gateway in cluster.gateways:
            await gateway.ask(do="demand", topics=size.others)
        while any([(await gateway.ask(do="state"))["missing"] for gateway in cluster.gateways]):
            assert time.monotonic() - began < START_SECONDS, "not every topic has a result"
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as tasks:
        for number in range(len(cluster.swarms)):
            tasks.create_task(join(number))
        tasks.create_task(owned())
        tasks.create_task(results())
    result.results_seconds = time.monotonic() - began
    result.start = meter.stop()


async def quiet(cluster: Cluster, seconds: float = 60.0) -> None:
    """Wait until no key has changed for QUIET_SECONDS, at most `seconds`."""
    ends = time.monotonic() + seconds
    before = cluster.etcd_metrics()
    while time.monotonic() < ends:
        await asyncio.sleep(QUIET_SECONDS)
        after = cluster.etcd_metrics()
        if after["puts"] + after["deletes"] == before["puts"] + before["deletes"]:
            return
        before = after


async def rest(cluster: Cluster, result: Result, seconds: float = REST_SECONDS) -> None:
    """Measure the cluster for some seconds while nothing happens but polls."""
    await quiet(cluster)
    meter = Meter(cluster)
    await asyncio.sleep(seconds)
    result.rest = meter.stop()
    result.rss, result.empty = cluster.rss(), cluster.empty
    result.owned_by = cluster.owned_by()
    result.watchers = cluster.etcd_metrics()["watchers"]


async def churn(cluster: Cluster, result: Result) -> None:
    """Let topics go whose demand is simulated, and come back: four changes of keys for each topic."""
    if not cluster.gateways or cluster.size.kind == "idle":  # which release nothing
        return
    size = cluster.size
    some = size.others[-min(1000, max(1, len(size.others) // 4)) :]
    meter = Meter(cluster)
    await cluster.gateways[0].ask(do="leave", topics=some)
    left = size.topics - len(some)
    await cluster.until(lambda: cluster.count(cluster.keys.owners) == left, 60.0, "topics without demand are released")
    await cluster.gateways[0].ask(do="demand", topics=some)
    await cluster.until(lambda: cluster.count(cluster.keys.owners) == size.topics, 60.0, "the topics are owned again")
    await quiet(cluster)
    result.churn = meter.stop()


PAGE = 1000
TOP = 20
TOP_SECONDS = 5.0


async def view(cluster: Cluster, result: Result) -> None:
    """List the topics as `pollcast topics` does, and watch them as `pollcast top` and the page do."""
    coordinator = cluster.services["coordinator-1"].process
    async with grpc.aio.insecure_channel(cluster.address_of("coordinator", "coordinator-1")) as channel:
        stub = cluster_pb2_grpc.ClusterStub(channel)
        began, used = time.monotonic(), coordinator.cpu
        token, listed = "", 0
        while True:
            page = await stub.ListTopics(cluster_pb2.ListTopicsRequest(page_size=PAGE, page_token=token))
            listed += len(page.topics)
            if not token:
                result.views.page = coordinator.cpu - used, time.monotonic() - began
            if not (token := page.next_page_token):
                break
        result.views.listing = coordinator.cpu - used, time.monotonic() - began
        assert listed == cluster.size.topics, f"{listed} topics are listed"
        used, received = coordinator.cpu, 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOP_SECONDS):
                async for event in stub.WatchCluster(cluster_pb2.WatchClusterRequest(top=TOP)):
                    received += event.ByteSize()
        idle = result.rest.cpu["coordinator-1"] / result.rest.seconds
        result.views.top = (coordinator.cpu - used) / TOP_SECONDS - idle
        result.views.top_bytes = received / TOP_SECONDS


JOIN_SECONDS = 15.0
"""Time for which the loads are observed after a poller has joined, in seconds."""


async def join(cluster: Cluster, result: Result) -> None:
    """Let a real poller join, and note the loads every second: its own, the least and the most of all."""
    name = f"poller-{cluster.size.pollers + 1}"
    nodes = cluster.ready_nodes()
    await cluster.start("poller", name)
    await cluster.until(lambda: cluster.ready_nodes() == nodes + 1, 30.0, f"{name} is ready")
    began = time.monotonic()
    meter = Meter(cluster)
    while (seconds := time.monotonic() - began) < JOIN_SECONDS:
        loads = await asyncio.to_thread(cluster.owned_by)
        every = [loads.get(f"poller-{n}", 0) for n in range(1, cluster.size.pollers + 2)]
        result.joined.append((seconds, loads.get(name, 0), min(every), max(every)))
        await asyncio.sleep(1.0)
    result.join = meter.stop()


async def kill(cluster: Cluster, result: Result) -> None:
    """Kill the first real poller, and measure until its topics have other owners."""
    victim = cluster.services.pop("poller-1")
    await asyncio.sleep(2.0)
    mine = cluster.owned_by().get("poller-1", 0)
    meter = Meter(cluster)
    began = time.monotonic()
    victim.process.process.kill()

    def taken() -> bool:
        gone = not cluster.is_registered("poller", "poller-1")
        return gone and cluster.count(cluster.keys.owners) == cluster.size.topics

    await cluster.until(taken, 60.0, "the topics of the killed poller are owned again", pause=0.01)
    result.killed = mine, time.monotonic() - began
    result.kill = meter.stop()


async def empty(cluster: Cluster) -> None:
    """Let all clients leave, and wait until nothing is left of the topics."""
    for clients in cluster.swarms:
        await clients.ask(do="drop")
    for gateway in cluster.gateways:
        await gateway.ask(do="leave", topics=cluster.size.others)
    await cluster.until(
        lambda: not cluster.count(cluster.keys.owners) and not cluster.count(cluster.keys.demands()),
        60.0,
        "no topic is left",
    )


def listings(cluster: Cluster) -> float:
    """Return the number of listings of mirrors by all real services so far."""
    return sum(service.metrics()["pollcast_mirror_listings_total"] for service in cluster.services.values())


async def measure(
    cluster: Cluster, *, joins: bool = False, kills: bool = False, rest_seconds: float = REST_SECONDS
) -> Result:
    """Take all measurements, one after the other. With `joins`, a poller joins at last; with `kills`, one dies."""
    result = Result(cluster.size)
    before = listings(cluster)
    await start_up(cluster, result)
    await rest(cluster, result, rest_seconds)
    await view(cluster, result)
    await churn(cluster, result)
    result.listings = before, listings(cluster)
    if joins:
        await join(cluster, result)
    if kills:
        await kill(cluster, result)
    result.lost = await cluster.sessions_lost()
    return result


def as_dict(result: Result) -> dict[str, Any]:
    """Return the measurements for people who want all of them."""
    phases = {name: vars(phase) for name in ("start", "rest", "churn") if (phase := getattr(result, name)) is not None}
    return vars(result) | phases
