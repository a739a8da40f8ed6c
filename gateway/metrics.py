"""The gateway's Prometheus metrics that are updated as events happen (docs/reference/metrics.md#gateway).

Names are stable. Labels are queries, never topics, because the number of topics has no bound. Numbers that the gateway
keeps anyway are read on scrape instead (gateway/gauges.py).
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SOCKETS = Gauge("pollcast_gateway_sockets", "Clients that are connected over WebSocket or long polling.")
SUBSCRIPTIONS = Gauge(
    "pollcast_gateway_subscriptions", "Topics joined by clients, each counted once per client, whatever the protocol."
)
DELTA_AGE_SECONDS = Histogram(
    "pollcast_gateway_delta_age_seconds",
    "Time from the start of the poll that found a change until this gateway passed it on, by the hosts' clocks.",
    ["query"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
POKES = Counter("pollcast_gateway_pokes", "Pokes that this gateway accepted.", ["query"])
LOST_POKES = Counter(
    "pollcast_gateway_lost_pokes",
    "Pokes that a poller did not answer in time, each counted for each such poller.",
    ["query"],
)
