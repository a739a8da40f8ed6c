"""The topics of a round that no statement has polled yet, and which of them share the next one. Pure."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator

from pollcast.poller.batching import Batching
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.surroundings import Surroundings, line_length


class Untried:
    """Untried topics, in groups whose topics can share a statement."""

    def __init__(self, groups: Iterable[list[OwnedTopic]], batching: Batching, around: Surroundings) -> None:
        self._groups = deque(deque(group) for group in groups if group)
        self._batching, self._around = batching, around

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __iter__(self) -> Iterator[OwnedTopic]:
        return itertools.chain.from_iterable(self._groups)

    def add(self, group: list[OwnedTopic]) -> None:
        """Add topics that can share a statement, to be polled last."""
        self._groups.append(deque(group))

    def add_first(self, group: list[OwnedTopic]) -> None:
        """Add topics that can share a statement, to be polled next."""
        self._groups.appendleft(deque(group))

    def take_one(self) -> OwnedTopic:
        """Remove and return a topic that works, or else one that has worked, or else the first."""
        return self.take_working() or self.take_working(live=False) or self._taken(0, self._groups[0][0])

    def take_working(self, *, live: bool = True) -> OwnedTopic | None:
        """Remove and return a topic that has a result, and is live unless that does not matter; None without any.

        If it still works, the query is not wrong for all, however many others have failed.
        """
        for at, group in enumerate(self._groups):
            for topic in group:
                if topic.rows is not None and (topic.state == "live" or not live):
                    return self._taken(at, topic)
        return None

    def _taken(self, at: int, topic: OwnedTopic) -> OwnedTopic:
        self._groups[at].remove(topic)
        if not self._groups[at]:
            del self._groups[at]
        return topic

    def take_next(self, line: int = 1) -> tuple[list[OwnedTopic], bool]:
        """Remove and return the topics of the next statement, or of a line of at most `line` topics; say whether it is
        a line.

        A statement for one of many topics takes constant time.
        """
        group, together = self._groups[0], self._batching.together
        most = self._batching.next_size(len(group), self._around.clock())
        if most == 1 and together.choice == "auto" and not together.alone:
            group.rotate(-self._batching.pick(len(group)))
        in_line = most == 1 and line > 1
        if in_line:
            typical = together.typical or 0.0
            costs = (max(typical, topic.history.seconds) for topic in itertools.islice(group, line))
            most = line_length(costs, self._around.line_seconds)
        weights = [topic.history.weight for topic in itertools.islice(group, most)]
        taken = [group.popleft() for _ in range(self._batching.size.fitting(weights, most))]
        self._drop_empty()
        return taken, in_line

    def _drop_empty(self) -> None:
        if not self._groups[0]:
            self._groups.popleft()
