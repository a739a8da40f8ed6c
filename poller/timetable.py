"""A timetable: keys, each with the time at which something is due. Pure.

Every operation costs O(log n) at most, amortized: times are kept in a heap, and an entry that was cancelled or given
another time stays in the heap until it comes to the top, or until such entries are the majority.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

SLACK_ENTRIES = 64
"""Number of outdated entries in the heap that are tolerated in any case."""


class Timetable:
    """Keys with their times, in seconds on any one clock. A key has at most one time."""

    __slots__ = ("_at", "_heap")

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __contains__(self, key: str) -> bool:
        return key in self._at

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def at(self, key: str) -> float | None:
        """Return the time of the key; None when it has none."""
        return self._at.get(key)

    def set(self, key: str, at: float) -> None:
        """Give the key this time instead of any it had."""
        self._at[key] = at
        heapq.heappush(self._heap, (at, key))
        self._tidy()

    def cancel(self, key: str) -> None:
        """Remove the key, if it is there."""
        if self._at.pop(key, None) is not None:
            self._tidy()

    def take_due(self, now: float, limit: int) -> list[str]:
        """Remove and return the keys that are due, the earliest first, and at most `limit` of them."""
        due: list[str] = []
        while len(due) < limit:
            at = self.next_at()
            if at is None or at > now:
                break
            key = heapq.heappop(self._heap)[1]
            del self._at[key]
            due.append(key)
        return due

    def next_at(self) -> float | None:
        """Return the earliest time; None when there is no key."""
        heap = self._heap
        while heap and self._at.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def clear(self) -> None:
        """Remove all keys."""
        self._at.clear()
        self._heap.clear()

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._at) + SLACK_ENTRIES:
            self._at = dict(self._at)  # without the room for those that are gone
            self._heap = [(at, key) for key, at in self._at.items()]
            heapq.heapify(self._heap)
