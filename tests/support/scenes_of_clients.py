"""Scenes in which clients of every kind watch one topic of the manual's shop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from pollcast.v1 import (
    cluster_pb2,
    feed_pb2,
    feed_pb2_grpc,
    live_pb2,
)
from tests.support import hostile
from tests.support.observed import events
from tests.support.shop import Call, Socket, metadata, token
from tests.support.stage import EXAMPLES, PATH, TOPIC, Stage, is_event
from tests.support.waiting import eventually


async def first_client(stage: Stage) -> None:
    """Play the first join of a topic, when there is no result yet."""
    found, socket = stage.found, stage.socket
    request = found.request("grpc.watch_cluster.request", cluster_pb2.WatchClusterRequest)
    stage.changes = Call(stage.cluster.WatchCluster(request), stage.tasks)
    found.note("channels.join.reply.first", await socket.ask(found.example("channels.join")))
    found.note("channels.snapshot", await socket.until(is_event("snapshot")))
    found.note("channels.heartbeat.reply", await socket.ask(found.example("channels.heartbeat")))
    assert (await socket.ask(found.example("channels.join.null")))[4]["status"] == "ok"
    keyless = await socket.until(lambda message: message[2:4] == ["live:revenue", "snapshot"])
    found.note("channels.snapshot.keyless", keyless)
    await socket.ask(["1", "5", "live:revenue", "phx_leave", {}])


async def everybody_else(stage: Stage) -> None:
    """Play clients of other kinds on the same topic."""
    found, live = stage.found, stage.live
    stage.watch = Call(
        live.Watch(found.request("grpc.watch.request", live_pb2.WatchRequest), metadata=metadata()), stage.tasks
    )
    found.note("grpc.watch.snapshot", await stage.watch.until(lambda each: each.HasField("snapshot")))
    get = found.request("grpc.get.request", live_pb2.GetRequest)
    found.note("grpc.get.response", await live.Get(get, metadata=metadata()))
    list_queries = found.request("grpc.list_queries.request", live_pb2.ListQueriesRequest)
    found.note("grpc.list_queries.response", await live.ListQueries(list_queries, metadata=metadata()))
    await stage.http("http.snapshot", PATH, 200)
    _, headers, _ = await hostile.http(stage.gateway, PATH, {"Authorization": f"Bearer {token()}"})
    found.note("http.snapshot.headers", {name: headers[name] for name in EXAMPLES["http.snapshot.headers"].json()})
    await stage.http("http.queries", "/api/queries", 200)

    async def owner() -> str:
        listed = await stage.cluster.ListTopics(cluster_pb2.ListTopicsRequest(query="orders"))
        return str(listed.topics[0].owner) if listed.topics else ""

    stage.feed = Call(feed_of(stage, stage.shop.grpc(await eventually(owner))), stage.tasks)
    found.note("grpc.feed.snapshot", await update(stage.feed, "snapshot"))


async def feed_of(stage: Stage, poller: str) -> AsyncGenerator[feed_pb2.FeedUpdate, None]:
    """Follow the topic as a gateway does: attach, forget it, and attach again."""
    names = ("grpc.feed.attach", "grpc.feed.detach", "grpc.feed.reattach")
    requests = [stage.found.request(name, feed_pb2.FeedRequest) for name in names]

    answered = asyncio.Event()

    async def send() -> AsyncIterator[feed_pb2.FeedRequest]:
        yield requests[0]
        await answered.wait()
        for request in requests[1:]:
            yield request
        await asyncio.Event().wait()

    async with grpc.aio.insecure_channel(poller) as channel:
        async for response in feed_pb2_grpc.FeedStub(channel).Subscribe(send()):
            for each in response.updates:
                if each.HasField("snapshot"):
                    answered.set()
                yield each


async def update(feed: Call, body: str, state: str = "") -> Any:
    """Return the first update of the feed with this body (and state)."""
    return await feed.until(lambda each: each.WhichOneof("body") == body and each.status.state.startswith(state))


async def members(stage: Stage) -> None:
    """Play presence: alice is listed, bob comes, alice types."""
    found, live, gateway = stage.found, stage.live, stage.gateway
    async with Socket.open(gateway, token()) as alice:
        assert (await alice.ask(found.example("channels.join.presence")))[4]["status"] == "ok"
        await stage.socket.until(is_event("presence_diff"))
        async with Socket.open(gateway, token()) as another:
            found.note("channels.join.reply", await another.ask(found.example("channels.join")))
            found.note("channels.presence_state", await another.until(is_event("presence_state")))
            found.note("channels.leave.reply", await another.ask(found.example("channels.leave")))
            found.note("channels.phx_close", await another.until(is_event("phx_close")))
        listed = found.request("grpc.list_presence.request", live_pb2.ListPresenceRequest)
        found.note("grpc.list_presence.response", await live.ListPresence(listed, metadata=metadata()))
        watched = found.request("grpc.watch_presence.request", live_pb2.WatchPresenceRequest)
        watch = Call(live.WatchPresence(watched, metadata=metadata()), stage.tasks)
        found.note("grpc.watch_presence.state", await watch.until(lambda each: each.HasField("state")))
        async with Socket.open(gateway, token(sub="bob")) as bob:
            after = len(stage.socket.received)
            await bob.ask(["1", "1", TOPIC, "phx_join", None])
            found.note("channels.presence_diff", await stage.socket.until(is_event("presence_diff"), after))
            found.note("grpc.watch_presence.diff", await watch.until(lambda each: each.HasField("diff")))
            after = len(stage.socket.received)
            found.note("channels.presence.reply", await alice.ask(found.example("channels.presence")))
            found.note("channels.presence_diff.update", await stage.socket.until(is_event("presence_diff"), after))
            await bob.ask(["1", "2", TOPIC, "phx_leave", {}])
        watch.cancel()
        await alice.ask(["4", "7", TOPIC, "phx_leave", {}])


async def changes_and_trouble(stage: Stage) -> None:
    """Play changes: rows change, a client resumes, the table is locked, and is gone for a while."""
    found, socket, database = stage.found, stage.socket, stage.shop.database
    async with event_stream(stage.gateway) as event:
        stream = [await event(), await event()]  # `retry` at the start, and the snapshot
        with database.transaction():
            database.execute("delete from orders where id = 3")
            database.execute("insert into orders values (4, 'Dov', 300, 'north')")
            database.execute("update orders set amount = 260 where id = 2")
        delta = await socket.until(is_event("delta"))
        found.note("channels.delta", delta)
        found.note("grpc.watch.delta", await stage.watch.until(lambda each: each.HasField("delta")))
        found.note("grpc.feed.delta", await update(stage.feed, "delta"))
        stream.append(await event())
        async with Socket.open(stage.gateway, token()) as resuming:
            version = delta[4]["version"]
            resumed = await resuming.ask(found.example("channels.join.since", since=version))
            assert resumed[4]["response"]["version"] == version
            await resuming.ask(["2", "5", TOPIC, "phx_leave", {}])
            await resuming.ask(found.example("channels.join.snapshots"))
            await resuming.until(is_event("snapshot", version=version))
        resume = found.request("grpc.watch.request.since", live_pb2.WatchRequest)
        again = Call(stage.live.Watch(resume, metadata=metadata()), stage.tasks)
        await again.until(lambda each: each.snapshot.version == version)
        again.cancel()
        after = len(socket.received)
        with stage.shop.locked():
            stale = await socket.until(is_event("status", state="stale"), after)
            found.note("channels.status.stale", stale)
            found.note("grpc.watch.status", await stage.watch.until(lambda each: each.status.state == "stale"))
            found.note("grpc.feed.status", await update(stage.feed, "status", "stale"))
            stream.append(await event())
    found.note("http.sse.stream", events("".join(stream)))
    for each in events("".join(stream[1:])):
        found.note(f"http.sse.{each['event']}", each["data"])
    after = socket.received.index(stale)
    found.note("channels.status.live", await socket.until(is_event("status", state="live"), after))
    after = len(socket.received)
    with stage.shop.without_table():
        found.note("channels.status.failed", await socket.until(is_event("status", state="failed"), after))
    await socket.until(is_event("status", state="live"), after)


@contextlib.asynccontextmanager
async def event_stream(gateway: str) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Open an event stream on the topic; what it yields returns the next event as text."""
    reader, writer = await asyncio.open_connection(*gateway.rsplit(":", 1))
    accept = f"Accept: text/event-stream\r\nAuthorization: Bearer {token()}"
    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: {gateway}\r\n{accept}\r\n\r\n".encode())
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200")
        assert "content-type: text/event-stream" in head

        async def event() -> str:
            async with asyncio.timeout(10):
                size = int(await reader.readline(), 16)  # each event is a chunk
                return (await reader.readexactly(size + 2)).decode().removesuffix("\r\n")

        yield event
    finally:
        writer.close()
        await writer.wait_closed()
