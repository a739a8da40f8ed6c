"""The poller service: it owns topics, polls them, and sends their updates to gateways.

A poller starts without a database and without etcd (it owns no topics until it has read the cluster). It is ready after
the first sync with etcd, once it has reached its database. One that has never reached it leaves the topics to others
that are ready, so that the wrong password of a new poller makes no topic stale; where there are none, it owns the
topics, and their status says what is wrong. A later outage of the database changes nothing about that. When a poller
loses its session it loses its topics, and claims topics again under the next session. SIGTERM drains it: it claims
nothing more, hands its topics to the other pollers, revokes its lease, so that no key is left, and ends its streams.
When it dies without draining, other pollers take over once its keys are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from pollcast.poller.database import Database, application_name
from pollcast.poller.feed import SERVICE
from pollcast.poller.listener import Listener
from pollcast.poller.ownership import Ownership
from pollcast.poller.polling import Polling
from pollcast.poller.reach_watch import ReachWatch
from pollcast.poller.report import PollerReport
from pollcast.services.catalogue.definitions import Difference
from pollcast.services.coordination.catalogue_key import CatalogueKey
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.failure_detector import FailureDetector
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.node import Node, Readiness, healthz
from pollcast.services.coordination.registry import node_record
from pollcast.services.coordination.reporting import Reporting
from pollcast.services.process import garbage, logs
from pollcast.services.process.catalogue_file import CatalogueFile
from pollcast.services.process.database_url import checked_url
from pollcast.services.process.settings import PollerSettings
from pollcast.services.serving import rpc
from pollcast.services.serving.web import address_of, bind, serve_app, service_app

log = logs.get_logger("poller")


async def first_of(*waits: Coroutine[Any, Any, None]) -> None:
    """Wait until one of these waits has ended, and end the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def run(settings: PollerSettings, stop: asyncio.Event, hangup: asyncio.Event | None = None) -> None:
    """Run the service until `stop` is set. `hangup` asks to read the catalogue again.

    Raises CatalogInvalid, SettingsInvalid or CantListen when it can't start, and NodeTaken when another node has its
    name.
    """
    file = CatalogueFile(settings.catalog, hangup, watched=settings.catalog_reload == "on")
    catalogue = file.load()
    url = settings.secret("database_url")
    checked_url(url())
    listen_url = url
    if settings.listen_url is not None:
        listen_url = settings.secret("listen_url")
        checked_url(listen_url(), "POLLCAST_LISTEN_URL")
    keys = Keys(settings.namespace)
    with bind(settings.http) as listener:
        http = settings.advertised(*address_of(listener))
        async with Etcd.open(settings) as etcd, Database.open(url, settings.pool, settings.node) as database:
            failure_detector = FailureDetector(etcd, keys)
            polling = Polling(
                catalogue.catalog,
                database,
                on_gateway_gone=lambda gateway: failure_detector.suspect("gateway", gateway),
                on_touched=lambda topic: reporting.touch(topic),
                on_owned_changed=lambda query: notifications.owned_changed(query),
            )
            notifications = Listener(catalogue.catalog, listen_url, application_name(settings.node, "listen"), polling)
            reporting = Reporting(etcd, keys, settings, PollerReport(settings.node, polling))
            async with rpc.serve(settings, [polling.feed.add_to], [SERVICE]) as server, asyncio.TaskGroup() as tasks:
                await server.set_serving(False)
                grpc = settings.advertised(server.host, server.port)
                ownership = Ownership(etcd, keys, settings.node, grpc, polling, catalogue.definitions, claiming=False)
                catalogue_key = CatalogueKey(etcd, keys, "poller", settings.node)
                catalogue_key.set(catalogue.hash, catalogue.definitions)

                def offer(offered: bool) -> None:
                    node.offer(offered)

                reach = ReachWatch(etcd, keys, polling.feed, grpc, ownership.set_hesitant, offer)

                def describe_readiness() -> dict[str, object]:
                    etcd_is = "ok" if ownership.healthy else "unreachable"
                    facts = {"etcd": etcd_is, "database": database.state, "topics": polling.owned}
                    return facts | reach.description

                def obstacle() -> str | None:
                    return None if database.reached else f"the database has not been reached: {database.state}"

                async def synced() -> None:
                    await ownership.wait_synced()
                    await reach.looked.wait()
                    await first_of(database.wait_reached(), ownership.wait_alone())
                    ownership.start_claiming()

                async def take(difference: Difference) -> None:
                    polling.take(catalogue.catalog, difference)
                    notifications.take(catalogue.catalog)
                    ownership.set_definitions(catalogue.definitions)
                    catalogue_key.set(catalogue.hash, catalogue.definitions)
                    node.registration.set_catalogue(catalogue.hash)

                readiness = Readiness("poller", stop, describe_readiness, obstacle)
                record = node_record("poller", settings.node, http, grpc, catalogue.hash)
                parts = [catalogue_key.run, ownership.run]
                node = Node(etcd, keys, record, server, readiness, synced=synced, parts=parts)

                async def leave() -> None:
                    await node.start_draining()
                    await ownership.drain()

                works = (
                    polling.run(),
                    notifications.run(),
                    failure_detector.run(),
                    reporting.run(),
                    file.follow(catalogue, take),
                    database.reach(),
                    reach.run(),
                )
                forever = [tasks.create_task(work) for work in works]
                garbage.tune()
                async with serve_app(service_app(healthz, readiness.answer), listener):
                    log.info("serving", http=http, grpc=grpc, queries=len(catalogue.catalog.queries))
                    await node.run(settings.lease_ttl, stop, leave)
                polling.feed.close()
                for task in forever:
                    task.cancel()
    log.info("drained")
