"""Schedule: when a query is polled next. Pure.

Times are seconds on the monotonic clock, and randomness is an argument between 0 and 1.
"""

from __future__ import annotations

import hashlib
import math

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
