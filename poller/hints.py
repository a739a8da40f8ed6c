"""Hints: when topics are polled because a poke or a notification says that their results may have changed. Pure.

A hint asks for one poll that starts after it. The topic is due at the time of the hint, but not before `min_interval`
has passed since the start of its last poll. The life of a hinted topic:

- *waiting*, from its first hint on; further hints before its poll starts are merged with the first.
- When it is due, it is *taken*, and `decide` says what follows: it is to be polled; or nothing is left to do, because
  a poll has started after its latest hint anyway; or it waits on, because a poll has started since its first hint; or
  it is *held*, because a poll of it is about to start, is under way, or its outcome is not recorded yet.
- `ended` makes a held topic wait again. It is due then, so a hint during a poll leads to one more poll after it.

Nothing here polls, so no topic is polled twice at a time, and a hint that is lost costs time only. Times are seconds on
one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Collection

from pollcast.poller.timetable import Timetable


class Hints:
    """The hinted topics of one query, by name. Every operation takes constant time, but for O(log n) in a heap."""

    __slots__ = ("_asked", "_due", "_held", "_min_interval", "held")

    def __init__(self, min_interval: float) -> None:
        self._min_interval = min_interval
        self._asked: dict[str, float] = {}  # the time of each topic's latest hint, until a poll after it is certain
        self._due = Timetable()
        self._held: set[str] = set()
        self.held: Collection[str] = self._held
        """The topics that are held."""

    def __len__(self) -> int:
        return len(self._asked)

    def __contains__(self, topic: str) -> bool:
        return topic in self._asked

    def hint(self, topic: str, now: float, started: float) -> None:
        """Ask for a poll of the topic, whose last poll started at `started`."""
        if topic not in self._asked:
            self._due.set(topic, max(now, started + self._min_interval))
        self._asked[topic] = now

    def next_at(self) -> float | None:
        """Return the time at which the next topic is due; None when none is waiting."""
        return self._due.next_at()

    def take_due(self, now: float, limit: int) -> list[str]:
        """Return the topics that are due, at most `limit` of them; the caller has to `decide` about each."""
        return self._due.take_due(now, limit)

    def decide(self, topic: str, now: float, started: float, *, busy: bool) -> float | None:
        """Return the time of the latest hint if the topic, which was taken, is to be polled now; else None.

        `busy` is True while a poll of the topic is about to start, is under way, or has an outcome that is not recorded
        yet: the caller has to call `ended` afterwards.
        """
        asked = self._asked[topic]
        if busy:  # even with a poll that has started after the hint: it may be given up
            self._held.add(topic)
            return None
        if started > asked:
            del self._asked[topic]
            return None
        if started + self._min_interval > now:
            self._due.set(topic, started + self._min_interval)
            return None
        del self._asked[topic]
        return asked

    def ended(self, topic: str, now: float, started: float) -> None:
        """Let a topic that is held wait again; its last poll started at `started`."""
        if topic in self._held:
            self._held.remove(topic)
            self._due.set(topic, max(now, started + self._min_interval))

    def forget(self, topic: str) -> None:
        """Forget all hints of the topic."""
        if self._asked.pop(topic, None) is not None:
            self._due.cancel(topic)
            self._held.discard(topic)
