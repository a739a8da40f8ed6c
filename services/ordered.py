"""A sorted set that is kept in order while it changes: a pure data structure.

The values are in chunks of bounded length, so adding or removing one costs a search and the move of half a chunk,
whatever the number of values: O(log n) comparisons, and a memory move of a few kilobytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Any)

CHUNK = 512
"""Maximum number of values in one chunk."""


class Ordered(Generic[T]):
    """A sorted set of values that can be compared with each other."""

    def __init__(self) -> None:
        self._chunks: list[list[T]] = []  # none is empty
        self._last: list[T] = []  # the last value of each chunk
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, value: T) -> None:
        """Add a value that is not in the set."""
        self._length += 1
        if not self._chunks:
            self._chunks, self._last = [[value]], [value]
            return
        at = min(bisect_left(self._last, value), len(self._chunks) - 1)
        chunk = self._chunks[at]
        insort(chunk, value)
        if len(chunk) > CHUNK:
            self._chunks.insert(at + 1, chunk[CHUNK // 2 :])
            self._last.insert(at + 1, chunk[-1])
            del chunk[CHUNK // 2 :]
        self._last[at] = chunk[-1]

    def remove(self, value: T) -> None:
        """Remove a value. Raises KeyError when it is not in the set."""
        at = bisect_left(self._last, value)
        chunk = self._chunks[at] if at < len(self._chunks) else []
        within = bisect_left(chunk, value)
        if within == len(chunk) or chunk[within] != value:
            raise KeyError(value)
        del chunk[within]
        self._length -= 1
        if chunk:
            self._last[at] = chunk[-1]
        else:
            del self._chunks[at], self._last[at]

    def __iter__(self) -> Iterator[T]:
        """Yield the values in order. Do not change the set meanwhile."""
        for chunk in self._chunks:
            yield from chunk

    def __reversed__(self) -> Iterator[T]:
        """Yield the values in reverse order. Do not change the set meanwhile."""
        for chunk in reversed(self._chunks):
            yield from reversed(chunk)

    def after(self, value: T, limit: int) -> list[T]:
        """Return the first `limit` values that are greater than this one, which need not be in the set."""
        at = bisect_right(self._last, value)
        found: list[T] = []
        if at < len(self._chunks):
            found += self._chunks[at][bisect_right(self._chunks[at], value) :]
        while len(found) < limit and (at := at + 1) < len(self._chunks):
            found += self._chunks[at]
        return found[:limit]
