"""The Report service of a gateway: the topics that it has clients on (proto/pollcast/v1/report.proto).

Made when a coordinator asks, from what the hub knows anyway. Nothing here depends on being asked.
"""

from __future__ import annotations

from typing import Any

import grpc.aio

from gateway.hub import Hub
from proto.pollcast.v1 import report_pb2, report_pb2_grpc
from services import clock
from services.catalog import Catalog
from services.version import VERSION

SERVICE = report_pb2.DESCRIPTOR.services_by_name["Report"].full_name


class Report(report_pb2_grpc.ReportServicer):
    """See the module."""

    def __init__(self, node: str, catalog: Catalog, hub: Hub) -> None:
        self._node = node
        self._catalog = catalog
        self._hub = hub

    def add_to(self, server: grpc.aio.Server) -> None:
        report_pb2_grpc.add_ReportServicer_to_server(self, server)

    async def Describe(
        self, request: report_pb2.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> report_pb2.DescribeResponse:
        watched = [
            report_pb2.WatchedTopic(topic=canonical, clients=live.clients, state=live.status.state)
            for canonical, live in self._hub.topics.items()
            if live.clients
        ]
        return report_pb2.DescribeResponse(
            node=self._node,
            role="gateway",
            version=VERSION,
            now=clock.now_us(),
            queries=self._catalog.queries,
            watched=watched,
        )
