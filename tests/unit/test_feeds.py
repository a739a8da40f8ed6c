"""Links of a gateway to a poller, on a real gRPC server that goes and comes back at the same address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from pollcast.gateway.feeds import Link
from pollcast.services.process.settings import GatewaySettings
from pollcast.v1 import feed_pb2, feed_pb2_grpc
from tests.support.waiting import eventually


class Poller(feed_pb2_grpc.FeedServicer):
    """Notes what is attached, on each stream."""

    def __init__(self) -> None:
        self.streams: list[list[str]] = []

    async def Subscribe(
        self, request_iterator: AsyncIterator[feed_pb2.FeedRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[feed_pb2.FeedUpdates]:
        attached: list[str] = []
        self.streams.append(attached)
        async for request in request_iterator:
            attached += [attach.topic for attach in request.attach]
        yield feed_pb2.FeedUpdates()

    @contextlib.asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[None]:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        feed_pb2_grpc.add_FeedServicer_to_server(self, server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)


async def test_what_is_attached_after_a_link_broke_reaches_the_next_stream(free_port: int, tmp_path: Path) -> None:
    poller = Poller()
    settings = GatewaySettings(catalog=tmp_path / "none.toml", node="gw")
    link = Link(f"127.0.0.1:{free_port}", settings, lambda *_: None, lambda *_: None, lambda _: None)
    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(link.run())
        async with poller.serving(free_port):
            link.attach("a")
            await eventually(lambda: poller.streams == [["a"]])
        await eventually(lambda: not link.up)
        async with poller.serving(free_port):
            await eventually(lambda: len(poller.streams) == 2 and poller.streams[1] == ["a"])
            link.attach("b")
            await eventually(lambda: poller.streams[1] == ["a", "b"])
        running.cancel()
    await eventually(lambda: asyncio.all_tasks() <= before)  # grpc.aio's that asks for more requests, too
