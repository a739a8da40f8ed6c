"""A gateway's report to coordinators: the topics that it has clients on (proto/pollcast/v1/report.proto)."""

from __future__ import annotations

from collections.abc import Iterable

from pollcast.gateway.hub import Hub
from pollcast.services import clock
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.v1 import report_pb2


class GatewayReport:
    """The Reportable of a gateway."""

    def __init__(self, node: str, catalogue: CatalogueInForce, hub: Hub) -> None:
        self._node = node
        self._catalogue = catalogue
        self._hub = hub

    def topics(self) -> Iterable[str]:
        """Return the topics that have clients."""
        return [canonical for canonical, live in self._hub.topics.items() if live.clients]

    def begin(self) -> report_pb2.NodeReport:
        """Return a report as of now, without topics."""
        queries = self._catalogue.catalog.queries
        return report_pb2.NodeReport(node=self._node, role="gateway", now=clock.now_us(), queries=queries)

    def add(self, report: report_pb2.NodeReport, topic: str) -> bool:
        """Add the description of a topic; return False when it has no clients."""
        live = self._hub.topics.get(topic)
        if live is None or not live.clients:
            return False
        report.watched.add(topic=topic, clients=live.clients, state=live.status.state)
        return True

    def unsettled(self, topic: str) -> bool:
        """Return False: every change is touched by the hub."""
        return False
