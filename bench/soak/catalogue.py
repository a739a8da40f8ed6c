"""Changes of the catalogue during the soak: a query that clients follow changes, and one that none does, a query is
added and removed, and a wrong catalogue is written.

All services have the same file. Some, chosen by chance, get SIGHUP after a change; the others look at the file.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.support.waiting import eventually

from bench.clients.calls import GrpcClient
from bench.clients.events import EventSourceClient
from bench.clients.phoenix import PhoenixClient
from bench.clients.polling import JsonClient
from bench.clients.record import LiveClient
from bench.soak.churn import fixed
from bench.soak.cluster import SoakCluster
from bench.soak.shop import Edition

TAKE_SECONDS = 60.0
"""Maximum time until all services show another catalogue, and until clients show what follows from it."""

SIGNAL_PAUSE_SECONDS = 0.3
"""Longest pause between the signals to two services."""

INTERVALS = 5
"""Number of intervals that the query which nobody follows has in turn, in seconds from 1 on."""


class CatalogueChanges:
    """The changes, each of which returns what it was. They raise AssertionError when something does not follow."""

    def __init__(self, cluster: SoakCluster, rng: random.Random, residents: Sequence[LiveClient]) -> None:
        self._cluster = cluster
        self._rng = rng
        self._residents = residents

    async def watched(self) -> str:
        """Change the definition of a query that residents follow: all of them show the rows of the new one."""
        edition = replace(self._cluster.edition, watched=self._cluster.edition.watched + 1)
        await self._take(edition)
        follow = [client.shown["whole"] for client in self._residents if "whole" in client.shown]

        def anew() -> bool:
            return all(
                {row["edition"] for row in shown.rows or [{"edition": None}]} == {edition.watched} for shown in follow
            )

        await eventually(anew, TAKE_SECONDS, what=f"all residents show edition {edition.watched} of the query")
        return "catalogue: followed query changed"

    async def idle(self) -> str:
        """Change the definition of a query that nobody follows."""
        edition = self._cluster.edition
        await self._take(replace(edition, idle=edition.idle % INTERVALS + 1))
        return "catalogue: idle query changed"

    async def passing(self) -> str:
        """Add a query, let clients of all protocols follow it, and remove it: all of them are told so."""
        await self._take(replace(self._cluster.edition, passing=True))
        clients = self._followers("passing")
        try:
            for client in clients:
                client.start()
            await eventually(lambda: all(_rows(client) for client in clients), TAKE_SECONDS, what="the query has rows")
            await self._take(replace(self._cluster.edition, passing=False))

            def on() -> list[str]:
                return [client.record.kind for client in clients if not client.record.ended]

            await eventually(lambda: not on(), TAKE_SECONDS, what="all clients of a removed query are told so")
        finally:
            for client in clients:
                client.stop()
        violations = [violation for client in clients for violation in client.record.violations]
        assert not violations, f"clients of a query that was added: {violations}"
        return "catalogue: query added and removed"

    async def wrong(self) -> str:
        """Write a wrong catalogue: every service refuses it, and keeps the one that it has."""
        cluster = self._cluster
        logs = {service.log: service.log.stat().st_size for service in cluster.world.services.values()}
        cluster.publish(cluster.edition.text + "[queries.wrong]\n")
        await self._signal()

        def refused() -> bool:
            return all("catalogue refused" in _text_after(log, size) for log, size in logs.items())

        await eventually(refused, TAKE_SECONDS, what="all services have refused a wrong catalogue")
        found = await cluster.catalogues()
        cluster.publish(cluster.edition.text)
        assert found <= {cluster.edition.hash, None}, f"a wrong catalogue was taken: {found}"
        return "catalogue: wrong one refused"

    def _followers(self, topic: str) -> list[LiveClient]:
        """Return a client of each protocol, each at a gateway of its own choice."""
        cluster = self._cluster
        ends = [fixed(cluster, self._rng.choice(sorted(cluster.http))) for _ in range(4)]
        return [
            PhoenixClient(ends[0][0], [topic]),
            EventSourceClient(ends[1][0], topic),
            JsonClient(ends[2][0], topic),
            GrpcClient(ends[3][1], topic),
        ]

    async def _take(self, edition: Edition) -> None:
        """Publish an edition, and wait until all services have it."""
        cluster = self._cluster
        cluster.edition = edition
        cluster.publish(edition.text)
        await self._signal()

        async def taken() -> bool:
            return await cluster.catalogues() == {edition.hash}

        await eventually(taken, TAKE_SECONDS, what="all services have the new catalogue")

    async def _signal(self) -> None:
        """Send SIGHUP to some services, one after the other."""
        services = list(self._cluster.world.services.values())
        for service in self._rng.sample(services, self._rng.randint(0, len(services))):
            service.send(signal.SIGHUP)
            await asyncio.sleep(self._rng.uniform(0.0, SIGNAL_PAUSE_SECONDS))


def _rows(client: LiveClient) -> bool:
    return all(shown.rows is not None for shown in client.shown.values())


def _text_after(file: Path, size: int) -> str:
    """Return the text of a file from a byte on."""
    with file.open("rb") as stream:
        stream.seek(size)
        return stream.read().decode(errors="replace")
