"""An upgrade from the last released version to this one and back, rolling and with clients on, shows no gap.

An orchestrator's new pod is ready before an old one goes, so both versions serve side by side. Coordinators are
replaced first, then pollers, then gateways. The way up therefore passes new pollers with old gateways, and the way back
old pollers with new gateways, which is what the other order of an upgrade passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import psycopg
import pytest

from pollcast.services.process.settings import Role
from pollcast.v1 import cluster_pb2, cluster_pb2_grpc
from tests.support.client import Client
from tests.support.nemesis import any_gateway
from tests.support.released import install_released
from tests.support.waiting import eventually, stood_still
from tests.support.world import World

CLIENTS = 4
TICKS = [f"tick?n={n}" for n in range(3)]
STOCK = "stock?shelf=a"
ORDER: tuple[Role, ...] = ("coordinator", "poller", "gateway")

PATIENCE_SECONDS = 60.0
"""Maximum time for a service to become ready, and to end, on a machine with other work."""

SILENCE_SECONDS = 4.0
"""Maximum time between two results of a topic that changes ten times per second, while the services of a role are
replaced on a loaded machine. A topic that nobody had handed over would be `stale` before."""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the last released version is installed."""
    code = install_released(tmp_path_factory.mktemp("released"))
    where = "import pollcast.services.cli.main as m; print(m.__file__)"
    environment = os.environ | {"PYTHONPATH": str(code)}
    run = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, check=True, env=environment)
    assert Path(run.stdout.strip()).is_relative_to(code)
    return code


class Fleet:
    """The services of a world, which `replace` replaces by those of another version.

    `current` has the name of the one that runs, by role; `numbers` counts.
    """

    def __init__(self, world: World, released: Path) -> None:
        """Manage services of this world; `released` is the folder of the released version."""
        self.world = world
        self.current: dict[Role, str] = {}
        self.numbers = itertools.count(1)
        self._released = released

    async def start(self, role: Role, *, old: bool) -> None:
        """Start a service of a role, of the released version or this one, and wait until it is ready."""
        name = f"{role}-{next(self.numbers)}"
        await self.world.start(role, name, wait=False, code=self._released if old else None)
        await self.world.ready(name, PATIENCE_SECONDS)
        self.current[role] = name

    async def replace(self, role: Role, *, old: bool) -> None:
        """Start another service of a role, then drain the one that ran before."""
        before = self.world.services[self.current[role]]
        await self.start(role, old=old)
        before.ask_to_stop()
        await self.world.ended(before.name, PATIENCE_SECONDS)


@contextlib.asynccontextmanager
async def roaming(world: World) -> AsyncIterator[list[Client]]:
    """Run CLIENTS clients, each on some of TICKS and on STOCK, while a row of the stock changes all the time."""
    world.execute("insert into stock values (1, 0, 'a'), (2, 0, 'a')")
    rng = random.Random(1)
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        finds = [any_gateway(world, random.Random(rng.random())) for _ in range(CLIENTS)]
        clients = [await stack.enter_async_context(Client.open(find)) for find in finds]
        for client in clients:
            await client.join(*rng.sample(TICKS, 2), STOCK)
            await client.has_results(*client.seen)
        writing = tasks.create_task(_write(world.url))
        yield clients
        writing.cancel()
        await asyncio.wait({writing})  # so that its last statement has ended
        async with await psycopg.AsyncConnection.connect(world.url) as connection:
            cursor = await connection.execute("select id, n from stock order by n, id")
            rows = [{"id": key, "n": n} for key, n in await cursor.fetchall()]
        for client in clients:
            await client.shows(STOCK, rows)


async def _write(url: str) -> None:
    """Change a row of the stock about twenty times per second."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for number in itertools.count(1):
            await connection.execute("update stock set n = %s where id = %s", [number, 1 + number % 2])
            await asyncio.sleep(0.05)


def _silence(at: list[float], since: float) -> float:
    """Return the longest time between two results, without the time for which the machine stood still."""
    times = [t for t in at if t >= since]
    return max((b - a - stood_still(a, b) for a, b in itertools.pairwise(times)), default=0.0)


def _effects(clients: list[Client]) -> list[tuple[int, int]]:
    """Return what a client of which a service asks nothing never does again: connect, and get a snapshot."""
    return [(client.reconnects, seen.snapshots) for client in clients for seen in client.seen.values()]


def _assert_no_gap(clients: list[Client], began: float, phase: str) -> None:
    """Assert that no topic of a client had a status or a long silence since a time."""
    for client in clients:
        for topic, seen in client.seen.items():
            assert client.troubles(topic) == [], (phase, topic)
            assert _silence(seen.at, began) < SILENCE_SECONDS, (phase, topic)


async def _serve_a_new_topic(fleet: Fleet, client: Client) -> None:
    """Watch a topic that nobody has watched: the gateway asks the poller, and the coordinator lists the owner."""
    topic = f"tick?n={100 + next(fleet.numbers)}"
    await client.join(topic)
    await client.has_results(topic)
    record = await fleet.world.node(fleet.current["coordinator"])
    assert record is not None
    assert record.grpc is not None
    async with grpc.aio.insecure_channel(record.grpc) as channel:
        cluster = cluster_pb2_grpc.ClusterStub(channel)

        async def listed() -> bool:
            response = await cluster.ListTopics(cluster_pb2.ListTopicsRequest(query="tick"), timeout=10)
            owners = {each.topic: each.owner for each in response.topics}
            return owners.get(topic) == fleet.current["poller"] == await fleet.world.owner(topic)

        await eventually(listed, what=f"{topic} is listed with its owner")
    await client.leave(topic)
    del client.seen[topic]


async def test_an_upgrade_and_the_way_back_show_no_gap_and_no_wrong_row(world: World, released: Path) -> None:
    fleet = Fleet(world, released)
    await asyncio.gather(*(fleet.start(role, old=True) for role in ORDER))
    async with roaming(world) as clients, Client.open(any_gateway(world, random.Random(0))) as prober:
        for version, role in itertools.product(("this", "the released"), ORDER):
            began, before = time.monotonic(), _effects(clients)
            await fleet.replace(role, old=version != "this")
            await asyncio.gather(*(each.hears_more(topic) for each in clients for topic in each.seen))
            phase = f"{role}s of {version} version, {time.monotonic() - began:.1f} s"
            _assert_no_gap(clients, began, phase)
            assert role == "gateway" or _effects(clients) == before, phase
            await _serve_a_new_topic(fleet, prober)
