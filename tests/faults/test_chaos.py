"""Everything at once: a seeded nemesis against a whole cluster, and afterwards nothing is wrong, double or left behind.

The short form runs with all tests; the long one is `make chaos SECONDS=600 SEED=7`.
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
from tests.support.world import INTERVAL, World, now, start_world

SECONDS = float(os.environ.get("CHAOS_SECONDS", "25"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))

SHELVES = ["a", "b", "c", "d"]


@pytest.fixture
async def chaos_world(tmp_path: Path, database: str) -> AsyncIterator[tuple[World, EtcdServer]]:
    with EtcdServer.start(tmp_path / "etcd", nodes=3, fsync=False) as etcd:
        async with start_world(tmp_path, etcd.endpoints, database) as world:
            yield world, etcd


@pytest.mark.chaos
@pytest.mark.timeout(SECONDS + 300)
async def test_whatever_happens_all_clients_end_equal_to_the_database_and_nothing_is_left(
    chaos_world: tuple[World, EtcdServer],
) -> None:
    world, etcd = chaos_world
    await world.start_all(pollers=3, gateways=2)
    rng = random.Random(SEED)
    topics = [f"stock?shelf={shelf}" for shelf in SHELVES]
    nemesis = Nemesis(world, etcd, SEED)
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        finds = [any_gateway(world, random.Random(rng.random())) for _ in range(6)]
        roamers = [await stack.enter_async_context(Client.open(find)) for find in finds]
        for roamer in roamers:
            await roamer.join(*topics)
        writing = tasks.create_task(_write(world.url, random.Random(rng.random())))
        await nemesis.rage(SECONDS)
        writing.cancel()
        await asyncio.wait({writing})  # its last statement, too
        truth = await _truth(world.url)
        for roamer in roamers:
            for topic in topics:
                await eventually(
                    lambda roamer=roamer, topic=topic: roamer.seen[topic].rows == truth[topic],  # type: ignore[misc]
                    what=f"a client shows the truth of {topic}",
                )
        await _each_topic_is_polled_once(world, topics)
    deeds = ", ".join(f"{count} × {deed}" for deed, count in sorted(nemesis.deeds.items()))
    print(f"\nchaos: {SECONDS:g} s, seed {SEED}: {deeds}; reconnects {sum(r.reconnects for r in roamers)}")  # noqa: T201
    await world.stop()

    async def left() -> bool:
        return not await world.keys_left()

    await eventually(left, what="no key is left")


async def _write(url: str, rng: random.Random) -> None:
    """Changes something some twenty times a second."""
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


async def _truth(url: str) -> dict[str, list[dict[str, int]]]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        result: dict[str, list[dict[str, int]]] = {}
        for shelf in SHELVES:
            cursor = await connection.execute("select id, n from stock where shelf = %s order by n, id", [shelf])
            result[f"stock?shelf={shelf}"] = [{"id": key, "n": n} for key, n in await cursor.fetchall()]
    return result


async def _each_topic_is_polled_once(world: World, topics: list[str]) -> None:
    """When all is healed: by one poller, once per interval. Balancing may move a topic once more meanwhile, so each is
    given some tries."""

    async def once() -> bool:
        began = now()
        await eventually(lambda: all(len(world.of(topic, began)) >= 10 for topic in topics), 20.0)
        took = now() - began
        return all(
            len({poll.node for poll in world.of(topic, began)}) == 1
            and len(world.of(topic, began)) <= took / INTERVAL + 2
            for topic in topics
        )

    with contextlib.suppress(AssertionError):
        await eventually(once, 10.0)
        return
    raise AssertionError("a topic is polled by two, or too often")
