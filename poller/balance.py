"""Distribution of topics over pollers: how many topics each poller hands to which other one. Pure.

Hashing alone (poller/ranking.py) leaves loads that differ by a third, so loads are also counted and evened out:

- The fair share of a poller is the mean of all loads, rounded so that the shares add up: the first pollers by name get
  one topic more. Pollers that own topics and are not ready any more have a share of nothing.
- Nothing moves while the highest and the lowest load of ready pollers differ by at most MIN_DIFFERENCE topics, or by
  TOLERANCE of the mean.
- Otherwise every poller hands what it has above its share to the pollers below theirs. Both are put in the order of
  their names: the first surplus topic goes where the first one is missing, and so on.

All pollers compute the same plan from the same loads, and each carries out its own part. They need no agreement on how
far the others have come: what remains of this plan when any part of it has been carried out is the plan of the loads
that result. (It is the only assignment without crossings, and a part of it has no crossings either.) So no poller
receives more than its share, and no topic is passed on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

TOLERANCE = 0.1
"""Difference between the highest and the lowest load, as a share of the mean, that is left as it is."""

MIN_DIFFERENCE = 4
"""Difference between the highest and the lowest load, in topics, that is left as it is."""


def is_uneven(loads: Mapping[str, int], ready: Collection[str]) -> bool:
    """Return whether the loads of the ready pollers differ by more than is left as it is."""
    if not ready:
        return False
    own = [loads.get(poller, 0) for poller in ready]
    return max(own) - min(own) > max(MIN_DIFFERENCE, TOLERANCE * sum(own) / len(own))


def shares(loads: Mapping[str, int], ready: Collection[str]) -> dict[str, int]:
    """Return the number of topics that each poller should own: the ready ones, and those that own topics."""
    total = sum(loads.values())
    fair = {poller: 0 for poller, load in loads.items() if load}
    each, more = divmod(total, len(ready)) if ready else (0, 0)
    for number, poller in enumerate(sorted(ready)):
        fair[poller] = each + (number < more)
    return fair


def part_of_plan(loads: Mapping[str, int], ready: Collection[str], me: str) -> dict[str, int]:
    """Return the number of topics that `me` should hand to each of the other pollers, by the plan of all pollers."""
    fair = shares(loads, ready)
    surplus = 0  # of the pollers before `me`
    for poller, share in fair.items():
        if poller < me:
            surplus += max(0, loads.get(poller, 0) - share)
    end = surplus + max(0, loads.get(me, 0) - fair.get(me, 0))
    part: dict[str, int] = {}
    missing = 0  # at the takers so far
    for taker in sorted(fair):
        lacks = max(0, fair[taker] - loads.get(taker, 0))
        amount = min(end, missing + lacks) - max(surplus, missing)
        if amount > 0:
            part[taker] = amount
        missing += lacks
    return part


class Balance:
    """The number of topics that each poller owns, and what is known of the catalogues of other pollers."""

    def __init__(self) -> None:
        self.load: Counter[str] = Counter()
        self._unknown_queries: dict[str, set[str]] = {}  # poller → queries that its catalogue does not have

    def move(self, before: str | None, after: str | None) -> None:
        """Record that a topic has another owner than before. None stands for no owner."""
        if before is not None:
            self.load[before] -= 1
            if not self.load[before]:
                del self.load[before]
        if after is not None:
            self.load[after] += 1

    def exclude(self, poller: str, topic: str) -> None:
        """Record that the poller's catalogue does not have the query of this topic."""
        self._unknown_queries.setdefault(poller, set()).add(_query(topic))

    def can_take(self, poller: str, topic: str) -> bool:
        """Return False when the poller's catalogue is known not to have the query of this topic."""
        unknown = self._unknown_queries.get(poller)
        return unknown is None or _query(topic) not in unknown

    def forget(self, poller: str) -> None:
        """Forget the exclusions of a poller, because it has another catalogue now."""
        self._unknown_queries.pop(poller, None)

    def forget_absent(self, pollers: Collection[str]) -> None:
        """Forget the exclusions of pollers not listed: a poller that returns may have another catalogue."""
        for poller in self._unknown_queries.keys() - set(pollers):
            del self._unknown_queries[poller]


def _query(topic: str) -> str:
    return topic.partition("?")[0]
