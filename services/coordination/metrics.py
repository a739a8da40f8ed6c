"""What every service tells Prometheus of its coordination through etcd. Names are stable; no label is a topic or a key.

The session is one per process, so what hangs on it is kept here and read when somebody scrapes.
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
    "Time of one call of etcd until it was answered or given up, by what was called.",
    ["call"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2),
)
ETCD_FAILURES = Counter(
    "pollcast_etcd_failures",
    "Calls of etcd that failed: refused (not done), or unknown (done or not, no answer came).",
    ["call", "kind"],
)
SESSIONS = Counter("pollcast_session_opened", "Leases granted: 1 in a quiet life.")
SESSIONS_LOST = Counter("pollcast_session_lost", "Sessions that ended because etcd said that the lease was gone.")
LEASE_MARGIN = Gauge(
    "pollcast_session_margin_seconds",
    "For how long the lease is known to hold; negative when that is not known any more, NaN without a lease.",
)
LISTINGS = Counter("pollcast_mirror_listings", "Times that a mirror listed etcd anew: once per mirror in a quiet life.")
DEATHS = Counter("pollcast_coroner_deaths", "Dead nodes that this one found and whose lease it revoked.", ["role"])

NODE = Gauge("pollcast_node_info", "Always 1: who this is, for joining with the others.", ["role", "node", "version"])

LEASE_MARGIN.set(float("nan"))


@contextmanager
def measure_call(call: str) -> Iterator[None]:
    """Times and judges one call of etcd."""
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
def holding(margin: Callable[[], float]) -> Iterator[None]:
    """A session that stands inside the scope."""
    SESSIONS.inc()
    LEASE_MARGIN.set_function(margin)
    try:
        yield
    finally:
        LEASE_MARGIN.set_function(lambda: float("nan"))


class OnScrape(Collector):
    """Figures that are counted when somebody scrapes, so that they cost nothing otherwise."""

    def __init__(self, figures: Callable[[], Iterator[Metric]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        return self._figures()

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry would count everything to learn the names."""
        return iter(())


@contextmanager
def counted_on_scrape(figures: Callable[[], Iterator[Metric]]) -> Iterator[None]:
    """Told to Prometheus inside the scope. Call `figures` from the event loop only: that is where scrapes happen."""
    collector = OnScrape(figures)
    REGISTRY.register(collector)
    try:
        yield
    finally:
        REGISTRY.unregister(collector)
