"""Schedule: when a query is polled next. Pure.

Times are seconds on the monotonic clock, and randomness is an argument between 0 and 1.
"""

from __future__ import annotations

import hashlib
import math

SHORTEST_RETRY_SECONDS = 1.0
"""Maximum time between attempts on an unavailable database, in seconds, unless the query's interval is longer."""

LONGEST_RETRY_SECONDS = 5.0
"""Maximum time between attempts to poll topics without a result, in seconds, however long the interval is."""

LONGEST_STRETCH_SECONDS = 30.0
"""Maximum stretched interval, in seconds, unless the query's own interval is longer."""

MAX_REST_SECONDS = 5.0
"""Maximum rest after a slow round of topics that are polled alone, in seconds."""


NEGLIGIBLE_SECONDS = 0.1
"""Time before a regular round within which a topic must have been polled to be left out of the round, in seconds."""


def phase(name: str, interval: float) -> float:
    """Return the offset of the query's polls within its interval, in [0, interval), so that queries are spread out."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * interval


def stretched(interval: float, took: float) -> float:
    """Return the current interval after a round that took this long: polling fills at most half of the time."""
    return interval if took <= interval / 2 else min(2 * took, max(interval, LONGEST_STRETCH_SECONDS))


def first_round(interval: float, phase: float, now: float) -> float:
    """Return the first turn of the query's phase that is not before `now`.

    Rounds begin here when the query's first topic comes. It was just polled, so its next poll is at most one interval
    later.
    """
    turn = phase + math.ceil((now - phase) / interval) * interval
    return turn if turn >= now else turn + interval


def polled_before(interval: float, now: float) -> float:
    """Return the time before which a topic was polled last if it is due in a regular round that starts `now`.

    A topic that came since the last round was polled when it came. It is polled again on its first turn all the same,
    so that no change of its owner stretches its interval by more than NEGLIGIBLE_SECONDS.
    """
    return now - min(interval / 2, NEGLIGIBLE_SECONDS)


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


def retry_delay(interval: float, failures: int, random: float, longest: float = SHORTEST_RETRY_SECONDS) -> float:
    """Return the seconds from the end of a round in which topics got no result to the next round.

    `failures` counts such rounds in a row, from 1. The delay doubles from the interval, or SHORTEST_RETRY_SECONDS if
    that is shorter, up to `longest`, or to the interval if that is longer, but never beyond LONGEST_RETRY_SECONDS. It
    is up to a quarter shorter at random, so that pollers spread out and none returns late.
    """
    first = min(interval, SHORTEST_RETRY_SECONDS)
    return min(first * 2.0 ** min(failures - 1, 10), max(interval, longest), LONGEST_RETRY_SECONDS) * (1 - random / 4)


def hinted_delay(min_interval: float, took: float) -> float:
    """Return the seconds from the end of a round of topics that are polled alone to the next one that a hint asks for.

    Rounds start at least `min_interval` apart, and slow ones take at most half of the time, up to a rest of
    MAX_REST_SECONDS.
    """
    return max(min_interval - took, min(took, MAX_REST_SECONDS))


def alone_delay(interval: float, took: float) -> float:
    """Return the seconds from the end of a round of topics that are polled alone to the next one.

    Quick rounds start once per interval, or every LONGEST_RETRY_SECONDS if that is shorter. Slow rounds take at most
    half of the time, up to a rest of MAX_REST_SECONDS.
    """
    return max(min(interval, LONGEST_RETRY_SECONDS) - took, min(took, MAX_REST_SECONDS))
