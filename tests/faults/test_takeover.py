"""Effects on clients and the database when the owner of a topic dies, freezes or leaves, or another poller joins."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from pollcast.coordinator.move_topic import move_topic
from pollcast.services.coordination.drain import request_drain
from pollcast.services.coordination.keys import OwnerRecord
from tests.support.client import Client
from tests.support.waiting import eventually
from tests.support.world import INTERVAL, LEASE_TTL, World, now, waited

NOISE = 0.5
"""Time that a loaded machine may add to a gap, in seconds."""


@pytest.fixture(scope="module")
async def lasting(module_world: World) -> AsyncIterator[World]:
    """A world whose services all run again at the end, so that each of them has to stop with status 0."""
    yield module_world
    await module_world.start_all()


@pytest.fixture
async def world(lasting: World) -> World:
    """A world with two pollers, two gateways, no owned topic and an empty table. Services that ended are restarted."""
    await lasting.start_all()
    await lasting.nothing_owned()
    lasting.execute("truncate stock")
    return lasting


async def test_a_killed_poller_is_replaced_and_clients_notice_nothing(world: World) -> None:
    world.execute("insert into stock values (1, 10, 'a'), (2, 20, 'a')")
    topic, tick = "stock?shelf=a", "tick?n=1"
    async with Client.open(await world.http("gateway-1")) as one, Client.open(await world.http("gateway-2")) as two:
        for client in (one, two):
            await client.join(topic, tick)
            await client.has_results(topic, tick)
        dying = await world.owned_by(topic)
        if await world.owner(tick) != dying.name:
            await move_topic(world.etcd, world.keys, tick, dying.name)
            await eventually(lambda: [poll.node for poll in world.polls_of(tick)][-1:] == [dying.name])
        before = one.seen[topic].result
        assert before is not None
        killed_at = now()
        dying.kill()
        await eventually(lambda: {poll.node for poll in world.polls_of(topic, killed_at)} - {dying.name}, LEASE_TTL)
        assert (
            world.gap(tick, killed_at - 1) < 1.5
        )  # less than the lease's time-to-live, which a kill does not wait for
        world.execute("update stock set n = 30 where id = 1")
        for client in (one, two):
            await client.shows(topic, [{"id": 2, "n": 20}, {"id": 1, "n": 30}])
            await client.hears_more(tick)
            client.noticed_nothing()
        assert one.seen[topic].version == two.seen[topic].version
        async with Client.open(await world.http("gateway-2")) as elsewhere:
            await elsewhere.resume(topic, before)  # a version of the dead owner, received from the other gateway
            await elsewhere.shows(topic, [{"id": 2, "n": 20}, {"id": 1, "n": 30}])
            assert elsewhere.seen[topic].version == one.seen[topic].version
            assert (elsewhere.seen[topic].snapshots, elsewhere.seen[topic].deltas) == (0, 1)


async def test_a_takeover_without_a_change_sends_nothing_and_clients_can_resume_from_before(world: World) -> None:
    world.execute("insert into stock values (1, 10, 'a')")
    topic = "stock?shelf=a"
    async with Client.open(await world.http("gateway-1")) as one, Client.open(await world.http("gateway-2")) as two:
        for client in (one, two):
            await client.join(topic)
            await client.has_results(topic)
        dying = await world.owned_by(topic)
        killed_at = now()
        dying.kill()
        await eventually(lambda: len(world.polls_of(topic, killed_at + 0.5)) > 3)
        assert (len(one.seen[topic].at), one.troubles(topic)) == (1, [])
        known = one.seen[topic].result
        assert known is not None
        await two.resume(topic, known)
        world.execute("update stock set n = 11")
        await two.shows(topic, [{"id": 1, "n": 11}])
        assert (two.seen[topic].snapshots, two.seen[topic].deltas) == (0, 1)


async def test_a_poller_that_stops_leaves_no_gap_and_no_key(world: World) -> None:
    ticks = [f"tick?n={n}" for n in range(12)]
    async with Client.open(await world.http("gateway-1")) as client:
        await client.join(*ticks)
        await client.has_results(*ticks)
        leaving = await world.owned_by(ticks[0])
        lease = (await world.ready(leaving.name)).lease
        await eventually(lambda: all(len(world.polls_of(tick)) > 5 for tick in ticks))
        stopped_at = now()
        leaving.ask_to_stop()
        await world.ended(leaving.name)
        assert await world.etcd.lease_ttl(int(lease, 16)) == 0
        assert not [key for key in await world.keys_left() if key.endswith(leaving.name)]
        await eventually(lambda: all(len(world.polls_of(tick, stopped_at)) > 5 for tick in ticks))
        for tick in ticks:
            assert world.gap(tick, stopped_at - 1) < 2 * INTERVAL + NOISE
            assert not world.is_doubled(tick, stopped_at - 1)
            await client.hears_more(tick)
        client.noticed_nothing()


async def test_a_frozen_poller_is_replaced_when_its_lease_expires_and_stops_when_it_is_thawed(world: World) -> None:
    tick = "tick?n=1"
    async with Client.open(await world.http("gateway-1")) as client:
        await client.join(tick)
        await client.has_results(tick)
        frozen = await world.owned_by(tick)
        frozen_at = now()
        frozen.freeze()
        await eventually(lambda: [poll for poll in world.polls_of(tick, frozen_at) if poll.node != frozen.name])
        assert world.gap(tick, frozen_at - 1) < LEASE_TTL + 1.5
        await client.hears_more(tick)
        assert set(client.troubles(tick)[1:]) <= {"live"}  # at most one short stale
        thawed_at = now()
        frozen.thaw()
        await eventually(lambda: len(world.polls_of(tick, thawed_at)) > 20)
        late = [poll for poll in world.polls_of(tick, thawed_at) if poll.node == frozen.name]
        assert [poll.at - thawed_at for poll in late if waited(thawed_at, poll.at) > 0.5] == []
        await world.ready(frozen.name)  # under a new lease
        await client.hears_more(tick)  # the client asserts that no version went back
        assert client.seen[tick].snapshots == 1


async def test_a_poller_that_joins_gets_its_share_of_topics_without_gaps_or_double_polls(world: World) -> None:
    ticks = [f"tick?n={n}" for n in range(60)]
    async with Client.open(await world.http("gateway-1")) as client:
        await client.join(*ticks)
        await client.has_results(*ticks)
        started_at = now()
        await world.start("poller", "poller-3")

        async def highest_count() -> int:
            """Return the number of topics of the poller that owns most."""
            owners = Counter(
                [OwnerRecord.decode(kv.value).node for kv in (await world.etcd.range(world.keys.owners)).kvs]
            )
            return max(owners.values())

        async def even() -> bool:
            return await highest_count() <= 1.25 * len(ticks) / 3

        await eventually(even, 10.0)
        await eventually(lambda: len({poll.node for poll in world.polls if poll.at > now() - 1}) == 3)
        for tick in ticks:
            assert world.gap(tick, started_at) < 2 * INTERVAL + NOISE
            assert not world.is_doubled(tick, started_at)
        stopped_at = now()
        world.services["poller-3"].ask_to_stop()  # the others get its share back
        await world.ended("poller-3")
        await eventually(lambda: all(len(world.polls_of(tick, stopped_at)) > 10 for tick in ticks))
        for tick in ticks:
            assert world.gap(tick, stopped_at) < 2 * INTERVAL + NOISE
        client.noticed_nothing()


async def test_a_drained_gateway_closes_its_connections_with_1012_and_leaves_no_key(world: World) -> None:
    async with contextlib.AsyncExitStack() as stack:
        address = await world.http("gateway-1")
        clients = [await stack.enter_async_context(Client.open(address)) for _ in range(20)]
        for client in clients:
            await client.join("tick?n=1")
        assert await request_drain(world.etcd, world.keys, "gateway-1") == ["gateway"]  # as SIGTERM would
        await world.ended("gateway-1")
        await eventually(lambda: all(client.closed == 1012 for client in clients))

        async def nothing_left() -> bool:
            left = await world.keys_left()
            return not [key for key in left if key.endswith("gateway-1") or "/owners/" in key]

        await eventually(nothing_left)


async def test_a_frozen_gateway_loses_its_demand_and_serves_its_clients_again_when_it_is_thawed(world: World) -> None:
    tick = "tick?n=1"
    async with Client.open(await world.http("gateway-1")) as client:
        await client.join(tick)
        await client.has_results(tick)
        gateway = world.services["gateway-1"]
        gateway.freeze()

        async def no_owner() -> bool:
            return await world.owner(tick) is None

        await eventually(no_owner, LEASE_TTL + 1.5 + 2.0)
        gateway.thaw()
        await client.hears_more(tick)
        assert client.closed is None
        assert client.seen[tick].snapshots == 1
