"""Gauges of the topics that a poller owns, computed at each scrape. Pure. Other metrics: poller/metrics.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pollcast.poller.owned import OwnedTopic


def topic_gauges(owned: Mapping[str, OwnedTopic], queries: Iterable[str], now: int) -> Iterator[Metric]:
    """Yield the gauges of the owned topics, by query. `now` is in microseconds since the Unix epoch."""
    oldest: dict[str, int] = {}
    states: Counter[tuple[str, str]] = Counter()
    for topic in owned.values():
        name = topic.topic.query.name
        states[name, topic.state] += 1
        result_at = topic.history.result_at or topic.history.gained_at
        oldest[name] = min(oldest.get(name, result_at), result_at)
    topics = GaugeMetricFamily(
        "pollcast_poller_topics", "Topics that this poller owns, by state.", labels=["query", "state"]
    )
    age = GaugeMetricFamily(
        "pollcast_poller_data_age_seconds",
        "Age of the oldest result among the owned topics: time since the start of the last poll that gave one.",
        labels=["query"],
    )
    for name in queries:
        for state in ("live", "stale", "failed"):
            topics.add_metric([name, state], states[name, state])
        age.add_metric([name], max(0.0, (now - oldest[name]) / 1e6) if name in oldest else 0.0)
    yield topics
    yield age
