"""Results over gRPC, and the health of each service."""

from __future__ import annotations

from typing import Any

import grpc.aio
import orjson
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pollcast.v1 import live_pb2, live_pb2_grpc
from tests.support.cluster import Cluster


async def test_watch_follows_the_changes_and_get_returns_the_result(
    running: Cluster, stock: psycopg.Connection[Any]
) -> None:
    address = running.nodes("gateway")[1].grpc
    assert address is not None
    async with grpc.aio.insecure_channel(address) as channel:
        live = live_pb2_grpc.LiveQueryStub(channel)
        call = live.Watch(live_pb2.WatchRequest(topic="live:stock?shelf=a&limit=9"))
        changes = (change async for change in call if change.WhichOneof("event") != "status")
        first = await anext(changes)
        assert [orjson.loads(row)["id"] for row in first.snapshot.rows] == [1, 2]
        stock.execute("update stock set n = n - 4 where id = 1")
        second = await anext(changes)
        assert second.delta.base == first.snapshot.version
        assert [(u.at, orjson.loads(u.row)["id"]) for u in second.delta.upserts] in ([(1, 1)], [(0, 2)])
        snapshot = await live.Get(live_pb2.GetRequest(topic="stock?shelf=a&limit=9"))
        assert snapshot.version == second.delta.version
        call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await live.Get(live_pb2.GetRequest(topic="nothing"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        assert str(refused.value.details()).startswith("unknown_query: ")


async def test_health_is_reported_for_the_server_and_for_each_service(running: Cluster) -> None:
    for role, service in (("gateway", "LiveQuery"), ("poller", "Feed"), ("coordinator", "Cluster")):
        address = running.nodes(role)[0].grpc
        assert address is not None
        async with grpc.aio.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # the stubs have no types
            for name in ("", f"pollcast.v1.{service}"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
