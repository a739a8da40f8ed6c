"""Taking over a changed catalogue without a restart (docs/reference/catalogue.md#reloading), on one cluster.

Each service has a catalogue file of its own, so that a test decides who takes a change over when.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from http.client import HTTPConnection
from typing import Any

import grpc.aio
from websockets.asyncio.client import ClientConnection, connect

from pollcast.v1 import live_pb2, live_pb2_grpc
from tests.support.client import Client
from tests.support.gateway_clients import heard, join
from tests.support.waiting import eventually
from tests.support.world import CATALOG, World

BEFORE = (
    CATALOG
    + """
[queries.passing]
sql = "select 1 as id, noted('passing', 'x') as n"
interval = "100ms"
linger = "500ms"

[queries.open]
sql = "select 2 as id"
interval = "100ms"

[queries.bound]
sql = "select %(limit)s as id"
interval = "100ms"
params.limit = { type = "int", default = 7, max = 100 }
"""
)

AFTER = (
    "# A comment changes nothing.\n"
    + CATALOG.replace("s.id, s.n from", "s.id, s.n + 100 as n, 'new' as mark from")
    + """
[queries.open]
sql = "select 2 as id"
interval = "100ms"
roles = ["sales"]

[queries.bound]
sql = "select %(limit)s as id"
interval = "100ms"
params.limit = { type = "int", default = 7, max = 9 }
"""
)

WRONG = AFTER.replace('interval = "100ms"', 'interval = "1ms"')

SHELF, TICK = "stock?shelf=a", "tick?n=1"


def write(world: World, text: str, *names: str) -> None:
    """Replace the catalogue files of these services, each in one step."""
    for name in names:
        new = world.catalog.with_name(f"{name}.new")
        new.write_text(text)
        new.replace(world.catalog.with_name(f"{name}.toml"))


async def start(world: World, name: str, *flags: str, wait: bool = True) -> None:
    """Start a service with the file that `write` has written for it."""
    role: Any = name.partition("-")[0]
    await world.start(role, name, "--catalog", str(world.catalog.with_name(f"{name}.toml")), *flags, wait=wait)


async def take(world: World, text: str, name: str) -> None:
    """Have one service take a catalogue over by SIGHUP, and wait until its entry in etcd says so."""
    before = await shown(world, name)
    write(world, text, name)
    world.services[name].send(signal.SIGHUP)

    async def taken() -> bool:
        return await shown(world, name) != before

    await eventually(taken, what=f"{name} has another catalogue")


async def shown(world: World, name: str) -> str | None:
    """Return the hash that the node's entry shows."""
    record = await world.node(name)
    return None if record is None else record.catalogue


def get(address: str, path: str) -> tuple[int, Any]:
    """Return the status and the JSON of a request."""
    connection = HTTPConnection(address, timeout=15)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if path != "/metrics" else body.decode()


async def until(client: ClientConnection, topic: str, event: str) -> list[Any]:
    """Return the topic's messages up to the first one of this event."""
    messages: list[Any] = []
    while not messages or messages[-1][3] != event:
        message = await heard(client)
        if message[2] == topic:
            messages.append(message)
    return messages


@contextlib.asynccontextmanager
async def calling(world: World, name: str) -> AsyncIterator[live_pb2_grpc.LiveQueryAsyncStub]:
    """Give a stub of a gateway's LiveQuery."""
    record = await world.node(name)
    assert record is not None
    assert record.grpc is not None
    async with grpc.aio.insecure_channel(record.grpc) as channel:
        yield live_pb2_grpc.LiveQueryStub(channel)


async def watched(stub: live_pb2_grpc.LiveQueryAsyncStub, topic: str) -> tuple[list[str], grpc.StatusCode]:
    """Watch a topic to its end, and return the kinds of messages and the status code."""
    kinds: list[str] = []
    try:
        async for message in stub.Watch(live_pb2.WatchRequest(topic=topic)):
            kinds.append(str(message.WhichOneof("event")))
    except grpc.aio.AioRpcError as error:
        return kinds, error.code()
    return kinds, grpc.StatusCode.OK


async def streamed(address: str, topic: str) -> list[str]:
    """Read server-sent events to the end of the stream, and return their names."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /live/{topic} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n".encode())
    text = (await reader.readuntil(b"\r\n0\r\n\r\n")).decode()
    writer.close()
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


async def is_closed(raw: ClientConnection, topic: str, reason: str) -> None:
    """Wait until a topic is closed after it was told that it failed for this reason."""
    *_, status, closed = await until(raw, f"live:{topic}", "phx_close")
    assert status[3:] == ["status", status[4]]
    assert (status[4]["state"], status[4]["reason"].partition(":")[0]) == ("failed", reason)
    assert closed[0] == "1"


async def refuses(world: World, wrong: str, in_force: str | None) -> None:
    """Write a catalogue with four wrong queries, and wait until gateway-1 has refused it whole, once."""
    write(world, wrong, "gateway-1")
    log = world.services["gateway-1"]
    await eventually(lambda: "catalogue refused" in log.tail(50), what="the wrong catalogue is refused")
    metrics = get(await world.http("gateway-1"), "/metrics")[1]
    assert "pollcast_catalogue_current 0.0" in metrics
    assert f'pollcast_catalogue_info{{hash="{in_force}"}} 1.0' in metrics
    refused = [line for line in log.tail(200).splitlines() if "catalogue refused" in line]
    assert len(refused) == 4  # one line for each query that is wrong, and no more in later looks


CLOSED = {"passing": "unknown_query", "open": "forbidden", "bound?limit=50": "invalid_params"}
"""The topics that AFTER ends for a client of BEFORE, with the reason that it is told."""


async def test_a_catalogue_is_taken_over_query_by_query(module_world: World) -> None:
    world = module_world
    world.execute("insert into stock values (1, 1, 'a')")
    write(world, BEFORE, "poller-1", "gateway-1")
    await start(world, "poller-1")
    await start(world, "gateway-1")
    first = await shown(world, "gateway-1")
    assert first == await shown(world, "poller-1")
    address = await world.http("gateway-1")
    async with (
        Client.open(f"http://{address}") as client,
        connect(f"ws://{address}/socket/websocket?vsn=2.0.0") as raw,
        calling(world, "gateway-1") as stub,
        asyncio.TaskGroup() as tasks,
    ):
        await client.join(SHELF, TICK, "bound?limit=8")
        for topic in CLOSED:
            await join(raw, f"live:{topic}")
        ended_call = tasks.create_task(watched(stub, "passing"))
        ended_stream = tasks.create_task(streamed(address, "passing"))
        await client.has_results(SHELF, TICK, "bound?limit=8")
        version, tick = client.seen[SHELF].version, client.seen[TICK].version

        write(world, AFTER, "poller-1", "gateway-1")

        await client.shows(SHELF, [{"id": 1, "n": 101, "mark": "new"}])
        assert client.seen[SHELF].snapshots == 2
        assert client.seen[SHELF].deltas == 0
        assert version is not None
        assert tick is not None
        for topic, reason in CLOSED.items():
            await is_closed(raw, topic, reason)
        kinds, code = await ended_call
        assert (kinds[-1], code) == ("status", grpc.StatusCode.NOT_FOUND)
        assert (await ended_stream)[-1] == "status"
        assert get(address, "/live/passing")[0] == 404
        await client.has_results("bound?limit=8")
        world.execute("update stock set n = 2")
        await client.shows(SHELF, [{"id": 1, "n": 102, "mark": "new"}])
        assert client.seen[SHELF].deltas == 1
        client.noticed_nothing(TICK)
        assert (client.seen[TICK].version or tick).epoch == tick.epoch
        names = {query["name"] for query in get(address, "/api/queries")[1]["queries"]}
        assert names == {"stock", "tick", "open", "bound"}
        second = await shown(world, "gateway-1")
        assert second != first
        assert second == await shown(world, "poller-1")

        await refuses(world, WRONG, second)
        world.execute("update stock set n = 3")
        await client.shows(SHELF, [{"id": 1, "n": 103, "mark": "new"}])
        for name in ("poller-1", "gateway-1"):
            await take(world, BEFORE, name)
        await client.shows(SHELF, [{"id": 1, "n": 3}])
        await join(raw, "live:passing")
        await until(raw, "live:passing", "snapshot")
        client.noticed_nothing(TICK)


def state(client: Client, topic: str = SHELF) -> tuple[str, str]:
    """Return the state that a client was told last, and its reason."""
    state, reason = client.seen[topic].status or ("live", "")
    return state, reason or ""


async def told(client: Client, expected: str, reason: str = "") -> None:
    """Wait until a client was told this state, for a reason with these words."""

    def is_told() -> bool:
        found, why = state(client)
        return found == expected and reason in why

    await eventually(is_told, what=f"{expected} {reason}")


async def test_a_rollout_in_any_order_shows_no_row_of_another_definition(module_world: World) -> None:
    world = module_world
    names = ("poller-1", "poller-2", "gateway-1", "gateway-2")
    write(world, BEFORE, *names)
    for name in names:
        if name not in world.services:
            await start(world, name, wait=False)
    for name in names:
        await world.ready(name)
    old = [{"id": 1, "n": 3}]
    new = [{"id": 1, "n": 103, "mark": "new"}]
    one, two = [f"http://{await world.http(name)}" for name in names[2:]]
    async with Client.open(one) as first, Client.open(two) as second:
        for client in (first, second):
            await client.join(SHELF, TICK)
            await client.shows(SHELF, old)
            await client.has_results(TICK)
        owner = (await world.owned_by(SHELF)).name
        (other,) = {"poller-1", "poller-2"} - {owner}

        # Gateways first: the owner goes on for the gateway that has its definition, and the other one is stale.
        await take(world, AFTER, "gateway-1")
        await told(first, "stale", "catalogues differ")
        await take(world, AFTER, other)
        world.execute("update stock set n = 4")
        await second.shows(SHELF, [{"id": 1, "n": 4}])
        assert (first.seen[SHELF].rows, state(first)[0]) == (old, "stale")
        world.execute("update stock set n = 3")
        await second.shows(SHELF, old)
        await take(world, AFTER, "gateway-2")
        for client in (first, second):
            await client.shows(SHELF, new)
            await told(client, "live")
        assert await world.owner(SHELF) == other
        await take(world, AFTER, owner)

        # Pollers first: while one of them has the gateways' definition, it polls.
        await take(world, BEFORE, other)
        await eventually(lambda: world.polls_of(SHELF)[-1].node == owner, what="the other poller polls")
        assert [client.seen[SHELF].rows for client in (first, second)] == [new, new]
        await take(world, BEFORE, owner)
        for client in (first, second):
            await told(client, "stale", "catalogues differ")
        await take(world, BEFORE, "gateway-1")
        await first.shows(SHELF, old)
        assert second.seen[SHELF].rows == new
        await take(world, BEFORE, "gateway-2")
        await second.shows(SHELF, old)
        for client in (first, second):
            await told(client, "live")
            client.noticed_nothing(TICK)
