"""What a gateway tells Prometheus. Names are stable; labels are queries, never topics, whose number has no bound."""

from __future__ import annotations

from prometheus_client import Gauge

SOCKETS = Gauge("pollcast_gateway_sockets", "WebSocket clients that are connected.")
SUBSCRIPTIONS = Gauge(
    "pollcast_gateway_subscriptions", "Topics joined by clients, each counted once per client, whatever the protocol."
)
