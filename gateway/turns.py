"""Fair reading: input of many clients is handled a bounded time per turn of the event loop, first come first served.

A turn of the loop is: everything that has become readable, then everything that is due. When 2,000 clients reconnect
together, a turn would last as long as all of their handshakes and joins, and the results of all clients would wait for
its end. So input is handled at once only while this turn's budget lasts. The rest waits in a queue, in the order in
which it came, and its connections are not read from until then. Results do not wait here: they are sent in between.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar
from weakref import WeakKeyDictionary

BUDGET_SECONDS = 0.004
"""Time for input in each turn of the event loop, in seconds."""

Job = Callable[[], None]
"""A piece of work that waits for its turn."""


class Turns:
    """The budget and the queue of one event loop.

    While `open` is true, work may be done at once; charge its time with `spend`. Otherwise hand it to `later`.
    """

    __slots__ = ("_due", "_left", "_loop", "_owed", "_waiting", "open")

    _of: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = BUDGET_SECONDS
        self._owed = 0.0  # of this turn
        self._due = False  # whether `_next` is scheduled
        self._waiting: deque[Job] = deque()
        self.open = True

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Turns:
        """Return this loop's turns; create them on first use."""
        turns = cls._of.get(loop)
        if turns is None:
            turns = cls._of[loop] = cls(loop)
        return turns

    def spend(self, seconds: float) -> None:
        """Charge work already done to this turn's budget."""
        self._left -= seconds
        self.open = self._left > 0 and not self._waiting
        self._expect()

    def owe(self, seconds: float) -> None:
        """Charge work to this turn's budget that is not done yet, but in other callbacks soon."""
        self._owed += seconds
        self.spend(seconds)

    def later(self, job: Job) -> None:
        """Queue a job for a later turn."""
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
        self._owed = 0.0
        started = time.perf_counter()
        for _ in range(len(self._waiting)):  # jobs that these queue wait for the turn after this one
            job = self._waiting.popleft()
            try:
                job()
            finally:  # the loop reports an error; the other jobs still run
                self._left = BUDGET_SECONDS - (time.perf_counter() - started) - self._owed
                self.open = self._left > 0 and not self._waiting
                if self._waiting:
                    self._expect()
            if self._left <= 0:
                self._expect()
                break
        self.open = self._left > 0 and not self._waiting
