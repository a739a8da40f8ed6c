"""The Report service of a poller: the topics that it owns, and what polling them costs (see report.proto).

Made when a coordinator asks, from what polling knows anyway. Nothing here depends on being asked.
"""

from __future__ import annotations

from typing import Any

import grpc.aio

from poller.polling import Polling
from proto.pollcast.v1 import report_pb2, report_pb2_grpc
from services import clock
from services.catalog import Catalog
from services.version import VERSION

SERVICE = report_pb2.DESCRIPTOR.services_by_name["Report"].full_name


class Report(report_pb2_grpc.ReportServicer):
    """See the module."""

    def __init__(self, node: str, catalog: Catalog, polling: Polling) -> None:
        self._node = node
        self._catalog = catalog
        self._polling = polling

    def add_to(self, server: grpc.aio.Server) -> None:
        report_pb2_grpc.add_ReportServicer_to_server(self, server)

    async def Describe(
        self, request: report_pb2.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> report_pb2.DescribeResponse:
        receivers = self._polling.feed.receivers()
        polled = [
            report_pb2.PolledTopic(
                topic=owned.name,
                epoch=owned.epoch,
                state=owned.state,
                owned_since=owned.gained_at,
                last_polled_at=owned.answered_at,
                interval_ms=round(in_force * 1000),
                linger_ms=round(owned.topic.query.linger * 1000),
                polls=owned.polls,
                changes=owned.seq,
                rows=len(owned.rows or ()),
                poll_us=round(owned.poll_seconds * 1e6),
                receivers=receivers[owned.name],
            )
            for owned, in_force in self._polling.topics
        ]
        return report_pb2.DescribeResponse(
            node=self._node,
            role="poller",
            version=VERSION,
            now=clock.now_us(),
            queries=self._catalog.queries,
            polled=polled,
        )
