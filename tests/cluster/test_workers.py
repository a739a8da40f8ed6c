"""A gateway of several worker processes on one port: clients on all of them, the death of one, and the drain."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal

from prometheus_client.parser import text_string_to_metric_families

from pollcast.services.coordination.keys import NodeRecord
from tests.support.client import Client
from tests.support.longpoll_gateway import Polling
from tests.support.processes import is_gone
from tests.support.waiting import eventually
from tests.support.world import World

TOPIC = "stock?shelf=a"
CLIENTS = 12


async def workers_of(world: World) -> dict[str, NodeRecord]:
    """Return the workers of `shop` that are ready, by name."""
    listing = await world.etcd.range(world.keys.nodes("gateway"))
    records = [NodeRecord.decode(kv.value) for kv in listing.kvs]
    return {record.node: record for record in records if record.state == "ready"}


def sockets(address: str) -> dict[str, float]:
    """Return the number of sockets by worker, as the metrics that any worker answers with have it."""
    connection = http.client.HTTPConnection(address, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {sample.labels["node"]: sample.value for sample in families["pollcast_gateway_sockets"].samples}


async def polls_reach_their_session(address: str) -> None:
    """Check that a client of long polling, each of whose connections reaches any worker, is served by one of them."""
    client = Polling(address)
    assert await client.open() == 410
    session = client.token
    assert await client.join(f"live:{TOPIC}") == 200
    await client.until("snapshot")
    for ref in map(str, range(CLIENTS)):
        assert await client.post([None, ref, "phoenix", "heartbeat", {}]) == 200
        assert await client.until("phx_reply") == {"status": "ok", "response": {}}
        assert client.token == session
    assert await client.post(b"the end of the session") == 410


async def test_workers_share_a_port_and_the_death_of_one_concerns_its_clients_alone(world: World) -> None:
    world.execute("insert into stock values (1, 1, 'a')")
    await world.start("poller", "poller-1")
    off = ("/usr/bin/env", "POLLCAST_CATALOG_RELOAD=off")
    service = await world.start("gateway", "shop", "--workers", "2", wrap=off, wait=False)

    async def both() -> dict[str, NodeRecord]:
        found = await workers_of(world)
        return found if len(found) == 2 else {}

    nodes = await eventually(both, 30, what="both workers are ready")
    assert sorted(nodes) == ["shop.1", "shop.2"]
    assert nodes["shop.1"].http == nodes["shop.2"].http
    assert nodes["shop.1"].grpc != nodes["shop.2"].grpc
    address = nodes["shop.1"].http
    assert address is not None
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client.open(f"http://{address}")) for _ in range(CLIENTS)]
        for client in clients:
            await client.join(TOPIC)
            await client.has_results(TOPIC)
        before = sockets(address)
        assert sum(before.values()) == CLIENTS
        assert min(before.values()) > 0  # by chance all are on one worker in one of 2048 runs
        await polls_reach_their_session(address)

        os.kill(nodes["shop.1"].pid, signal.SIGKILL)
        await eventually(lambda: sum(client.reconnects > 0 for client in clients) == before["shop.1"])
        world.execute("update stock set n = 2")
        for client in clients:
            await client.shows(TOPIC, [{"id": 1, "n": 2}])
            if not client.reconnects:
                client.noticed_nothing(TOPIC)

        async def replaced() -> bool:
            found = await workers_of(world)
            return len(found) == 2 and found["shop.1"].pid != nodes["shop.1"].pid

        await eventually(replaced, 30, what="the worker is replaced")
        assert sum(client.reconnects for client in clients) == before["shop.1"]
        pids = [record.pid for record in (await workers_of(world)).values()]
        old = {record.catalogue for record in (await workers_of(world)).values()}
        world.catalog.write_text(world.catalog.read_text().replace("[queries.tick]\n", '[queries.tick]\ntitle = "T"\n'))
        service.send(signal.SIGHUP)

        async def taken() -> bool:
            new = [record.catalogue for record in (await workers_of(world)).values()]
            return len(new) == 2 and len(set(new)) == 1 and not old & set(new)

        await eventually(taken, what="the parent has passed SIGHUP on, and both workers have another catalogue")
    service.ask_to_stop()
    await world.ended("shop")
    assert all(map(is_gone, pids))
    assert await workers_of(world) == {}


async def test_workers_drain_when_their_parent_is_killed(world: World) -> None:
    off = ("/usr/bin/env", "POLLCAST_CATALOG_RELOAD=off")
    service = await world.start("gateway", "shop", "--workers", "2", wrap=off, wait=False)

    async def both() -> list[int]:
        found = [record.pid for record in (await workers_of(world)).values()]
        return found if len(found) == 2 else []

    pids = await eventually(both, 30, what="both workers are ready")
    service.kill()
    await eventually(lambda: all(map(is_gone, pids)), what="the workers have ended")
    assert await world.keys_left() == []
