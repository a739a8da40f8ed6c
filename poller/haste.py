"""Haste: the time after which a statement of topics that have worked before is given up, so they delay no other. Pure.

A topic that suddenly hangs would hold up all topics of its statement, and those of later ones, for the query's timeout.
So a statement is given up once it has taken much longer than it usually does (poller/apart.py). That is no outcome of
any topic: they are polled apart at once as suspects, in parts that are given up even earlier, and a single suspect that
is given up is polled in a place of its own, where it has the whole timeout.

When MOST_IN_A_ROW statements in a row were given up, the database is slow rather than a topic: for LIFTED_SECONDS none
is given up, and every statement has the query's timeout. Times are seconds on one monotonic clock.
"""

from __future__ import annotations

from pollcast.poller.apart import slow_seconds

RATIO = 2.0
"""Ratio, for regular topics, of the time after which a statement is given up to that from which it is conspicuous."""

SHORTEST_SECONDS, SHORTEST_APART_SECONDS = 0.5, 0.25
"""Minimum time after which a statement is given up, in seconds: of regular topics, and of suspects."""

WORTH_SHARE = 0.7
"""Share of the timeout beyond which giving up would gain too little."""

MOST_IN_A_ROW = 4
"""Number of statements that are given up in a row before the database counts as slow."""

LIFTED_SECONDS = 30.0
"""Time for which no statement is given up after that, in seconds."""


class Haste:
    """The haste of one query, whose topics are polled every `interval` with this `timeout`, both in seconds."""

    __slots__ = ("_in_a_row", "_interval", "_lifted_until", "_timeout")

    def __init__(self, interval: float, timeout: float) -> None:
        self._interval, self._timeout = interval, timeout
        self._in_a_row = 0
        self._lifted_until = float("-inf")

    def limit(self, topics: int, usual: float | None, now: float, *, apart: bool) -> float | None:
        """Return the time after which a statement for this many topics is given up, in seconds; None for never.

        `usual` is the usual cost of a topic in seconds, None when it is unknown. `apart` is True for suspects.
        """
        if usual is None or not self.in_force(now):
            return None
        slow = slow_seconds(topics, usual, self._interval)
        limit = max(slow, SHORTEST_APART_SECONDS) if apart else max(RATIO * slow, SHORTEST_SECONDS)
        return limit if limit < WORTH_SHARE * self._timeout else None

    def in_force(self, now: float) -> bool:
        """Return whether statements are given up at all."""
        return now >= self._lifted_until

    def record_given_up(self, now: float) -> None:
        """Record that a statement was given up."""
        self._in_a_row += 1
        if self._in_a_row >= MOST_IN_A_ROW:
            self._in_a_row, self._lifted_until = 0, now + LIFTED_SECONDS

    def record_answer(self) -> None:
        """Record that a statement was answered."""
        self._in_a_row = 0
