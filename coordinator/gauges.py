"""The gauges of the cluster that a coordinator exports to Prometheus, read from the view's tally at each scrape. Pure.

Every coordinator exports the same values, whether it leads or not: take their maximum, not their sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pollcast.coordinator.view import View
from pollcast.services.coordination.keys import ROLES


def gauges(view: View) -> Iterator[Metric]:
    """Yield the gauges, computed from the view as it is now."""
    states = Counter[tuple[str, str]]((role, node.record.state) for (role, _), node in view.nodes.items())
    nodes = GaugeMetricFamily(
        "pollcast_coordinator_nodes", "Nodes that etcd shows, by role and state.", labels=["role", "state"]
    )
    for role in ROLES:
        for state in ("starting", "ready", "draining"):
            nodes.add_metric([role, state], states[role, state])
    yield nodes
    tally = view.tally
    for name, description, value in (
        ("demanded_topics", "Topics that have demand.", tally.demanded),
        ("owned_topics", "Topics that have an owner.", tally.owned.total()),
        ("unowned_topics", "Topics that have demand and no owner.", len(tally.orphaned)),
    ):
        yield GaugeMetricFamily(f"pollcast_coordinator_{name}", description, value=value)
