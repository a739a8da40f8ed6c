"""The gateway service: clients on one side, owners of topics on the other, and demand in etcd between them.

A gateway starts without etcd and without pollers: clients may join, and their topics are reported as stale. It is ready
after the first sync with etcd. SIGTERM drains it: `/readyz` reports it, and once load balancers have had the time to
notice (gateway/departure.py), it takes no new clients, and its sockets are closed with 1012, spread over time so that
their clients do not reach the other gateways all at once; then its lease is revoked, which removes its demand and its
presences from etcd (docs/reference/channels.md#draining). When a gateway dies without draining, its keys expire with
its lease, and its clients reconnect to another gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

from pollcast.gateway.admission import Admission
from pollcast.gateway.closing import drain, start_afresh
from pollcast.gateway.cluster_overview import ClusterOverview
from pollcast.gateway.demand import Demand
from pollcast.gateway.departure import Departure
from pollcast.gateway.door import Doorkeeper
from pollcast.gateway.entrance import Entrance
from pollcast.gateway.etcd_view import EtcdView, PollerAddresses
from pollcast.gateway.event_stream import EventStreams
from pollcast.gateway.gauges import GatewayGauges
from pollcast.gateway.http import GatewayApp
from pollcast.gateway.hub import Hub
from pollcast.gateway.identity import Authenticator
from pollcast.gateway.limits import Limits
from pollcast.gateway.live import SERVICE, LiveQuery
from pollcast.gateway.longpoll import PATH as LONGPOLL_PATH
from pollcast.gateway.longpoll import LongPoll
from pollcast.gateway.longpoll_sessions import LongPollSessions
from pollcast.gateway.longpoll_text import owner_name
from pollcast.gateway.longpoll_workers import WorkerSessions
from pollcast.gateway.offload import Thread
from pollcast.gateway.origin import OriginPolicy
from pollcast.gateway.page import Page
from pollcast.gateway.pokes import Pokes
from pollcast.gateway.prefix import paths_of
from pollcast.gateway.presence import Presences
from pollcast.gateway.presence_keys import PresenceKeys
from pollcast.gateway.renewal import Renewal
from pollcast.gateway.report import GatewayReport
from pollcast.gateway.sockets import SWEEPS, Sockets
from pollcast.gateway.worker_metrics import WorkerMetrics
from pollcast.services.auth.tokens import Verifier
from pollcast.services.catalogue.definitions import Difference
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.failure_detector import FailureDetector
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.metrics import counted_on_scrape
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.node import Node, Readiness
from pollcast.services.coordination.registry import node_record
from pollcast.services.coordination.reporting import Reporting
from pollcast.services.process import descriptors, garbage, logs
from pollcast.services.process.catalogue_file import CatalogueFile
from pollcast.services.process.delay import Delay
from pollcast.services.process.memory import HeapTrimmer
from pollcast.services.process.settings import GatewaySettings
from pollcast.services.serving import rpc, web

log = logs.get_logger("gateway")

SOCKET_PATH = "/socket/websocket"
"""The path of a gateway's WebSockets."""

SWEEP_SECONDS = 1 / SWEEPS
"""Interval between two sweeps over topics and sockets, in seconds."""


class Core:
    """The parts of a gateway that do not depend on its servers: topics, clients, and their view of etcd."""

    def __init__(
        self,
        settings: GatewaySettings,
        catalogue: CatalogueInForce,
        etcd: Etcd,
        keys: Keys,
        authenticator: Authenticator,
    ) -> None:
        self._catalogue = catalogue
        self.demand = Demand(etcd, keys, settings.node)
        self.members = PresenceKeys(etcd, keys, settings.node)
        self.presences = Presences(self.members, time.monotonic)
        self.failure_detector = FailureDetector(etcd, keys)
        addresses = PollerAddresses(self.failure_detector)
        self.hub = Hub(
            settings,
            self.demand,
            self.presences,
            addresses.suspect,
            Thread(),
            self._on_touched,
            self._on_kept,
            catalogue.definition,
        )
        self.sockets = Sockets(self.hub, catalogue, Limits.of(settings), authenticator.identify, time.monotonic)
        self.polled = LongPollSessions(self.sockets, settings.max_frame, owner_name(settings.node))
        self.streams = EventStreams(self.hub)
        self.cluster = ClusterOverview(Mirror(etcd, keys.nodes(), lambda _: None), settings, catalogue)
        self.view = EtcdView(
            etcd, keys, self.hub, self.cluster, addresses, self.members.mirror, self._start_afresh, catalogue
        )
        self._reporting = Reporting(etcd, keys, settings, GatewayReport(settings.node, catalogue, self.hub))
        self._renewal = Renewal(self.hub, self.sockets, self.presences)

    def works(self, readiness: Readiness) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return the coroutines that run until the gateway has drained, with and without a session."""
        return (
            self.view.owners.run(),
            self.view.pollers.run(),
            self.view.catalogues.run(),
            self.cluster.nodes.run(),
            self.members.follow(self.presences.apply),
            self.presences.run(),
            self.hub.feeds.run(),
            self.failure_detector.run(),
            self._reporting.run(),
            self._sweep(readiness),
        )

    async def take(self, difference: Difference) -> None:
        """Adapt to the catalogue that has just come into force, which differs so from the one before."""
        self.view.compare_catalogues()
        await self._renewal(self._catalogue.catalog, difference)

    def _on_touched(self, topic: str) -> None:
        self._reporting.touch(topic)

    def _on_kept(self, topic: str, kept: bool) -> None:
        self.view.on_kept(topic, kept)

    def _start_afresh(self) -> None:
        start_afresh(self.hub, self.sockets)

    async def _sweep(self, readiness: Readiness) -> None:
        trimmer = HeapTrimmer()
        while True:
            readiness.synced = readiness.synced or self.view.synced
            self.hub.coordination_reached = self.view.healthy
            self.hub.sweep(time.monotonic())
            self.sockets.sweep(time.monotonic(), time.time())
            self.polled.sweep()
            self.streams.sweep(time.monotonic())
            trimmer.sweep(self.hub.retained.forgotten_bytes, time.monotonic())
            await asyncio.sleep(SWEEP_SECONDS)


async def run(
    settings: GatewaySettings,
    stop: asyncio.Event,
    worker_folder: Path | None = None,
    *,
    local_pages: bool = False,
    hangup: asyncio.Event | None = None,
    delay: Delay | None = None,
) -> None:
    """Run a gateway until `stop` is set, then drain it.

    `worker_folder` makes it one of several workers that share the HTTP address and this folder. `local_pages` allows
    the pages of every port of this machine. `hangup` asks to read the catalogue again, and
    `delay` is the one before the drain.
    Raises CatalogInvalid, SettingsInvalid or CantListen when it cannot start, and NodeTaken when another live node has
    its name.
    """
    file = CatalogueFile(settings.catalog, hangup, watched=settings.catalog_reload == "on")
    catalogue = file.load()
    authenticator = Authenticator(Verifier.from_settings(settings))
    keys = Keys(settings.namespace)
    with web.bind(settings.http, shared=worker_folder is not None) as listener:
        http = settings.advertised(*web.address_of(listener))
        async with Etcd.open(settings) as etcd:
            core = Core(settings, catalogue, etcd, keys, authenticator)
            readiness = Readiness("gateway", stop, lambda: {"etcd": "reached" if core.view.healthy else "not reached"})
            departure = Departure(settings.drain_delay, stop, time.monotonic, delay)
            shared = Shared.of(worker_folder, settings.node, core.polled)
            front = Front(settings, catalogue, core, authenticator, readiness, departure, shared, local_pages)
            async with front.serving(listener) as server:
                grpc = settings.advertised(server.host, server.port)
                node = Node(
                    etcd,
                    keys,
                    node_record("gateway", settings.node, http, grpc, catalogue.hash),
                    server,
                    readiness,
                    synced=core.view.wait_synced,
                    parts=[core.demand.run, core.members.run],
                    definitions=catalogue.definitions,
                )
                garbage.tune()
                log.info("serving", http=http, grpc=grpc, queries=len(catalogue.catalog.queries))

                async def take(difference: Difference) -> None:
                    node.set_catalogue(catalogue)
                    await core.take(difference)

                works = (*core.works(readiness), file.follow(catalogue, take))
                await _run_until_drained(core, node, works, settings.lease_ttl, stop, departure, server)
    log.info("drained")


class Shared(NamedTuple):
    """The things that the workers of a gateway offer each other. A gateway without workers offers nothing."""

    metrics: WorkerMetrics | None = None
    sessions: WorkerSessions | None = None

    @classmethod
    def of(cls, folder: Path | None, node: str, polled: LongPollSessions) -> Self:
        """Return what the worker of this name offers in the shared folder, if there is one."""
        return cls() if folder is None else cls(WorkerMetrics(folder, node), WorkerSessions(folder, polled))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Offer it inside the scope."""
        async with contextlib.AsyncExitStack() as stack:
            for each in (self.metrics, self.sessions):
                if each is not None:
                    await stack.enter_async_context(each.serving())
            yield


class Front:
    """The servers of a gateway: HTTP, with a door of its own for the handshakes of sockets, and gRPC."""

    def __init__(
        self,
        settings: GatewaySettings,
        catalogue: CatalogueInForce,
        core: Core,
        authenticator: Authenticator,
        readiness: Readiness,
        departure: Departure,
        shared: Shared,
        local_pages: bool,
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._room = room = _room(settings)
        admission = Admission(room.clients, lambda: len(core.sockets))
        origins = OriginPolicy.of(settings, local=local_pages)
        entrance = Entrance(core.sockets, authenticator, origins, admission, departure)
        prefix = settings.path_prefix
        streamed = paths_of(LONGPOLL_PATH, prefix)
        self._door = Doorkeeper(paths_of(SOCKET_PATH, prefix), entrance.admit, settings.max_frame, streamed)
        pokes = Pokes(core.hub, catalogue, settings.poke_roles)
        self._app = GatewayApp(
            core.sockets,
            core.streams,
            authenticator,
            origins,
            admission,
            readiness,
            departure,
            Page.load(),
            core.cluster,
            pokes,
            LongPoll(entrance, core.polled, settings.max_frame, shared.sessions),
            shared.metrics,
        ).app(prefix)
        self._live = LiveQuery(core.hub, catalogue, authenticator, departure, core.presences, admission, pokes)
        self._gauges = GatewayGauges(core.sockets, core.cluster, core.presences, core.members)

    @contextlib.asynccontextmanager
    async def serving(self, listener: socket.socket) -> AsyncIterator[rpc.RpcServer]:
        """Serve inside the scope, HTTP on this listener; provide the server of gRPC."""
        live, room = self._live, self._room
        with counted_on_scrape(self._gauges):
            async with (
                self._shared.serving(),
                rpc.serve(self._settings, [live.add_to], [SERVICE], for_services=False, capacity=room.grpc) as server,
                web.serve_app(self._app, listener, self._door, room.connections),
            ):
                yield server


def _room(settings: GatewaySettings) -> descriptors.Room:
    """Return how many clients and connections this gateway can hold."""
    files = descriptors.limit()
    room = descriptors.room(files, settings.max_connections)
    if room.clients < settings.max_connections:
        log.warning(
            "the limit of open files allows fewer clients than POLLCAST_MAX_CONNECTIONS",
            clients=room.clients,
            wanted=settings.max_connections,
            open_files=files,
        )
    return room


async def _run_until_drained(
    core: Core,
    node: Node,
    works: Iterable[Coroutine[Any, Any, None]],
    lease_ttl: float,
    stop: asyncio.Event,
    departure: Departure,
    server: rpc.RpcServer,
) -> None:
    """Run the node and the works until `stop` and `departure`; then close all clients, and only after that give the
    lease back."""
    drained = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        membership = tasks.create_task(node.run(lease_ttl, drained))
        running = [tasks.create_task(work) for work in works]
        await stop.wait()
        await node.start_draining()
        await departure.wait()
        async with server.refusing():
            await drain(core.hub, core.sockets, core.presences)
        drained.set()
        await membership
        for task in running:
            task.cancel()
