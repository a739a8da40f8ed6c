"""The report of a poller to coordinators: its topics and the cost of polling them (docs/reference/grpc.md#report)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pollcast.poller.polling import Polling
from pollcast.poller.sources.sources import Source
from pollcast.services import clock
from pollcast.v1 import cluster_pb2, report_pb2


class PollerReport:
    """The Reportable of a poller."""

    def __init__(self, node: str, polling: Polling, sources: Mapping[str, Source]) -> None:
        self._node = node
        self._sources = sources
        self._polling = polling

    def topics(self) -> Iterable[str]:
        """Return the topics that this poller owns."""
        return self._polling.names

    def begin(self) -> report_pb2.NodeReport:
        """Return a report as of now, without topics."""
        reports = (poller.report() for poller in self._polling.query_pollers.values())
        counts = [report for report in reports if report is not None]
        return report_pb2.NodeReport(
            node=self._node,
            role="poller",
            now=clock.now_us(),
            queries=self._polling.catalog.queries,
            counts=counts,
            sources=[
                cluster_pb2.NodeSource(name=name, up=source.connected, stretch=round(source.budget.stretch, 1))
                for name, source in self._sources.items()
            ],
        )

    def add(self, report: report_pb2.NodeReport, topic: str) -> bool:
        """Add the description of a topic; return False when this poller does not own it."""
        found = self._polling.find(topic)
        if found is None:
            return False
        owned, interval = found
        report.polled.add(
            topic=topic,
            epoch=owned.epoch,
            state=owned.state,
            owned_since=owned.history.gained_at,
            last_polled_at=owned.history.result_at,
            interval_ms=round(interval * 1000),
            linger_ms=round(owned.topic.query.linger * 1000),
            polls=owned.history.count,
            changes=owned.seq - owned.first_seq,
            rows=len(owned.rows or ()),
            poll_us=round(owned.history.seconds * 1e6),
            receivers=self._polling.feed.receivers(topic),
        )
        return True

    def unsettled(self, topic: str) -> bool:
        """Return whether no gateway is attached, or no poll has ended: both are to change in a moment."""
        found = self._polling.find(topic)
        return found is not None and not (found[0].history.count and self._polling.feed.receivers(topic))
