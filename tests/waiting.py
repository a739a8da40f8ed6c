"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

PAUSE_SECONDS = 0.02

ROUND_SECONDS = 0.25
"""What a round of waiting counts at most where the deadline is a promise."""


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], deadline: float = ..., *, what: str = ..., promised: bool = ...
) -> T: ...
@overload
async def eventually(
    condition: Callable[[], T], deadline: float = ..., *, what: str = ..., promised: bool = ...
) -> T: ...
async def eventually(
    condition: Callable[[], T | Awaitable[T]], deadline: float = 20.0, *, what: str = "", promised: bool = False
) -> T:
    """Calls `condition` (plain or async) until it gives something true, and returns that. One that raises
    AssertionError is not there yet. AssertionError, which says `what`, after `deadline` seconds. `promised`: the
    deadline is what is tested, and is not broken by a machine that stands still for a while."""
    spent, last = 0.0, time.monotonic()
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
        now = time.monotonic()
        spent += min(now - last, ROUND_SECONDS) if promised else now - last
        last = now
        if spent > deadline:
            raise AssertionError(f"not within {deadline:g} s: {what or _text(condition)} ({why})")
        await asyncio.sleep(PAUSE_SECONDS)


def eventually_sync(condition: Callable[[], T], deadline: float = 20.0, *, what: str = "") -> T:
    """`eventually` for tests without an event loop."""
    ends = time.monotonic() + deadline
    while True:
        why = ""
        try:
            value = condition()
            if value:
                return value
            why = f"last: {value!r}"
        except AssertionError as error:
            why = str(error)
        if time.monotonic() > ends:
            raise AssertionError(f"not within {deadline:g} s: {what or _text(condition)} ({why})")
        time.sleep(PAUSE_SECONDS)


@contextlib.asynccontextmanager
async def noting_stalls() -> AsyncIterator[list[float]]:
    """How long this machine stood still meanwhile, as seen by a task that wants to run all the time: each time that it
    was ROUND_SECONDS or more. What must happen within a second may have taken longer then."""
    stalls: list[float] = []

    async def note() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            last, before = time.monotonic(), last
            if last - before >= ROUND_SECONDS:
                stalls.append(last - before)

    noting = asyncio.create_task(note())
    try:
        yield stalls
    finally:
        noting.cancel()


def _text(condition: Callable[[], object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
