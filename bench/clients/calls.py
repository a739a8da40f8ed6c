"""A client of gRPC's `LiveQuery.Watch` that calls again with `since` when its call or its channel has ended."""

from __future__ import annotations

import asyncio
import random
import time

import grpc
import grpc.aio
import orjson

from bench.clients.record import Address, Record, Shown
from pollcast.v1 import live_pb2, live_pb2_grpc, types_pb2
from pollcast_client.errors import ProtocolViolated

RETRY_SECONDS = (0.5, 1.5)
"""Shortest and longest pause before another call."""

PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""Codes after which an application calls again."""

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 1))
"""Each client has a connection of its own, as clients in processes of their own have."""


class GrpcClient:
    """A `Watch` of one topic."""

    def __init__(self, address: Address, topic: str) -> None:
        self.record = Record("gRPC")
        self.shown = {topic: Shown()}
        self._topic = topic
        self._address = address
        self._task: asyncio.Task[None] | None = None
        self._reading = asyncio.Event()
        self._reading.set()

    def start(self) -> None:
        """Watch the topic, again whenever the call ends."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self, *, abruptly: bool = False) -> None:
        """Cancel the call and close the channel."""
        if self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """Read no more until `resume`."""
        self._reading.clear()

    def resume(self) -> None:
        """Read again."""
        self._reading.set()

    async def _run(self) -> None:
        host, port = self._address()
        async with grpc.aio.insecure_channel(f"{host}:{port}", options=OPTIONS) as channel:
            stub = live_pb2_grpc.LiveQueryStub(channel)
            while True:
                accepted = len(self.record.connects)
                try:
                    await self._watch(stub)
                except grpc.aio.AioRpcError as error:
                    self.record.connected = False
                    if len(self.record.connects) > accepted:
                        self.record.lost.append(time.monotonic())
                    else:
                        self.record.refusals[error.code().name] += 1
                    if error.code() not in PASSING:
                        self.record.ended = f"Watch ended: {error.code().name} {error.details()}"
                        return
                await asyncio.sleep(random.uniform(*RETRY_SECONDS))

    async def _watch(self, stub: live_pb2_grpc.LiveQueryAsyncStub) -> None:
        shown = self.shown[self._topic]
        call = stub.Watch(live_pb2.WatchRequest(topic=self._topic, since=shown.version or ""))
        await call.initial_metadata()
        shown.anew = True
        pieces: list[types_pb2.Snapshot] = []
        counted = False
        async for response in call:
            if not counted:
                counted = True
                self.record.connects.append(time.monotonic())
                self.record.connected = True
            await self._reading.wait()
            kind = response.WhichOneof("event")
            try:
                if kind == "snapshot":
                    pieces.append(response.snapshot)
                    if not response.snapshot.more:
                        shown.take("snapshot", _snapshot(pieces))
                        pieces = []
                elif kind == "delta":
                    shown.take("delta", _delta(response.delta))
            except ProtocolViolated as error:
                self.record.violations.append(f"{self._topic}: {error}")


def _snapshot(pieces: list[types_pb2.Snapshot]) -> bytes:
    """Return the payload of a WebSocket's `snapshot` with the same content."""
    rows = b",".join(row for piece in pieces for row in piece.rows)
    head = orjson.dumps({"version": pieces[0].version, "polled_at": pieces[0].polled_at, "key": list(pieces[0].key)})
    return head[:-1] + b',"rows":[' + rows + b"]}"


def _delta(delta: types_pb2.Delta) -> bytes:
    """Return the payload of a WebSocket's `delta` with the same content."""
    head = orjson.dumps({"version": delta.version, "base": delta.base, "polled_at": delta.polled_at})
    upserts = b",".join(b'{"at":%d,"row":%b}' % (upsert.at, upsert.row) for upsert in delta.upserts)
    return head[:-1] + b',"deletes":[' + b",".join(delta.deletes) + b'],"upserts":[' + upserts + b"]}"
