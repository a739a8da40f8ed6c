"""The metrics of coordination through etcd, exported by every service (docs/reference/metrics.md#coordination).

Names are stable, and no label is a topic or a key. A process has one session, so its gauge is a global of this module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pollcast.services.errors import EtcdRefused, EtcdUnknown

ETCD_SECONDS = Histogram(
    "pollcast_etcd_seconds",
    "Time until a call of etcd was answered or given up, by method.",
    ["call"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2),
)
ETCD_FAILURES = Counter(
    "pollcast_etcd_failures",
    "Failed calls of etcd, by kind: refused (not carried out) or unknown (no answer, carried out or not).",
    ["call", "kind"],
)
SESSIONS = Counter("pollcast_session_opened", "Leases granted: 1 unless the lease was lost.")
SESSIONS_LOST = Counter("pollcast_session_lost", "Sessions that ended because etcd reported that the lease is gone.")
LEASE_MARGIN = Gauge(
    "pollcast_session_margin_seconds",
    "Time for which the lease is known to hold; negative when it may have expired, NaN without a lease.",
)
LISTINGS = Counter(
    "pollcast_mirror_listings",
    "Listings of etcd by mirrors: one per mirror, one after a compaction that overtook it, one after a loss of data.",
)
RESUMES = Counter(
    "pollcast_watch_resumes",
    "Times that all watches went on from where they were, on another stream, by reason.",
    ["why"],
)
WATCHES = Gauge("pollcast_watches", "Watches of etcd that this process has, all on one stream.")
LOGINS = Counter("pollcast_etcd_logins", "Logins at etcd that were attempted.")
INCARNATIONS = Counter("pollcast_etcd_incarnations", "Times that etcd was found to have lost its data.")
DEATHS = Counter(
    "pollcast_coroner_deaths", "Dead nodes that this node detected and whose lease it revoked, by role.", ["role"]
)

NODE = Gauge(
    "pollcast_node_info",
    "Always 1: the node's role, name and version, to join with other metrics.",
    ["role", "node", "version"],
)

LEASE_MARGIN.set(float("nan"))


@contextmanager
def measure_call(call: str) -> Iterator[None]:
    """Measure the time and count the failure of one call of etcd."""
    began = time.perf_counter()
    try:
        yield
    except EtcdRefused:
        ETCD_FAILURES.labels(call, "refused").inc()
        raise
    except EtcdUnknown:
        ETCD_FAILURES.labels(call, "unknown").inc()
        raise
    finally:
        ETCD_SECONDS.labels(call).observe(time.perf_counter() - began)


@contextmanager
def session_open(margin: Callable[[], float]) -> Iterator[None]:
    """Export the margin of a session inside the scope."""
    SESSIONS.inc()
    LEASE_MARGIN.set_function(margin)
    try:
        yield
    finally:
        LEASE_MARGIN.set_function(lambda: float("nan"))


class OnScrape(Collector):
    """A collector whose metrics are computed when Prometheus scrapes, and cost nothing otherwise."""

    def __init__(self, compute: Callable[[], Iterator[Metric]]) -> None:
        self._compute = compute

    def collect(self) -> Iterator[Metric]:
        """Compute the metrics."""
        return self._compute()

    def describe(self) -> Iterator[Metric]:
        """Return nothing, so that registering does not compute the metrics only to learn their names."""
        return iter(())


@contextmanager
def counted_on_scrape(compute: Callable[[], Iterator[Metric]]) -> Iterator[None]:
    """Export the metrics of `compute` inside the scope. `compute` is called by the event loop, which serves scrapes."""
    collector = OnScrape(compute)
    REGISTRY.register(collector)
    try:
        yield
    finally:
        REGISTRY.unregister(collector)
