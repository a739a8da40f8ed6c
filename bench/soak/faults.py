"""Faults of the cluster during the soak, one after another."""

from __future__ import annotations

import asyncio
import http.client
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from tests.support.waiting import eventually

from bench.soak.catalogue import CatalogueChanges
from bench.soak.cluster import LASTING, SoakCluster
from bench.soak.shop import Topics
from pollcast.services.errors import PollcastError

PAUSE_SECONDS = (0.5, 8.0)
"""Shortest and longest pause between two faults."""

MEMBER_SECONDS = 60.0
"""Maximum time until a member of etcd is healthy again."""


class Faults:
    """A source of faults, with the number of each kind in `counts`."""

    def __init__(self, cluster: SoakCluster, rng: random.Random, changes: CatalogueChanges) -> None:
        self.counts: Counter[str] = Counter()
        self.findings: list[str] = []  # what did not happen as it should
        self._cluster = cluster
        self._rng = rng
        replaced = [name for name in cluster.names if name not in LASTING]
        self._choices: list[Callable[[], Awaitable[str]]] = [
            *[self._replacement(name, kill=kill) for name in replaced for kill in (False, True)],
            self._restart_member,
            self._restart_member,
            self._restart_database,
            self._poke,
            self._poke,
            self._poke,
            changes.watched,
            changes.idle,
            changes.passing,
            changes.wrong,
        ]

    async def all_once(self) -> None:
        """Inflict each fault once, which belongs to a warm-up."""
        for fault in self._choices:
            await self._inflict(fault)

    async def rage(self, stop: asyncio.Event) -> None:
        """Inflict faults until `stop` is set. All of them are healed on return."""
        while not stop.is_set():
            await self._inflict(self._rng.choice(self._choices))
            try:
                async with asyncio.timeout(self._rng.uniform(*PAUSE_SECONDS)):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _inflict(self, fault: Callable[[], Awaitable[str]]) -> None:
        """Inflict a fault; a service that has ended as it must not is a finding, and is replaced."""
        try:
            self.counts[await fault()] += 1
        except (AssertionError, RuntimeError, OSError, http.client.HTTPException, PollcastError) as error:
            self.findings.append(f"{type(error).__name__}: {error}")
            print(f"FINDING: {error}", flush=True)
            for service in list(self._cluster.world.services.values()):
                if not service.running:
                    await self._cluster.started_anew(service.role, service.name)

    def _replacement(self, name: str, *, kill: bool) -> Callable[[], Awaitable[str]]:
        async def replace() -> str:
            await self._cluster.replace(name, kill=kill)
            return f"{name.partition('-')[0]} {'killed' if kill else 'stopped'} and replaced"

        return replace

    async def _restart_member(self) -> str:
        member = self._rng.choice(self._cluster.etcd.members)
        member.kill()
        await asyncio.sleep(self._rng.uniform(0.2, 2.0))
        await asyncio.to_thread(member.restart)
        await eventually(lambda: asyncio.to_thread(member.healthy), MEMBER_SECONDS, what="the member is back")
        return "etcd member restarted"

    async def _restart_database(self) -> str:
        await asyncio.to_thread(self._cluster.postgres.kill)
        await asyncio.sleep(self._rng.uniform(0.0, 2.0))
        await asyncio.to_thread(self._cluster.postgres.restart)
        return "database restarted"

    async def _poke(self) -> str:
        """Poke a topic at the gateway that is never replaced."""
        address = self._cluster.http[LASTING[-1]]
        topic = self._rng.choice([*Topics.all_shared()])
        status = await asyncio.to_thread(_post, *address, f"/poke/{topic}")
        assert status == 202, f"a poke was answered {status}"
        return "poke"


def _post(host: str, port: int, path: str) -> int:
    """Send a POST request and return the status of its answer."""
    connection = http.client.HTTPConnection(host, port, timeout=20.0)
    try:
        connection.request("POST", path)
        return connection.getresponse().status
    finally:
        connection.close()
