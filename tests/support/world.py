"""A cluster for a test to break: every service is a process of its own, and the database reports every poll.

`async with start_world(…)` prepares a database and a catalogue. `World.start` starts services one by one. On leaving,
services that still run are stopped with SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psycopg

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord, OwnerRecord
from pollcast.services.local.child import Child
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process.settings import EtcdSettings, Role
from tests.support.waiting import eventually, stood_still

INTERVAL = 0.1
LEASE_TTL = 2
LINGER = 0.5

STRAGGLERS = 1
"""Maximum number of polls in flight during a hand-over that the database executes after it."""

CATALOG = """
[queries.stock]
sql = "select s.id, s.n from noted('stock', %(shelf)s) cross join stock s where s.shelf = %(shelf)s order by s.n, s.id"
key = ["id"]
interval = "100ms"
linger = "500ms"
[queries.stock.params]
shelf = "text"

[queries.tick]
sql = "select %(n)s as n, noted('tick', %(n)s::text), clock_timestamp() as at"
key = ["n"]
interval = "100ms"
linger = "500ms"
[queries.tick.params]
n = "int"
"""

SCHEMA = """
create table stock (id int primary key, n int not null, shelf text not null);
create function noted(query text, value text) returns int language plpgsql as $$
begin
    perform pg_notify('polls', json_build_object(
        'topic', query || case query when 'tick' then '?n=' else '?shelf=' end || value,
        'at', extract(epoch from clock_timestamp()),
        'node', split_part(current_setting('application_name'), ' ', 2))::text);
    return 1;
end $$;
"""


@dataclass(frozen=True, slots=True)
class Poll:
    """A poll of one topic, as the database reported it."""

    topic: str
    at: float  # seconds since the Unix epoch
    node: str


class Service(Child):
    """The process of one service, whose log is in a file of the world's folder."""

    def __init__(self, role: Role, name: str, program: Sequence[str], log: Path, code: Path | None = None) -> None:
        """Describe the service. `code` is the folder of another installed version of Pollcast to run."""
        imported = {} if code is None else {"PYTHONPATH": str(code)}
        super().__init__(name, program, log, env=os.environ | {"PYTHONUNBUFFERED": "1"} | imported)
        self.role: Role = role


class World:
    """The services of a cluster and the polls of its database. `start_world` creates it."""

    def __init__(self, folder: Path, endpoints: Sequence[str], keys: Keys, etcd: Etcd, url: str) -> None:
        self.keys = keys
        self.etcd = etcd  # the test's own client
        self.url = url
        self.polls: list[Poll] = []
        self.services: dict[str, Service] = {}
        self.catalog = folder / "catalog.toml"
        self._folder = folder
        self.etcd_endpoints = endpoints

    async def start(
        self,
        role: Role,
        name: str,
        *flags: str,
        wrap: Sequence[str] = (),
        wait: bool = True,
        code: Path | None = None,
    ) -> Service:
        """Start a service under this name, and return when it is ready (with `wait`).

        `flags` are further flags of its command; `wrap` is a command that runs it, in another network namespace say;
        `code` is the folder of another installed version of Pollcast to run.
        """
        command = [sys.executable, "-m", "pollcast", role, "--node", name, "--lease-ttl", str(LEASE_TTL)]
        command += ["--etcd", ",".join(self.etcd_endpoints), "--namespace", self.keys.namespace]
        command += ["--http", "127.0.0.1:0"] if "--http" not in flags else []
        command += ["--catalog", str(self.catalog)] if "--catalog" not in flags else []
        command += ["--database-url", self.url] if role == "poller" and "--database-url" not in flags else []
        service = Service(role, name, [*wrap, *command, *flags], self._folder / f"{name}.log", code)
        self.services[name] = service
        service.start()
        if wait:
            await self.ready(name)
        return service

    async def start_all(self, pollers: int = 2, gateways: int = 2) -> None:
        """Start poller-1 …, gateway-1 … unless they run already, and return when all of them are ready."""
        names: list[tuple[Role, str]] = [("poller", f"poller-{n + 1}") for n in range(pollers)]
        names += [("gateway", f"gateway-{n + 1}") for n in range(gateways)]
        for role, name in names:
            if name not in self.services or not self.services[name].running:
                await self.start(role, name, wait=False)
        for _, name in names:
            await self.ready(name)

    async def node(self, name: str) -> NodeRecord | None:
        """Return the service's node record in etcd, or None when there is none."""
        kv = await self.etcd.get(self.keys.node(self.services[name].role, name))
        return NodeRecord.decode(kv.value) if kv is not None else None

    async def ready(self, name: str, seconds: float = 30.0) -> NodeRecord:
        """Wait until the service is ready and return its node record. Raises RuntimeError when the process ends."""

        async def entry() -> list[NodeRecord]:
            service = self.services[name]
            if not service.running:
                raise RuntimeError(f"{name} {service.how_it_ended()}\n{service.tail()}")
            record = await self.node(name)
            return [record] if record is not None and record.state == "ready" else []

        return (await eventually(entry, seconds, what=f"{name} is ready"))[0]

    async def ended(self, name: str, seconds: float = 10.0) -> None:
        """Wait until the service has ended, and assert that its exit status is 0."""
        service = self.services[name]
        await eventually(lambda: not service.running, seconds, what=f"{name} has ended")
        assert service.status == 0, f"{name} {service.how_it_ended()}\n{service.tail(40)}"

    async def http(self, name: str) -> str:
        """Return `host:port` of the service's HTTP, as soon as it has a node record: a trouble may just have ended."""

        async def address() -> str | None:
            record = await self.node(name)
            return None if record is None else record.http

        return str(await eventually(address, what=f"{name} has a node record"))

    async def owner(self, topic: str) -> str | None:
        """Return the name of the topic's owner in etcd, or None when it has none."""
        kv = await self.etcd.get(self.keys.owner(topic))
        return OwnerRecord.decode(kv.value).node if kv is not None else None

    async def owned_by(self, topic: str) -> Service:
        """Wait until the topic has an owner and return that poller."""

        async def owner() -> str | None:
            return await self.owner(topic)

        return self.services[str(await eventually(owner, what=f"{topic} has an owner"))]

    async def nothing_owned(self) -> None:
        """Wait until no topic has an owner."""

        async def released() -> bool:
            return not (await self.etcd.range(self.keys.owners)).kvs

        await eventually(released, what="no topic has an owner")

    async def keys_left(self) -> list[str]:
        """Return all keys of the cluster in etcd."""
        return [kv.key for kv in (await self.etcd.range(self.keys.namespace + "/")).kvs]

    def execute(self, statement: str) -> None:
        """Execute an SQL statement in the database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def polls_of(self, topic: str, since: float = 0.0) -> list[Poll]:
        """Return the polls of the topic from a time on, in the order of their times."""
        return sorted((poll for poll in self.polls if poll.topic == topic and poll.at >= since), key=lambda p: p.at)

    def gap(self, topic: str, since: float) -> float:
        """Return the longest time between two polls of the topic from a time on, in seconds.

        Time for which the machine stood still does not count.
        """
        times = [poll.at for poll in self.polls_of(topic, since)]
        return max((waited(before, after) for before, after in itertools.pairwise(times)), default=0.0)

    def alternations(self, topic: str, since: float) -> int:
        """Return how often the polling node changed: once per hand-over, more often when two poll at the same time."""
        nodes = [poll.node for poll in self.polls_of(topic, since)]
        return sum(before != after for before, after in itertools.pairwise(nodes))

    def is_doubled(self, topic: str, since: float) -> bool:
        """Return whether two pollers poll the topic at the same time. One hand-over with its stragglers is allowed."""
        return self.alternations(topic, since) > 1 + 2 * STRAGGLERS

    async def stop(self) -> None:
        """Stop all services that run, and assert that each of them ends with exit status 0."""
        left = [service for service in self.services.values() if service.running]
        for service in left:
            service.ask_to_stop()
        for service in left:
            await self.ended(service.name, 15.0)


@contextlib.contextmanager
def own_database(server: PostgresServer) -> Iterator[str]:
    """Create an empty database, give its URL, and drop it on leaving; unlike the fixture `database`, for any scope."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"create database {name} strategy = wal_log")
    yield server.url_of(name)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@contextlib.asynccontextmanager
async def start_world(
    folder: Path, endpoints: Sequence[str], database_url: str, namespace: str = "/pollcast", catalog: str = CATALOG
) -> AsyncIterator[World]:
    """Run a world without services; its database gets SCHEMA. On leaving, the services must stop with status 0."""
    async with Etcd.open(EtcdSettings(etcd=tuple(endpoints))) as etcd, asyncio.TaskGroup() as tasks:
        world = World(folder, endpoints, Keys(namespace), etcd, database_url)
        world.catalog.write_text(catalog)
        world.execute(SCHEMA)
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as listener:
            await listener.execute("listen polls")
            listening = tasks.create_task(_listen(listener, world.polls))
            try:
                yield world
                await world.stop()
            finally:
                for service in world.services.values():
                    service.kill()
                listening.cancel()
                await asyncio.wait({listening})


async def _listen(listener: psycopg.AsyncConnection[Any], polls: list[Poll]) -> None:
    async for notice in listener.notifies():
        polls.append(Poll(**orjson.loads(notice.payload)))


def now() -> float:
    """Return the time in seconds since the Unix epoch, comparable with `Poll.at`."""
    return time.time()


def waited(since: float, until: float) -> float:
    """Return the seconds between two times of `now()`, without the time for which the machine stood still."""
    ahead = time.time() - time.monotonic()
    return until - since - stood_still(since - ahead, until - ahead)
