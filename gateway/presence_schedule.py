"""Times at which something of a topic's presence list is due. Pure but for the wake-up of a coroutine that waits."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class Schedule(Generic[T]):
    """A heap of (time, item), in monotonic seconds; an item may be in it several times."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = count()  # break ties, so that items are never compared
        self._earlier = asyncio.Event()

    def add(self, item: T, when: float) -> None:
        """Add an item that is due at `when`."""
        heapq.heappush(self._heap, (when, next(self._numbers), item))
        if self._heap[0][2] is item:
            self._earlier.set()

    def pop_due(self, now: float) -> T | None:
        """Remove and return the next item that is due at `now`, None when there is none."""
        if self._heap and self._heap[0][0] <= now:
            return heapq.heappop(self._heap)[2]
        return None

    async def wait(self) -> None:
        """Wait until the next item is due, or an earlier one is added."""
        self._earlier.clear()
        due = self._heap[0][0] if self._heap else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else due - self._now()):
                await self._earlier.wait()
