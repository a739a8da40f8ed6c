"""The cluster of the soak: etcd with three members, PostgreSQL, and services with a probe each.

The first service of each role, `gateway-1` say, runs from the beginning to the end; the others are replaced. Gateways
keep their addresses, as they would behind a name.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg
from tests.support.waiting import eventually
from tests.support.world import World

from bench.soak.measure import Held, breaches, over, together
from bench.soak.shop import SCHEMA, Edition
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.errors import EtcdError
from pollcast.services.local import ports
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process.addresses import split_host_port
from pollcast.services.process.settings import EtcdSettings, PollerSettings, Role

NODES: dict[Role, int] = {"coordinator": 2, "poller": 3, "gateway": 2}
"""Number of services of each role."""

LASTING = ("coordinator-1", "poller-1", "gateway-1")
"""The services that run from the beginning to the end."""

SAMPLES = 5
"""Number of samples, a second apart, of a measurement: polls come and go."""

SETTLE_SECONDS = 60.0
"""Maximum time until a process holds what it held after the warm-up."""

START_SECONDS = 60.0

DATABASE_CONNECTIONS = PollerSettings.model_fields["pool"].default + 1
"""Maximum number of connections to the database of a poller, which listens."""


@dataclass
class SoakCluster:
    """A running cluster."""

    folder: Path
    world: World
    etcd: EtcdServer
    postgres: PostgresServer
    http: dict[str, tuple[str, int]] = field(default_factory=dict)  # address of each gateway, by its name
    grpc: dict[str, tuple[str, int]] = field(default_factory=dict)
    edition: Edition = field(default_factory=Edition)  # of the catalogue's file

    @property
    def names(self) -> list[str]:
        """The names of all services."""
        return list(self.world.services)

    async def start(self, role: Role, name: str, *, wait: bool = True) -> None:
        """Start a service, on the addresses that it had before."""
        flags: list[str] = []
        if role == "gateway":
            for addresses in (self.http, self.grpc):
                addresses.setdefault(name, ("127.0.0.1", ports.free_port()))
            flags += ["--http", f"127.0.0.1:{self.http[name][1]}", "--grpc", f"127.0.0.1:{self.grpc[name][1]}"]
        probe = [sys.executable, "-m", "bench.probe", str(self._socket(name))]
        self._socket(name).unlink(missing_ok=True)
        await self.world.start(role, name, *flags, wrap=probe, wait=wait)

    async def replace(self, name: str, *, kill: bool) -> None:
        """Stop or kill a service, and start another process in its place."""
        service = self.world.services[name]
        if kill:
            service.kill()
        else:
            service.ask_to_stop()
            await self.world.ended(name, 30.0)
        await self.started_anew(service.role, name)

    async def started_anew(self, role: Role, name: str) -> None:
        """Start a process in the place of one that has ended, whose entry in etcd may still be there."""
        await self.start(role, name, wait=False)
        service = self.world.services[name]

        async def ready() -> bool:
            if not service.running:
                raise RuntimeError(f"{name} {service.how_it_ended()}\n{service.tail()}")
            record = await self.record(name)
            return record is not None and record.state == "ready" and record.pid == service.pid

        await eventually(ready, START_SECONDS, what=f"{name} is ready")

    async def record(self, name: str) -> NodeRecord | None:
        """Return a service's entry in etcd; None when there is none, or no member of etcd answers just now."""
        try:
            return await self.world.node(name)
        except EtcdError:
            return None

    def publish(self, text: str) -> None:
        """Replace the catalogue's file in one step."""
        new = self.world.catalog.with_suffix(".new")
        new.write_text(text)
        new.replace(self.world.catalog)

    async def catalogues(self) -> set[str | None]:
        """Return the hashes of the catalogues of all services; None for a service that shows none."""
        records = [await self.record(name) for name in self.names]
        return {None if record is None else record.catalogue for record in records}

    @property
    def groups(self) -> dict[str, list[str]]:
        """The services that are measured together, by the name of their group: coordinators, as only one leads."""
        groups: dict[str, list[str]] = {}
        for name, service in self.world.services.items():
            groups.setdefault("coordinators" if service.role == "coordinator" else name, []).append(name)
        return groups

    async def held(self, group: str, before: Held | None, *, memory: bool) -> Held:
        """Return what a group of services holds: with an earlier measurement once it holds no more and no less than
        that, or after SETTLE_SECONDS what it holds then."""
        ends = time.monotonic() + SETTLE_SECONDS
        passing = {split_host_port(member.client)[1]: 1 for member in self.etcd.members}
        passing[self.postgres.port] = DATABASE_CONNECTIONS
        samples: list[Held] = []
        while True:
            answers = [await self._ask(name) for name in self.groups[group]]
            samples.append(together([Held.of(answer, passing) for answer in answers]))
            held = over(samples[-SAMPLES:])
            at_rest = before is None or not breaches(group, before, held, memory=memory)
            if (len(samples) >= SAMPLES and at_rest) or time.monotonic() > ends:
                return held
            await asyncio.sleep(1.0)

    async def _ask(self, name: str) -> dict[str, Any]:
        """Return the answer of a service's probe."""
        reader, writer = await asyncio.open_unix_connection(self._socket(name))
        answer: dict[str, Any] = orjson.loads(await reader.read())
        writer.close()
        return answer

    async def keys(self) -> Counter[str]:
        """Return the number of keys of each kind in etcd."""
        prefix = f"{self.world.keys.namespace}/"
        kvs = (await self.world.etcd.range(prefix)).kvs
        return Counter(kv.key.removeprefix(prefix).split("/")[0] for kv in kvs)

    def _socket(self, name: str) -> Path:
        return self.folder / f"{name}.sock"


@contextlib.asynccontextmanager
async def soak_cluster(folder: Path, nodes: Mapping[Role, int]) -> AsyncIterator[SoakCluster]:
    """Run the cluster; on leaving, its services must end with exit status 0."""
    with (
        EtcdServer.start(folder / "etcd", nodes=3, fsync=False) as etcd,
        PostgresServer.start(folder / "pg", fsync=False) as postgres,
    ):
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(SCHEMA.encode())
        async with Etcd.open(EtcdSettings(etcd=etcd.endpoints)) as client:
            world = World(folder, etcd.endpoints, Keys("/pollcast"), client, postgres.url)
            world.catalog.write_text(Edition().text)
            cluster = SoakCluster(folder, world, etcd, postgres)
            try:
                for role, count in nodes.items():
                    for number in range(count):
                        await cluster.start(role, f"{role}-{number + 1}", wait=False)
                for name in cluster.names:
                    await world.ready(name, START_SECONDS)
                yield cluster
                await world.stop()
            finally:
                for service in world.services.values():
                    service.kill()
