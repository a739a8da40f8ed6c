"""What many clients bring at once, a bounded amount per turn of the event loop, first come first served.

A loop's turn is: everything that has become readable, then everything that is due. When 2,000 clients come back
together, a turn would be as long as all of their handshakes and joins, and everybody's results would wait for its end.
So what comes in is done at once only while this turn's budget lasts; the rest waits in a queue, is not read from
meanwhile, and has its turn in the order in which it came. Results do not wait here: they are sent in between.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar
from weakref import WeakKeyDictionary

from pollcast.services.serving.http_guard import GuardedHttp

BUDGET_SECONDS = 0.004
"""Of each turn."""

Job = Callable[[], None]


class Turns:
    """Those of one loop. `open` tells whether work may be done at once: then do it, and say what it took (`spend`)."""

    __slots__ = ("_due", "_left", "_loop", "_waiting", "open")

    _of: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = BUDGET_SECONDS
        self._due = False  # whether the next turn is looked forward to
        self._waiting: deque[Job] = deque()
        self.open = True

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Turns:
        """A loop has one."""
        turns = cls._of.get(loop)
        if turns is None:
            turns = cls._of[loop] = cls(loop)
        return turns

    def spend(self, seconds: float) -> None:
        """So long has something taken that was done at once."""
        self._left -= seconds
        self.open = self._left > 0 and not self._waiting
        self._expect()

    def later(self, job: Job) -> None:
        """Does it when its turn comes, not in this one."""
        self._waiting.append(job)
        self.open = False
        self._expect()

    def _expect(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._due = False
        self._left = BUDGET_SECONDS
        started = time.perf_counter()
        for _ in range(len(self._waiting)):  # what they put there anew waits for the turn after this
            job = self._waiting.popleft()
            try:
                job()
            finally:  # an error is the loop's to tell; the others are still served
                self._left = BUDGET_SECONDS - (time.perf_counter() - started)
                self.open = self._left > 0 and not self._waiting
                if self._waiting:
                    self._expect()
            if self._left <= 0:
                self._expect()
                break
        self.open = self._left > 0 and not self._waiting


class PacedHttp(GuardedHttp):
    """uvicorn's HTTP, with requests and handshakes in turn."""

    _early = b""

    def data_received(self, data: bytes) -> None:
        turns = Turns.of(self.loop)
        if turns.open and not self._early:
            started = time.perf_counter()
            super().data_received(data)
            turns.spend(time.perf_counter() - started)
            return
        if not self._early:
            turns.later(self._go_on)
        self._early += data
        self.transport.pause_reading()

    def _go_on(self) -> None:
        data, self._early = self._early, b""
        if not self.transport.is_closing():
            self.transport.resume_reading()
            super().data_received(data)
