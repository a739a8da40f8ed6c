"""A rolling restart of all services under load: clients only reconnect, and only when gateways restart."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pytest

from pollcast.services.process.settings import Role
from tests.support.client import Client
from tests.support.nemesis import any_gateway
from tests.support.waiting import eventually, stood_still
from tests.support.world import World

CLIENTS = 24
TICKS = [f"tick?n={n}" for n in range(12)]
STOCK = "stock?shelf=a"
NODES: list[tuple[Role, str]] = [
    ("coordinator", "coordinator-1"),
    ("coordinator", "coordinator-2"),
    ("poller", "poller-1"),
    ("poller", "poller-2"),
    ("gateway", "gateway-1"),
    ("gateway", "gateway-2"),
]

SILENCE_SECONDS = {"coordinator": 1.5, "poller": 1.5, "gateway": 4.0}
"""Maximum time between two results of a topic that changes ten times per second, by restarted role, when the machine is
loaded. docs/howto/production.md has the times on a quiet machine."""


@pytest.fixture
async def started(world: World) -> World:
    """A world in which all of NODES are ready."""
    for role, name in NODES:
        await world.start(role, name, wait=False)
    for _, name in NODES:
        await world.ready(name)
    return world


@dataclass(frozen=True)
class Phase:
    """The effects on clients while all services of a role were restarted."""

    role: Role
    reconnects: int
    snapshots: int
    statuses: list[str]
    silence: float  # the longest time between two results of a topic, in seconds
    seconds: float  # duration of the restarts

    def __str__(self) -> str:
        return (
            f"{self.role}s: {self.seconds:.1f} s, {self.reconnects} reconnects, {self.snapshots} snapshots, "
            f"statuses {self.statuses}, longest silence {self.silence * 1000:.0f} ms"
        )


async def test_clients_only_reconnect_and_only_when_gateways_restart(started: World) -> None:
    world = started
    world.execute("insert into stock values (1, 0, 'a'), (2, 0, 'a')")
    rng = random.Random(1)
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        finds = [any_gateway(world, random.Random(rng.random())) for _ in range(CLIENTS)]
        roamers = [await stack.enter_async_context(Client.open(find)) for find in finds]
        for roamer in roamers:
            await roamer.join(*rng.sample(TICKS, 4), STOCK)
        writing = tasks.create_task(_write(world.url))
        await eventually(lambda: all(seen.version for roamer in roamers for seen in roamer.seen.values()))
        phases = {role: await _restart(world, role, roamers) for role in ("coordinator", "poller", "gateway")}
        writing.cancel()
        await asyncio.wait({writing})  # so that its last statement has ended
        rows = await _rows(world.url)
        await eventually(lambda: all(r.seen[STOCK].rows == rows for r in roamers), what="all clients show the rows")
    print("", *phases.values(), sep="\n")  # noqa: T201
    for phase in phases.values():
        assert phase.silence < SILENCE_SECONDS[phase.role], phase
        assert phase.statuses == [], phase
    assert (phases["coordinator"].reconnects, phases["coordinator"].snapshots) == (0, 0)
    assert (phases["poller"].reconnects, phases["poller"].snapshots) == (0, 0)
    # Each of the two gateways disconnects a client at most once. A gateway that has just started may send snapshots.
    assert phases["gateway"].reconnects <= 2 * CLIENTS
    assert phases["gateway"].snapshots <= phases["gateway"].reconnects * 5


async def _restart(world: World, role: Role, roamers: list[Client]) -> Phase:
    """Restart the services of a role one after the other, each when all clients have results from the one before."""
    began = time.monotonic()
    reconnects, snapshots, statuses = _reconnects(roamers), _snapshots(roamers), len(_statuses(roamers))
    for name in [name for kind, name in NODES if kind == role]:
        world.services[name].ask_to_stop()
        await world.ended(name, 12.0)
        await world.start(role, name)
        await eventually(_have_new_results(roamers), what="all clients have new results")
    return Phase(
        role,
        _reconnects(roamers) - reconnects,
        _snapshots(roamers) - snapshots,
        _statuses(roamers)[statuses:],
        max(_silence(seen.at, began) for roamer in roamers for topic, seen in roamer.seen.items() if topic in TICKS),
        time.monotonic() - began,
    )


def _reconnects(roamers: list[Client]) -> int:
    return sum(roamer.reconnects for roamer in roamers)


def _snapshots(roamers: list[Client]) -> int:
    return sum(seen.snapshots for roamer in roamers for seen in roamer.seen.values())


def _statuses(roamers: list[Client]) -> list[str]:
    return [status for roamer in roamers for topic in roamer.seen for status in roamer.troubles(topic)]


def _have_new_results(roamers: list[Client]) -> Callable[[], bool]:
    """Return a condition: each client has received a result of each of its TICKS since this call."""
    ticking = [seen for roamer in roamers for topic, seen in roamer.seen.items() if topic in TICKS]
    began = time.monotonic()
    return lambda: all(seen.at[-1] > began for seen in ticking)


def _silence(at: list[float], since: float) -> float:
    """Return the longest time between two results, without the time for which the machine stood still."""
    return max((b - a - stood_still(a, b) for a, b in itertools.pairwise([t for t in at if t >= since])), default=0.0)


async def _write(url: str) -> None:
    """Change a row of the stock about twenty times per second."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for number in itertools.count():
            await connection.execute("update stock set n = %s where id = %s", [number, 1 + number % 2])
            await asyncio.sleep(0.05)


async def _rows(url: str) -> list[dict[str, int]]:
    """Return the rows of the stock in the database."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute("select id, n from stock order by n, id")
        return [{"id": key, "n": n} for key, n in await cursor.fetchall()]
