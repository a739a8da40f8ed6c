"""Keys in etcd that an operator deletes, overwrites or adds are repaired, or reported and ignored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pollcast.services.coordination.keys import NodeRecord, OwnerRecord
from pollcast.services.local.etcd_server import EtcdServer
from tests.support.client import Client
from tests.support.waiting import eventually
from tests.support.world import World, now

TICK = "tick?n=1"
STOCK = "stock?shelf=a"

REPAIR_SECONDS = 1.0
"""Maximum time until a key is repaired."""


@pytest.fixture(scope="module")
async def world(module_world: World) -> World:
    """A world with a coordinator, two pollers and two gateways."""
    await module_world.start("coordinator", "coordinator-1", wait=False)
    await module_world.start_all()
    await module_world.ready("coordinator-1")
    return module_world


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    """A client with results of both topics. Before each test, etcd has exactly the keys that the cluster needs."""

    async def all_there() -> bool:
        return await world.keys_left() == sorted(settled)

    keys = world.keys
    settled = [keys.leader, *(keys.node(service.role, name) for name, service in world.services.items())]
    settled += [key for topic in (TICK, STOCK) for key in (keys.owner(topic), keys.demand(topic, "gateway-1"))]
    async with Client.open(await world.http("gateway-1")) as client:
        await client.join(TICK, STOCK)
        await client.has_results(TICK, STOCK)
        await eventually(all_there, what=f"etcd shows {sorted(settled)}")
        yield client


async def test_a_deleted_key_is_restored_within_a_second(world: World, client: Client, etcd_server: EtcdServer) -> None:
    before = await world.keys_left()
    for key in before:
        etcd_server.etcdctl("del", key)
        await eventually(lambda key=key: _exists(world, key), REPAIR_SECONDS, what=f"{key} is back")  # type: ignore[misc]
    await client.hears_more(TICK)
    client.noticed_nothing()
    assert await world.keys_left() == before


async def test_all_keys_deleted_at_once_are_restored_within_a_second(
    world: World, client: Client, etcd_server: EtcdServer
) -> None:
    before = await world.keys_left()
    etcd_server.etcdctl("del", "--prefix", world.keys.namespace + "/")

    async def all_there() -> bool:
        return await world.keys_left() == before

    await eventually(all_there, REPAIR_SECONDS)
    await client.hears_more(TICK)
    client.noticed_nothing()


async def test_clients_do_not_notice_revoked_leases(world: World, client: Client) -> None:
    for name in world.services:
        record = await world.ready(name)
        await world.etcd.lease_revoke(record.lease_number)
    await asyncio.gather(*(world.ready(name) for name in world.services))
    await world.owned_by(TICK)
    back_at = now()
    await eventually(lambda: len(world.polls_of(TICK, back_at)) > 20)
    assert world.alternations(TICK, back_at) <= 1
    await client.hears_more(TICK)
    client.noticed_nothing()


@pytest.mark.parametrize("value", ["garbled", "{}", '{"node":5,"grpc":null,"since":""}', ""])
async def test_an_overwritten_key_is_repaired_within_a_second(
    world: World, client: Client, etcd_server: EtcdServer, value: str
) -> None:
    for key in await world.keys_left():
        etcd_server.etcdctl("put", key, "--", value)
        await eventually(lambda key=key: _is_ours(world, key), REPAIR_SECONDS, what=f"{key} is ours")  # type: ignore[misc]
    await client.hears_more(TICK)
    client.noticed_nothing()


async def test_foreign_keys_are_reported_and_ignored(world: World, client: Client, etcd_server: EtcdServer) -> None:
    foreign = [
        f"{world.keys.namespace}/{key}"
        for key in (
            "nodes/poller/ghost",
            "nodes/poller/y/z",
            "owners/NO",
            "owners/tick?n=5",
            "owners/a/b",
            "demand/x",
            f"demand/{STOCK}/nobody",
            "demand/tick?n=6/nobody",
            "pins/tick?n=1",
            "pins/",
            "drains/poller/poller-1",
            "presence/x",
            "something",
        )
    ]
    for key in foreign:
        etcd_server.etcdctl("put", key, "--", "\x01 garbled")
    await client.join("tick?n=5")
    await client.has_results("tick?n=5")
    await client.hears_more(TICK)

    def unreported() -> list[str]:
        logs = "".join(service.log.read_text() for service in world.services.values())
        return [key for key in foreign if not key.endswith(("/something", "/presence/x")) and key not in logs]

    await eventually(lambda: not unreported(), what="all foreign keys are reported")
    for service in world.services.values():
        assert service.running
    for topic in (TICK, STOCK, "tick?n=5"):
        await client.leave(topic)

    async def released() -> bool:
        left = await world.keys_left()
        return not [key for key in left if f"/owners/{STOCK}" in key or f"/owners/{TICK}" in key]

    await eventually(released)
    for key in foreign:
        etcd_server.etcdctl("del", key)


async def _exists(world: World, key: str) -> bool:
    return await world.etcd.get(key) is not None


async def _is_ours(world: World, key: str) -> bool:
    """Return whether a service has written the key: it is on a lease, and its value can be decoded."""
    kv = await world.etcd.get(key)
    if kv is None or not kv.lease:
        return False
    if world.keys.parse_owner(key):
        OwnerRecord.decode(kv.value)
    if world.keys.parse_node(key):
        NodeRecord.decode(kv.value)
    return True
