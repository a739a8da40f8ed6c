"""A gateway's report to coordinators: the topics that it has clients on (proto/pollcast/v1/report.proto)."""

from __future__ import annotations

from pollcast.gateway.hub import Hub
from pollcast.services import clock
from pollcast.services.catalogue.catalog import Catalog
from pollcast.v1 import report_pb2


def describe(node: str, catalog: Catalog, hub: Hub) -> report_pb2.NodeReport:
    """Return this gateway's report as of now."""
    watched = [
        report_pb2.WatchedTopic(topic=canonical, clients=live.clients, state=live.status.state)
        for canonical, live in hub.topics.items()
        if live.clients
    ]
    return report_pb2.NodeReport(
        node=node, role="gateway", now=clock.now_us(), queries=catalog.queries, watched=watched
    )
