"""Functions that wait for conditions, and a measure of the time for which the machine stood still.

A shared machine stands still now and then, even for seconds. Assertions about durations subtract that time.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

PAUSE_SECONDS = 0.02
"""Interval between two checks of a condition."""

BEAT_SECONDS = 0.02
"""Interval between two beats of the pulse."""

STILL_SECONDS = 0.1
"""Delay of a beat from which on the machine is regarded as having stood still."""


class Pulse(threading.Thread):
    """A thread that wakes up at a fixed interval and records the periods during which it could not."""

    def __init__(self) -> None:
        super().__init__(name="pulse", daemon=True)
        self._known: tuple[float, tuple[tuple[float, float], ...]] = (time.monotonic(), ())  # the last beat, the pauses

    def run(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            (before, pauses), beat = self._known, time.monotonic()
            late = beat - before > BEAT_SECONDS + STILL_SECONDS
            self._known = beat, (*pauses, (before, beat)) if late else pauses

    def stood_still(self, since: float, until: float) -> float:
        """Return the seconds between two times of time.monotonic() for which the machine stood still."""
        beat, pauses = self._known
        late = beat + BEAT_SECONDS + STILL_SECONDS, time.monotonic()  # a pause that has not ended yet
        return sum(max(0.0, min(until, ended) - max(since, began)) for began, ended in (*pauses, late))


_pulse = Pulse()
_pulse.start()


def stood_still(since: float, until: float | None = None) -> float:
    """Return the seconds between two times of time.monotonic() for which the machine stood still.

    `until` is the present by default.
    """
    return _pulse.stood_still(since, time.monotonic() if until is None else until)


@overload
async def eventually(condition: Callable[[], Awaitable[T]], deadline: float = ..., *, what: str = ...) -> T: ...
@overload
async def eventually(condition: Callable[[], T], deadline: float = ..., *, what: str = ...) -> T: ...
async def eventually(condition: Callable[[], T | Awaitable[T]], deadline: float = 20.0, *, what: str = "") -> T:
    """Call `condition` (plain or async) until its result is true, and return that result.

    An AssertionError of the condition counts as a false result. Raises AssertionError, which quotes `what`, after
    `deadline` seconds, not counting the time for which the machine stood still.
    """
    began = time.monotonic()
    while True:
        why = ""
        try:
            found = condition()
            value: T = await found if inspect.isawaitable(found) else found
            if value:
                return value
            why = f"last: {value!r}"
        except AssertionError as error:
            why = str(error)
        if time.monotonic() - began > deadline + stood_still(began):
            raise AssertionError(f"not within {deadline:g} s: {what or _text(condition)} ({why})")
        await asyncio.sleep(PAUSE_SECONDS)


def eventually_sync(condition: Callable[[], T], deadline: float = 20.0, *, what: str = "") -> T:
    """Do the same as `eventually`, in tests without an event loop."""
    began = time.monotonic()
    while True:
        why = ""
        try:
            value = condition()
            if value:
                return value
            why = f"last: {value!r}"
        except AssertionError as error:
            why = str(error)
        if time.monotonic() - began > deadline + stood_still(began):
            raise AssertionError(f"not within {deadline:g} s: {what or _text(condition)} ({why})")
        time.sleep(PAUSE_SECONDS)


def _text(condition: Callable[[], object]) -> str:
    """Return the condition's source, for the error message."""
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
