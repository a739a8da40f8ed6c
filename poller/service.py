"""The poller service: it owns topics, polls them, and sends their updates to gateways.

A poller starts without a database and without etcd (it owns no topics until it has read the cluster). It is ready after
the first sync with etcd, once it has reached its database. One that has never reached it hesitates, like one that no
gateway reaches (docs/reference/etcd.md#nodes): it leaves topics to others, so that the wrong password of a poller makes
no topic stale for long; where there are no others, it owns the topics, and their status says what is wrong. One that
has reached some of its sources hesitates for the topics of the others. A later outage of a database changes nothing
about that. When a poller loses its session it loses its topics, and claims topics again under the next session. SIGTERM
drains it: it claims nothing more, hands its topics to the other pollers, revokes its lease, so that no key is left, and
ends its streams. When it dies without draining, other pollers take over once its keys are gone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NoReturn

from pollcast.poller.feed import SERVICE
from pollcast.poller.listeners import Listeners
from pollcast.poller.ownership import Ownership
from pollcast.poller.polling import Polling
from pollcast.poller.reach_watch import ReachWatch
from pollcast.poller.report import PollerReport
from pollcast.poller.source_kinds import source_kind
from pollcast.poller.source_urls import SourceUrls
from pollcast.poller.sources.names import application_name
from pollcast.poller.sources.sources import Sources
from pollcast.services.catalogue.definitions import Difference
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.catalogue.query import DEFAULT_SOURCE
from pollcast.services.catalogue.sources import DEFAULT_URL_ENV, SourceEntry
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.failure_detector import FailureDetector
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.node import Node, Readiness, healthz
from pollcast.services.coordination.registry import node_record
from pollcast.services.coordination.reporting import Reporting
from pollcast.services.errors import CatalogInvalid, Problem, SettingsInvalid
from pollcast.services.process import garbage, logs
from pollcast.services.process.addresses import HostPort
from pollcast.services.process.catalogue_file import CatalogueFile
from pollcast.services.process.database_url import checked_url
from pollcast.services.process.settings import PollerSettings
from pollcast.services.serving import rpc
from pollcast.services.serving.web import address_of, bind, serve_app, service_app

log = logs.get_logger("poller")


Works = tuple[Coroutine[Any, Any, None], ...]
"""Coroutines that run until the poller has drained, with and without a session."""


class Core:
    """The parts of a poller that do not depend on its address: topics, their polls, and reports of both."""

    def __init__(
        self,
        settings: PollerSettings,
        catalogue: CatalogueInForce,
        etcd: Etcd,
        sources: Sources,
        listen_url: Callable[[SourceEntry], Callable[[], str]],
    ) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.etcd = etcd
        self.sources = sources
        self.keys = Keys(settings.namespace)
        self._failure_detector = FailureDetector(etcd, self.keys)
        self.polling = Polling(
            catalogue.catalog,
            sources,
            on_gateway_gone=partial(self._failure_detector.suspect, "gateway"),
            on_touched=lambda topic: self._reporting.touch(topic),
            on_owned_changed=lambda query: self._notifications.owned_changed(query),
        )
        name = application_name(settings.node, "listen")
        self._notifications = Listeners(catalogue.catalog, listen_url, name, self.polling)
        self._reporting = Reporting(etcd, self.keys, settings, PollerReport(settings.node, self.polling, sources))

    def works(self) -> Works:
        """Return the works of these parts."""
        return (
            self.polling.run(),
            self.polling.descriptions.run(),
            self._notifications.run(),
            self._failure_detector.run(),
            self._reporting.run(),
        )

    def take(self, difference: Difference) -> None:
        """Adapt to the catalogue that has just come into force, which differs so from the one before."""
        self.polling.take(self.catalogue, difference)
        self._notifications.take(self.catalogue.catalog)


class Member:
    """The poller as a node of the cluster at the addresses `http` and `grpc`: its entries in etcd, and its topics."""

    def __init__(self, core: Core, server: rpc.RpcServer, stop: asyncio.Event, http: HostPort, grpc: HostPort) -> None:
        etcd, keys, node, catalogue = core.etcd, core.keys, core.settings.node, core.catalogue
        self._core = core
        source_of = catalogue.catalog.source_of
        self._ownership = Ownership(etcd, keys, node, grpc, core.polling, catalogue.definitions, source_of)
        self.readiness = Readiness("poller", stop, self._describe, self._obstacle)
        record = node_record("poller", node, http, grpc, catalogue.hash)
        self._node = Node(
            etcd,
            keys,
            record,
            server,
            self.readiness,
            synced=self._synced,
            parts=[self._ownership.run],
            definitions=catalogue.definitions,
        )
        hesitate = partial(self._ownership.hesitate, "no gateway reaches this poller")
        self._reach = ReachWatch(etcd, keys, core.polling.feed, grpc, hesitate, self._node.offer)

    def works(self) -> Works:
        """Return the works of a member."""
        return self._follow_sources(), self._reach.run()

    async def run(self, stop: asyncio.Event) -> None:
        """Be a node, own topics, and hand them over once `stop` is set. Raises NodeTaken."""
        await self._node.run(self._core.settings.lease_ttl, stop, self._leave)

    async def take(self, difference: Difference) -> None:
        """Adapt to the catalogue that has just come into force, which differs so from the one before."""
        catalogue, sources = self._core.catalogue, self._core.sources
        await sources.open_used(catalogue.catalog)
        self._core.take(difference)
        self._ownership.set_definitions(catalogue.definitions, catalogue.catalog.source_of)
        self._node.set_catalogue(catalogue)
        await sources.close_unused(catalogue.catalog)

    async def _follow_sources(self) -> NoReturn:
        """Leave topics to others whose source this poller has never reached, and all topics before it reaches any."""
        sources = self._core.sources
        while True:
            sources.changed.clear()
            self._ownership.hesitate("the database was never reached", not sources.reached)
            self._ownership.set_unreached(sources.unreached)
            # A poller that has reached none is not ready, which says enough.
            self._node.registration.set_unreached(sources.unreached if sources.reached else ())
            await sources.changed.wait()

    async def _synced(self) -> None:
        await self._ownership.wait_synced()
        await self._reach.looked.wait()
        await self._core.sources.wait_reached()

    async def _leave(self) -> None:
        await self._node.start_draining()
        await self._ownership.drain()

    def _describe(self) -> dict[str, object]:
        etcd_is = "ok" if self._ownership.healthy else "unreachable"
        sources = self._core.sources
        facts: dict[str, object] = {"etcd": etcd_is, "database": sources.state}
        if list(sources) != [DEFAULT_SOURCE]:
            facts["sources"] = sources.states
        if sources.reached and sources.unreached:
            facts["unreached"] = sorted(sources.unreached)
        return facts | {"topics": self._core.polling.owned} | self._reach.description

    def _obstacle(self) -> str | None:
        sources = self._core.sources
        return None if sources.reached else f"the database has not been reached: {sources.state}"


async def run(settings: PollerSettings, stop: asyncio.Event, hangup: asyncio.Event | None = None) -> None:
    """Run the service until `stop` is set. `hangup` asks to read the catalogue again.

    Raises CatalogInvalid, SettingsInvalid or CantListen when it can't start, and NodeTaken when another node has its
    name.
    """
    urls = SourceUrls(None if settings.database_url is None else settings.secret("database_url"), os.environ)
    file = CatalogueFile(settings.catalog, hangup, watched=settings.catalog_reload == "on", check=urls.check)
    catalogue = _loaded(file, settings)
    listen_urls = urls
    if settings.listen_url is not None:
        listen_urls = SourceUrls(settings.secret("listen_url"), os.environ)
        checked_url(settings.secret("listen_url")(), "POLLCAST_LISTEN_URL")
    with bind(settings.http) as listener:
        http = settings.advertised(*address_of(listener))
        opening = Sources.open(catalogue.catalog, source_kind, urls.of, settings.pool, settings.node)
        async with Etcd.open(settings) as etcd, opening as sources:
            core = Core(settings, catalogue, etcd, sources, listen_urls.of)
            feed = core.polling.feed
            async with rpc.serve(settings, [feed.add_to], [SERVICE]) as server, asyncio.TaskGroup() as tasks:
                await server.set_serving(False)
                grpc = settings.advertised(server.host, server.port)
                member = Member(core, server, stop, http, grpc)
                works = (*core.works(), *member.works(), file.follow(catalogue, member.take))
                forever = [tasks.create_task(work) for work in works]
                garbage.tune()
                async with serve_app(service_app(healthz, member.readiness.answer), listener):
                    log.info("serving", http=http, grpc=grpc, queries=len(catalogue.catalog.queries))
                    await member.run(stop)
                feed.close()
                for task in forever:
                    task.cancel()
    log.info("drained")


def _loaded(file: CatalogueFile, settings: PollerSettings) -> CatalogueInForce:
    """Return the catalogue at start.

    Raises SettingsInvalid when the database URL alone is wrong, else CatalogInvalid, which may name a missing URL.
    """
    try:
        return file.load()
    except CatalogInvalid as error:
        fields = {problem.field for problem in error.problems}
        if fields == {DEFAULT_URL_ENV}:
            raise SettingsInvalid(error.problems) from None
        knows_sources = any(field.startswith(("sources.", DEFAULT_URL_ENV)) for field in fields)
        if settings.database_url is None and not knows_sources:
            reason = "is required unless every query of the catalogue names another source"
            raise CatalogInvalid([*error.problems, Problem("settings", "", DEFAULT_URL_ENV, reason)]) from None
        raise
