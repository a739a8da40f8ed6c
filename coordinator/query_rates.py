"""The rates at which queries are polled, over all pollers: a pure core, a part of coordinator/view.py.

A poller reports how much it has counted since its process began. A rate is what was counted within the window, which
is WINDOW_SECONDS to twice as long, divided by its length. The window of a query begins with the poller's last report
before the query was polled, or with its first report, so that a rate is right after two reports. A poller that counts
less than before has been restarted, and its window begins anew; what a poller contributed ends with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import lt
from typing import NamedTuple

from pollcast.v1 import cluster_pb2, report_pb2

WINDOW_SECONDS = 15.0
"""Minimum time over which a rate is averaged once it is known for as long, in seconds; the maximum is twice as long."""


class Counted(NamedTuple):
    """The counts of one query: totals, differences of totals, or rates."""

    polls: float = 0
    unsent: float = 0
    bytes: float = 0
    statements: float = 0
    skipped: float = 0
    avoided: float = 0
    hinted: float = 0

    @staticmethod
    def of(counts: report_pb2.QueryCounts) -> Counted:
        """Return the totals of a report."""
        return Counted(
            counts.polls,
            counts.unsent,
            counts.bytes,
            counts.statements,
            counts.skipped,
            counts.avoided,
            counts.hinted,
        )


NOTHING = Counted()


class Sample(NamedTuple):
    """The totals of one query at one poller, and the time `at` which they were reported, in seconds."""

    at: float
    totals: Counted


class Window(NamedTuple):
    """Three samples, the latest last. The first two are `WINDOW_SECONDS` or more apart, or the same."""

    first: Sample
    middle: Sample
    last: Sample

    @staticmethod
    def beginning(sample: Sample) -> Window:
        """Return the window that begins with this sample."""
        return Window(sample, sample, sample)

    def advanced(self, sample: Sample) -> Window:
        """Return the window with a later sample."""
        if any(map(lt, sample.totals, self.last.totals)):
            return Window.beginning(sample)  # the poller was restarted
        if sample.at - self.middle.at >= WINDOW_SECONDS:
            return Window(self.middle, sample, sample)
        return Window(self.first, self.middle, sample)


class QueryRates:
    """The rates of all queries of one namespace."""

    def __init__(self) -> None:
        self._windows: dict[str, dict[str, Window]] = {}  # by poller and query
        self._heard: dict[str, float] = {}  # the time of each poller's last report

    def report(self, poller: str, counts: Iterable[report_pb2.QueryCounts], at: float) -> None:
        """Take in what a poller has counted, reported `at` this time in seconds. Queries left out were not polled."""
        before, heard = self._windows.get(poller, {}), self._heard.get(poller)
        windows = self._windows[poller] = {}
        self._heard[poller] = at
        for each in counts:
            sample, window = Sample(at, Counted.of(each)), before.get(each.query)
            if window is None:
                window = Window.beginning(sample if heard is None else Sample(heard, NOTHING))
            windows[each.query] = window.advanced(sample)

    def forget(self, poller: str) -> None:
        """Forget what the poller has counted, because its process has ended."""
        self._windows.pop(poller, None)
        self._heard.pop(poller, None)

    def rates(self) -> dict[str, Counted]:
        """Return the rates of the queries of which something was counted lately, summed over the pollers."""
        sums: dict[str, Counted] = {}
        for windows in self._windows.values():
            for query, (first, _, last) in windows.items():
                seconds = last.at - first.at
                if seconds > 0 and last.totals != first.totals:
                    parts = zip(sums.get(query, NOTHING), last.totals, first.totals, strict=True)
                    sums[query] = Counted._make([rate + (after - before) / seconds for rate, after, before in parts])
        return sums


def loads(rates: Mapping[str, Counted], topics: Mapping[str, int]) -> Iterator[cluster_pb2.QueryLoad]:
    """Yield each query that has topics or rates, by name; `topics` counts the listed topics of each query."""
    for query in sorted(rates.keys() | topics.keys()):
        each = rates.get(query, NOTHING)
        yield cluster_pb2.QueryLoad(
            query=query,
            topics=topics.get(query, 0),
            polls_per_second=each.polls,
            unsent_per_second=each.unsent,
            bytes_per_second=each.bytes,
            statements_per_second=each.statements,
            skipped_per_second=each.skipped,
            avoided_per_second=each.avoided,
            hinted_per_second=each.hinted,
        )
