"""Ranking: the order of pollers for each topic, which decides who claims a free topic first. Pure.

A topic belongs to one of BUCKETS buckets, by a hash of its name, and pollers are ranked for a bucket by rendezvous
hashing: the order is the same in every process, and a poller that joins or leaves does not change the order of the
others. The poller that ranks first claims a free topic at once, and each of the others waits RANK_WAIT_SECONDS longer
than the one before it, so that pollers do not all claim every topic at once.

A poller that is known to have another definition of a topic's query does not claim the topic, and is not waited for.
One that does not reach the query's source claims it last, and is waited for only by others that do not reach it either.

`Ranking` counts for each bucket how many ready pollers rank before this one. A count is corrected when it is asked for,
by the pollers that have joined or left since it was asked for last. So a change of the pollers costs nothing by itself,
and a rank costs one hash of the topic's name otherwise, however many topics and pollers there are. Times are arguments,
in seconds on any one clock.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import zlib
from array import array
from collections.abc import Iterable

from pollcast.poller.catalogues import Catalogues
from pollcast.poller.source_reach import SourceReach

BUCKETS = 4096
"""Number of buckets of topics."""

RANK_WAIT_SECONDS = 0.2
"""Time that a poller leaves to each poller ranked before it to claim a free topic, in seconds."""


def bucket(topic: str) -> int:
    """Return the number of the topic's bucket."""
    return zlib.crc32(topic.encode()) % BUCKETS


@functools.lru_cache(maxsize=512)
def weights(poller: str) -> array[int]:
    """Return the rendezvous weight of the poller for each bucket; the poller with the highest one ranks first."""
    found = array("I", hashlib.shake_128(poller.encode()).digest(4 * BUCKETS))
    if sys.byteorder == "big":
        found.byteswap()
    return found


def query_of(topic: str) -> str:
    """Return the name of the topic's query."""
    return topic.partition("?")[0]


def prefers(topic: str, poller: str, other: str) -> bool:
    """Return whether the first poller ranks before the other one for the topic."""
    at = bucket(topic)
    return (weights(poller)[at], poller) > (weights(other)[at], other)


def rank(topic: str, pollers: Iterable[str]) -> list[str]:
    """Return the pollers in order of preference for the topic, the preferred owner first."""
    at = bucket(topic)
    return sorted(pollers, key=lambda poller: (weights(poller)[at], poller), reverse=True)


LAST_SECONDS = 3.0
"""Time that a hesitant poller leaves to all others to claim a free topic, in seconds."""


class Ranking:
    """The pollers that are ready and the pinned topics, as the poller `me` needs them: its own rank for each topic."""

    def __init__(self, me: str, catalogues: Catalogues | None = None, reach: SourceReach | None = None) -> None:
        self.me = me
        self.catalogues = catalogues or Catalogues()
        self.reach = reach or SourceReach()
        self.ready_since: dict[str, float] = {}  # ready poller → time since when it is ready
        self.hesitant = False
        """Whether `me` leaves all topics to others (poller/service.py says when), so that it claims last."""
        self.pins: dict[str, str] = {}  # topic → the poller that should own it while that poller is ready
        self._changes: list[tuple[array[int], str, int]] = []  # weights and names of those that joined (1) or left (-1)
        self._counts: dict[int, tuple[int, int]] = {}  # bucket → pollers before `me` after how many of the changes

    @property
    def alone(self) -> bool:
        """Whether no other poller is ready."""
        return len(self.ready_since) <= (self.me in self.ready_since)

    def set_ready(self, pollers: Iterable[str], now: float) -> bool:
        """Set the ready pollers, and return whether they are other ones than before."""
        before = self.ready_since
        self.ready_since = {poller: before.get(poller, now) for poller in pollers}
        changed = (self.ready_since.keys() ^ before.keys()) - {self.me}
        self._changes += [(weights(poller), poller, 1 if poller in self.ready_since else -1) for poller in changed]
        if len(self._changes) > 2 * len(self.ready_since) + 64:  # counting from the beginning is less
            self._changes = [(weights(poller), poller, 1) for poller in self.ready_since if poller != self.me]
            self._counts.clear()
        return self.ready_since.keys() != before.keys()

    def ready_for(self, seconds: float, now: float) -> set[str]:
        """Return the pollers that have been ready for at least this long."""
        return {poller for poller, since in self.ready_since.items() if now - since >= seconds}

    def rank(self, topic: str) -> int:
        """Return the number of ready pollers that rank before `me` for the topic.

        The poller that the topic is pinned to ranks first while it is ready.
        """
        before = self._count(bucket(topic)) - self._unable_before(topic)
        pinned = self.pins.get(topic)
        if pinned is None or (pinned not in self.ready_since and pinned != self.me) or not self.fits(pinned, topic):
            return before
        if pinned == self.me:
            return 0
        return before if prefers(topic, pinned, self.me) else before + 1

    def claim_delay(self, topic: str) -> float:
        """Return the seconds that `me` leaves the free topic to the pollers ranked before it."""
        return self.rank(topic) * RANK_WAIT_SECONDS + (LAST_SECONDS if self.hesitates(topic) else 0.0)

    def hesitates(self, topic: str) -> bool:
        """Return whether `me` leaves the topic to others."""
        return self.hesitant or (self.reach.hesitant and self.reach.hesitates(query_of(topic)))

    def fits(self, poller: str, topic: str) -> bool:
        """Return whether the poller has this one's definition of the topic's query, and reaches its source, as far as
        is known."""
        if poller == self.me or (self.catalogues.uniform and self.reach.complete):
            return True
        query = query_of(topic)
        return self.catalogues.poller_fits(poller, query) and self.reach.reaches(poller, query)

    def _unable_before(self, topic: str) -> int:
        """Return the number of ready pollers that rank before `me` and are not waited for: those with another
        definition of the query, and those that do not reach its source, unless `me` does not either."""
        if self.catalogues.uniform and self.reach.complete:
            return 0
        query, fits, reaches = query_of(topic), self.catalogues.poller_fits, self.reach.reaches
        hesitates = self.reach.hesitates(query)
        others = {*self.catalogues.differing_pollers, *self.reach.unable} & self.ready_since.keys() - {self.me}
        unable = [poller for poller in others if not (fits(poller, query) and (hesitates or reaches(poller, query)))]
        return sum(prefers(topic, poller, self.me) for poller in unable)

    def _count(self, at: int) -> int:
        """Return the number of ready pollers that rank before `me` in the bucket."""
        count, known = self._counts.get(at, (0, 0))
        if known < len(self._changes):
            me, mine = self.me, weights(self.me)[at]
            for theirs, poller, change in self._changes[known:] if known else self._changes:
                weight = theirs[at]
                if weight > mine or (weight == mine and poller > me):
                    count += change
            self._counts[at] = count, len(self._changes)
        return count
