"""The last times that a topic went from one poller to another, as the owner keys tell. Pure: times are arguments."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

KEPT = 100

LAPSE_SECONDS = 30.0
"""A topic that had no owner for longer was released, and is new to who polls it next."""


@dataclass(frozen=True, slots=True)
class Takeover:
    topic: str
    before: str
    after: str
    at: str  # RFC 3339
    gap: float  # seconds without an owner


class Takeovers:
    """Feed it every change of an owner."""

    def __init__(self) -> None:
        self.total = 0  # ever
        self._owners: dict[str, str] = {}
        self._left: dict[str, tuple[str, float]] = {}  # who owned it and when that ended, in order
        self._seen: deque[Takeover] = deque(maxlen=KEPT)

    def owned(self, topic: str, owner: str | None, now: float, at: str) -> None:
        """The topic has this owner now, or none; `now` is monotonic seconds, `at` is RFC 3339."""
        before = self._owners.pop(topic, None)
        if owner is None:
            if before is not None:
                self._left.pop(topic, None)
                self._left[topic] = before, now
            self._forget(now)
            return
        self._owners[topic] = owner
        gap = 0.0
        if before is None and topic in self._left:
            before, since = self._left.pop(topic)
            gap = now - since
        if before not in (None, owner) and gap <= LAPSE_SECONDS:
            assert before is not None
            self.total += 1
            self._seen.append(Takeover(topic, before, owner, at, gap))

    def latest(self) -> list[Takeover]:
        """The latest first."""
        return list(reversed(self._seen))

    def _forget(self, now: float) -> None:
        while self._left:
            topic, (_, since) = next(iter(self._left.items()))
            if now - since <= LAPSE_SECONDS:
                return
            del self._left[topic]


def public(takeover: Takeover, topic: str) -> dict[str, Any]:
    """As `/api/cluster` tells it, with the topic spelled for whoever asks."""
    return {
        "topic": topic,
        "from": takeover.before,
        "to": takeover.after,
        "at": takeover.at,
        "gap_ms": round(takeover.gap * 1000, 1),
    }
