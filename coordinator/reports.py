"""Asks every gateway and poller, about once a second, what it does: the Report service (report.proto).

A node opens a stream to each coordinator; one that takes long to answer is asked less often, so that being asked costs
none of them more than about a twentieth of its time. One that does not answer, or is gone, is as it said last until
etcd shows it no more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import grpc.aio

from pollcast.coordinator.view import NodeName, Reported, View, ViewChanges
from pollcast.services import clock
from pollcast.services.coordination.keys import ROLES
from pollcast.services.errors import Draining, InvalidPayload
from pollcast.services.process import logs
from pollcast.services.process.settings import Role
from pollcast.services.serving import rpc
from pollcast.v1 import report_pb2, report_pb2_grpc

log = logs.get_logger("reports")

SERVICE = report_pb2.DESCRIPTOR.services_by_name["Report"].full_name

PERIOD_SECONDS = 1.0
LEAST_SECONDS = 0.1
"""Between two questions to one node, whoever wants to know."""

SHARE = 20
"""Of the time that an answer takes, the pause that follows it."""


class ReportCollector(report_pb2_grpc.ReportServicer):
    """See the module. `on_changes` is called after the view has the report."""

    def __init__(self, view: View, on_changes: Callable[[ViewChanges], None]) -> None:
        self._view = view
        self._on_changes = on_changes
        self._streams: dict[NodeName, ReportStream] = {}
        self._closed = False

    def add_to(self, server: grpc.aio.Server) -> None:
        report_pb2_grpc.add_ReportServicer_to_server(self, server)

    def nodes_changed(self) -> None:
        """The view shows other nodes: those that had not been seen there are asked at once."""
        for name, stream in self._streams.items():
            if name in self._view.nodes and name not in self._view.reports:
                stream.hurry()

    async def refresh(self, seconds: float) -> None:
        """Returns when every node has answered a question that was put after this call, or `seconds` later."""
        waiting = [stream.again() for stream in self._streams.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)

    def close(self) -> None:
        """Ends every stream."""
        self._closed = True
        for stream in self._streams.values():
            stream.hurry()

    async def Attend(
        self,
        request_iterator: AsyncIterator[report_pb2.NodeReport],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[report_pb2.ReportQuestion]:
        """One node's stream, until either side ends it."""
        loop = asyncio.get_running_loop()
        began, wall = loop.time(), clock.now_us()
        name: NodeName | None = None
        stream = ReportStream()
        settled = stream.begin()
        try:
            async for report in request_iterator:
                if name is None:
                    if report.role not in ROLES or not report.node:
                        await rpc.abort(context, InvalidPayload("the first report must say who the node is"))
                    name = cast(Role, report.role), report.node
                    self._streams[name] = stream
                took = loop.time() - began
                ahead = (report.now - wall) / 1e6 - took / 2
                self._on_changes(self._view.reported(name, Reported(report, loop.time(), ahead, took / 2)))
                settled()
                await stream.pause(max(PERIOD_SECONDS, SHARE * took))
                if self._closed:
                    break
                settled = stream.begin()
                began, wall = loop.time(), clock.now_us()
                yield report_pb2.ReportQuestion()
        finally:
            settled()
            stream.begin()()
            if name is not None and self._streams.get(name) is stream:
                del self._streams[name]
        if self._closed:
            await rpc.abort(context, Draining())


class ReportStream:
    """One node's stream: who waits for its next answer."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()

    def again(self) -> asyncio.Future[None]:
        """Done when a question that is put from now on has been answered, or never will be."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wanted.set()
        return future

    def hurry(self) -> None:
        self._wanted.set()

    def begin(self) -> Callable[[], None]:
        """A question is put; what is returned is to be called when that is over."""
        waiting, self._waiting = self._waiting, []
        self._wanted.clear()

        def settled() -> None:
            for future in waiting:
                if not future.done():
                    future.set_result(None)

        return settled

    async def pause(self, seconds: float) -> None:
        """That long, or until somebody wants to know."""
        await asyncio.sleep(LEAST_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds - LEAST_SECONDS):
                await self._wanted.wait()
