"""Distribution of topics over pollers: the ranking of pollers for a topic, and the topics one poller hands over. Pure.

Topics are ranked by rendezvous hashing: the ranking is the same in every process, and a poller that joins or leaves
moves no topic between the others. Hashing alone leaves loads that differ by a third at a few hundred topics, so loads
are also counted and bounded: a poller with more than SLACK times the mean hands its excess over the mean to the pollers
below the mean. No poller is given more than the mean, so no topic is passed on repeatedly. Differences of less than
MIN_DIFFERENCE topics are ignored. Topics whose ranking prefers the receiver to the giver move first.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections import Counter
from collections.abc import Collection, Iterable

SLACK = 1.1
"""Load, as a multiple of the mean, above which a poller starts to hand topics over."""

MIN_DIFFERENCE = 4
"""Minimum difference in topics between the loaded poller and the least loaded one before topics are moved."""

STEP_TOPICS = 20
"""Maximum number of topics handed over in one step while the excess is small."""

STEP_SHARE = 30
"""Divisor of a large excess: a step moves up to 1/STEP_SHARE of it, so that many thousands of topics move in seconds.
"""


def rank(topic: str, pollers: Iterable[str]) -> list[str]:
    """Return the pollers in order of preference for the topic, the preferred owner first.

    The order is the same in every process. Adding or removing a poller does not change the order of the others.
    """
    return sorted(pollers, key=lambda poller: (weight(topic, poller), poller), reverse=True)


@functools.lru_cache(maxsize=2**16)
def weight(topic: str, poller: str) -> bytes:
    """Return the rendezvous weight of the pair; the poller with the highest weight ranks first for the topic."""
    return hashlib.blake2b(f"{poller}\0{topic}".encode(), digest_size=8).digest()


class Balance:
    """The number of topics that each poller owns, as seen by the poller `me`."""

    def __init__(self, me: str) -> None:
        self.me = me
        self.load: Counter[str] = Counter()
        self._owner: dict[str, str] = {}
        self._unknown_queries: dict[str, set[str]] = {}  # poller → queries that its catalogue does not have
        self._handing_over = False

    def set_owner(self, topic: str, poller: str | None) -> None:
        """Record the owner of the topic, or None when it has no owner."""
        before = self._owner.pop(topic, None)
        if before is not None:
            self.load[before] -= 1
        if poller is not None:
            self._owner[topic] = poller
            self.load[poller] += 1

    def exclude(self, poller: str, topic: str) -> None:
        """Record that the poller's catalogue does not have the query of this topic."""
        self._unknown_queries.setdefault(poller, set()).add(_query(topic))

    def can_take(self, poller: str, topic: str) -> bool:
        """Return False when the poller's catalogue is known not to have the query of this topic."""
        return _query(topic) not in self._unknown_queries.get(poller, ())

    def forget_absent(self, pollers: Collection[str]) -> None:
        """Forget the exclusions of pollers not listed: a poller that returns may have another catalogue."""
        for poller in self._unknown_queries.keys() - set(pollers):
            del self._unknown_queries[poller]

    def next_moves(self, movable: Collection[str], pollers: Collection[str], takers: Collection[str]) -> dict[str, str]:
        """Return the next topics to hand over, each with the poller that receives it; empty when loads are even.

        `pollers` share the load and include `me`, `takers` are those that may receive topics, and `movable` are the
        topics of `me` that may be moved.
        """
        loads = {poller: self.load[poller] for poller in pollers}
        mean = sum(loads.values()) / len(loads)
        fair = -(-sum(loads.values()) // len(loads))
        mine = loads[self.me]
        capacity = {
            poller: fair - load
            for poller, load in loads.items()
            if poller != self.me and poller in takers and load < mean
        }
        uneven = mine > max(fair, SLACK * mean) and mine - min(loads.values()) >= MIN_DIFFERENCE
        self._handing_over = bool(capacity) and mine > fair and (self._handing_over or uneven)
        if not self._handing_over:
            return {}
        count = min(mine - fair, sum(capacity.values()), max(STEP_TOPICS, (mine - fair) // STEP_SHARE))
        candidates = [
            (weight(topic, taker) > weight(topic, self.me), weight(topic, taker), topic, taker)
            for topic in movable
            for taker in capacity
            if self.can_take(taker, topic)
        ]
        moves: dict[str, str] = {}
        for *_, topic, taker in heapq.nlargest(count * len(capacity), candidates):
            if len(moves) < count and topic not in moves and capacity[taker] > 0:
                moves[topic] = taker
                capacity[taker] -= 1
        return moves


def _query(topic: str) -> str:
    return topic.partition("?")[0]
