"""The coordinator: registers, takes part in the election, serves Cluster and Report, and as the leader audits.

Any number of coordinators may run; one leads. Data never passes through a coordinator: when all of them are gone,
gateways and pollers go on as before. When it is stopped it reports that it drains, then revokes its lease.
"""

from __future__ import annotations

import asyncio
import contextlib

import prometheus_client

from pollcast.coordinator.auditor import Auditor
from pollcast.coordinator.cluster import SERVICES, ClusterService
from pollcast.coordinator.election import Election
from pollcast.coordinator.gauges import gauges
from pollcast.services.catalogue.definitions import Difference
from pollcast.services.coordination import metrics
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.node import Node, Readiness, healthz
from pollcast.services.coordination.registry import node_record
from pollcast.services.process import garbage, logs
from pollcast.services.process.catalogue_file import CatalogueFile
from pollcast.services.process.settings import CoordinatorSettings
from pollcast.services.serving import rpc
from pollcast.services.serving.web import address_of, bind, serve_app, service_app

log = logs.get_logger("coordinator")

LEADING = prometheus_client.Gauge("pollcast_coordinator_leading", "1 while this coordinator is the leader, else 0.")


async def run(settings: CoordinatorSettings, stop: asyncio.Event, hangup: asyncio.Event | None = None) -> None:
    """Serve until `stop` is set; `hangup` asks to read the catalogue again, if there is one. Raises CatalogInvalid,
    CantListen when an address is taken, and NodeTaken when another live node has the name."""
    file = in_force = None
    if settings.catalog is not None:
        file = CatalogueFile(settings.catalog, hangup, watched=settings.catalog_reload == "on")
        in_force = file.load()
    keys = Keys(settings.namespace)
    with bind(settings.http) as listener, contextlib.ExitStack() as scope:
        http = settings.advertised(*address_of(listener))
        async with Etcd.open(settings) as etcd:
            cluster = ClusterService(etcd, keys, in_force, lambda address: rpc.channel(address, settings))
            scope.enter_context(metrics.counted_on_scrape(lambda: gauges(cluster.view)))
            async with rpc.serve(settings, [cluster.add_to], SERVICES) as server, asyncio.TaskGroup() as tasks:
                await server.set_serving(False)
                grpc = settings.advertised(server.host, server.port)
                record = node_record("coordinator", settings.node, http, grpc, in_force.hash if in_force else None)
                election = Election(etcd, keys, settings.node)
                LEADING.set_function(lambda: float(election.leading))

                def describe() -> dict[str, object]:
                    reachable = node.session is not None and node.session.reachable
                    return {"etcd": "ok" if reachable else "unreachable", "leading": election.leading}

                readiness = Readiness("coordinator", stop, describe)
                synced = cluster.mirror.synced.wait
                node = Node(etcd, keys, record, server, readiness, synced=synced, parts=[election.run])
                auditor = Auditor(etcd, cluster.view, cluster.mirror, lambda: election.leading)
                forever = [tasks.create_task(work) for work in (cluster.run(), auditor.run())]
                if file is not None and in_force is not None:
                    present = in_force

                    async def show_catalogue(_: Difference) -> None:
                        node.registration.set_catalogue(present.hash)

                    forever.append(tasks.create_task(file.follow(present, show_catalogue)))
                garbage.tune()
                async with serve_app(service_app(healthz, readiness.answer), listener):
                    await node.run(settings.lease_ttl, stop, node.start_draining)
                cluster.close()
                for task in forever:
                    task.cancel()
    log.info("ended")
