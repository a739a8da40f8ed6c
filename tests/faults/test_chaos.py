"""Random faults in a whole cluster, after which results are right, each topic is polled once, and no key is left.

The short form runs with all tests. The long form is `make chaos SECONDS=600 SEED=7 POLLERS=20 TOPICS=2000`. All topics
but the first four are polled every two seconds and not recorded, so that the machine can do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from pollcast.services.local.etcd_server import EtcdServer
from tests.support.client import Client
from tests.support.nemesis import Nemesis, any_gateway
from tests.support.waiting import eventually
from tests.support.world import CATALOG, INTERVAL, World, now, start_world

SECONDS = float(os.environ.get("CHAOS_SECONDS", "25"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
POLLERS = int(os.environ.get("CHAOS_POLLERS", "3"))
TOPICS = int(os.environ.get("CHAOS_TOPICS", "4"))

SHELVES = ["a", "b", "c", "d"]

SOCKET_TOPICS = 90
"""Maximum number of slow topics of one client: a gateway allows a socket 100 topics."""

SLOW = """
[queries.slow]
sql = "select id, n, %(n)s as topic from stock where mod(id, 30) = mod(%(n)s, 30) order by id"
key = ["id"]
interval = "2s"
linger = "500ms"
params.n = "int"
"""


@pytest.fixture
async def chaos_world(tmp_path: Path, database: str) -> AsyncIterator[tuple[World, EtcdServer]]:
    """A world without services on an etcd of its own with three members."""
    with EtcdServer.start(tmp_path / "etcd", nodes=3, fsync=False) as etcd:
        async with start_world(tmp_path, etcd.endpoints, database, catalog=CATALOG + SLOW) as world:
            yield world, etcd


@pytest.mark.chaos
@pytest.mark.timeout(SECONDS + 300)
async def test_after_any_faults_clients_show_the_database_and_no_key_is_left(
    chaos_world: tuple[World, EtcdServer],
) -> None:
    world, etcd = chaos_world
    await world.start_all(pollers=POLLERS, gateways=2)
    rng = random.Random(SEED)
    topics = [f"stock?shelf={shelf}" for shelf in SHELVES]
    slow = [f"slow?n={n}" for n in range(TOPICS - len(topics))]
    nemesis = Nemesis(world, etcd, SEED, POLLERS)
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        finds = [any_gateway(world, random.Random(rng.random())) for _ in range(max(6, -(-TOPICS // SOCKET_TOPICS)))]
        roamers = [await stack.enter_async_context(Client.open(find)) for find in finds]
        for number, roamer in enumerate(roamers):
            await roamer.join(*topics, *slow[number :: len(roamers)])
        writing = tasks.create_task(_write(world.url, random.Random(rng.random())))
        await nemesis.rage(SECONDS)
        writing.cancel()
        await asyncio.wait({writing})  # so that its last statement has ended
        rows = await _rows(world.url, slow)
        for roamer in roamers:
            for topic in roamer.seen:
                await eventually(
                    lambda roamer=roamer, topic=topic: roamer.seen[topic].rows == rows[topic],  # type: ignore[misc]
                    what=f"a client shows the rows of {topic}",
                )
        await _each_topic_is_polled_once(world, topics)
        assert len((await world.etcd.range(world.keys.owners)).kvs) == len(topics) + len(slow)
    faults = ", ".join(f"{count} × {fault}" for fault, count in sorted(nemesis.faults.items()))
    reconnects = sum(roamer.reconnects for roamer in roamers)
    size = f"{POLLERS} pollers × {len(topics) + len(slow)} topics"
    print(f"\nchaos: {size}, {SECONDS:g} s, seed {SEED}: {faults}; reconnects {reconnects}")  # noqa: T201
    await world.stop()

    async def none_left() -> bool:
        return not await world.keys_left()

    await eventually(none_left, what="no key is left")


async def _write(url: str, rng: random.Random) -> None:
    """Change a row about twenty times per second."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while True:
            key, shelf = rng.randrange(30), rng.choice(SHELVES)
            if rng.random() < 0.2:
                await connection.execute("delete from stock where id = %s", [key])
            else:
                await connection.execute(
                    "insert into stock values (%s, %s, %s) on conflict (id) do update set n = excluded.n, "
                    "shelf = excluded.shelf",
                    [key, rng.randrange(100), shelf],
                )
            await asyncio.sleep(0.05)


async def _rows(url: str, slow: list[str]) -> dict[str, list[dict[str, int]]]:
    """Return the rows of each topic in the database."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        result: dict[str, list[dict[str, int]]] = {}
        for shelf in SHELVES:
            cursor = await connection.execute("select id, n from stock where shelf = %s order by n, id", [shelf])
            result[f"stock?shelf={shelf}"] = [{"id": key, "n": n} for key, n in await cursor.fetchall()]
        cursor = await connection.execute("select id, n from stock order by id")
        stock = await cursor.fetchall()
    for topic in slow:
        number = int(topic.partition("=")[2])
        result[topic] = [{"id": key, "n": n, "topic": number} for key, n in stock if key % 30 == number % 30]
    return result


async def _each_topic_is_polled_once(world: World, topics: list[str]) -> None:
    """Wait until one poller polls each topic, once per interval. Balancing may still move topics, hence the retries."""

    async def once() -> bool:
        began = now()
        await eventually(lambda: all(len(world.polls_of(topic, began)) >= 10 for topic in topics), 20.0)
        took = now() - began
        return all(
            len({poll.node for poll in world.polls_of(topic, began)}) == 1
            and len(world.polls_of(topic, began)) <= took / INTERVAL + 2
            for topic in topics
        )

    with contextlib.suppress(AssertionError):
        await eventually(once, 10.0)
        return
    raise AssertionError("a topic is polled by two pollers, or too often")
