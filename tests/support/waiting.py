"""Waiting for a condition, never for a time; and what of a time was not ours, as the machine stood still."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

PAUSE_SECONDS = 0.02

BEAT_SECONDS = 0.02
STILL_SECONDS = 0.1
"""A beat that comes later by more than this tells that the machine stood still."""


class Pulse(threading.Thread):
    """Beats, and notes when it could not: a machine that is shared stands still now and then, for seconds even. Who
    asserts that something takes no longer than so long takes off what `stood_still` says."""

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
        beat, pauses = self._known
        late = beat + BEAT_SECONDS + STILL_SECONDS, time.monotonic()  # in the middle of a pause, that is
        return sum(max(0.0, min(until, ended) - max(since, began)) for began, ended in (*pauses, late))


_pulse = Pulse()
_pulse.start()


def stood_still(since: float, until: float | None = None) -> float:
    """For how many seconds the machine stood still between two times of time.monotonic(); the second: now."""
    return _pulse.stood_still(since, time.monotonic() if until is None else until)


@overload
async def eventually(condition: Callable[[], Awaitable[T]], deadline: float = ..., *, what: str = ...) -> T: ...
@overload
async def eventually(condition: Callable[[], T], deadline: float = ..., *, what: str = ...) -> T: ...
async def eventually(condition: Callable[[], T | Awaitable[T]], deadline: float = 20.0, *, what: str = "") -> T:
    """Calls `condition` (plain or async) until it gives something true, and returns that. One that raises
    AssertionError is not there yet. AssertionError, which says `what`, after `deadline` seconds, not counting those for
    which the machine stood still."""
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
    """`eventually` for tests without an event loop."""
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
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
