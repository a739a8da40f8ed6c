"""The Report service (report.proto): collects the reports of all gateways and pollers, about once a second.

Each node opens a stream to each coordinator. A report holds what has changed since the previous one, and so many other
topics in their turn that this coordinator takes in TURNS_PER_SECOND of them, whatever the number of nodes and topics:
with up to 4,000 topics, all figures are renewed every second. A node that takes long to report is asked less often, so
that reporting takes at most about a twentieth of its time. What a node has reported counts until its entry in etcd is
gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
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
"""Time between two requests to one node, in seconds."""

MIN_PERIOD_SECONDS = 0.1
"""Minimum time between two requests to one node, however many calls wait for a new report."""

TURNS_PER_SECOND: dict[Role, int] = {"poller": 4000, "gateway": 400}
"""Number of topics that all nodes of a role together describe per second although they have not changed: pollers renew
figures, gateways only what was missed."""

SLICE_SECONDS = 0.02
"""Time between two slices of a report that is continued, in seconds."""

PAUSE_FACTOR = 20
"""Minimum pause after a report, as a multiple of the time that the report took."""


class ReportCollector(report_pb2_grpc.ReportServicer):
    """The servicer of Report. It puts each report into the view, then calls `on_changes`, which must not block. `shown`
    returns the topics whose figures are renewed with every report."""

    def __init__(
        self, view: View, on_changes: Callable[[ViewChanges], None], shown: Callable[[], Iterable[str]]
    ) -> None:
        self._view = view
        self._on_changes = on_changes
        self._shown = shown
        self._streams: dict[NodeName, ReportStream] = {}
        self._closed = False

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service with the gRPC server."""
        report_pb2_grpc.add_ReportServicer_to_server(self, server)

    def nodes_changed(self) -> None:
        """Ask the nodes that are new in the view at once: their first report came too early and was ignored."""
        for name, stream in self._streams.items():
            if name in self._view.nodes and name not in self._view.reports:
                stream.hurry()

    async def refresh(self, seconds: float) -> None:
        """Return when every node has sent a report that was requested after this call, or after `seconds`."""
        waiting = [stream.next_report() for stream in self._streams.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)

    def close(self) -> None:
        """End every stream."""
        self._closed = True
        for stream in self._streams.values():
            stream.hurry()

    async def Attend(
        self,
        request_iterator: AsyncIterator[report_pb2.NodeReport],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[report_pb2.ReportQuestion]:
        """Serve one node's stream until either side ends it."""
        loop = asyncio.get_running_loop()
        began, wall = loop.time(), clock.now_us()
        name: NodeName | None = None
        stream = ReportStream()
        finish = stream.begin_request()
        try:
            async for report in request_iterator:
                if name is None:
                    if report.role not in ROLES or not report.node:
                        await rpc.abort(context, InvalidPayload("the first report must name the node and its role"))
                    name = cast(Role, report.role), report.node
                    self._streams[name] = stream
                took = loop.time() - began
                ahead = (report.now - wall) / 1e6 - took / 2
                self._on_changes(self._view.reported(name, Reported(report, loop.time(), ahead, took / 2)))
                finish()
                if report.more:
                    await asyncio.sleep(SLICE_SECONDS)
                else:
                    await stream.pause(max(PERIOD_SECONDS, PAUSE_FACTOR * took))
                if self._closed:
                    break
                finish = stream.begin_request()
                began, wall = loop.time(), clock.now_us()
                yield self._question(name, turns=not report.more)
        finally:
            finish()
            stream.begin_request()()
            if name is not None and self._streams.get(name) is stream:
                del self._streams[name]
        if self._closed:
            await rpc.abort(context, Draining())

    def _question(self, name: NodeName, *, turns: bool) -> report_pb2.ReportQuestion:
        """Return the next question to a node; `turns` asks for figures as well."""
        role, node = name
        question = report_pb2.ReportQuestion(changes_only=True, anew=name not in self._view.reports)
        if turns:
            nodes = sum(each == role for each, _ in self._streams)
            question.others = TURNS_PER_SECOND.get(role, 0) // max(nodes, 1)
            for topic in self._shown() if role == "poller" else ():
                view = self._view.topics.get(topic)
                if view is not None and view.owner is not None and view.owner.node == node:
                    question.topics.append(topic)
        return question


class ReportStream:
    """One node's stream, and the calls that wait for its next report."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._hurry = asyncio.Event()

    def next_report(self) -> asyncio.Future[None]:
        """Return a future that is done when a report requested from now on has arrived, or the stream has ended."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._hurry.set()
        return future

    def hurry(self) -> None:
        """End the present pause, or the next one."""
        self._hurry.set()

    def begin_request(self) -> Callable[[], None]:
        """Note that a report is requested now. Call the returned function when it has arrived or never will."""
        waiting, self._waiting = self._waiting, []
        self._hurry.clear()

        def finish() -> None:
            for future in waiting:
                if not future.done():
                    future.set_result(None)

        return finish

    async def pause(self, seconds: float) -> None:
        """Wait `seconds`; only MIN_PERIOD_SECONDS when a call waits for a new report or `hurry` was called."""
        await asyncio.sleep(MIN_PERIOD_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds - MIN_PERIOD_SECONDS):
                await self._hurry.wait()
