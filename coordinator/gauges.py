"""What a coordinator tells Prometheus of the cluster as it sees it: counted when somebody scrapes. Pure.

Every coordinator tells the same, whether it leads or not: take the maximum, not the sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pollcast.coordinator.view import View

ROLES = ("gateway", "poller", "coordinator")


def gauges(view: View) -> Iterator[Metric]:
    """Read from the view as it is."""
    states = Counter[tuple[str, str]]((role, node.record.state) for (role, _), node in view.nodes.items())
    nodes = GaugeMetricFamily(
        "pollcast_coordinator_nodes", "Nodes that etcd shows, by role and state.", labels=["role", "state"]
    )
    for role in ROLES:
        for state in ("starting", "ready", "draining"):
            nodes.add_metric([role, state], states[role, state])
    yield nodes
    demanded = orphans = owned = 0
    for topic in view.topics.values():
        demanded += bool(topic.gateways)
        owned += topic.owner is not None
        orphans += bool(topic.gateways) and topic.owner is None
    for name, meaning, value in (
        ("demanded_topics", "Topics that somebody watches.", demanded),
        ("owned_topics", "Topics that have an owner.", owned),
        ("unowned_topics", "Topics that somebody watches and nobody polls.", orphans),
    ):
        yield GaugeMetricFamily(f"pollcast_coordinator_{name}", meaning, value=value)
