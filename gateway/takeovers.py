"""The latest takeovers of topics by one poller from another, derived from the owner keys. Pure: times are arguments."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

KEPT = 100
"""Number of takeovers that are remembered."""

LAPSE_SECONDS = 30.0
"""Maximum time without an owner in a takeover, in seconds: a topic that had none for longer was released."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """One change of a topic's owner. `before` and `after` are node names."""

    topic: str
    before: str
    after: str
    at: str  # RFC 3339
    gap: float  # seconds without an owner


class Takeovers:
    """The takeovers seen by one gateway. Report every change of an owner to `owned`."""

    def __init__(self) -> None:
        self.total = 0  # ever
        self._owners: dict[str, str] = {}
        self._left: dict[str, tuple[str, float]] = {}  # the last owner of each topic and its end, oldest end first
        self._latest: deque[Takeover] = deque(maxlen=KEPT)

    def owned(self, topic: str, owner: str | None, now: float, at: str) -> None:
        """Record the topic's new owner, a node name, or None; `now` is monotonic seconds, `at` is RFC 3339."""
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
            self._latest.append(Takeover(topic, before, owner, at, gap))

    def forget(self, topic: str) -> None:
        """Forget the owner of a topic that is not followed any more."""
        self._owners.pop(topic, None)
        self._left.pop(topic, None)

    def latest(self) -> list[Takeover]:
        """Return the remembered takeovers, the latest first."""
        return list(reversed(self._latest))

    def _forget(self, now: float) -> None:
        while self._left:
            topic, (_, since) = next(iter(self._left.items()))
            if now - since <= LAPSE_SECONDS:
                return
            del self._left[topic]


def public(takeover: Takeover, topic: str) -> dict[str, Any]:
    """Return the JSON object of `/api/cluster` for a takeover; `topic` is the spelling that the client may see."""
    return {
        "topic": topic,
        "from": takeover.before,
        "to": takeover.after,
        "at": takeover.at,
        "gap_ms": round(takeover.gap * 1000, 1),
    }
