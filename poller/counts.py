"""The counts of one query's polls since the process began: as metrics, and for the reports to coordinators."""

from __future__ import annotations

from prometheus_client import Counter

from pollcast.poller import metrics
from pollcast.v1 import report_pb2

OUTCOMES = ("changed", "unchanged", "stale", "failed")
"""The outcomes of a poll of a topic."""


class Count:
    """A number that only grows, exported as one time series. Looking up the series at each step would cost more."""

    __slots__ = ("_series", "value")

    def __init__(self, metric: Counter, *labels: str) -> None:
        self.value = 0
        self._series = metric.labels(*labels)

    def add(self, number: int) -> None:
        """Add a number that is not negative."""
        self.value += number
        self._series.inc(number)


class QueryCounts:
    """The counts of one query. docs/reference/metrics.md#poller says what each of them means."""

    __slots__ = ("_query", "avoided", "polls", "received_bytes", "rows", "skipped", "statements", "unsent")

    def __init__(self, query: str) -> None:
        self._query = query
        self.polls = {outcome: Count(metrics.POLLS, query, outcome) for outcome in OUTCOMES}
        self.statements = Count(metrics.STATEMENTS, query)
        self.rows = Count(metrics.ROWS, query)
        self.received_bytes = Count(metrics.RECEIVED_BYTES, query)
        self.unsent = Count(metrics.UNSENT, query)
        self.skipped = Count(metrics.SKIPPED, query)
        self.avoided = Count(metrics.AVOIDED, query)

    @property
    def used(self) -> bool:
        """Whether anything was asked of the database."""
        return self.statements.value > 0

    def report(self) -> report_pb2.QueryCounts:
        """Return the counts as coordinators receive them."""
        return report_pb2.QueryCounts(
            query=self._query,
            polls=sum(count.value for count in self.polls.values()),
            unsent=self.unsent.value,
            bytes=self.received_bytes.value,
            statements=self.statements.value,
            skipped=self.skipped.value,
            avoided=self.avoided.value,
        )
