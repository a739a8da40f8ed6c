"""The time from a gateway's request to stop to the first client that it closes (docs/reference/channels.md#draining).

Load balancers send clients to a gateway until they have asked `/readyz` once more, and a client that comes in between
has nowhere else to go. So a gateway whose `/readyz` is asked regularly goes on serving everybody, old and new clients,
until those who ask have had their answer; only then it refuses and closes clients.

`HealthChecks` is pure. It recognizes load balancers by the rhythm of their questions, several of one host as well:
those of a person or a script have no rhythm, or have ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import pairwise

from pollcast.services.process.delay import Delay

AUTOMATIC_SECONDS = 6.0
"""Time for which a gateway waits for load balancers when no time is set, in seconds: their checks take 5 s at most."""

WINDOW_SECONDS = 16.0
"""Time in which a rhythm must be found, in seconds: three gaps between questions."""

GAPS = 3
"""Number of long gaps that make a rhythm."""

SHORTEST_SECONDS = 2.0
"""Minimum time that the questions of a load balancer go back, in seconds: those of a start are over before."""

MAX_QUESTIONS = 256
"""Number of questions that are remembered of one host."""

MAX_SOURCES = 32
"""Number of hosts whose questions are remembered."""


class HealthChecks:
    """The questions for this gateway's readiness, by the host that asks. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._asked: dict[str, deque[float]] = {}

    def asked(self, host: str, now: float) -> None:
        """Take in a question of a host."""
        if host not in self._asked and len(self._asked) >= MAX_SOURCES:
            del self._asked[min(self._asked, key=lambda each: self._asked[each][-1])]
        times = self._asked.setdefault(host, deque(maxlen=MAX_QUESTIONS))
        times.append(now)
        while times[0] < now - WINDOW_SECONDS:
            times.popleft()

    def expected_until(self) -> float:
        """Return the time until which a host that asks regularly may ask again; 0 when none does."""
        return max(map(_overdue_at, self._asked.values()), default=0.0)


def _overdue_at(times: deque[float]) -> float:
    """Return the time from which another question is overdue, or 0 when these have no rhythm.

    The third longest gap is that of the rhythm: of several load balancers at least one gap in each round is as long,
    and a question that a script asks in between makes two longer ones at most.
    """
    gaps = sorted((after - before for before, after in pairwise(times)), reverse=True)
    if len(gaps) < GAPS or times[-1] - times[0] < SHORTEST_SECONDS:
        return 0.0
    return times[-1] + 1.5 * gaps[GAPS - 1] + 0.5


class Departure:
    """The end of a gateway: `closing` is false until it refuses new clients and closes those that it has."""

    def __init__(
        self, seconds: float | None, stop: asyncio.Event, now: Callable[[], float], delay: Delay | None = None
    ) -> None:
        """`seconds` is how long a gateway serves on after `stop`; None waits for load balancers. A signal may end the
        `delay`."""
        self._delay = delay or Delay()
        self._closing = False
        self._seconds = seconds
        self._stop = stop
        self._now = now
        self._checks = HealthChecks()

    @property
    def closing(self) -> bool:
        """Whether new clients are refused; at once where the gateway is to wait for nobody."""
        return self._closing or (self._seconds == 0 and self.begun)

    @property
    def begun(self) -> bool:
        """Whether the gateway was asked to stop."""
        return self._stop.is_set()

    def asked(self, host: str) -> None:
        """Take in that a host has asked whether this gateway is ready."""
        self._checks.asked(host, self._now())

    async def wait(self) -> None:
        """Return when clients are to be closed, which is `closing` from then on. Call this once, after `stop`."""
        await self._delay.wait(self.seconds())
        self._closing = True

    def seconds(self) -> float:
        """Return the time for which to serve on from now on.

        A load balancer that is expected to ask gets the whole time, whether it asks or not: on a busy host questions
        come late.
        """
        if self._seconds is not None:
            return self._seconds
        return AUTOMATIC_SECONDS if self._checks.expected_until() > self._now() else 0.0
