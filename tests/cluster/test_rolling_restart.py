"""A rolling restart of all services under load: clients only reconnect, and only when gateways restart.

The long form, with 10,000 clients behind HAProxy, is `python -m bench rolling`.
"""

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
from bench.rolling.crowd import Crowd

from pollcast.services.local import ports
from pollcast.services.process.settings import Role
from tests.support.checked_balancer import CheckedBalancer
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

SILENCE_SECONDS = {"coordinator": 1.5, "poller": 1.5, "gateway": 2.0}
"""Maximum time between two results of a topic that changes ten times per second, by restarted role, apart from the time
for ATTEMPTS. docs/howto/production.md has the times on a quiet machine."""

ATTEMPTS = {"coordinator": 0, "poller": 1, "gateway": 3}
"""Number of times that a client may have to connect anew, or its topic to find another owner, each for as long as a new
client takes at the same time at a gateway that nothing happens to, by restarted role."""

CHECK_SECONDS = 1.0
"""Interval of the load balancer's health checks."""

DRAIN_DELAY = 2 * CHECK_SECONDS

CROWD = {"WebSocket": 60, "SSE": 40, "JSON": 12, "gRPC": 8}
"""Number of clients behind the load balancer, by protocol."""

CROWD_TOPIC = "stock?shelf=b"


@pytest.fixture
def gateways() -> dict[str, tuple[int, int]]:
    """The ports of HTTP and gRPC of each gateway, which stay the same."""
    return {name: (ports.free_port(), ports.free_port()) for role, name in NODES if role == "gateway"}


@pytest.fixture
async def started(world: World, gateways: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> World:
    """A world in which all of NODES are ready."""
    monkeypatch.setenv("POLLCAST_DRAIN_DELAY", str(DRAIN_DELAY))
    for role, name in NODES:
        await world.start(role, name, *_flags(gateways.get(name)), wait=False)
    for _, name in NODES:
        await world.ready(name)
    return world


def _flags(addresses: tuple[int, int] | None) -> list[str]:
    """Return the flags for these ports of HTTP and gRPC."""
    return ["--http", f"127.0.0.1:{addresses[0]}", "--grpc", f"127.0.0.1:{addresses[1]}"] if addresses else []


@dataclass(frozen=True)
class Phase:
    """The effects on clients while all services of a role were restarted."""

    role: Role
    reconnects: int
    snapshots: int
    statuses: list[str]
    silence: float  # the longest time between two results of a topic, in seconds
    yardstick: float  # the longest time until a new client had its results, in seconds
    seconds: float  # duration of the restarts

    def __str__(self) -> str:
        return (
            f"{self.role}s: {self.seconds:.1f} s, {self.reconnects} reconnects, {self.snapshots} snapshots, "
            f"statuses {self.statuses}, longest silence {self.silence * 1000:.0f} ms, "
            f"a new client had its results after {self.yardstick * 1000:.0f} ms at worst"
        )


async def test_clients_only_reconnect_and_only_when_gateways_restart(
    started: World, gateways: dict[str, tuple[int, int]]
) -> None:
    world = started
    world.execute("insert into stock values (1, 0, 'a'), (2, 0, 'a'), (3, 0, 'b')")
    rng = random.Random(1)
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        balancer = await stack.enter_async_context(CheckedBalancer.start(gateways, CHECK_SECONDS))
        crowd = Crowd(balancer.http, balancer.grpc)
        stack.callback(crowd.stop)
        await crowd.join(CROWD, [CROWD_TOPIC])
        await eventually(lambda: not crowd.waiting(), what="the crowd has results")
        finds = [any_gateway(world, random.Random(rng.random())) for _ in range(CLIENTS)]
        roamers = [await stack.enter_async_context(Client.open(find)) for find in finds]
        for roamer in roamers:
            await roamer.join(*rng.sample(TICKS, 4), STOCK)
        writing = tasks.create_task(_write(world.url))
        await eventually(lambda: all(seen.version for roamer in roamers for seen in roamer.seen.values()))
        phases = {role: await _restart(world, role, roamers, balancer) for role in ("coordinator", "poller", "gateway")}
        writing.cancel()
        await asyncio.wait({writing})  # so that its last statement has ended
        rows, rows_b = await _rows(world.url, "a"), await _rows(world.url, "b")
        await eventually(lambda: all(r.seen[STOCK].rows == rows for r in roamers), what="all clients show the rows")
        await eventually(lambda: crowd.wrong({CROWD_TOPIC: rows_b}) == 0, what="the crowd shows the rows")
        for kind, report in crowd.reports().items():
            assert (report.ended, report.violations) == ([], []), kind
    print("", *phases.values(), sep="\n")  # noqa: T201
    for phase in phases.values():
        assert phase.silence < SILENCE_SECONDS[phase.role] + ATTEMPTS[phase.role] * phase.yardstick, phase
        assert phase.statuses == [], phase
    assert (phases["coordinator"].reconnects, phases["coordinator"].snapshots) == (0, 0)
    assert (phases["poller"].reconnects, phases["poller"].snapshots) == (0, 0)
    # Each of the two gateways disconnects a client at most once. A gateway that has just started may send snapshots.
    assert phases["gateway"].reconnects <= 2 * CLIENTS
    assert phases["gateway"].snapshots <= phases["gateway"].reconnects * 5


async def _restart(world: World, role: Role, roamers: list[Client], balancer: CheckedBalancer) -> Phase:
    """Restart the services of a role one after the other, each when all clients have results from the one before."""
    began = time.monotonic()
    reconnects, snapshots, statuses = _reconnects(roamers), _snapshots(roamers), len(_statuses(roamers))
    yardsticks: list[float] = []
    for name in [name for kind, name in NODES if kind == role]:
        other = next(port for gateway, (port, _) in balancer.gateways.items() if gateway != name)
        async with asyncio.TaskGroup() as tasks:
            measuring = tasks.create_task(_measure(f"127.0.0.1:{other}", yardsticks))
            world.services[name].ask_to_stop()
            await world.ended(name, 12.0 + DRAIN_DELAY)
            await world.start(role, name, *_flags(balancer.gateways.get(name)))
            await eventually(lambda: balancer.up == set(balancer.gateways), what="the load balancer has found it again")
            await eventually(_have_new_results(roamers), what="all clients have new results")
            measuring.cancel()
    return Phase(
        role,
        _reconnects(roamers) - reconnects,
        _snapshots(roamers) - snapshots,
        _statuses(roamers)[statuses:],
        max(_silence(seen.at, began) for roamer in roamers for topic, seen in roamer.seen.items() if topic in TICKS),
        max(yardsticks, default=0.0),
        time.monotonic() - began,
    )


async def _measure(gateway: str, seconds: list[float]) -> None:
    """Connect a client to a gateway that nothing happens to, time after time, and note how long it takes until it has
    results of topics that others follow."""
    while True:
        began = time.monotonic()
        async with Client.open(f"http://{gateway}") as client:
            await client.join(*TICKS[:4], STOCK)
            await client.has_results(*TICKS[:4], STOCK)
        seconds.append(time.monotonic() - began - stood_still(began))
        await asyncio.sleep(0.2)


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
            key = 3 if number % 20 == 0 else 1 + number % 2
            await connection.execute("update stock set n = %s where id = %s", [number, key])
            await asyncio.sleep(0.05)


async def _rows(url: str, shelf: str) -> list[dict[str, int]]:
    """Return the rows of a shelf in the database."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute("select id, n from stock where shelf = %s order by n, id", [shelf])
        return [{"id": key, "n": n} for key, n in await cursor.fetchall()]
