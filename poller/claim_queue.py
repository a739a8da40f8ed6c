"""The claims that one poller plans: free topics with demand, each with the time at which to claim it. Pure.

Other ready pollers than before change this poller's ranks and thereby the times of all planned claims. They are
recomputed in slices: `review` begins, and each `take_due` goes on with REVIEW_TOPICS of them. Times are arguments, in
seconds on any one clock.

While many topics become free, the few that fall to this poller at once wait for more, for GATHER_SECONDS, because each
transaction is a message to every service. A topic that becomes free alone, or with many of this poller, waits for none.
"""

from __future__ import annotations

from collections.abc import Iterable

from pollcast.poller.ranking import Ranking
from pollcast.poller.timetable import Timetable

REVIEW_TOPICS = 1000
"""Maximum number of planned claims whose times are recomputed in one step."""

CLAIM_TOPICS = 1000
"""Maximum number of claims that are due in one step."""


FEW_TOPICS = 50
"""Number of claims below which more are waited for, if as many as that are planned."""

GATHER_SECONDS = 0.025
"""Time for which more claims are waited for, in seconds."""


class ClaimQueue:
    """The planned claims of one poller."""

    def __init__(self, ranking: Ranking) -> None:
        self._ranking = ranking
        self._at = Timetable()
        self._free_since: dict[str, float] = {}  # topic with a planned claim → when it was found free
        self._to_review: list[str] = []
        self._at_once = 0  # topics planned to be claimed at once since claims were taken last
        self._gathers_until = 0.0

    def __contains__(self, topic: str) -> bool:
        return topic in self._at

    def __len__(self) -> int:
        return len(self._at)

    def plan(self, topic: str, now: float, delay: float) -> None:
        """Plan to claim the topic, which was found free `now`, after `delay` seconds."""
        self._free_since[topic] = now
        self._at.set(topic, now + delay)
        if delay <= 0.0:
            if not self._at_once:
                self._gathers_until = now + GATHER_SECONDS
            self._at_once += 1

    def reschedule(self, topics: Iterable[str], now: float) -> None:
        """Recompute when to claim these topics, unless their claim is not planned or is due already."""
        for topic in topics:
            at = self._at.at(topic)
            if at is not None and at > now:
                due = self._free_since[topic] + self._ranking.claim_delay(topic)
                if due != at:
                    self._at.set(topic, due)

    def review(self) -> None:
        """Recompute when to claim each planned topic, in the next calls of `take_due`."""
        self._to_review = list(self._at)

    def cancel(self, topic: str) -> None:
        """Drop the planned claim of the topic, if there is one."""
        if self._free_since.pop(topic, None) is not None:
            self._at.cancel(topic)

    def take_due(self, now: float) -> list[str]:
        """Remove and return topics to claim now, at most CLAIM_TOPICS."""
        if self._to_review:
            self.reschedule(self._to_review[-REVIEW_TOPICS:], now)
            del self._to_review[-REVIEW_TOPICS:]
        if self._gathers and now < self._gathers_until:
            return []
        due = self._at.take_due(now, CLAIM_TOPICS)
        self._at_once = 0
        for topic in due:
            del self._free_since[topic]
        if not self._free_since:
            self._free_since = {}  # without the room for those that are gone
        return due

    def next_at(self) -> float | None:
        """Return the time at which `take_due` has something to do next; None when no claim is planned."""
        if self._to_review:
            return float("-inf")
        at = self._at.next_at()
        return max(at, self._gathers_until) if at is not None and self._gathers else at

    def clear(self) -> None:
        """Drop all planned claims."""
        self._at.clear()
        self._free_since.clear()
        self._to_review.clear()
        self._at_once = 0

    @property
    def _gathers(self) -> bool:
        """Whether few topics of many are to be claimed at once."""
        return 0 < self._at_once < FEW_TOPICS <= len(self._at)
