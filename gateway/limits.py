"""What one client may cost (CONTRACT.md §10). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pollcast.services.process.settings import GatewaySettings

EXPIRY_GRACE_SECONDS = 10.0
"""How long what a token opened goes on when it has expired (CONTRACT.md §10)."""


@dataclass(frozen=True, slots=True)
class Limits:
    max_topics: int  # per socket
    join_rate: float  # per second and socket; also how many may come at once
    max_connections: int
    silent_seconds: float = 60.0
    stuck_seconds: float = 30.0
    expiry_grace_seconds: float = EXPIRY_GRACE_SECONDS

    @staticmethod
    def of(settings: GatewaySettings) -> Limits:
        return Limits(settings.max_topics, settings.join_rate, settings.max_connections)


class Bucket:
    """A token bucket of `rate` per second that holds as many as come in one second."""

    __slots__ = ("_at", "_level", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._level = max(rate, 1.0)
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more may pass at `now` (monotonic seconds)."""
        self._level = min(max(self._rate, 1.0), self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True
