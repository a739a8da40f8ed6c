"""The time from a gateway's request to stop to the first client that it closes (docs/reference/channels.md#draining).

Load balancers send clients to a gateway until they have asked `/readyz` once more, and a client that comes in between
has nowhere else to go. So a gateway whose `/readyz` is asked regularly goes on serving everybody, old and new clients,
until those who ask have had their answer; only then it refuses and closes clients.

`HealthChecks` is pure. It recognizes a load balancer by the regularity of its questions: those of a person or a script
have no rhythm, or have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from statistics import median

AUTOMATIC_SECONDS = 6.0
"""Maximum time for which a gateway waits when no time is set, in seconds: health checks take 5 s at most by default."""

ENOUGH_ANSWERS = 3
"""Number of answers `draining` after which a load balancer gives up a gateway."""

GAPS = 3
"""Number of gaps between questions from which a rhythm is recognized."""

LONGEST_GAP_SECONDS = 30.0
"""Longest gap between the questions of a load balancer, in seconds."""

MAX_SOURCES = 32
"""Number of hosts whose questions are remembered."""


class _Source:
    """One host that asks: its last question, the gaps before it, and how many questions were answered `draining`."""

    __slots__ = ("gaps", "last", "told")

    def __init__(self, now: float) -> None:
        self.last = now
        self.gaps: deque[float] = deque(maxlen=GAPS)
        self.told = 0

    def overdue_at(self) -> float | None:
        """Return the time at which its next question is overdue, or None when it has no rhythm."""
        if len(self.gaps) < GAPS:
            return None
        gap = median(self.gaps)
        return self.last + 1.5 * gap + 1.0 if gap <= LONGEST_GAP_SECONDS else None


class HealthChecks:
    """The questions for this gateway's readiness, by the host that asks. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}

    def asked(self, host: str, now: float, *, draining: bool) -> None:
        """Take in a question of a host; `draining` is whether that was the answer."""
        source = self._sources.get(host)
        if source is None:
            if len(self._sources) >= MAX_SOURCES:
                del self._sources[min(self._sources, key=lambda each: self._sources[each].last)]
            source = self._sources[host] = _Source(now)
        else:
            source.gaps.append(now - source.last)
            source.last = now
        source.told += draining

    def expected_until(self) -> float:
        """Return the time until which a host that asks regularly may ask and has not had enough answers."""
        waiting = (source.overdue_at() for source in self._sources.values() if source.told < ENOUGH_ANSWERS)
        return max((time for time in waiting if time is not None), default=0.0)


class Departure:
    """The end of a gateway: `closing` is false until it refuses new clients and closes those that it has."""

    def __init__(self, seconds: float | None, stop: asyncio.Event, now: Callable[[], float]) -> None:
        """`seconds` is how long a gateway serves on after `stop`; None waits for load balancers."""
        self.closing = False
        self._seconds = seconds
        self._stop = stop
        self._now = now
        self._checks = HealthChecks()
        self._asked = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether the gateway was asked to stop."""
        return self._stop.is_set()

    def asked(self, host: str) -> None:
        """Take in that a host has asked whether this gateway is ready."""
        self._checks.asked(host, self._now(), draining=self.begun)
        self._asked.set()

    async def wait(self) -> None:
        """Return when clients are to be closed, which is `closing` from then on. Call this once, after `stop`."""
        ends = self._now() + (AUTOMATIC_SECONDS if self._seconds is None else self._seconds)
        while (left := self._until(ends) - self._now()) > 0:
            self._asked.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._asked.wait()
        self.closing = True

    def _until(self, ends: float) -> float:
        return ends if self._seconds is not None else min(ends, self._checks.expected_until())
