"""Scenes in which operators, probes and nodes talk to the manual's shop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pollcast.services.local import ports
from pollcast.v1 import (
    cluster_pb2,
    feed_pb2,
    feed_pb2_grpc,
    live_pb2,
    live_pb2_grpc,
    report_pb2,
    report_pb2_grpc,
    types_pb2,
)
from tests.support import hostile
from tests.support.shop import Call, Message, Socket, metadata, token
from tests.support.stage import CANONICAL, EXAMPLES, PATH, TOPIC, Stage, is_event
from tests.support.waiting import eventually

MEMBERS_BEYOND_THE_CAP = 1020


async def health(stage: Stage) -> None:
    """Play health checks of every kind."""
    found = stage.found
    await stage.http("http.healthz", "/healthz", 200)
    await stage.http("http.readyz", "/readyz", 200)
    for role in ("poller", "coordinator"):
        address = stage.shop.cluster.nodes(role)[0].http
        assert address is not None
        found.note(f"http.readyz.{role}", (await hostile.http(address, "/readyz"))[2])
    async with grpc.aio.insecure_channel(stage.shop.grpc("gateway-1")) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # the stubs have no types
        request = found.request("grpc.health.request", health_pb2.HealthCheckRequest)
        found.note("grpc.health.response", await health.Check(request))


async def more_members_than_are_listed(stage: Stage) -> None:
    """Play another gateway that has many members on the topic; it exists in etcd alone."""

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
    """Play an operator: nodes and topics are listed while rows change, and a topic is moved."""
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
    top = cluster.WatchCluster(cluster_pb2.WatchClusterRequest(top=1))
    async for event in top:
        orders = [query for query in event.totals.queries if query.query == "orders" and query.bytes_per_second]
        if event.totals.cost and event.totals.clients and orders:
            del event.totals.nodes[2:]  # another scene may have a topic on the other poller
            del event.totals.queries[:]
            event.totals.queries.append(orders[0])
            for moment in ("unsent_per_second", "hinted_per_second"):
                event.totals.queries[0].ClearField(moment)
            found.note("grpc.watch_cluster.totals", event)
            break
    top.cancel()
    await pokes(stage)
    move = found.request("grpc.move_topic.request", cluster_pb2.MoveTopicRequest)
    found.note("grpc.move_topic.response", await cluster.MoveTopic(move))


async def pokes(stage: Stage) -> None:
    """Play pokes by HTTP, and over gRPC to a gateway, a coordinator and a poller."""
    found, backend = stage.found, {"Authorization": f"Bearer {token(roles=['backend'])}"}
    status, _, body = await hostile.http(stage.gateway, PATH.replace("/live/", "/poke/"), backend, "POST")
    assert status == 202
    found.note("http.poke", body)
    poke = found.request("grpc.poke.request", types_pb2.PokeRequest)
    bearer = (("authorization", backend["Authorization"]),)
    found.note("grpc.poke.response", await stage.live.Poke(poke, metadata=bearer))
    poke = found.request("grpc.cluster_poke.request", types_pb2.PokeRequest)
    found.note("grpc.cluster_poke.response", await stage.cluster.Poke(poke))
    owner = (await stage.cluster.ListTopics(cluster_pb2.ListTopicsRequest(query="orders"))).topics[0].owner
    async with grpc.aio.insecure_channel(stage.shop.grpc(owner)) as poller:
        request = found.request("grpc.feed.pokes", feed_pb2.FeedPokes)
        found.note("grpc.feed.poked", await feed_pb2_grpc.FeedStub(poller).Poke(request))


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
    """Play a coordinator that nodes find in etcd, and keep what they report to it."""
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

    async def keep_report_of(role: str) -> None:
        def reported() -> report_pb2.NodeReport | None:
            return next((each for each in coordinator.reports if each.role == role and complete(each)), None)

        report = await eventually(reported)
        assert report is not None
        shown = json_format.MessageToDict(report)
        for topics in shown.keys() & {"watched", "polled"}:
            shown[topics] = [topic for topic in shown[topics] if topic["topic"] == CANONICAL]
        if "counts" in shown:
            shown["counts"] = [counts for counts in shown["counts"] if counts["query"] == "orders"]
            for moment in ("unsent", "hinted"):
                shown["counts"][0].pop(moment, None)
        stage.found.note(f"grpc.report.{role}", shown)

    with stage.shop.in_etcd(record):
        for role in ("gateway", "poller"):
            await keep_report_of(role)
    stage.found.note("grpc.report.question", report_pb2.ReportQuestion(changes_only=True, others=200))
    await server.stop(0)


async def draining(stage: Stage) -> None:
    """Play a gateway that is asked to drain while it has clients."""
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

        async def refused(path: str) -> Any:
            status, _, body = await hostile.http(gateway, path)
            return body if status == 503 else None

        found.note("http.readyz.draining", await eventually(lambda: refused("/readyz")))
        found.note("http.error.draining", await eventually(lambda: refused(PATH)))
        found.note_error("grpc.error.draining", await watch.ended())
        assert await socket.closed() == 1012
    node_down = await stage.changes.until(lambda each: each.node_down == "gateway-2")
    found.note("grpc.watch_cluster.node_down", node_down)


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
