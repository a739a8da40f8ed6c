"""What a gateway tells Prometheus of what it counts anyway: read when somebody scrapes, so that it costs nothing else.

Names are stable; labels are queries, never topics, whose number has no bound. The rest is in gateway/metrics.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pollcast.gateway.cluster_view import ClusterView
from pollcast.gateway.presence import Presences
from pollcast.gateway.presence_keys import PresenceKeys
from pollcast.gateway.sockets import Sockets

EVENTS = (b"snapshot", b"delta", b"status", b"presence_diff")
"""Told from the start, at 0."""


class GatewayGauges:
    """What is read on scrape."""

    def __init__(self, sockets: Sockets, cluster: ClusterView, presences: Presences, keys: PresenceKeys) -> None:
        self._sockets = sockets
        self._cluster = cluster
        self._presences = presences
        self._keys = keys

    def __call__(self) -> Iterator[Metric]:
        """Everything, as it is now."""
        yield from self._topics()
        yield from self._clients()
        yield from self._pushed()
        yield from self._presence()

    def _topics(self) -> Iterator[Metric]:
        hub = self._sockets.context.hub
        watched = Counter(
            (live.topic.query.name, live.status.state) for live in hub.topics.values() if live.idle_since is None
        )
        topics = GaugeMetricFamily(
            "pollcast_gateway_topics",
            "Topics with clients here, by what the clients were told of their state.",
            labels=["query", "state"],
        )
        for name in self._sockets.context.catalog.queries:
            for state in ("live", "stale", "failed"):
                topics.add_metric([name, state], watched[name, state])
        yield topics
        yield _gauge("pollcast_gateway_links", "Pollers whose feed stands.", hub.feeds.connected)
        yield _gauge(
            "pollcast_gateway_owned_topics", "Topics that have an owner, in the whole cluster.", len(hub.owners)
        )
        yield _counter(
            "pollcast_gateway_takeovers", "Topics that went from one poller to another.", self._cluster.takeovers
        )
        yield _counter(
            "pollcast_gateway_stale_frames", "Updates of owners of the past that the fence dropped.", hub.stale_updates
        )

    def _clients(self) -> Iterator[Metric]:
        counts = self._sockets.counts
        congested = sum(socket.wire.congested for socket in self._sockets)
        yield _gauge("pollcast_gateway_congested_sockets", "Sockets that are being waited for to read.", congested)
        yield _counter("pollcast_gateway_slow_readers", "Times that a socket fell behind.", counts.slow)
        yield _counter("pollcast_gateway_stuck_sockets", "Sockets closed because they did not read.", counts.stuck)
        yield _counter("pollcast_gateway_malformed_messages", "Messages that closed their socket.", counts.malformed)
        refused = CounterMetricFamily(
            "pollcast_gateway_refusals", "Error replies on sockets, by reason.", labels=["reason"]
        )
        for reason, times in counts.refusals.items():
            refused.add_metric([reason], times)
        yield refused

    def _pushed(self) -> Iterator[Metric]:
        traffic = self._sockets.context.hub.traffic
        messages = CounterMetricFamily(
            "pollcast_gateway_messages", "Messages pushed to sockets, each counted once per socket.", labels=["event"]
        )
        for event in dict.fromkeys(EVENTS) | traffic.messages:
            if event:
                messages.add_metric([event.decode()], traffic.messages.get(event, 0))
        yield messages
        yield _counter("pollcast_gateway_message_bytes", "Bytes of the messages pushed to sockets.", traffic.bytes)

    def _presence(self) -> Iterator[Metric]:
        presences = self._presences
        yield _gauge("pollcast_gateway_presence_members", "On the lists here, of all gateways.", presences.members)
        yield _gauge(
            "pollcast_gateway_presence_departing",
            "Members whose socket closed and who may come back.",
            presences.departing,
        )
        yield _counter("pollcast_gateway_presence_diffs", "Differences of lists made for clients.", presences.diffs)
        yield _counter(
            "pollcast_gateway_presence_requests", "Transactions that show members in etcd.", self._keys.requests
        )


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(name, meaning, value=value)
