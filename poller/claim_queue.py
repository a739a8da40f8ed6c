"""The claims that one poller plans: free topics with demand, each with the time at which to claim it. Pure.

Times are arguments, in seconds on any one clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pollcast.poller.ranking import Ranking


class ClaimQueue:
    """The planned claims of one poller."""

    def __init__(self, ranking: Ranking) -> None:
        self._ranking = ranking
        self._planned: dict[str, tuple[float, float]] = {}  # topic → (when it was found free, when to claim it)

    def __contains__(self, topic: str) -> bool:
        return topic in self._planned

    def __iter__(self) -> Iterator[str]:
        return iter(self._planned)

    def plan(self, topic: str, now: float, delay: float | None = None) -> None:
        """Plan to claim the free topic after `delay` seconds, by default the delay of this poller's rank."""
        self._planned[topic] = now, now + (self._ranking.claim_delay(topic) if delay is None else delay)

    def reschedule(self, topics: Iterable[str], now: float) -> None:
        """Recompute when to claim these topics, unless their claim is due already."""
        for topic in topics:
            free_since, at = self._planned.get(topic, (now, now))
            if at > now:
                self._planned[topic] = free_since, free_since + self._ranking.claim_delay(topic)

    def reschedule_all(self, now: float) -> None:
        """Recompute when to claim each planned topic, unless its claim is due already."""
        self.reschedule(list(self._planned), now)

    def cancel(self, topic: str) -> None:
        """Drop the planned claim of the topic, if there is one."""
        self._planned.pop(topic, None)

    def take_due(self, now: float) -> list[str]:
        """Remove and return the topics to claim now."""
        due = [topic for topic, (_, at) in self._planned.items() if at <= now]
        for topic in due:
            del self._planned[topic]
        return due

    def times(self) -> list[float]:
        """Return the times of all planned claims."""
        return [at for _, at in self._planned.values()]

    def clear(self) -> None:
        """Drop all planned claims."""
        self._planned.clear()
