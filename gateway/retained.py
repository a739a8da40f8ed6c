"""The budget for what a gateway keeps of topics that nobody watches (docs/reference/guarantees.md#bounded-memory).

A topic without clients is kept for some time, so that a returning client needs no snapshot. All of them together may
hold RETAINED_BYTES; beyond, those whose clients left first are forgotten. Pure.
"""

from __future__ import annotations

from typing import Final

RETAINED_BYTES: Final = 64 * 1024 * 1024
"""Maximum size of the results and logs of topics without clients, in bytes of memory as far as it is known."""

ROW_BYTES: Final = 160
"""Approximate memory of one row in addition to its text and its key, in bytes: three Python objects and a reference."""


class Retained:
    """The sizes of the topics without clients, in the order in which their clients left."""

    def __init__(self, budget: int = RETAINED_BYTES) -> None:
        self.bytes = 0
        self.forgotten_bytes = 0  # since the gateway started
        self._budget = budget
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def put(self, topic: str, size: int) -> list[str]:
        """Add a topic or change its size; return the topics to forget, which are no longer counted."""
        self.bytes += size - self._sizes.get(topic, 0)
        self._sizes[topic] = size
        forgotten = []
        while self.bytes > self._budget:
            oldest = next(iter(self._sizes))
            self.forget(oldest)
            forgotten.append(oldest)
        return forgotten

    def discard(self, topic: str) -> None:
        """Stop counting a topic, which may be none of these."""
        self.bytes -= self._sizes.pop(topic, 0)

    def forget(self, topic: str) -> None:
        """Stop counting a topic because its result and log are dropped."""
        self.forgotten_bytes += self._sizes.get(topic, 0)
        self.discard(topic)
