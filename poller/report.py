"""What a poller tells coordinators of itself: the topics that it owns, and what polling them costs (report.proto)."""

from __future__ import annotations

from pollcast.poller.polling import Polling
from pollcast.services import clock
from pollcast.services.catalogue.catalog import Catalog
from pollcast.v1 import report_pb2


def describe(node: str, catalog: Catalog, polling: Polling) -> report_pb2.NodeReport:
    receivers = polling.feed.receivers()
    polled = [
        report_pb2.PolledTopic(
            topic=owned.name,
            epoch=owned.epoch,
            state=owned.state,
            owned_since=owned.gained_at,
            last_polled_at=owned.answered_at,
            interval_ms=round(current_interval * 1000),
            linger_ms=round(owned.topic.query.linger * 1000),
            polls=owned.polls,
            changes=owned.seq,
            rows=len(owned.rows or ()),
            poll_us=round(owned.poll_seconds * 1e6),
            receivers=receivers[owned.name],
        )
        for owned, current_interval in polling.topics
    ]
    return report_pb2.NodeReport(node=node, role="poller", now=clock.now_us(), queries=catalog.queries, polled=polled)
