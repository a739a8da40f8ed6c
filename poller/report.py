"""The report of a poller to coordinators: its topics and the cost of polling them (docs/reference/grpc.md#report)."""

from __future__ import annotations

from pollcast.poller.polling import Polling
from pollcast.services import clock
from pollcast.services.catalogue.catalog import Catalog
from pollcast.v1 import report_pb2


def describe(node: str, catalog: Catalog, polling: Polling) -> report_pb2.NodeReport:
    """Return the report of the poller named `node`, as of now."""
    receivers = polling.feed.receivers()
    polled = [
        report_pb2.PolledTopic(
            topic=owned.name,
            epoch=owned.epoch,
            state=owned.state,
            owned_since=owned.history.gained_at,
            last_polled_at=owned.history.result_at,
            interval_ms=round(interval * 1000),
            linger_ms=round(owned.topic.query.linger * 1000),
            polls=owned.history.count,
            changes=owned.seq,
            rows=len(owned.rows or ()),
            poll_us=round(owned.history.seconds * 1e6),
            receivers=receivers[owned.name],
        )
        for owned, interval in polling.topics
    ]
    return report_pb2.NodeReport(node=node, role="poller", now=clock.now_us(), queries=catalog.queries, polled=polled)
