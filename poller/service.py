"""The poller: owns topics, polls them, and feeds gateways.

It starts without a database (its topics are stale until there is one) and without etcd (it owns nothing until it has
seen the cluster). It is ready after the first sync with etcd. When it loses its session it has lost its topics, and
starts over with the next. SIGTERM drains it: it claims nothing more, hands its topics to the next in rank, and revokes
its lease, so that no key is left; then its streams end. When it dies without that, others take over when its keys go.
"""

from __future__ import annotations

import asyncio

from pollcast.poller.database import Database, checked_url
from pollcast.poller.feed import SERVICE
from pollcast.poller.ownership import Ownership
from pollcast.poller.polling import Polling
from pollcast.poller.report import describe
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.coordination.drain import DrainRequests
from pollcast.services.coordination.etcd import Etcd
from pollcast.services.coordination.failure_detector import FailureDetector
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.registry import Registration, node_record
from pollcast.services.coordination.reporting import Reporting
from pollcast.services.coordination.session import Session, keep_session
from pollcast.services.process import logs
from pollcast.services.process.settings import PollerSettings
from pollcast.services.serving import rpc
from pollcast.services.serving.web import address_of, bind, serve_app, service_app

log = logs.get_logger("poller")


class Poller:
    """What lives as long as the process; `term` is what lives as long as a session."""

    def __init__(
        self,
        registration: Registration,
        ownership: Ownership,
        polling: Polling,
        server: rpc.RpcServer,
        stop: asyncio.Event,
        drain_requests: DrainRequests,
    ) -> None:
        self.registration = registration
        self.ownership = ownership
        self._polling = polling
        self._server = server
        self._stop = stop
        self._drain_requests = drain_requests
        self._was_ready = False

    async def term(self, session: Session) -> None:
        """Until the session or the poller ends."""
        async with asyncio.TaskGroup() as tasks:
            works = (
                self.registration.run(session),
                self.ownership.run(session),
                self._say_ready(),
                self._drain_requests.run(session),
            )
            running = [tasks.create_task(work) for work in works]
            await self._stop.wait()
            await self._server.set_serving(False)
            await self.registration.announce("draining")
            await self.ownership.drain()
            for task in running:
                task.cancel()

    async def _say_ready(self) -> None:
        await self.registration.registered.wait()
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
        if not self._was_ready:
            return False, {"status": "starting", "reason": "etcd has not been reached yet"}
        etcd = "ok" if self.ownership.healthy else "unreachable"
        return True, {"status": "ready", "etcd": etcd, "topics": self._polling.owned}


async def run(settings: PollerSettings, stop: asyncio.Event) -> None:
    """The service, until `stop`. CatalogInvalid, SettingsInvalid, CantListen when it can't start, NodeTaken when the
    name is another's."""
    catalog = catalogue.load(settings.catalog)
    logs.hide_claims_of(catalog)
    url = checked_url(settings.database_url.get_secret_value())
    keys = Keys(settings.namespace)
    with bind(settings.http) as listener:
        http = settings.advertised(*address_of(listener))
        async with Etcd.open(settings) as etcd, Database.open(url, settings.pool, settings.node) as database:
            failure_detector = FailureDetector(etcd, keys)
            polling = Polling(
                catalog, database, on_gateway_gone=lambda gateway: failure_detector.suspect("gateway", gateway)
            )
            reporting = Reporting(etcd, keys, settings, lambda: describe(settings.node, catalog, polling))
            async with rpc.serve(settings, [polling.feed.add_to], [SERVICE]) as server, asyncio.TaskGroup() as tasks:
                await server.set_serving(False)
                grpc = settings.advertised(server.host, server.port)
                registration = Registration(etcd, keys, node_record("poller", settings.node, http, grpc))
                ownership = Ownership(etcd, keys, settings.node, grpc, polling)
                drain_requests = DrainRequests(etcd, keys, "poller", settings.node, stop)
                poller = Poller(registration, ownership, polling, server, stop, drain_requests)
                works = (polling.run(), failure_detector.run(), reporting.run())
                forever = [tasks.create_task(work) for work in works]
                async with serve_app(service_app(poller.healthz, poller.readyz), listener):
                    log.info("serving", http=http, grpc=grpc, queries=len(catalog.queries))
                    await keep_session(etcd, settings.lease_ttl, poller.term, stop)
                polling.feed.close()
                for task in forever:
                    task.cancel()
    log.info("drained")
