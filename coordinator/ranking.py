"""An order of all listed topics by one column of `pollcast top`, kept up to date per change: a pure core."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from pollcast.coordinator.topicview import SEVERITY, TopicView
from pollcast.services.ordered import Ordered

SortKey = float | str

COLUMNS: dict[str, Callable[[TopicView], SortKey]] = {
    "topic": lambda topic: topic.name,
    "owner": lambda topic: topic.owner.node if topic.owner is not None else "",
    "state": lambda topic: -SEVERITY.get(topic.state, 0),
    "clients": lambda topic: -topic.clients,
    "polls/s": lambda topic: -topic.polls_per_second,
    "changes/s": lambda topic: -topic.changes_per_second,
    "rows": lambda topic: -(topic.report.rows if topic.report is not None else 0),
    "lag": lambda topic: (topic.report.last_polled_at if topic.report is not None else 0) or float("inf"),
    "cost": lambda topic: -topic.cost,
}
"""The columns to sort by, each with its key: the worst or largest first, and texts in alphabetical order."""


class Ranking:
    """The listed topics in the order of one column, by name where that is equal."""

    def __init__(self, column: str) -> None:
        self.column = column
        self.users = 0
        self.complete = False  # whether every topic was taken in once
        self._key_of = COLUMNS[column]
        self._keys: dict[str, SortKey] = {}
        self._order: Ordered[tuple[SortKey, str]] = Ordered()

    def update(self, topic: TopicView) -> None:
        """Take in a topic that is new or has changed, or is not listed any more."""
        before = self._keys.pop(topic.name, None)
        now = self._key_of(topic) if topic.listed else None
        if now is not None:
            self._keys[topic.name] = now
        if now != before:
            if before is not None:
                self._order.remove((before, topic.name))
            if now is not None:
                self._order.add((now, topic.name))

    def first(self, limit: int, *, reverse: bool) -> list[str]:
        """Return the first topics in this order, or in its reverse."""
        order = reversed(self._order) if reverse else iter(self._order)
        return [name for _, name in islice(order, limit)]
