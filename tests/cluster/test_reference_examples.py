"""The examples of channels.md, http.md and grpc.md in docs/reference, compared with what a real cluster sends.

The cluster runs the shop of docs/reference/catalogue.md, and one story is played on it: clients of every kind watch one
topic, its rows change, its table is locked and renamed, a gateway drains. Messages of clients are sent as the manual
shows them. Messages of the cluster must equal the manual's, but for versions, times and the like
(`tests.support.observed.masked`).
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pollcast.services.local import ports
from pollcast.services.local.embedded import PostgresServer
from pollcast.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    feed_pb2,
    feed_pb2_grpc,
    live_pb2,
    live_pb2_grpc,
    report_pb2,
    report_pb2_grpc,
)
from tests.support import hostile
from tests.support.manual import examples
from tests.support.observed import Observed, events, masked
from tests.support.shop import ORIGIN, Call, Message, Shop, Socket, metadata, refusal, shop, token
from tests.support.waiting import eventually

EXAMPLES = {name: example for page in ("channels", "http", "grpc") for name, example in examples(page).items()}

TOPIC = "live:orders?region=north"
CANONICAL = "orders?limit=10&region=north"
PATH = "/live/orders?region=north"
LOCKED = "a table that the query needs is locked"

MEMBERS_BEYOND_THE_CAP = 1020


@dataclass
class Stage:
    """What the scenes of the story share: the cluster, what was observed, and clients of gateway-1."""

    shop: Shop
    found: Observed
    tasks: asyncio.TaskGroup
    socket: Socket
    live: Any
    cluster: Any
    changes: Call = field(init=False)  # WatchCluster
    watch: Call = field(init=False)
    feed: Call = field(init=False)

    @property
    def gateway(self) -> str:
        """`host:port` of the HTTP of gateway-1."""
        return self.shop.cluster.gateway(0)

    async def http(self, name: str, path: str, status: int, **headers: str) -> None:
        """Ask gateway-1 with a token and keep the JSON that it answers with this status."""
        bearer = {"Authorization": f"Bearer {token()}"} | {key.capitalize(): each for key, each in headers.items()}
        answer = await hostile.http(self.gateway, path, bearer)
        assert (answer[0], name) == (status, name)
        self.found.note(name, answer[2])

    async def fails(self, name: str, call: Awaitable[Any]) -> None:
        """Keep the error that a gRPC call ends with."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        self.found.note_error(name, error.value)


def is_event(event: str, **fields: object) -> Callable[[Message], bool]:
    """Match an event of TOPIC whose payload has these fields."""
    return lambda message: message[2:4] == [TOPIC, event] and fields.items() <= message[4].items()


@pytest.fixture(scope="module")
async def observed(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Play the story and return the messages by the name of their example."""
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("create database reference_examples")
    folder = tmp_path_factory.mktemp("reference")
    found = Observed(EXAMPLES)
    url = postgres_server.url_of("reference_examples")
    with shop(folder, url) as running, gateway_without_etcd(folder) as unready:
        async with (
            asyncio.TaskGroup() as tasks,
            Socket.open(running.cluster.gateway(0), token()) as socket,
            grpc.aio.insecure_channel(running.grpc("gateway-1")) as gateway,
            grpc.aio.insecure_channel(running.grpc("coordinator-1")) as coordinator,
        ):
            live, cluster = live_pb2_grpc.LiveQueryStub(gateway), cluster_pb2_grpc.ClusterStub(coordinator)
            stage = Stage(running, found, tasks, socket, live, cluster)
            slow = [tasks.create_task(what_takes_ten_seconds(stage)), tasks.create_task(starting(stage, unready))]
            for scene in (
                first_client,
                everybody_else,
                members,
                changes_and_trouble,
                refused_messages,
                refused_requests,
                health,
                more_members_than_are_listed,
                operators,
                reports,
                draining,
                too_many_connections,
            ):
                await scene(stage)
            await asyncio.wait(slow)
            for call in (stage.changes, stage.watch, stage.feed):
                call.cancel()
    return found.messages


@pytest.mark.parametrize("page", ["channels", "http", "grpc"])
async def test_each_example_of_a_page_is_what_a_cluster_sends(page: str, observed: dict[str, Any]) -> None:
    wrong = []
    for name, example in EXAMPLES.items():
        if not name.startswith(f"{page}."):
            continue
        if name not in observed:
            wrong.append(f"{name}: no scene of the story observes it")
            continue
        shown = masked(events(example.text) if example.language == "text" else example.json())
        sent = masked(observed[name])
        if shown != sent:
            lines = (json.dumps(each, indent=1, sort_keys=True).splitlines() for each in (shown, sent))
            wrong.append(
                "\n".join([name, *difflib.unified_diff(*lines, "the manual", "the cluster", lineterm="", n=2)])
            )
    if wrong:
        pytest.fail(f"{len(wrong)} examples of {page}.md differ:\n" + "\n\n".join(wrong), pytrace=False)


# --- the story ----------------------------------------------------------------------------------------------------


async def what_takes_ten_seconds(stage: Stage) -> None:
    """Requests that are answered when the gateway's patience ends."""
    finance = token(roles=["finance"])

    async def no_result() -> None:
        headers = {"Authorization": f"Bearer {finance}"}
        status, _, body = await hostile.http(stage.gateway, "/live/margins", headers)
        assert status == 504
        stage.found.note("http.error.timeout", body)

    async def half_a_request() -> None:
        status, _, body = await hostile.raw(stage.gateway, b"GET /live/orders HTTP/1.1\r\n")
        assert status == 408
        stage.found.note("http.error.request_timeout", body)

    get = stage.live.Get(live_pb2.GetRequest(topic="margins"), metadata=metadata(roles=["finance"]))
    await asyncio.gather(no_result(), half_a_request(), stage.fails("grpc.error.timeout", get))


@contextlib.contextmanager
def gateway_without_etcd(folder: Path) -> Iterator[str]:
    """Run a gateway that finds no etcd, and so is never ready; yield its `host:port`."""
    address = f"127.0.0.1:{ports.free_port()}"
    flags = ["--http", address, "--etcd", "127.0.0.1:1", "--catalog", str(folder / "shop.toml")]
    command = [sys.executable, "-m", "pollcast", "gateway", *flags]
    with (folder / "starting.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield address
        finally:
            process.kill()
            process.wait()


async def starting(stage: Stage, address: str) -> None:
    """Keep what a gateway answers that is not ready yet."""

    async def answer() -> Any:
        with contextlib.suppress(ConnectionError):
            return await hostile.http(address, "/readyz")
        return None

    status, _, body = await eventually(answer)
    assert status == 503
    stage.found.note("http.readyz.starting", body)


async def first_client(stage: Stage) -> None:
    """The first join of a topic, when there is no result yet."""
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
    """Clients of other kinds on the same topic."""
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

    async def send() -> AsyncIterator[feed_pb2.FeedRequest]:
        for request in requests:
            yield request
        await asyncio.Event().wait()

    async with grpc.aio.insecure_channel(poller) as channel:
        async for response in feed_pb2_grpc.FeedStub(channel).Subscribe(send()):
            for each in response.updates:
                yield feed_pb2.FeedUpdate.FromString(each)


async def update(feed: Call, body: str, state: str = "") -> Any:
    """Return the first update of the feed with this body (and state)."""
    return await feed.until(lambda each: each.WhichOneof("body") == body and each.status.state.startswith(state))


async def members(stage: Stage) -> None:
    """Presence: alice is listed, bob comes, alice types."""
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
    """The rows change, somebody resumes, the table is locked, and is gone for a while."""
    found, socket, database = stage.found, stage.socket, stage.shop.database
    async with event_stream(stage.gateway) as event:
        stream = [await event(), await event()]  # the comment at the start, and the snapshot
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
        with stage.shop.locked():
            stale = await socket.until(is_event("status", reason=LOCKED))
            found.note("channels.status.stale", stale)
            found.note("grpc.watch.status", await stage.watch.until(lambda each: each.status.reason == LOCKED))
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


async def refused_messages(stage: Stage) -> None:
    """Error replies, and handshakes that are refused."""
    found, socket, gateway = stage.found, stage.socket, stage.gateway
    for name, message in {
        "unknown_query": ["9", "9", "live:order?region=north", "phx_join", {}],
        "invalid_params": ["9", "9", "live:orders", "phx_join", {}],
        "forbidden": ["9", "9", "live:my_orders", "phx_join", {}],
        "invalid_payload": ["9", "9", TOPIC, "phx_join", {"since": 5}],
        "unauthorized": ["1", "9", TOPIC, "access_token", {"token": "x"}],
        "unknown_event": ["1", "9", TOPIC, "shout", {}],
        "unmatched_topic": [None, "9", "live:orders?region=south", "presence", {}],
    }.items():
        found.note(f"channels.error.{name}", await socket.ask(message))
    renewal = found.example("channels.access_token", token=token())
    found.note("channels.access_token.reply", await socket.ask(renewal))

    async with Socket.open(gateway, token()) as greedy:
        spellings = [f"live:orders?region=north&limit={'0' * zeros}10" for zeros in range(1, 150)]
        for number, spelling in enumerate(spellings):
            await greedy.send([f"s{number}", f"s{number}", spelling, "phx_join", {}])
        join = ["9", "9", TOPIC, "phx_join", {}]
        for reason in ("too_many_joins", "too_many_topics"):

            async def refused(reason: str = reason) -> Message | None:
                reply = await greedy.ask(join)
                return reply if reply[4]["response"]["reason"] == reason else None

            found.note(f"channels.error.{reason}", await eventually(refused))

    url = f"ws://{gateway}/socket/websocket"
    for name, status, address in (
        ("vsn", 403, f"{url}?vsn=1.0.0&token={token()}"),
        ("token", 403, f"{url}?vsn=2.0.0"),
        ("path", 404, f"ws://{gateway}/elsewhere?vsn=2.0.0"),
    ):
        refused_with, body = await refusal(address)
        assert refused_with == status
        found.note(f"channels.refused.{name}", body)


async def refused_requests(stage: Stage) -> None:
    """Errors of HTTP and gRPC, and a preflight."""
    found, gateway, live = stage.found, stage.gateway, stage.live
    await stage.http("http.error.unknown_query", "/live/order?region=north", 404)
    await stage.http("http.error.invalid_params", "/live/orders", 400)
    await stage.http("http.error.forbidden", "/live/margins", 403)
    await stage.http("http.error.not_found", "/elsewhere", 404)
    await stage.http("http.error.origin", PATH, 403, origin="https://elsewhere.example")
    for name, status, request in (
        ("unauthorized", 401, f"GET {PATH} HTTP/1.1\r\nHost: {gateway}\r\nConnection: close\r\n\r\n"),
        ("method_not_allowed", 405, f"POST {PATH} HTTP/1.1\r\nHost: {gateway}\r\nConnection: close\r\n\r\n"),
        ("bad_request", 400, "nonsense\r\n\r\n"),
        ("request_too_large", 431, f"GET / HTTP/1.1\r\nHost: {gateway}\r\nX: {'x' * 70_000}\r\n\r\n"),
    ):
        refused_with, _, body = await hostile.raw(gateway, request.encode())
        assert (refused_with, name) == (status, name)
        found.note(f"http.error.{name}", body)
    status, headers, _ = await hostile.http(gateway, PATH, {"Origin": ORIGIN}, method="OPTIONS")
    assert status == 204
    names = EXAMPLES["http.preflight"].json()
    found.note("http.preflight", {name: each for name, each in headers.items() if name in names})

    north = live_pb2.GetRequest(topic="orders?region=north")
    for name, topic in {
        "unknown_query": "order?region=north",
        "invalid_params": "orders",
        "forbidden": "margins",
    }.items():
        await stage.fails(f"grpc.error.{name}", live.Get(live_pb2.GetRequest(topic=topic), metadata=metadata()))
    await stage.fails("grpc.error.unauthorized", live.Get(north))
    listed = live.ListPresence(live_pb2.ListPresenceRequest(topic="revenue"), metadata=metadata())
    await stage.fails("grpc.error.invalid_payload", listed)
    moved = stage.cluster.MoveTopic(cluster_pb2.MoveTopicRequest(topic="orders?region=west", poller="poller-1"))
    await stage.fails("grpc.error.unknown_topic", moved)
    drained = stage.cluster.DrainNode(cluster_pb2.DrainNodeRequest(node="gateway-9"))
    await stage.fails("grpc.error.unknown_node", drained)


async def health(stage: Stage) -> None:
    """What probes are answered."""
    found = stage.found
    await stage.http("http.healthz", "/healthz", 200)
    await stage.http("http.readyz", "/readyz", 200)
    for role in ("poller", "coordinator"):
        address = stage.shop.cluster.nodes(role)[0].http
        assert address is not None
        found.note(f"http.readyz.{role}", (await hostile.http(address, "/readyz"))[2])
    async with grpc.aio.insecure_channel(stage.shop.grpc("gateway-1")) as channel:
        request = found.request("grpc.health.request", health_pb2.HealthCheckRequest)
        found.note("grpc.health.response", await health_pb2_grpc.HealthStub(channel).Check(request))


async def more_members_than_are_listed(stage: Stage) -> None:
    """Another gateway, of which etcd alone knows, has many members on the topic."""

    def records(lease: int) -> dict[str, object]:
        member = {"meta": {}, "online_at": "2026-01-31T12:00:00.000000Z"}
        keys = f"{stage.shop.cluster.namespace}/presence/{CANONICAL}/elsewhere"
        return {f"{keys}/{n}": {"key": f"member {n}"} | member for n in range(MEMBERS_BEYOND_THE_CAP)}

    def all_counted(message: Message) -> bool:
        capped = is_event("presence_capped", total=MEMBERS_BEYOND_THE_CAP)
        return capped(message)

    with stage.shop.in_etcd(records):
        stage.found.note("channels.presence_capped", await stage.socket.until(all_counted))


async def operators(stage: Stage) -> None:
    """What the Cluster service shows while the topic's rows change, and a topic that is moved."""
    found, cluster = stage.found, stage.cluster
    nodes = found.request("grpc.list_nodes.request", cluster_pb2.ListNodesRequest)
    listed = json_format.MessageToDict(await cluster.ListNodes(nodes))
    shown = [node["name"] for node in EXAMPLES["grpc.list_nodes.response"].json()["nodes"]]
    found.note("grpc.list_nodes.response", {"nodes": [node for node in listed["nodes"] if node["name"] in shown]})
    found.note("grpc.watch_cluster.node_up", await stage.changes.until(lambda each: each.node_up.name == "gateway-1"))
    found.note("grpc.watch_cluster.topic_gone", await stage.changes.until(lambda each: each.HasField("topic_gone")))
    topics = found.request("grpc.list_topics.request", cluster_pb2.ListTopicsRequest)

    def is_loaded(topic: cluster_pb2.TopicInfo) -> bool:
        load = topic.load
        known = all((load.polls_per_second, load.changes_per_second, load.rows, load.poll_ms))
        return known and (topic.topic, topic.state) == (CANONICAL, "live")

    async def loaded() -> cluster_pb2.ListTopicsResponse | None:
        stage.shop.database.execute("update orders set amount = amount + 1 where id = 1")
        response = await cluster.ListTopics(topics)
        return response if is_loaded(response.topics[0]) else None

    found.note("grpc.list_topics.response", await eventually(loaded))
    change = await stage.changes.until(lambda each: each.HasField("topic") and is_loaded(each.topic))
    found.note("grpc.watch_cluster.topic", change)
    move = found.request("grpc.move_topic.request", cluster_pb2.MoveTopicRequest)
    found.note("grpc.move_topic.response", await cluster.MoveTopic(move))


class Coordinator(report_pb2_grpc.ReportServicer):
    """A coordinator that only listens: it keeps what nodes report, and asks each again and again."""

    def __init__(self) -> None:
        self.reports: list[report_pb2.NodeReport] = []

    async def Attend(self, request_iterator: Any, context: Any) -> AsyncGenerator[report_pb2.ReportQuestion, None]:
        async for report in request_iterator:
            self.reports.append(report)
            await asyncio.sleep(0.1)
            yield report_pb2.ReportQuestion()


async def reports(stage: Stage) -> None:
    """What nodes report to a coordinator that etcd shows them."""
    coordinator = Coordinator()
    server = grpc.aio.server()
    report_pb2_grpc.add_ReportServicer_to_server(coordinator, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()

    def record(lease: int) -> dict[str, object]:
        node = {"node": "listener", "role": "coordinator", "http": None, "grpc": address, "pid": os.getpid()}
        since = {"version": "0.1.0", "started_at": "2026-01-31T12:00:00.000000Z", "lease": f"{lease:016x}"}
        return {f"{stage.shop.cluster.namespace}/nodes/coordinator/listener": node | since | {"state": "ready"}}

    def complete(report: report_pb2.NodeReport) -> bool:
        counted = [(each.topic, each.clients > 0) for each in report.watched]
        counted += [(e.topic, all((e.poll_us, e.changes, e.rows, e.receivers))) for e in report.polled]
        return (CANONICAL, True) in counted

    with stage.shop.in_etcd(record):
        for role in ("gateway", "poller"):
            report = await eventually(
                lambda role=role: next((r for r in coordinator.reports if r.role == role and complete(r)), None)
            )
            shown = json_format.MessageToDict(report)
            for topics in shown.keys() & {"watched", "polled"}:
                shown[topics] = [topic for topic in shown[topics] if topic["topic"] == CANONICAL]
            stage.found.note(f"grpc.report.{role}", shown)
    stage.found.note("grpc.report.question", report_pb2.ReportQuestion())
    await server.stop(0)


async def draining(stage: Stage) -> None:
    """A gateway that is asked to drain while it has clients."""
    found, gateway = stage.found, stage.shop.cluster.gateway(1)
    async with (
        grpc.aio.insecure_channel(stage.shop.grpc("gateway-2")) as channel,
        Socket.open(gateway, token()) as socket,
    ):
        await socket.ask(["1", "1", TOPIC, "phx_join", {"presence": {"key": "dora"}}])
        live = live_pb2_grpc.LiveQueryStub(channel)
        request = live_pb2.WatchRequest(topic="orders?region=north")
        watch = Call(live.Watch(request, metadata=metadata()), stage.tasks)
        await watch.until(lambda each: each.HasField("snapshot"))
        drain = found.request("grpc.drain_node.request", cluster_pb2.DrainNodeRequest)
        found.note("grpc.drain_node.response", await stage.cluster.DrainNode(drain))

        async def drains() -> Any:
            status, _, body = await hostile.http(gateway, "/readyz")
            return body if status == 503 else None

        found.note("http.readyz.draining", await eventually(drains))
        status, _, body = await hostile.http(gateway, PATH)
        assert status == 503
        found.note("http.error.draining", body)
        found.note_error("grpc.error.draining", await watch.ended())
        assert await socket.closed() == 1012
    node_down = await stage.changes.until(lambda each: each.node_down == "gateway-2")
    found.note("grpc.watch_cluster.node_down", node_down)


async def too_many_connections(stage: Stage) -> None:
    """Sockets until the gateway takes no more."""
    async with contextlib.AsyncExitStack() as sockets:
        while stage.found.messages.get("channels.refused.full") is None:
            try:
                await sockets.enter_async_context(Socket.open(stage.gateway, token()))
            except ExceptionGroup:
                url = f"ws://{stage.gateway}/socket/websocket?vsn=2.0.0&token={token()}"
                status, body = await refusal(url)
                assert status == 503
                stage.found.note("channels.refused.full", body)
        await stage.http("http.error.too_many_connections", PATH, 503)
