"""Gateway metrics that are read when Prometheus scrapes, so that they cost nothing otherwise.

Names are stable (docs/reference/metrics.md#gateway). Labels are queries, never topics, because the number of topics has
no bound. The other metrics of a gateway are in gateway/metrics.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pollcast.gateway.cluster_overview import ClusterOverview
from pollcast.gateway.longpoll_wire import LongPollWire
from pollcast.gateway.presence import Presences
from pollcast.gateway.presence_keys import PresenceKeys
from pollcast.gateway.sockets import Sockets

EVENTS = (b"snapshot", b"delta", b"status", b"presence_diff")
"""Events that are reported from the start, with 0."""


class GatewayGauges:
    """A collector of the gateway's metrics. Call it from the event loop only."""

    def __init__(self, sockets: Sockets, cluster: ClusterOverview, presences: Presences, keys: PresenceKeys) -> None:
        self._sockets = sockets
        self._cluster = cluster
        self._presences = presences
        self._keys = keys

    def __call__(self) -> Iterator[Metric]:
        """Yield all metrics with their present values."""
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
            "Topics with clients on this gateway, by query and by the state that clients were sent.",
            labels=["query", "state"],
        )
        for name in self._sockets.context.catalogue.catalog.queries:
            for state in ("live", "stale", "failed"):
                topics.add_metric([name, state], watched[name, state])
        yield topics
        yield _gauge(
            "pollcast_gateway_retained_bytes",
            "Memory of the results and logs that are kept of topics without clients.",
            hub.retained.bytes,
        )
        yield _gauge("pollcast_gateway_links", "Pollers whose feed is connected.", hub.feeds.connected)
        yield _gauge("pollcast_gateway_owned_topics", "Topics of this gateway that have an owner.", len(hub.owners))
        yield _counter(
            "pollcast_gateway_takeovers",
            "Changes of the owner of a topic of this gateway, from one poller to another.",
            self._cluster.takeovers,
        )
        yield _counter(
            "pollcast_gateway_stale_frames", "Updates of former owners that the fence dropped.", hub.stale_updates
        )

    def _clients(self) -> Iterator[Metric]:
        counts = self._sockets.counts
        yield _gauge(
            "pollcast_gateway_longpoll_sessions",
            "Sockets whose clients use long polling in the place of a WebSocket.",
            sum(isinstance(socket.wire, LongPollWire) for socket in self._sockets),
        )
        congested = sum(socket.wire.congested for socket in self._sockets)
        yield _gauge(
            "pollcast_gateway_congested_sockets",
            "Sockets whose write buffer is full because the client does not read.",
            congested,
        )
        waiting = sum(socket.wire.waiting for socket in self._sockets)
        yield _gauge(
            "pollcast_gateway_waiting_bytes",
            "Bytes that wait in this process for sockets that read slowly; a message is counted for each of them.",
            waiting,
        )
        yield _counter("pollcast_gateway_slow_readers", "Number of times that a socket fell behind.", counts.slow)
        yield _counter(
            "pollcast_gateway_stuck_sockets", "Sockets closed because the client took nothing.", counts.stuck
        )
        yield _counter(
            "pollcast_gateway_malformed_messages",
            "Malformed messages, each of which closed its socket.",
            counts.malformed,
        )
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
        yield _gauge(
            "pollcast_gateway_presence_members",
            "Members on this gateway's presence lists, those of other gateways included.",
            presences.members,
        )
        yield _gauge(
            "pollcast_gateway_presence_departing",
            "Members of this gateway whose socket closed and whose client may return.",
            presences.departing,
        )
        yield _counter("pollcast_gateway_presence_diffs", "Presence differences made for clients.", presences.diffs)
        yield _counter(
            "pollcast_gateway_presence_requests",
            "Transactions that wrote or deleted presence keys in etcd.",
            self._keys.requests,
        )


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(name, meaning, value=value)
