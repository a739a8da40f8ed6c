"""The coordinator: registers, stands for leader, shows and steers the cluster (Cluster), and as the leader audits it.

Any number may run; one leads. It is not needed for anything to flow: when all coordinators are gone, gateways and
pollers see nothing of it. On `stop` it says that it drains, and its keys go with its session.
"""

from __future__ import annotations

import asyncio
import contextlib

import prometheus_client

from pollcast.coordinator.auditor import Auditor
from pollcast.coordinator.cluster import SERVICES, ClusterService
from pollcast.coordinator.election import Election
from pollcast.coordinator.gauges import gauges
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.coordination import metrics
from pollcast.services.coordination.drain import DrainRequests
from pollcast.services.coordination.etcd import Etcd
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.registry import Registration, node_record
from pollcast.services.coordination.session import Session, keep_session
from pollcast.services.process import logs
from pollcast.services.process.settings import CoordinatorSettings
from pollcast.services.serving import rpc
from pollcast.services.serving.web import address_of, bind, serve_app, service_app

log = logs.get_logger("coordinator")

LEADING = prometheus_client.Gauge("pollcast_coordinator_leading", "1 while this coordinator is the leader.")


class Coordinator:
    """What lives as long as the process; `term` is what lives as long as a session."""

    def __init__(
        self,
        registration: Registration,
        election: Election,
        cluster: ClusterService,
        server: rpc.RpcServer,
        stop: asyncio.Event,
        drain_requests: DrainRequests,
    ) -> None:
        self.registration = registration
        self.election = election
        self._cluster = cluster
        self._server = server
        self._stop = stop
        self._drain_requests = drain_requests
        self._session: Session | None = None  # the last one
        self._was_ready = False
        LEADING.set_function(lambda: float(election.leading))

    async def term(self, session: Session) -> None:
        self._session = session
        async with asyncio.TaskGroup() as tasks:
            parts = (
                self.registration.run(session),
                self.election.run(session),
                self._say_ready(),
                self._drain_requests.run(session),
            )
            running = [tasks.create_task(part) for part in parts]
            await self._stop.wait()
            await self._server.set_serving(False)
            await self.registration.announce("draining")
            for task in running:
                task.cancel()

    async def _say_ready(self) -> None:
        await self.registration.registered.wait()
        await self._cluster.mirror.synced.wait()
        await self._server.set_serving(True)
        self.registration.set_state("ready")
        if not self._was_ready:
            log.info("ready", node=self.registration.record.node)
        self._was_ready = True

    def healthz(self) -> tuple[bool, dict[str, object]]:
        return True, {"status": "ok"}

    def readyz(self) -> tuple[bool, dict[str, object]]:
        """Ready once etcd was seen; a later outage is told, and does not make unready."""
        if self._stop.is_set():
            return False, {"status": "draining", "reason": "this node is shutting down"}
        if not self._was_ready or self._session is None:
            return False, {"status": "starting", "reason": "etcd has not been reached yet"}
        etcd = "ok" if self._session.reachable else "unreachable"
        return True, {"status": "ready", "etcd": etcd, "leading": self.election.leading}


async def run(settings: CoordinatorSettings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set. CatalogInvalid, CantListen when an address is taken, NodeTaken when the name is."""
    catalog = catalogue.load(settings.catalog) if settings.catalog is not None else None
    if catalog is not None:
        logs.hide_claims_of(catalog)
    keys = Keys(settings.namespace)
    with bind(settings.http) as listener, contextlib.ExitStack() as scope:
        http = settings.advertised(*address_of(listener))
        async with Etcd.open(settings) as etcd:
            cluster = ClusterService(etcd, keys, catalog)
            scope.enter_context(metrics.counted_on_scrape(lambda: gauges(cluster.view)))
            async with rpc.serve(settings, [cluster.add_to], SERVICES) as server, asyncio.TaskGroup() as tasks:
                await server.set_serving(False)
                grpc = settings.advertised(server.host, server.port)
                registration = Registration(etcd, keys, node_record("coordinator", settings.node, http, grpc))
                election = Election(etcd, keys, settings.node)
                drain_requests = DrainRequests(etcd, keys, "coordinator", settings.node, stop)
                coordinator = Coordinator(registration, election, cluster, server, stop, drain_requests)
                auditor = Auditor(etcd, cluster.view, cluster.mirror, lambda: election.leading)
                forever = [tasks.create_task(work) for work in (cluster.run(), auditor.run())]
                async with serve_app(service_app(coordinator.healthz, coordinator.readyz), listener):
                    await keep_session(etcd, settings.lease_ttl, coordinator.term, stop)
                cluster.close()
                for task in forever:
                    task.cancel()
    log.info("ended")
