"""The gateway: clients on one side, owners on the other, demand in etcd between them.

It starts without etcd and without pollers: clients may join and are told that their topics are stale. It is ready after
the first sync with etcd. SIGTERM drains it: no new clients, `/readyz` says so, sockets are closed with 1012 spread over
DRAIN_SECONDS so that their clients do not come down on the others all at once, then its lease is revoked, which takes
its demand and its presences out of etcd. When it dies without that, its clients reconnect to another gateway, which has
their topics or gets them; its keys go with its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time

from pollcast.gateway.admission import Admission
from pollcast.gateway.closing import drain, start_afresh
from pollcast.gateway.cluster_view import ClusterView
from pollcast.gateway.demand import Demand
from pollcast.gateway.etcd_view import EtcdView, PollerAddresses
from pollcast.gateway.gauges import GatewayGauges
from pollcast.gateway.handshake import Handshake
from pollcast.gateway.http import GatewayApp
from pollcast.gateway.hub import Hub
from pollcast.gateway.identity import Authenticator
from pollcast.gateway.limits import Limits
from pollcast.gateway.live import SERVICE, LiveQuery
from pollcast.gateway.origin import OriginPolicy
from pollcast.gateway.page import Page
from pollcast.gateway.presence import Presences
from pollcast.gateway.presence_keys import PresenceKeys
from pollcast.gateway.report import describe
from pollcast.gateway.sockets import Sockets
from pollcast.gateway.turns import PacedHttp
from pollcast.services.auth.tokens import Verifier
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.failure_detector import FailureDetector
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.metrics import counted_on_scrape
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.node import Node, Readiness
from pollcast.services.coordination.registry import node_record
from pollcast.services.coordination.reporting import Reporting
from pollcast.services.process import logs
from pollcast.services.process.settings import GatewaySettings
from pollcast.services.serving import rpc, web

log = logs.get_logger("gateway")

SWEEP_SECONDS = 0.25

GC_THRESHOLDS = (20_000, 20, 50)


async def run(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """The service, until `stop`. CatalogInvalid, SettingsInvalid, CantListen when it can't start, NodeTaken when the
    name is another's."""
    catalog = catalogue.load(settings.catalog)
    logs.hide_claims_of(catalog)
    authenticator = Authenticator(Verifier.from_settings(settings))
    keys = Keys(settings.namespace)
    with web.bind(settings.http) as listener, contextlib.ExitStack() as scope:
        http = settings.advertised(*web.address_of(listener))
        async with Etcd.open(settings) as etcd:
            demand = Demand(etcd, keys, settings.node)
            members = PresenceKeys(etcd, keys, settings.node)
            presences = Presences(members, time.monotonic)
            failure_detector = FailureDetector(etcd, keys)
            addresses = PollerAddresses(failure_detector)
            hub = Hub(settings, demand, presences, addresses.suspect)
            sockets = Sockets(hub, catalog, Limits.of(settings), authenticator.identify, time.monotonic)
            cluster = ClusterView(Mirror(etcd, keys.nodes(), lambda _: None), settings, catalog, hub.owners)
            view = EtcdView(etcd, keys, hub, cluster, addresses, members.mirror, lambda: start_afresh(hub, sockets))
            readiness = Readiness("gateway", stop, lambda: {"etcd": "reached" if view.healthy else "not reached"})
            admission = Admission(settings.max_connections, lambda: len(sockets))
            app = GatewayApp(
                sockets, authenticator, OriginPolicy.of(settings), admission, readiness, Page.load(), cluster
            ).app()
            scope.enter_context(counted_on_scrape(GatewayGauges(sockets, cluster, presences, members)))
            live = LiveQuery(hub, catalog, authenticator, readiness, presences, admission)
            reporting = Reporting(etcd, keys, settings, lambda: describe(settings.node, catalog, hub))
            async with (
                rpc.serve(settings, [live.add_to], [SERVICE], for_services=False) as server,
                web.serve_app(
                    app,
                    listener,
                    http=PacedHttp,
                    ws=Handshake,
                    ws_max_size=settings.max_frame,
                    ws_ping_interval=None,
                    ws_per_message_deflate=False,
                ),
            ):
                grpc = settings.advertised(server.host, server.port)
                record = node_record("gateway", settings.node, http, grpc)
                parts = [demand.run, members.run]
                node = Node(etcd, keys, record, server, readiness, synced=view.wait_synced, parts=parts)
                drained = asyncio.Event()
                async with asyncio.TaskGroup() as tasks:
                    membership = tasks.create_task(node.run(settings.lease_ttl, drained))
                    forever = [
                        tasks.create_task(work)
                        for work in (
                            view.owners.run(),
                            view.pollers.run(),
                            cluster.nodes.run(),
                            members.follow(presences.apply),
                            presences.run(),
                            hub.feeds.run(),
                            failure_detector.run(),
                            reporting.run(),
                            _sweep(hub, sockets, view, readiness),
                        )
                    ]
                    _settle()
                    log.info("serving", http=http, grpc=grpc, queries=len(catalog.queries))
                    await stop.wait()
                    await node.start_draining()
                    await drain(hub, sockets, presences)
                    drained.set()
                    await membership
                    for task in forever:
                        task.cancel()
    log.info("drained")


def _settle() -> None:
    """What is here now stays: the garbage collector need not look at it again, nor as often as by default at what
    clients and results are made of, which is freed without it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _sweep(hub: Hub, sockets: Sockets, view: EtcdView, readiness: Readiness) -> None:
    while True:
        readiness.synced = readiness.synced or view.synced
        hub.coordination_reached = view.healthy
        hub.sweep(time.monotonic())
        sockets.sweep(time.monotonic(), time.time())
        await asyncio.sleep(SWEEP_SECONDS)
