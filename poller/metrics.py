"""What a poller tells Prometheus. Names are stable; labels are queries, never topics, whose number has no bound."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

STATEMENTS = Counter("pollcast_poller_statements", "Statements sent to the database, probes included.", ["query"])
POLLS = Counter(
    "pollcast_poller_polls", "Polls of a topic, by outcome: changed, unchanged, stale, failed.", ["query", "outcome"]
)
SKIPPED = Counter("pollcast_poller_skipped", "Polls of a topic left out because the probe said the same.", ["query"])
ROWS = Counter("pollcast_poller_rows", "Rows that the database answered.", ["query"])
STATEMENT_SECONDS = Histogram(
    "pollcast_poller_statement_seconds",
    "Time of one statement, waiting for a connection included.",
    ["query"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
BATCH_TOPICS = Gauge("pollcast_poller_batch_topics", "Topics that go into one statement now, at most.", ["query"])
INTERVAL_SECONDS = Gauge(
    "pollcast_poller_interval_seconds", "The interval in force: longer than the catalogue's while slow.", ["query"]
)
OWNED_TOPICS = Gauge("pollcast_poller_owned_topics", "Topics that this poller owns.", ["query"])
GAINED = Counter("pollcast_poller_gained_topics", "Topics that came to this poller, whoever had them before.")
LOST = Counter("pollcast_poller_lost_topics", "Topics that this poller let go, handed over, or lost.")
GATEWAY_STREAMS = Gauge("pollcast_poller_gateway_streams", "Gateways that are connected.")
UPDATES = Counter("pollcast_poller_frames", "Updates sent to gateways.")
UPDATE_BYTES = Counter("pollcast_poller_frame_bytes", "Bytes of the updates sent to gateways.")
RESETS = Counter(
    "pollcast_poller_resets", "Queued changes dropped for a gateway that reads slowly; it gets a snapshot instead."
)
