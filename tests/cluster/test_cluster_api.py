"""The Cluster service on a running cluster: listing, watching, moving, draining; the audit; no coordinator at all."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import grpc
import grpc.aio
import orjson
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import DemandRecord, Keys, OwnerRecord
from pollcast.services.process.settings import EtcdSettings
from pollcast.v1 import cluster_pb2, cluster_pb2_grpc
from tests.support.client import Client
from tests.support.cluster import Cluster, Node, cluster
from tests.support.oracle import oracle
from tests.support.waiting import eventually

CATALOG = """
[queries.clock]
sql = "select date_trunc('second', now()) as time, %(zone)s as zone"
interval = "100ms"
linger = "500ms"
[queries.clock.params]
zone = { type = "text", default = "utc" }

[queries.broken]
sql = "select 1 / n as one from (values (0)) v(n)"
interval = "100ms"
linger = "500ms"

[queries.unwatched]
sql = "select 1 as one"
"""

Stub = Any
"""A cluster_pb2_grpc.ClusterStub on a channel of grpc.aio."""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster-api")
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG)
    flags = ["--catalog", str(catalog), "--no-demo", "--lease-ttl", "2", "--coordinators", "2", "--pollers", "3"]
    with cluster(folder / "data", *flags) as up:
        yield up


@contextlib.asynccontextmanager
async def stub_of(node: Node) -> AsyncIterator[Stub]:
    assert node.grpc is not None
    async with grpc.aio.insecure_channel(node.grpc) as channel:
        yield cluster_pb2_grpc.ClusterStub(channel)


@pytest.fixture
async def coordinator(up: Cluster) -> AsyncIterator[Stub]:
    async with stub_of(up.nodes("coordinator")[0]) as stub:
        yield stub


@contextlib.asynccontextmanager
async def watching(up: Cluster, *topics: str, gateway: int = 0, canonical: str | None = None) -> AsyncIterator[Client]:
    """Open a client that has joined these topics."""
    async with Client.open(f"http://{up.gateway(gateway)}") as client:
        await client.join(*topics, canonical=canonical)
        yield client


async def topics(stub: Stub, query: str = "") -> dict[str, cluster_pb2.TopicInfo]:
    answer = await stub.ListTopics(cluster_pb2.ListTopicsRequest(query=query))
    return {topic.topic: topic for topic in answer.topics}


async def listed(stub: Stub, name: str) -> cluster_pb2.TopicInfo:
    """Return the listed topic. Raises AssertionError while it is not listed: joins are answered before that."""
    found = await topics(stub)
    assert name in found
    return found[name]


async def wait_until_unwatched(stub: Stub) -> None:
    async def none() -> bool:
        return not await topics(stub)

    await eventually(none)


@contextlib.asynccontextmanager
async def etcd_of(up: Cluster) -> AsyncIterator[tuple[Etcd, Keys]]:
    async with Etcd.open(EtcdSettings(etcd=tuple(up.etcd), namespace=up.namespace)) as etcd:
        yield etcd, Keys(up.namespace)


async def test_every_coordinator_lists_every_node(up: Cluster) -> None:
    expected = {n.name: n for role in ("gateway", "poller", "coordinator") for n in up.nodes(role)}
    for node in up.nodes("coordinator"):
        async with stub_of(node) as stub:

            async def listed_all(stub: Stub = stub) -> dict[str, cluster_pb2.Node]:
                found = {n.name: n for n in (await stub.ListNodes(cluster_pb2.ListNodesRequest())).nodes}
                assert {name: node.state for name, node in found.items()} == dict.fromkeys(expected, "ready")
                return found

            found = await eventually(listed_all)  # its mirror has the keys that `pollcast up` has seen
        for name, shown in found.items():
            assert (shown.role, shown.http, shown.grpc, shown.pid, shown.state) == (
                expected[name].role,
                expected[name].http,
                expected[name].grpc,
                expected[name].pid,
                "ready",
            )
            assert shown.version
            assert datetime.fromisoformat(shown.started_at)


async def test_topics_are_listed_with_their_clients_at_once_and_their_polls_soon(up: Cluster) -> None:
    first, second = up.nodes("coordinator")
    name = "clock?zone=utc"
    async with stub_of(first) as stub, stub_of(second) as other:
        async with (
            watching(up, "clock", canonical=name),
            watching(up, "clock?zone=%75tc", canonical=name),
            watching(up, "clock", gateway=1, canonical=name),
        ):
            for each in (stub, other):

                async def all_joined(each: Stub = each) -> bool:
                    return (await listed(each, name)).clients == 3

                await eventually(all_joined)
                topic = (await topics(each, "clock"))[name]
                assert {g.name: g.clients for g in topic.gateways} == {"gateway-1": 2, "gateway-2": 1}

                async def polled(each: Stub = each) -> bool:
                    topic = await listed(each, name)
                    return bool(topic.last_polled_at) and topic.load.polls_per_second > 5

                await eventually(polled)
                topic = await listed(each, name)
                assert topic.owner in {n.name for n in up.nodes("poller")}
                assert topic.epoch > 0
                assert (topic.state, topic.interval_ms, topic.load.rows) == ("live", 100, 1)
                assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", topic.last_polled_at)
            assert not await topics(stub, "unwatched")
        await wait_until_unwatched(stub)


async def test_a_topic_whose_query_fails_is_listed_as_failed(up: Cluster, coordinator: Stub) -> None:
    async with watching(up, "broken"):

        async def failed() -> bool:
            return (await listed(coordinator, "broken")).state == "failed"

        await eventually(failed)
    await wait_until_unwatched(coordinator)


async def test_a_watch_begins_with_everything_and_goes_on_with_changes(up: Cluster, coordinator: Stub) -> None:
    async with watching(up, "clock?zone=utc"):
        call = coordinator.WatchCluster(cluster_pb2.WatchClusterRequest())
        first = [await call.read() for _ in range(8)]
        assert {e.node_up.name for e in first[:7]} == {
            n.name for r in ("gateway", "poller", "coordinator") for n in up.nodes(r)
        }
        assert first[7].topic.topic == "clock?zone=utc"
    received: list[cluster_pb2.WatchClusterResponse] = []
    while not received or not received[-1].topic_gone:
        received.append(await call.read())
    assert received[-1].topic_gone == "clock?zone=utc"
    kinds = {event.WhichOneof("event") for event in received[:-1]}
    assert kinds <= {"topic"}
    call.cancel()


async def test_a_moved_topic_stays_where_it_was_moved_to(up: Cluster, coordinator: Stub) -> None:
    async with watching(up, "clock?zone=utc"):

        async def owner() -> str:
            return (await listed(coordinator, "clock?zone=utc")).owner

        for poller in sorted({n.name for n in up.nodes("poller")} - {await eventually(owner)}):
            answer = await coordinator.MoveTopic(cluster_pb2.MoveTopicRequest(topic="live:clock", poller=poller))
            moved = await listed(coordinator, "clock?zone=utc")
            assert (moved.owner, moved.epoch) == (poller, answer.epoch)
        async with etcd_of(up) as (etcd, keys):
            await etcd.delete(keys.owner("clock?zone=utc"))

            async def again() -> bool:
                topic = await listed(coordinator, "clock?zone=utc")
                return topic.owner == poller and topic.epoch > answer.epoch

            await eventually(again)
    await wait_until_unwatched(coordinator)


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("ListTopics", cluster_pb2.ListTopicsRequest(query="nothing"), "NOT_FOUND", "unknown_query"),
        ("MoveTopic", cluster_pb2.MoveTopicRequest(topic="nothing", poller="poller-1"), "NOT_FOUND", "unknown_query"),
        ("MoveTopic", cluster_pb2.MoveTopicRequest(topic="clock", poller="poller-1"), "NOT_FOUND", "unknown_topic"),
        ("MoveTopic", cluster_pb2.MoveTopicRequest(topic="clock?x=1"), "INVALID_ARGUMENT", "invalid_params"),
        ("DrainNode", cluster_pb2.DrainNodeRequest(node="unknown"), "NOT_FOUND", "unknown_node"),
    ],
)
async def test_an_unknown_name_is_refused_with_status_and_reason(
    up: Cluster, coordinator: Stub, method: str, request_: Any, code: str, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(coordinator, method)(request_)
    assert (refused.value.code().name, (refused.value.details() or "").split(":")[0]) == (code, reason)


async def test_a_topic_is_not_moved_to_an_unknown_poller(up: Cluster, coordinator: Stub) -> None:
    async with watching(up, "clock?zone=utc"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await coordinator.MoveTopic(cluster_pb2.MoveTopicRequest(topic="clock", poller="gateway-1"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        assert (refused.value.details() or "").startswith("unknown_node: ")


async def test_health_and_reflection_are_served(up: Cluster) -> None:
    address = up.grpc("coordinator")
    async with grpc.aio.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
    with grpc.insecure_channel(address) as plain:
        described = ProtoReflectionDescriptorDatabase(plain)
        assert "pollcast.v1.Cluster" in described.get_services()
        service = DescriptorPool(described).FindServiceByName("pollcast.v1.Cluster")
        methods = {method.name for method in service.methods}
        assert methods == {"ListNodes", "ListTopics", "WatchCluster", "MoveTopic", "DrainNode", "Poke"}


async def test_the_leader_deletes_abandoned_keys(up: Cluster, coordinator: Stub) -> None:
    async with etcd_of(up) as (etcd, keys), oracle(up.etcd, up.namespace) as seen:
        await etcd.put(keys.demand("clock?zone=x", "ghost"), DemandRecord("ghost", "then").encode())
        await etcd.put(keys.owner("clock?zone=x"), OwnerRecord("ghost", "127.0.0.1:1", "then").encode())
        await etcd.put(f"{up.namespace}/notes", b"foreign")

        async def gone() -> bool:
            return not [kv for kv in (await etcd.range(f"{up.namespace}/")).kvs if b"ghost" in kv.value]

        await eventually(gone)
        await eventually(lambda: {f.kind for f in seen.findings()} == {"foreign"})

        def logged(kind: str, what: str) -> list[str]:
            log = "".join((up.data_dir / "logs" / f"coordinator-{n}.log").read_text() for n in (1, 2))
            lines = [orjson.loads(line) for line in log.splitlines(keepends=True) if line.endswith("\n")]
            return [line[what] for line in lines if line["event"] == "finding" and line["kind"] == kind]

        await eventually(lambda: logged("foreign", "about") == [f"{up.namespace}/notes"])
        assert logged("abandoned", "breaks") == ["docs/reference/guarantees.md#cleanup"] * 2
        await etcd.delete(f"{up.namespace}/notes")
        await eventually(lambda: not seen.findings())


async def test_topics_are_listed_in_pages_and_the_first_of_an_order_are_watched(up: Cluster, coordinator: Stub) -> None:
    names = [f"clock?zone=z{number}" for number in range(7)]
    async with watching(up, *names), watching(up, "broken", "clock?zone=z3"):

        async def all_listed() -> bool:
            found = await topics(coordinator)
            return set(found) == {*names, "broken"} and found["clock?zone=z3"].clients == 2

        await eventually(all_listed)
        for query, expected in (("", ["broken", *names]), ("clock", names), ("broken", ["broken"])):
            request = cluster_pb2.ListTopicsRequest(query=query, page_size=3)
            pages: list[list[str]] = []
            while not pages or request.page_token:
                page = await coordinator.ListTopics(request)
                pages.append([topic.topic for topic in page.topics])
                request.page_token = page.next_page_token
            assert [name for page in pages for name in page] == expected
            assert [len(page) for page in pages[:-1]] == [3] * (len(pages) - 1)
            assert pages[-1]
        with pytest.raises(grpc.aio.AioRpcError, match="page_token needs one"):
            await coordinator.ListTopics(cluster_pb2.ListTopicsRequest(page_token="a"))
        call = coordinator.WatchCluster(cluster_pb2.WatchClusterRequest(top=2, sort="clients", filter="zone"))
        shown: list[str] = []
        totals = cluster_pb2.ClusterTotals()
        async for event in call:
            totals = event.totals if event.HasField("totals") else totals
            shown += [event.topic.topic] if event.HasField("topic") else []
            rates = {each.query: each for each in totals.queries}
            polled = rates.keys() >= {"clock", "broken"} and all(each.polls_per_second for each in rates.values())
            if len(shown) >= 2 and totals.topics == 8 and totals.clients == 9 and polled:
                break
        call.cancel()
        assert shown[:2] == ["clock?zone=z3", "clock?zone=z0"]
        assert {each.name: each.topics for each in totals.nodes}["gateway-1"] == 8
        assert [(each.query, each.topics) for each in totals.queries] == [("broken", 1), ("clock", 7)]
        clock, broken = rates["clock"], rates["broken"]
        assert clock.statements_per_second > 0
        assert clock.bytes_per_second > 0
        assert broken.bytes_per_second == 0  # it fails
        with pytest.raises(grpc.aio.AioRpcError, match="there is no column 'size'"):
            await coordinator.WatchCluster(cluster_pb2.WatchClusterRequest(top=2, sort="size")).read()
    await wait_until_unwatched(coordinator)


async def test_a_cluster_at_work_has_no_findings(up: Cluster, coordinator: Stub) -> None:
    names = [f"clock?zone=z{number}" for number in range(60)]
    async with oracle(up.etcd, up.namespace) as seen, watching(up, *names), watching(up, *names[30:], gateway=1):

        async def polled() -> bool:
            listed = (await topics(coordinator)).values()
            return len(listed) == 60 and all(t.state == "live" and t.last_polled_at for t in listed)

        await eventually(polled)
        assert seen.findings() == []
    await wait_until_unwatched(coordinator)


async def test_a_drained_node_hands_over_and_leaves_and_watches_show_it(up: Cluster) -> None:
    """Drain one of three pollers, which is gone afterwards."""
    async with stub_of(up.nodes("coordinator")[1]) as stub, watching(up, "clock?zone=utc"):

        async def owner() -> str:
            return (await listed(stub, "clock?zone=utc")).owner

        before = await eventually(owner)
        call = stub.WatchCluster(cluster_pb2.WatchClusterRequest())
        await stub.DrainNode(cluster_pb2.DrainNodeRequest(node=before))
        states = []
        async for event in call:
            if event.node_up.name == before:
                states.append(event.node_up.state)
            if event.node_down == before:
                break
        assert states[-1] == "draining"
        call.cancel()

        async def taken_over() -> bool:
            topic = await listed(stub, "clock?zone=utc")
            return topic.owner not in ("", before) and topic.state == "live"

        await eventually(taken_over)


async def test_without_a_coordinator_everything_else_works(up: Cluster) -> None:
    """Kill the coordinators. Keep this test the last one: no coordinator is left."""
    async with watching(up, "clock?zone=utc") as client:
        for node in up.nodes("coordinator"):
            node.kill()
        for _ in range(3):
            await client.hears_more("clock?zone=utc")  # results still arrive
        assert client.troubles("clock?zone=utc") == []
        async with watching(up, "clock?zone=new", gateway=1) as newcomer:  # new topics are claimed
            await newcomer.has_results("clock?zone=new")
        async with etcd_of(up) as (etcd, keys):  # and released

            async def released() -> bool:
                return await etcd.get(keys.owner("clock?zone=new")) is None

            await eventually(released)
