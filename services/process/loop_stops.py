"""Stops of the event loop: times in which it handled one callback, or was not run, and all else had to wait
(docs/reference/metrics.md#event-loop).

A beat every BEAT_SECONDS measures by how much it comes late. It comes late by the length of a stop, less at most
BEAT_SECONDS. The CPU time of the loop's thread tells work in the process from a host that did not run it, and from
other threads of the process that held the interpreter.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge, Histogram

BEAT_SECONDS = 0.01
"""Time between two beats, in seconds."""

WINDOW_SECONDS = 60.0
"""Time for which the longest stop is remembered, in seconds."""

SLOT_SECONDS = 5.0
"""Resolution of that time, in seconds."""

STOPS = Histogram(
    "pollcast_loop_stop_seconds",
    "Stops of the event loop of more than 10 ms, in which everything else waited.",
    buckets=(0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
LONGEST_STOP = Gauge("pollcast_loop_longest_stop_seconds", "Longest stop of the event loop within the last minute.")
LONGEST_WORK = Gauge(
    "pollcast_loop_longest_work_seconds",
    "Longest CPU time of the event loop's thread between two beats, which are 10 ms apart, within the last minute.",
)


class Longest:
    """The longest of the times that were recorded within the last WINDOW_SECONDS. Pure: times are arguments."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: deque[tuple[int, float]] = deque()  # the longest time of each slot, the latest slot last

    def record(self, now: float, seconds: float) -> None:
        """Record a time that ended `now`, in monotonic seconds."""
        slot = int(now // SLOT_SECONDS)
        if not self._slots or self._slots[-1][0] != slot:
            self._forget(now)
            self._slots.append((slot, seconds))
        elif seconds > self._slots[-1][1]:
            self._slots[-1] = slot, seconds

    def within(self, now: float) -> float:
        """Return the longest time within the window that ends `now`; 0 when none was recorded."""
        self._forget(now)
        return max((seconds for _, seconds in self._slots), default=0.0)

    def _forget(self, now: float) -> None:
        oldest = int((now - WINDOW_SECONDS) // SLOT_SECONDS)
        while self._slots and self._slots[0][0] < oldest:
            self._slots.popleft()


class Heartbeat:
    """The beats of one event loop, from `start` to `stop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.stops, self.works = Longest(), Longest()
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._worked = 0.0

    def start(self) -> None:
        """Schedule the first beat."""
        self._worked = time.thread_time()
        self._schedule(time.monotonic())

    def stop(self) -> None:
        """Schedule no more beats."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self, now: float) -> None:
        self._due = now + BEAT_SECONDS
        self._timer = self._loop.call_later(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        now, worked = time.monotonic(), time.thread_time()
        late = now - self._due
        self.stops.record(now, late)
        self.works.record(now, worked - self._worked)
        if late > BEAT_SECONDS:
            STOPS.observe(late)
        self._worked = worked
        self._schedule(now)


@contextmanager
def stops_measured() -> Iterator[Heartbeat]:
    """Measure the stops of the running event loop inside the scope, and export them."""
    heartbeat = Heartbeat(asyncio.get_running_loop())
    heartbeat.start()
    LONGEST_STOP.set_function(lambda: heartbeat.stops.within(time.monotonic()))
    LONGEST_WORK.set_function(lambda: heartbeat.works.within(time.monotonic()))
    try:
        yield heartbeat
    finally:
        heartbeat.stop()
