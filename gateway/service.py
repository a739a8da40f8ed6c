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
from pollcast.gateway.channels import Context
from pollcast.gateway.cluster_view import ClusterView
from pollcast.gateway.demand import Demand
from pollcast.gateway.gauges import GatewayGauges
from pollcast.gateway.http import GatewayApp
from pollcast.gateway.hub import Hub, Owner
from pollcast.gateway.identity import Authenticator
from pollcast.gateway.limits import Limits
from pollcast.gateway.live import SERVICE, LiveQuery
from pollcast.gateway.origin import OriginPolicy
from pollcast.gateway.page import Page
from pollcast.gateway.presence import HOLD_SECONDS, Presences
from pollcast.gateway.presence_keys import PresenceKeys
from pollcast.gateway.readiness import Readiness
from pollcast.gateway.report import describe
from pollcast.gateway.turns import PacedHttp
from pollcast.gateway.wire import FrameProtocol
from pollcast.services.auth.tokens import Verifier
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.coordination.drain import DrainRequests
from pollcast.services.coordination.etcd import Etcd, KeyEvent
from pollcast.services.coordination.failure_detector import FailureDetector
from pollcast.services.coordination.keys import Foreign, Keys, NodeRecord, OwnerRecord
from pollcast.services.coordination.metrics import counted_on_scrape
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.registry import Registration, node_record
from pollcast.services.coordination.reporting import Reporting
from pollcast.services.coordination.session import Session, keep_session
from pollcast.services.process import logs
from pollcast.services.process.settings import GatewaySettings, HostPort
from pollcast.services.serving import rpc, web

log = logs.get_logger("gateway")

DRAIN_SECONDS = 3.0
"""The sockets of a gateway that drains are closed spread over at most this time."""

DRAIN_STEPS = 100

GONE_SECONDS = 2.0
"""How long clients may take to answer the close."""

SWEEP_SECONDS = 0.25

SERVICE_RESTART = 1012

GC_THRESHOLDS = (20_000, 20, 50)


async def run(settings: GatewaySettings, stop: asyncio.Event) -> None:
    """The service, until `stop`. CatalogInvalid, SettingsInvalid, CantListen when it can't start, NodeTaken when the
    name is another's."""
    catalog = catalogue.load(settings.catalog)
    logs.hide_claims_of(catalog)
    authenticator = Authenticator(Verifier.from_settings(settings))
    keys = Keys(settings.namespace)
    readiness = Readiness()
    with web.bind(settings.http) as listener, contextlib.ExitStack() as scope:
        http = settings.advertised(*web.address_of(listener))
        async with Etcd.open(settings) as etcd:
            demand = Demand(etcd, keys, settings.node)
            members = PresenceKeys(etcd, keys, settings.node)
            presences = Presences(members, time.monotonic)
            members.on_changes(presences.take)
            hub = Hub(settings, demand, presences)
            context = Context(hub, catalog, Limits.of(settings), authenticator.identify, time.monotonic)
            failure_detector = FailureDetector(etcd, keys)
            view = EtcdView(etcd, keys, hub, context, failure_detector, members)
            cluster = ClusterView(Mirror(etcd, keys.nodes(), lambda _: None), settings, catalog, hub.owners)
            hub.on_owned = cluster.owned
            admission = Admission(settings.max_connections, lambda: len(context.sockets))
            app = GatewayApp(
                context, authenticator, OriginPolicy.of(settings), admission, readiness, Page.load(), cluster
            ).app()
            scope.enter_context(counted_on_scrape(GatewayGauges(context, cluster, presences, members)))
            live = LiveQuery(hub, catalog, authenticator, readiness, presences, admission)
            reporting = Reporting(etcd, keys, settings, lambda: describe(settings.node, catalog, hub))
            async with (
                rpc.serve(settings, [live.add_to], [SERVICE], for_services=False) as server,
                web.serve_app(
                    app,
                    listener,
                    http=PacedHttp,
                    ws=FrameProtocol,
                    ws_max_size=settings.max_frame,
                    ws_ping_interval=None,
                    ws_per_message_deflate=False,
                ),
            ):
                grpc = settings.advertised(server.host, server.port)
                record = node_record("gateway", settings.node, http, grpc)
                drained = asyncio.Event()
                drain_requests = DrainRequests(etcd, keys, "gateway", settings.node, stop)
                leased = LeasedWork(Registration(etcd, keys, record), demand, members, view, drain_requests, drained)
                async with asyncio.TaskGroup() as tasks:
                    membership = tasks.create_task(keep_session(etcd, settings.lease_ttl, leased.term, drained))
                    forever = [
                        tasks.create_task(work)
                        for work in (
                            view.owners.run(),
                            view.pollers.run(),
                            cluster.nodes.run(),
                            members.follow(),
                            presences.run(),
                            hub.feeds.run(),
                            failure_detector.run(),
                            reporting.run(),
                            _sweep(hub, context, view, readiness),
                        )
                    ]
                    _settle()
                    log.info("serving", http=http, grpc=grpc, queries=len(catalog.queries))
                    await stop.wait()
                    readiness.draining = True
                    await server.set_serving(False)
                    await leased.registration.announce("draining")
                    await _send_away(hub, context, presences)
                    drained.set()
                    await membership
                    for task in forever:
                        task.cancel()
    log.info("drained")


class LeasedWork:
    """What hangs on the session: the node's entry, the demand and the presences."""

    def __init__(
        self,
        registration: Registration,
        demand: Demand,
        members: PresenceKeys,
        view: EtcdView,
        drain_requests: DrainRequests,
        drained: asyncio.Event,
    ) -> None:
        self.registration = registration
        self._demand = demand
        self._members = members
        self._view = view
        self._drain_requests = drain_requests
        self._drained = drained

    async def term(self, session: Session) -> None:
        """Until the session or the gateway ends."""
        async with asyncio.TaskGroup() as tasks:
            works = (
                self.registration.run(session),
                self._demand.run(session),
                self._members.run(session),
                self._say_ready(),
                self._drain_requests.run(session),
            )
            running = [tasks.create_task(work) for work in works]
            await self._drained.wait()
            for task in running:
                task.cancel()

    async def _say_ready(self) -> None:
        await self._view.wait_synced()
        if self.registration.record.state == "starting":
            self.registration.set_state("ready")


class EtcdView:
    """What the gateway sees of etcd: who owns what, where the pollers are, who is on which topic."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        hub: Hub,
        context: Context,
        failure_detector: FailureDetector,
        members: PresenceKeys,
    ) -> None:
        self.owners = Mirror(etcd, keys.owners, self._on_owners, self._on_new_cluster)
        self.pollers = Mirror(etcd, keys.nodes("poller"), self._on_pollers)
        self._mirrors = (self.owners, self.pollers, members.mirror)
        self._keys = keys
        self._at: dict[HostPort, str] = {}  # the poller's node by the address of its feed
        self._failure_detector = failure_detector
        hub.on_broken_link = self._on_broken_link
        self._hub = hub
        self._context = context
        self._foreign = Foreign()

    @property
    def synced(self) -> bool:
        return all(mirror.synced.is_set() for mirror in self._mirrors)

    async def wait_synced(self) -> None:
        for mirror in self._mirrors:
            await mirror.synced.wait()

    @property
    def healthy(self) -> bool:
        return all(mirror.healthy for mirror in self._mirrors)

    def _on_owners(self, events: list[KeyEvent]) -> None:
        now = time.monotonic()
        for event in events:
            topic = self._keys.parse_owner(event.kv.key)
            if topic is None:
                self._foreign.report(event.kv.key, event.kv.mod_revision, "no owner key of a topic")
                continue
            owner = None
            if not event.deleted:
                try:
                    record = OwnerRecord.decode(event.kv.value)
                    owner = Owner(record.node, record.grpc, event.kv.mod_revision)
                except ValueError as error:
                    self._foreign.report(event.kv.key, event.kv.mod_revision, str(error))
            self._hub.on_owner(topic, owner, now)

    def _on_pollers(self, events: list[KeyEvent]) -> None:
        self._at = {}
        for kv in self.pollers.items.values():
            try:
                record = NodeRecord.decode(kv.value)
            except ValueError as error:
                self._foreign.report(kv.key, kv.mod_revision, str(error))
                continue
            if record.grpc is not None:
                self._at[record.grpc] = record.node
        self._hub.feeds.set_pollers(set(self._at))

    def _on_broken_link(self, address: HostPort) -> None:
        if address in self._at:
            self._failure_detector.suspect("poller", self._at[address])

    def _on_new_cluster(self) -> None:
        """etcd lost its data: versions of the old cluster mean nothing, so everybody starts afresh."""
        log.warning("etcd is another cluster: closing all sockets", sockets=len(self._context.sockets))
        for socket in list(self._context.sockets):
            socket.wire.close(SERVICE_RESTART, "coordination starts afresh")
        self._hub.reset()


def _settle() -> None:
    """What is here now stays: the garbage collector need not look at it again, nor as often as by default at what
    clients and results are made of, which is freed without it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _sweep(hub: Hub, context: Context, view: EtcdView, readiness: Readiness) -> None:
    while True:
        readiness.synced = readiness.synced or view.synced
        readiness.etcd_reached = hub.coordination_reached = view.healthy
        hub.sweep(time.monotonic())
        context.sweep(time.monotonic(), time.time())
        await asyncio.sleep(SWEEP_SECONDS)


async def _send_away(hub: Hub, context: Context, presences: Presences) -> None:
    """Clients are told to go, and those who were listed stay so until they are seen on other gateways, for a moment."""
    presences.end_watches()
    await _drain(hub, context)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HOLD_SECONDS):  # their clients are on their way to other gateways
            await presences.nobody_departing()


async def _drain(hub: Hub, context: Context) -> None:
    """Ends followers at once and sockets a few at a time, and waits until they are gone."""
    for live in hub.topics.values():
        for follower in live.followers:
            follower.end()
    sockets = list(context.sockets)
    batch = max(1, len(sockets) // DRAIN_STEPS)
    for start in range(0, len(sockets), batch):
        for socket in sockets[start : start + batch]:
            socket.wire.close(SERVICE_RESTART, "this gateway is shutting down")
        await asyncio.sleep(DRAIN_SECONDS / DRAIN_STEPS)
    try:
        async with asyncio.timeout(GONE_SECONDS):
            await context.all_gone()
    except TimeoutError:
        for socket in list(context.sockets):
            socket.wire.abort(SERVICE_RESTART, "this gateway is shutting down")
