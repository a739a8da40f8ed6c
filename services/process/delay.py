"""A delay before a process drains, which another signal ends (docs/reference/channels.md#draining)."""

from __future__ import annotations

import asyncio
import contextlib


class Delay:
    """The delay of one process. `end` may be called at any time, in the event loop."""

    def __init__(self) -> None:
        self._ended: asyncio.Event | None = None  # while the process waits

    async def wait(self, seconds: float) -> None:
        """Return after this time, or when the delay is ended."""
        self._ended = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        self._ended = None

    def end(self) -> bool:
        """End the delay. Return whether the process was waiting."""
        if self._ended is None or self._ended.is_set():
            return False
        self._ended.set()
        return True
