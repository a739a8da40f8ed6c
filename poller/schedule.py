"""When a query is polled next, and how many of its topics together.

Pure: times are seconds on the monotonic clock, randomness is an argument between 0 and 1.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

SHORTEST_RETRY_SECONDS = 1.0
"""A database that is not there is asked again at the query's interval, or this often where the interval is shorter."""

LONGEST_STRETCH_SECONDS = 30.0
"""The interval stretches to at most this, unless it is longer by itself."""


def phase(name: str, interval: float) -> float:
    """Where in the interval the query of that name is polled, so that queries are spread over it: in [0, interval)."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * interval


def stretched(interval: float, took: float) -> float:
    """The interval in force after a round that took so long: polling fills at most half of the time."""
    return interval if took <= interval / 2 else min(2 * took, max(interval, LONGEST_STRETCH_SECONDS))


def next_round(interval: float, phase: float, started: float, ended: float) -> float:
    """When the round after one that started and ended at these times starts. Counted from start to start: on the
    query's phase while rounds are quick, later while they are slow; never before the round ended."""
    current_interval = stretched(interval, ended - started)
    if current_interval > interval:
        return max(started + current_interval, ended)
    # Half an interval of slack, so that a round that started a little late does not skip the next turn.
    turn = math.floor((started + interval / 2 - phase) / interval) + 1
    return max(phase + turn * interval, ended)


def retry_delay(interval: float, failures: int, random: float) -> float:
    """Seconds from the end of a round in which everything failed to the next one; `failures` counts such rounds in a
    row, from 1. Doubles from the interval up to one second (or the interval, where that is longer), less up to a
    quarter at random, so that pollers don't come back in step and none comes back late."""
    longest = max(interval, SHORTEST_RETRY_SECONDS)
    return min(interval * 2.0 ** min(failures - 1, 10), longest) * (1 - random / 4)


def suspects_delay(interval: float, took: float) -> float:
    """Seconds from the end of a round of topics that failed alone to the next one: from start to start it is the
    interval, and where the round is slow it takes at most half of the time, up to a rest of 5 s."""
    return max(interval - took, min(took, 5.0))


@dataclass(slots=True)
class BatchSize:
    """How many topics of a query go into one statement: grows while statements are quick and small, shrinks when one
    was too big. Starts low, as nothing is known of the query yet. Beyond `largest` little is won (a tenth at twice as
    many, `python -m bench polling`), while the event loop stands still for longer."""

    topics: int = 32
    largest: int = 512

    QUICK_SHARE = 0.25  # of the timeout
    SMALL_BYTES = 4 * 1024 * 1024
    LARGE_BYTES = 16 * 1024 * 1024

    def record_statement(self, topics: int, seconds: float, timeout: float, size: int) -> None:
        """A statement with so many topics gave `size` bytes of rows."""
        if size > self.LARGE_BYTES or seconds > timeout / 2:
            self.topics = max(1, min(self.topics, topics) // 2)
        elif topics >= self.topics and size < self.SMALL_BYTES and seconds < timeout * self.QUICK_SHARE:
            self.topics = min(self.topics * 4, self.largest)

    def record_timeout(self, topics: int) -> None:
        """A statement with so many topics ran into the timeout."""
        self.topics = max(1, min(self.topics, topics) // 2)
