"""The streams from pollers to gateways, and from gateways to gRPC consumers, when one of them stands still or learns
late who owns a topic."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

import pytest

from pollcast.coordinator.move_topic import move_topic
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.postgres_server import PostgresServer
from tests.support.client import Client
from tests.support.late_proxy import LateProxy
from tests.support.waiting import eventually, stood_still
from tests.support.world import World, own_database, start_world

CATALOG = """
[queries.large]
sql = "select n, repeat(md5(n::text), 40) as text from generate_series(1, 2500) n"
key = ["n"]
interval = "100ms"
linger = "500ms"

[queries.moving]
sql = "select n, repeat(md5(clock_timestamp()::text), 10) as text from generate_series(1, 300) n"
interval = "500ms"
linger = "500ms"
"""
"""`large` has 3.3 MB and never changes; `moving` has 100 KB and changes with every poll."""

LARGE_ROWS = 2500
HAND_OVERS = 16
NOTICED_SECONDS = 4.0
"""Maximum time until a frozen poller makes its topics stale (docs/design/design.md)."""


@pytest.fixture(scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory, etcd_server: EtcdServer, postgres_server: PostgresServer
) -> AsyncIterator[World]:
    """A world of two pollers, whose lease is 30 s, and one gateway."""
    with own_database(postgres_server) as url:
        folder = tmp_path_factory.mktemp("feed")
        namespace = f"/t-{uuid.uuid4().hex[:12]}"
        async with start_world(folder, etcd_server.endpoints, url, namespace, CATALOG) as world:
            for name in ("poller-1", "poller-2"):
                await world.start("poller", name, "--lease-ttl", "30", wait=False)
            await world.start("gateway", "gateway-1", wait=False)
            for name in ("poller-1", "poller-2", "gateway-1"):
                await world.ready(name)
            yield world


async def test_a_large_result_is_whole_at_every_hand_over_however_late_the_gateway_learns_of_it(world: World) -> None:
    dice = random.Random(13)
    late = LateProxy(world.etcd_endpoints[0])
    async with late.serving():
        await world.start("gateway", "gateway-late", "--etcd", late.address)
        async with Client.open(await world.http("gateway-late")) as client:
            await client.join("large")
            await client.has_results("large")
            await world.owned_by("large")
            for round_trip in range(HAND_OVERS):
                # The topic goes to the other poller and back. The gateway learns of both, together or one by one, while
                # the pieces of the last owner are on the way.
                late.seconds = dice.choice([0.0, 0.05, 0.2])
                if round_trip % 2 == 0:
                    late.passing.clear()
                for _ in range(2):
                    owner = await world.owner("large")
                    other = "poller-2" if owner == "poller-1" else "poller-1"
                    await move_topic(world.etcd, world.keys, "large", other)
                    await asyncio.sleep(dice.uniform(0.03, 0.3))
                late.passing.set()
                assert len(client.seen["large"].rows or ()) == LARGE_ROWS
            late.seconds = 0.0
            last = await world.etcd.get(world.keys.owner("large"))
            assert last is not None

            async def settled() -> bool:
                async with Client.open(await world.http("gateway-late")) as anew:
                    await anew.join("large")
                    await anew.has_results("large")
                    version, rows = anew.seen["large"].version, anew.seen["large"].rows
                    assert rows is not None
                    assert [row["n"] for row in rows] == list(range(1, LARGE_ROWS + 1))
                    return version is not None and version.epoch == last.mod_revision

            await eventually(settled, 10.0, what="the last owner's result is served")
            assert (client.seen["large"].snapshots, client.seen["large"].deltas) == (1, 0)  # it never changed
        world.services["gateway-late"].ask_to_stop()
        await world.ended("gateway-late")


async def test_a_frozen_poller_makes_its_topics_stale_within_four_seconds_and_live_again_when_it_continues(
    world: World,
) -> None:
    async with Client.open(await world.http("gateway-1")) as client:
        await client.join("moving", "large")
        await client.has_results("moving", "large")
        owner = await world.owned_by("moving")
        await move_topic(world.etcd, world.keys, "large", owner.name)

        async def moved() -> bool:
            return await world.owner("large") == owner.name

        await eventually(moved)
        await client.hears_more("moving")
        # An event loop that stands still for 2 s goes unnoticed.
        paused_at = time.monotonic()
        owner.freeze()
        await asyncio.sleep(1.5)
        owner.thaw()
        await client.hears_more("moving")
        if time.monotonic() - paused_at < 2.5:
            assert client.troubles("moving") == []
        before = len(client.seen["moving"].statuses)
        frozen_at = time.monotonic()
        owner.freeze()
        try:
            await eventually(lambda: states(client) == ["stale", "stale"], 10.0)
            assert time.monotonic() - frozen_at - stood_still(frozen_at) < NOTICED_SECONDS
        finally:
            owner.thaw()
        await eventually(lambda: states(client) == ["live", "live"], 4.0)
        await client.hears_more("moving")
        assert client.seen["moving"].statuses[before:] == ["stale", "live"]
        assert client.seen["large"].snapshots == 1
        assert await world.owner("moving") == owner.name


def states(client: Client) -> list[str | None]:
    """Return the state that the client was last told of each of its topics."""
    return [seen.statuses[-1] if seen.statuses else None for seen in client.seen.values()]


CONSUMER = """
import asyncio, sys
import grpc.aio
from pollcast.v1 import live_pb2, live_pb2_grpc

async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        async for event in live_pb2_grpc.LiveQueryStub(channel).Watch(live_pb2.WatchRequest(topic=sys.argv[2])):
            print(event.snapshot.version, event.snapshot.more, len(event.snapshot.rows), flush=True)

asyncio.run(main())
"""
"""A consumer with gRPC's default options, which prints what it receives."""


async def next_snapshot(consumer: Process) -> tuple[int, int]:
    """Return the next version that the consumer prints. Raises AssertionError when its stream has ended."""
    assert consumer.stdout is not None
    line = (await consumer.stdout.readline()).decode()
    assert line, "the stream has ended"
    epoch, _, seq = line.split()[0].partition("-")
    return int(epoch), int(seq)


async def test_a_consumer_that_stands_still_goes_on_and_skips_what_it_missed(world: World) -> None:
    record = await world.node("gateway-1")
    assert record is not None
    assert record.grpc is not None
    consumer = await asyncio.create_subprocess_exec(sys.executable, "-c", CONSUMER, record.grpc, "moving", stdout=PIPE)
    try:
        async with asyncio.timeout(60):
            first = await next_snapshot(consumer)
            consumer.send_signal(signal.SIGSTOP)
            await asyncio.sleep(8)  # longer than any timeout between services
            async with Client.open(await world.http("gateway-1")) as client:
                await client.join("moving")
                await client.has_results("moving")
                current = client.seen["moving"].version
            assert current is not None
            consumer.send_signal(signal.SIGCONT)
            while (version := await next_snapshot(consumer)) < current:
                assert version > first
    finally:
        consumer.kill()
        await consumer.wait()
