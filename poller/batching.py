"""Batching: which of a query's due topics share the next statement. Pure.

`BatchSize` bounds a statement by what statements took and returned so far, and by what the last results of its topics
weighed, so that the answer to one statement is small beside the results that a poller holds. `Batching` adds whether
topics are polled together at all (poller/together.py), and the verdict on a query that fails for all of its topics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.together import Together

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Maximum expected size of the answer to a statement for several topics, in bytes."""

FORGET = 0.9
"""Factor by which the weight expected of a topic without a result shrinks with each statement."""


@dataclass(slots=True)
class BatchSize:
    """The number of topics of a query that share a statement.

    It grows while statements are quick and small, and shrinks when one was too big. It starts low, as nothing is known
    of the query yet. Beyond `largest` little is gained (a tenth at twice as many, `python -m bench polling`), while the
    event loop is blocked for longer.
    """

    topics: int = 32
    largest: int = 512
    expected_bytes: float = 0.0
    """Size expected of a topic's result before its first one: that of the heaviest of late, in bytes."""
    _before: int = 0  # number of topics before the last timeouts; 0 when it no longer matters

    QUICK_SHARE = 0.25  # of the timeout
    SMALL_BYTES = 4 * 1024 * 1024
    LARGE_BYTES = 16 * 1024 * 1024

    def record_statement(self, topics: int, seconds: float, timeout: float, size: int) -> None:
        """Adapt to a statement with this many topics, which returned `size` bytes of rows."""
        if topics >= self.topics:
            self._before = 0
        if size > self.LARGE_BYTES or seconds > timeout / 2:
            self.topics = max(1, min(self.topics, topics) // 2)
        elif topics >= self.topics and size < self.SMALL_BYTES and seconds < timeout * self.QUICK_SHARE:
            self.topics = min(self.topics * 4, self.largest)

    def record_timeout(self, topics: int) -> None:
        """Adapt to a statement with this many topics that timed out."""
        self._before = max(self._before, self.topics)
        self.topics = max(1, min(self.topics, topics) // 2)

    def restore(self) -> None:
        """Undo the adaption to the last timeouts: a topic was too slow, not a statement too large."""
        self.topics, self._before = max(self.topics, self._before), 0

    def record_weights(self, weights: Sequence[int]) -> None:
        """Adapt to the sizes of results, in bytes."""
        self.expected_bytes = max(self.expected_bytes * FORGET, *weights, 0)

    def fitting(self, weights: Sequence[int | None], most: int) -> int:
        """Return how many of the topics, at least one, fit into a statement for at most `most`.

        `weights` are the sizes of their last results in bytes, None for a topic without a result.
        """
        total = 0.0
        for count, weight in enumerate(weights[:most]):
            total += self.expected_bytes if weight is None else weight
            if total > MAX_BATCH_BYTES and count:
                return count
        return max(1, min(most, len(weights)))


@dataclass(slots=True)
class Batching:
    """Experience with polling the topics of a query, kept from round to round."""

    size: BatchSize
    possible: bool = True
    """Whether topics can share a statement, as far as the query's text shows."""
    answering: bool = True
    """Whether any statement of the last round had an answer."""
    together: Together = field(default_factory=lambda: Together(True))
    verdict: PollError | None = None
    """The error with which the query fails for all topics, as far as the last rounds have shown."""
    taken: int = 0
    """Number of topics that were picked so far to be polled alone for comparison."""

    def next_size(self, left: int, now: float) -> int:
        """Return the maximum number of topics for the next statement, of `left` topics that are due."""
        return self.together.next_size(left, self.size.topics, now) if self.possible and left else 1

    def statements(self, topics: int) -> int:
        """Return the number of statements that poll this many topics, as far as sizes and times allow now."""
        together = self.possible and not self.together.alone
        return math.ceil(topics / self.size.topics) if together else topics

    def pick(self, topics: int) -> int:
        """Return the index of the topic that is polled alone next; over time, all of `topics` have their turn."""
        self.taken += 1
        return math.floor(self.taken * GOLDEN % 1 * topics)


GOLDEN = (math.sqrt(5) - 1) / 2
"""Step that spreads picks evenly, whatever their number."""

Clock = Callable[[], float]
"""Function that returns the present time, in seconds on a monotonic clock."""
