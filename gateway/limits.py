"""The limits of one client (docs/reference/security.md#limits). Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pollcast.services.process.settings import GatewaySettings

EXPIRY_GRACE_SECONDS = 10.0
"""Grace period between a token's expiry and closing its connection, in seconds (docs/reference/channels.md#tokens)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one socket and of the gateway's connections. A time is the one after which a socket is closed."""

    max_topics: int  # per socket
    join_rate: float  # per second and socket; also the number that may come at once
    max_connections: int
    silent_seconds: float = 60.0
    unjoined_seconds: float = 60.0
    stuck_seconds: float = 30.0
    expiry_grace_seconds: float = EXPIRY_GRACE_SECONDS

    @staticmethod
    def of(settings: GatewaySettings) -> Limits:
        """Return the limits that the settings describe."""
        return Limits(settings.max_topics, settings.join_rate, settings.max_connections)


class Bucket:
    """A token bucket that fills at `rate` per second and holds the tokens of one second."""

    __slots__ = ("_at", "_level", "_rate")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._level = max(rate, 1.0)
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token at `now` (monotonic seconds), and return whether there was one."""
        self._level = min(max(self._rate, 1.0), self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True
