"""Outages of etcd: live topics stay live, new topics wait with the status `stale`, and all services recover."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pollcast.services.local.etcd_server import EtcdMember, EtcdServer
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process.settings import Role
from tests.support.breakable_etcd import restore
from tests.support.client import Client
from tests.support.waiting import eventually, stood_still
from tests.support.world import LEASE_TTL, World, now, own_database, start_world

TICKS = [f"tick?n={n}" for n in range(10)]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd of three members, which each test breaks and repairs."""
    with EtcdServer.start(tmp_path_factory.mktemp("three"), nodes=3, fsync=False) as server:
        yield server


@pytest.fixture(scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory, three: EtcdServer, postgres_server: PostgresServer
) -> AsyncIterator[World]:
    """A world with two pollers and two gateways, which all tests of this module share."""
    with own_database(postgres_server) as url:
        async with start_world(tmp_path_factory.mktemp("world"), three.endpoints, url) as world:
            await world.start_all()
            yield world


@contextlib.asynccontextmanager
async def ticking(world: World) -> AsyncIterator[tuple[Client, Client]]:
    """Run a client on each gateway; both of them have results of all TICKS."""
    async with Client.open(await world.http("gateway-1")) as one, Client.open(await world.http("gateway-2")) as two:
        for client in (one, two):
            await client.join(*TICKS)
            await client.has_results(*TICKS)
        yield one, two


async def leader(server: EtcdServer) -> EtcdMember:
    """Return the member that all members regard as the leader. One that was frozen may need a moment to agree."""

    def elected() -> EtcdMember | None:
        statuses = json.loads(server.etcdctl("endpoint", "status", "--write-out=json"))
        endpoint_of = {status["Status"]["header"]["member_id"]: status["Endpoint"] for status in statuses}
        leaders = {status["Status"]["leader"] for status in statuses}
        endpoints = [endpoint_of.get(leader) for leader in leaders]
        return next((member for member in server.members if endpoints == [member.client]), None)

    found = await eventually(lambda: asyncio.to_thread(elected), what="all members have the same leader")
    assert found is not None
    return found


async def all_topics_flow(*clients: Client) -> None:
    """Wait until each of the clients has another result of each of TICKS."""
    for client in clients:
        for tick in TICKS:
            await client.hears_more(tick)


def nothing_doubled(world: World, since: float) -> None:
    """Assert that no two pollers have polled one of TICKS at the same time."""
    assert [tick for tick in TICKS if world.is_doubled(tick, since)] == []


@pytest.mark.parametrize("how", ["freeze the first", "kill the leader", "kill a follower"])
async def test_clients_do_not_notice_the_loss_of_a_member(world: World, three: EtcdServer, how: str) -> None:
    async with ticking(world) as (one, two):
        first = await leader(three)
        member = first if "leader" in how else next(other for other in three.members if other is not first)
        if "freeze" in how:
            member = three.members[0]  # it serves all watches, because no test has broken it yet
        lost_at = now()
        if "kill" in how:
            member.kill()
        else:
            member.freeze()
        new = f"tick?n={len(how)}00"
        await one.join(new)  # this needs a claim, which shows that coordination works again
        await one.has_results(new)
        await all_topics_flow(one, two)
        for client in (one, two):
            client.noticed_nothing(*TICKS)
        nothing_doubled(world, lost_at)
    if "kill" in how:
        member.restart()
    else:
        member.thaw()
        await eventually(lambda: asyncio.to_thread(member.healthy))


async def test_during_an_outage_of_etcd_live_topics_stay_live_and_new_topics_wait(
    world: World, three: EtcdServer
) -> None:
    async with ticking(world) as (one, two):
        gone_at, began = now(), time.monotonic()
        three.kill()
        new, joined_at = "tick?n=99", time.monotonic()
        await one.join(new)
        assert one.seen[new].replied_after < 0.5 + stood_still(joined_at)
        await eventually(lambda: set(one.seen[new].statuses) == {"stale"}, 3.0)  # its reason may change meanwhile
        await eventually(lambda: time.monotonic() - began > LEASE_TTL + 1.5)
        await all_topics_flow(one, two)
        three.restart()
        await one.has_results(new)
        await eventually(lambda: one.seen[new].statuses[-1] == "live")
        assert set(one.seen[new].statuses[:-1]) == {"stale"}
        back_at = now()
        await all_topics_flow(one, two)
        for client in (one, two):
            client.noticed_nothing(*TICKS)
        await asyncio.gather(*(world.ready(name) for name in world.services))
        await eventually(lambda: all(len(world.polls_of(tick, back_at)) > 20 for tick in TICKS))
        nothing_doubled(world, back_at)
        for tick in TICKS:
            assert world.gap(tick, gone_at) < LEASE_TTL  # no topic waited for a lease to expire


async def test_all_services_start_over_when_etcd_has_lost_its_data(world: World, three: EtcdServer) -> None:
    async with ticking(world) as (one, two):
        three.kill()
        for member in three.members:
            shutil.rmtree(member.data_dir)
        three.restart()
        await eventually(lambda: (one.closed, two.closed) == (1012, 1012))
        for name in ("gateway-1", "gateway-2"):
            await world.ready(name)
            async with Client.open(await world.http(name)) as client:
                await client.join(*TICKS)
                await client.has_results(*TICKS)
                await all_topics_flow(client)


@pytest.mark.parametrize("lost", ["joins", "owners", "leaves"])
async def test_all_topics_are_live_again_soon_after_etcd_was_restored_from_a_snapshot(
    world: World, three: EtcdServer, tmp_path: Path, lost: str
) -> None:
    others, last = [f"tick?n={len(lost)}{n}0" for n in range(10)], "tick?n=77"

    def wanted() -> set[str]:
        keys = three.etcdctl("get", "--prefix", "--keys-only", world.keys.demands()).split()
        return {other for other in others for key in keys if key.startswith(world.keys.demands(other))}

    async with ticking(world) as (one, two):
        gateways = [await world.http(name) for name in ("gateway-1", "gateway-2")]
        snapshot = tmp_path / "snapshot"
        save = EtcdServer(three.members[:1]).etcdctl
        if lost == "leaves":  # demand that the snapshot has, and nobody any more
            async with Client.open(await world.http("gateway-1")) as third:
                await third.join(*others)
                await third.has_results(*others)
                assert wanted() == set(others)
                save("snapshot", "save", str(snapshot))
            await eventually(lambda: not wanted())
        else:
            save("snapshot", "save", str(snapshot))
        for client in (one, two):  # so that each gateway knows of something that will be lost
            await client.join(last)
            await client.has_results(last)
        if lost == "joins":  # demand and owners that the snapshot does not have
            await one.join(*others)
            await one.has_results(*others)
        if lost == "owners":
            three.etcdctl("del", "--prefix", world.keys.owners)
        await world.etcd.put(f"{world.keys.namespace}/later", b"")
        three.kill()
        restore(three, snapshot)
        three.restart()
        back_at = time.monotonic()
        await eventually(lambda: (one.closed, two.closed) == (1012, 1012))
        for gateway in gateways:
            async with Client.open(gateway) as client:
                await client.join(*TICKS, *others)
                await client.has_results(*TICKS, *others)
                assert time.monotonic() - back_at - stood_still(back_at) < LEASE_TTL + 5
                await all_topics_flow(client)
                for tick in TICKS:  # a topic without an owner for a second is stale
                    assert client.seen[tick].snapshots == 1
                    assert client.seen[tick].statuses in ([], ["stale", "live"])
    await world.nothing_owned()
    assert not [key for key in await world.keys_left() if "/demand/" in key or "/owners/" in key]


@pytest.mark.parametrize("role", ["gateway", "poller"])
async def test_a_service_that_was_frozen_during_a_compaction_lists_again(
    world: World, three: EtcdServer, role: Role
) -> None:
    sleeper = await world.start(role, f"{role}-3", "--lease-ttl", "30")
    async with ticking(world) as (one, two):
        sleeper.freeze()
        litter = world.keys.owner("no/topic")
        for _ in range(20):  # more events than etcd buffers for a watch that is not read
            revision = max(await asyncio.gather(*(world.etcd.put(litter, b"x" * 16_384) for _ in range(50))))
        three.etcdctl("del", litter)
        three.etcdctl("compact", str(revision + 1))
        sleeper.thaw()
        await eventually(lambda: "are compacted" in sleeper.log.read_text())
        if role == "gateway":
            async with Client.open(await world.http(sleeper.name)) as late:
                await late.join(*TICKS, "tick?n=77")
                await late.has_results(*TICKS, "tick?n=77")
                world.services["poller-1"].kill()  # so that topics get another owner
                await all_topics_flow(one, two, late)
        else:
            for name in ("poller-1", "poller-2"):
                world.services[name].kill()
            await all_topics_flow(one, two)
    sleeper.ask_to_stop()
    await world.ended(sleeper.name)
    await world.start_all()


async def test_services_stop_with_status_0_while_etcd_is_frozen(world: World, three: EtcdServer) -> None:
    async with ticking(world) as clients:
        three.freeze()
        for service in world.services.values():
            service.ask_to_stop()
        await asyncio.gather(*(world.ended(name) for name in world.services))
        await eventually(lambda: [client.closed for client in clients] == [1012, 1012])
    three.thaw()
