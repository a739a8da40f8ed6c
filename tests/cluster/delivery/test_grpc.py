"""Results over gRPC, and the health of each service."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio
import orjson
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pollcast.v1 import live_pb2, live_pb2_grpc, types_pb2
from tests.support.cluster import Cluster


async def test_watch_follows_the_changes_and_get_returns_the_result(
    running: Cluster, stock: psycopg.Connection[Any]
) -> None:
    address = running.grpc("gateway", 1)
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


@pytest.fixture
async def live(running: Cluster) -> AsyncIterator[live_pb2_grpc.LiveQueryAsyncStub]:
    """A stub for the first gateway, by a channel with gRPC's default options."""
    address = running.grpc("gateway")
    async with grpc.aio.insecure_channel(address) as channel:
        yield live_pb2_grpc.LiveQueryStub(channel)


@pytest.mark.parametrize(("rows", "width"), [(10_000, 32), (1_000, 2_300)], ids=["10 MB", "74 MB"])
async def test_a_large_snapshot_comes_in_pieces_that_a_client_takes_by_default(
    live: live_pb2_grpc.LiveQueryAsyncStub, rows: int, width: int
) -> None:
    topic = f"large?rows={rows}&width={width}"
    pieces: list[types_pb2.Snapshot] = []
    async with asyncio.timeout(60):
        async for response in live.Watch(live_pb2.WatchRequest(topic=topic)):
            if response.HasField("snapshot"):
                assert response.ByteSize() <= 1024 * 1024 + 64
                pieces.append(response.snapshot)
                if not response.snapshot.more:
                    break
    assert [orjson.loads(row)["n"] for piece in pieces for row in piece.rows] == list(range(1, rows + 1))
    assert [piece.more for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert len({(piece.version, piece.polled_at, *piece.key) for piece in pieces}) == 1
    await refused(live.Get(live_pb2.GetRequest(topic=topic)), grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large: .*Watch")


async def test_a_row_that_no_client_takes_by_default_is_refused_with_a_reason(
    live: live_pb2_grpc.LiveQueryAsyncStub,
) -> None:
    topic = "large?rows=1&width=140000"
    call = live.Watch(live_pb2.WatchRequest(topic=topic))
    await refused(anext(aiter(call)), grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large: a row of 44800.. bytes")
    await refused(live.Get(live_pb2.GetRequest(topic=topic)), grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large: ")


async def test_a_query_that_failed_is_refused_at_once(live: live_pb2_grpc.LiveQueryAsyncStub) -> None:
    async with asyncio.timeout(5):
        await refused(
            live.Get(live_pb2.GetRequest(topic="broken")), grpc.StatusCode.FAILED_PRECONDITION, "failed: .*division"
        )


async def refused(call: Awaitable[object], code: grpc.StatusCode, details: str) -> None:
    """Assert that the call fails with this status, and with details that match the pattern."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() == code
    assert re.match(details, error.value.details() or "")


async def test_health_is_reported_for_the_server_and_for_each_service(running: Cluster) -> None:
    for role, service in (("gateway", "LiveQuery"), ("poller", "Feed"), ("coordinator", "Cluster")):
        address = running.grpc(role)
        async with grpc.aio.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # the stubs have no types
            for name in ("", f"pollcast.v1.{service}"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
