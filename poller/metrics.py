"""Prometheus metrics of a poller (docs/reference/metrics.md#poller).

Names are stable. Labels are queries, never topics, because the number of topics is unbounded.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

STATEMENTS = Counter("pollcast_poller_statements", "Statements sent to the database, including probes.", ["query"])
POLLS = Counter(
    "pollcast_poller_polls",
    "Polls of single topics, by outcome: changed, unchanged, stale, failed.",
    ["query", "outcome"],
)
SKIPPED = Counter(
    "pollcast_poller_skipped", "Polls of single topics skipped because the probe's result was unchanged.", ["query"]
)
AVOIDED = Counter(
    "pollcast_poller_avoided_statements",
    "Statements that were not needed because the probe's result was unchanged.",
    ["query"],
)
UNSENT = Counter(
    "pollcast_poller_unsent",
    "Polls of single topics whose rows were not sent, because their digest was unchanged.",
    ["query"],
)
HINTS = Counter("pollcast_poller_hints", "Hints received for topics that this poller owns, per topic.", ["query"])
HINTED_POLLS = Counter(
    "pollcast_poller_hinted_polls", "Polls of single topics that started because of a hint.", ["query"]
)
ROWS = Counter("pollcast_poller_rows", "Rows received from the database.", ["query"])
RECEIVED_BYTES = Counter(
    "pollcast_poller_received_bytes",
    "Bytes of the rows received from the database, as JSON text, and of digests.",
    ["query"],
)
_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
STATEMENT_SECONDS = Histogram(
    "pollcast_poller_statement_seconds",
    "Duration of one statement, without the wait for a connection unless it failed.",
    ["query"],
    buckets=_SECONDS_BUCKETS,
)
WAIT_SECONDS = Histogram(
    "pollcast_poller_wait_seconds",
    "Time of one successful statement beside its duration in the database: mainly the wait for a connection.",
    ["query"],
    buckets=_SECONDS_BUCKETS,
)
GIVEN_UP = Counter(
    "pollcast_poller_given_up_statements",
    "Statements that were canceled because they took unusually long; their topics were polled apart at once.",
    ["query"],
)
TROUBLE_STATEMENTS = Counter(
    "pollcast_poller_trouble_statements",
    "Statements that failed, or that searched a failed one for the topics at fault.",
    ["query"],
)
BATCH_TOPICS = Gauge("pollcast_poller_batch_topics", "Current maximum number of topics per statement.", ["query"])
TOGETHER = Gauge(
    "pollcast_poller_together", "1 while topics are polled together, 0 while they are polled one by one.", ["query"]
)
DIGESTS = Gauge(
    "pollcast_poller_digests", "1 while unchanged results are recognized by digests, 0 otherwise.", ["query"]
)
TOPIC_SECONDS = Gauge(
    "pollcast_poller_topic_seconds",
    "Measured time in the database for one poll of a topic, alone and together; 0 before the first measurement.",
    ["query", "kind"],
)
APART_TOPICS = Gauge(
    "pollcast_poller_apart_topics",
    "Topics that are polled apart because they are failing or slow.",
    ["query", "reason"],
)
INTERVAL_SECONDS = Gauge(
    "pollcast_poller_interval_seconds",
    "Current polling interval: longer than the catalogue's while the database is slow.",
    ["query"],
)
OWNED_TOPICS = Gauge("pollcast_poller_owned_topics", "Topics that this poller owns.", ["query"])
GAINED = Counter("pollcast_poller_gained_topics", "Topics gained by this poller, free or owned by another before.")
LOST = Counter("pollcast_poller_lost_topics", "Topics that this poller released, handed over or lost.")
GATEWAY_STREAMS = Gauge("pollcast_poller_gateway_streams", "Connected gateways.")
REACHED = Gauge(
    "pollcast_poller_reached", "1 while a gateway reaches this poller, or none is registered; 0 while none reaches it."
)
UPDATES = Counter("pollcast_poller_frames", "Updates sent to gateways.")
UPDATE_BYTES = Counter("pollcast_poller_frame_bytes", "Bytes of the updates sent to gateways.")
RESETS = Counter(
    "pollcast_poller_resets",
    "Queues of a topic dropped because a gateway reads slowly; the gateway gets a snapshot instead.",
)
LISTENING = Gauge(
    "pollcast_poller_listening",
    "1 while notifications of the query's channel are listened to, 0 otherwise; for queries with `listen`.",
    ["query"],
)
NOTIFICATIONS = Counter(
    "pollcast_poller_notifications", "Notifications received from the database on the query's channel.", ["query"]
)
IGNORED = Counter(
    "pollcast_poller_ignored_notifications",
    "Notifications whose payload is not the part of a topic of the query after `?`.",
    ["query"],
)
DESCRIPTIONS = Counter(
    "pollcast_poller_descriptions",
    "Descriptions of a query's rows that a source was asked for, for /openapi.json, by outcome: described, refused, "
    "stale.",
    ["outcome"],
)


def forget(query: str) -> None:
    """Remove the series of a query that is not in the catalogue any more."""
    for metric in list(globals().values()):
        if isinstance(metric, MetricWrapperBase) and "query" in metric._labelnames:
            metric.remove_by_labels({"query": query})
