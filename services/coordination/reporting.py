"""A node's end of Report: keeps a stream to every coordinator and sends a report whenever it is asked for one.

Each stream has a `ReportCursor`, which knows what that coordinator was told; `touch` tells all of them what has
changed. A stream that breaks is opened again, with a growing pause, for as long as etcd shows the coordinator. No other
part of the node depends on the reports.

The stream has no heartbeat of its own: the channel gives up a dead link within 7 s (`rpc.VIGILANT`), and a coordinator
that stands still, or a node, loses its entry in etcd with its lease, which ends the stream or the node's part in the
view.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.report_cursor import Reportable, ReportCursor
from pollcast.services.coordination.session import backoff
from pollcast.services.process import logs
from pollcast.services.process.addresses import HostPort
from pollcast.services.process.cancellation import heeding_cancellation
from pollcast.services.process.settings import ServiceSettings
from pollcast.services.serving import rpc
from pollcast.v1 import report_pb2, report_pb2_grpc

log = logs.get_logger("reporting")


class Reporting:
    """The streams of one node to all coordinators."""

    def __init__(self, etcd: Etcd, keys: Keys, settings: ServiceSettings, node: Reportable) -> None:
        self._mirror = Mirror(etcd, keys.nodes("coordinator"), self._changed)
        self._settings = settings
        self._node = node
        self._cursors: set[ReportCursor] = set()
        self._wake = asyncio.Event()

    def touch(self, topic: str) -> None:
        """Note that the topic has changed, is new or is gone; every coordinator is told with the next report."""
        for cursor in self._cursors:
            cursor.touch(topic)

    async def run(self) -> None:
        """Keep the streams until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._mirror.run(), name="mirror of coordinators")
            streams: dict[HostPort, asyncio.Task[None]] = {}
            while True:
                await self._wake.wait()
                self._wake.clear()
                addresses = self._addresses()
                for address in streams.keys() - addresses:
                    streams.pop(address).cancel()
                for address in addresses - streams.keys():
                    streams[address] = tasks.create_task(self._attend(address), name=f"reports to {address}")

    def _changed(self, _: list[KeyEvent]) -> None:
        self._wake.set()

    def _addresses(self) -> set[HostPort]:
        addresses = set()
        for kv in self._mirror.items.values():
            try:
                record = NodeRecord.decode(kv.value)
            except ValueError:
                continue  # the audit reports it
            if record.grpc is not None and record.state != "draining":
                addresses.add(record.grpc)
        return addresses

    async def _attend(self, address: HostPort) -> None:
        failures = 0
        async with rpc.channel(address, self._settings) as channel:
            stub = report_pb2_grpc.ReportStub(channel)
            while True:
                questions: asyncio.Queue[report_pb2.ReportQuestion] = asyncio.Queue()
                cursor = ReportCursor(self._node)
                self._cursors.add(cursor)
                try:
                    with heeding_cancellation(grpc.aio.AioRpcError, TimeoutError):
                        async for question in stub.Attend(_reports(cursor, questions)):
                            failures = 0
                            questions.put_nowait(question)
                except grpc.aio.AioRpcError as error:
                    log.info("not reporting, retrying", to=address, code=error.code().name)
                finally:
                    self._cursors.discard(cursor)
                await asyncio.sleep(backoff(failures))
                failures += 1


async def _reports(
    cursor: ReportCursor, questions: asyncio.Queue[report_pb2.ReportQuestion]
) -> AsyncIterator[report_pb2.NodeReport]:
    """Yield the reports of one stream. The first one is sent unasked: it names the node."""
    yield cursor.first()
    while True:
        question = await questions.get()
        yield cursor.changes(question) if question.changes_only else cursor.whole()
