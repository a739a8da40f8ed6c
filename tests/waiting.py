"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

PAUSE_SECONDS = 0.02


@overload
async def eventually(condition: Callable[[], Awaitable[T]], deadline: float = ..., *, what: str = ...) -> T: ...
@overload
async def eventually(condition: Callable[[], T], deadline: float = ..., *, what: str = ...) -> T: ...
async def eventually(condition: Callable[[], T | Awaitable[T]], deadline: float = 20.0, *, what: str = "") -> T:
    """Calls `condition` (plain or async) until it gives something true, and returns that. One that raises
    AssertionError is not there yet. AssertionError, which says `what`, after `deadline` seconds."""
    ends = time.monotonic() + deadline
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
        if time.monotonic() > ends:
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


def _text(condition: Callable[[], object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
