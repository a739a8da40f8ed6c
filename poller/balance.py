"""How topics are spread over pollers: the ranking, and what one poller should give away. Pure.

Topics are ranked by rendezvous hashing: the same in every process, and a poller that comes or goes moves no topic
between the others. Hashing alone leaves loads that differ by a third at a few hundred topics; so loads are counted as
well, and bounded: who has more than SLACK times the mean hands its excess over the mean to those below it. Nobody is
given more than the mean, so that no topic is passed on and on, and a difference of less than MIN_DIFFERENCE topics is
none. What ranks the taker before the giver goes first.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections import Counter
from collections.abc import Collection, Iterable

SLACK = 1.1
MIN_DIFFERENCE = 4

STEP_TOPICS = 20
STEP_SHARE = 30
"""In one step at most 20 topics go, or a thirtieth of the excess, so that even many thousands go within seconds."""


def rank(topic: str, pollers: Iterable[str]) -> list[str]:
    """The pollers, first the one that should own the topic. The same in every process; a poller that comes or goes
    changes nothing in the order of the others."""
    return sorted(pollers, key=lambda poller: (weight(topic, poller), poller), reverse=True)


@functools.lru_cache(maxsize=2**16)
def weight(topic: str, poller: str) -> bytes:
    return hashlib.blake2b(f"{poller}\0{topic}".encode(), digest_size=8).digest()


class Balance:
    """How many topics each poller owns, as far as I know."""

    def __init__(self, me: str) -> None:
        self.me = me
        self.load: Counter[str] = Counter()
        self._owner: dict[str, str] = {}
        self._spared: dict[str, set[str]] = {}  # poller → queries that it does not have
        self._giving = False

    def owned(self, topic: str, poller: str | None) -> None:
        """The topic is this poller's from now on; None: nobody's."""
        before = self._owner.pop(topic, None)
        if before is not None:
            self.load[before] -= 1
        if poller is not None:
            self._owner[topic] = poller
            self.load[poller] += 1

    def spare(self, poller: str, topic: str) -> None:
        """The poller let go of the topic: its catalogue has no such query."""
        self._spared.setdefault(poller, set()).add(_query(topic))

    def suits(self, poller: str, topic: str) -> bool:
        return _query(topic) not in self._spared.get(poller, ())

    def forget_all_but(self, pollers: Collection[str]) -> None:
        """Who comes back may have another catalogue."""
        for poller in self._spared.keys() - set(pollers):
            del self._spared[poller]

    def excess(self, movable: Collection[str], pollers: Collection[str], takers: Collection[str]) -> dict[str, str]:
        """The next step: which of my topics should go to whom. `pollers` share the load, `takers` may be given some."""
        loads = {poller: self.load[poller] for poller in pollers}
        mean = sum(loads.values()) / len(loads)
        fair = -(-sum(loads.values()) // len(loads))
        mine = loads[self.me]
        room = {
            poller: fair - load
            for poller, load in loads.items()
            if poller != self.me and poller in takers and load < mean
        }
        uneven = mine > max(fair, SLACK * mean) and mine - min(loads.values()) >= MIN_DIFFERENCE
        self._giving = bool(room) and mine > fair and (self._giving or uneven)
        if not self._giving:
            return {}
        count = min(mine - fair, sum(room.values()), max(STEP_TOPICS, (mine - fair) // STEP_SHARE))
        wishes = [
            (weight(topic, taker) > weight(topic, self.me), weight(topic, taker), topic, taker)
            for topic in movable
            for taker in room
            if self.suits(taker, topic)
        ]
        step: dict[str, str] = {}
        for *_, topic, taker in heapq.nlargest(count * len(room), wishes):
            if len(step) < count and topic not in step and room[taker] > 0:
                step[topic] = taker
                room[taker] -= 1
        return step


def _query(topic: str) -> str:
    return topic.partition("?")[0]
