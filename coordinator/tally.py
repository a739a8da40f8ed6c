"""Counts over all topics, kept up to date per change: a pure core, a part of coordinator/view.py.

`count` compares what a topic contributes now with what it contributed before, so a change costs the same whatever the
number of topics. The audit looks at the topics in `orphaned`, `idle`, `unheard` and `doubled` only.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from pollcast.coordinator.ranking import Ranking
from pollcast.coordinator.topicview import TopicView
from pollcast.services.ordered import Ordered


class Contribution(NamedTuple):
    """The contribution of one topic to the tally."""

    listed: bool = False
    demanded: bool = False
    owner: str = ""
    pinned: bool = False
    clients: int = 0
    polls_per_second: float = 0.0
    cost: float = 0.0
    unheard: bool = False
    doubled: bool = False

    @staticmethod
    def of(topic: TopicView) -> Contribution:
        """Return what the topic contributes as it is now."""
        owner = topic.owner.node if topic.owner is not None else ""
        return Contribution(
            listed=topic.listed,
            demanded=bool(topic.gateways),
            owner=owner,
            pinned=bool(owner) and topic.pin == owner,
            clients=topic.clients,
            polls_per_second=topic.polls_per_second,
            cost=topic.cost,
            unheard=topic.unheard_since is not None,
            doubled=len(topic.polled) > 1,
        )


NOTHING = Contribution()


class Tally:
    """The counts over the topics of one namespace. The attributes are for reading."""

    def __init__(self) -> None:
        self.names: Ordered[str] = Ordered()  # of the listed topics
        self.queries: Counter[str] = Counter()  # the number of listed topics of each query
        self.demanded = 0
        self.owned: Counter[str] = Counter()  # the number of topics of each poller
        self.unpinned: Counter[str] = Counter()  # the same without those that are pinned to it
        self.watched: Counter[str] = Counter()  # the number of topics of each gateway
        self.clients = 0
        self.polls_per_second = 0.0
        self.cost = 0.0  # milliseconds of the database per second
        self.orphaned: set[str] = set()  # with demand, without an owner
        self.idle: set[str] = set()  # with an owner, without demand
        self.unheard: set[str] = set()
        self.doubled: set[str] = set()  # reported by several pollers
        self.rankings: dict[str, Ranking] = {}  # orders that somebody watches, by column
        self._counted: dict[str, Contribution] = {}

    def count(self, topic: TopicView) -> None:
        """Take in a topic that is new or has changed, or is about to be dropped because nothing is left of it."""
        name, now = topic.name, Contribution.of(topic)
        before = self._counted.get(name, NOTHING)
        for ranking in self.rankings.values():
            ranking.update(topic)
        if now == before:
            return
        if now == NOTHING:
            del self._counted[name]
        else:
            self._counted[name] = now
        if now.listed != before.listed:
            self._list(topic, now.listed)
        self.demanded += now.demanded - before.demanded
        self.clients += now.clients - before.clients
        _move(self.owned, before.owner, now.owner)
        _move(self.unpinned, "" if before.pinned else before.owner, "" if now.pinned else now.owner)
        self.polls_per_second += now.polls_per_second - before.polls_per_second
        self.cost += now.cost - before.cost
        if not self.owned:  # no rounding error is left
            self.polls_per_second = self.cost = 0.0
        _set(self.orphaned, name, now.demanded and not now.owner)
        _set(self.idle, name, bool(now.owner) and not now.demanded)
        _set(self.unheard, name, now.unheard)
        _set(self.doubled, name, now.doubled)

    def count_demand(self, gateway: str, difference: int) -> None:
        """Note that the gateway has demand for so many more topics, or fewer."""
        self.watched[gateway] += difference
        if not self.watched[gateway]:
            del self.watched[gateway]

    def _list(self, topic: TopicView, listed: bool) -> None:
        if listed:
            self.names.add(topic.name)
            self.queries[topic.query] += 1
            return
        self.names.remove(topic.name)
        self.queries[topic.query] -= 1
        if not self.queries[topic.query]:
            del self.queries[topic.query]


def _move(counter: Counter[str], before: str, now: str) -> None:
    """Count one topic under another name; an empty name counts nothing."""
    if before == now:
        return
    if now:
        counter[now] += 1
    if before:
        counter[before] -= 1
        if not counter[before]:
            del counter[before]


def _set(names: set[str], name: str, contained: bool) -> None:
    if contained:
        names.add(name)
    else:
        names.discard(name)
