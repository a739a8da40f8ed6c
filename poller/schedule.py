"""Schedule: when a query is polled next, and how many of its topics share a statement. Pure.

Times are seconds on the monotonic clock, and randomness is an argument between 0 and 1.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

SHORTEST_RETRY_SECONDS = 1.0
"""Maximum time between attempts on an unavailable database, in seconds, unless the query's interval is longer."""

LONGEST_STRETCH_SECONDS = 30.0
"""Maximum stretched interval, in seconds, unless the query's own interval is longer."""

MAX_REST_SECONDS = 5.0
"""Maximum rest after a slow round of topics that are polled alone, in seconds."""


def phase(name: str, interval: float) -> float:
    """Return the offset of the query's polls within its interval, in [0, interval), so that queries are spread out."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * interval


def stretched(interval: float, took: float) -> float:
    """Return the current interval after a round that took this long: polling fills at most half of the time."""
    return interval if took <= interval / 2 else min(2 * took, max(interval, LONGEST_STRETCH_SECONDS))


def next_round(interval: float, phase: float, started: float, ended: float) -> float:
    """Return the start of the next round, given the start and the end of the last one.

    Intervals are counted from start to start: on the query's phase while rounds are quick, later while they are slow.
    A round never starts before the last one has ended.
    """
    current = stretched(interval, ended - started)
    if current > interval:
        return max(started + current, ended)
    # Half an interval of tolerance, so that a round that started a little late does not skip the next turn.
    turn = math.floor((started + interval / 2 - phase) / interval) + 1
    return max(phase + turn * interval, ended)


def retry_delay(interval: float, failures: int, random: float) -> float:
    """Return the seconds from the end of a round in which the database was unavailable to the next round.

    `failures` counts such rounds in a row, from 1. The delay doubles from the interval up to SHORTEST_RETRY_SECONDS (or
    the interval, if longer), less up to a quarter at random, so that pollers spread out and none returns late.
    """
    longest = max(interval, SHORTEST_RETRY_SECONDS)
    return min(interval * 2.0 ** min(failures - 1, 10), longest) * (1 - random / 4)


def alone_delay(interval: float, took: float) -> float:
    """Return the seconds from the end of a round of topics that are polled alone to the next one.

    Quick rounds start once per interval. Slow rounds take at most half of the time, up to a rest of MAX_REST_SECONDS.
    """
    return max(interval - took, min(took, MAX_REST_SECONDS))


@dataclass(slots=True)
class BatchSize:
    """The number of topics of a query that share a statement.

    It grows while statements are quick and small, and shrinks when one was too big. It starts low, as nothing is known
    of the query yet. Beyond `largest` little is gained (a tenth at twice as many, `python -m bench polling`), while the
    event loop is blocked for longer.
    """

    topics: int = 32
    largest: int = 512

    QUICK_SHARE = 0.25  # of the timeout
    SMALL_BYTES = 4 * 1024 * 1024
    LARGE_BYTES = 16 * 1024 * 1024

    def record_statement(self, topics: int, seconds: float, timeout: float, size: int) -> None:
        """Adapt to a statement with this many topics, which returned `size` bytes of rows."""
        if size > self.LARGE_BYTES or seconds > timeout / 2:
            self.topics = max(1, min(self.topics, topics) // 2)
        elif topics >= self.topics and size < self.SMALL_BYTES and seconds < timeout * self.QUICK_SHARE:
            self.topics = min(self.topics * 4, self.largest)

    def record_timeout(self, topics: int) -> None:
        """Adapt to a statement with this many topics that timed out."""
        self.topics = max(1, min(self.topics, topics) // 2)
