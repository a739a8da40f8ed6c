"""A guard over a connection whose server may not answer in time."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator

GRACE_SECONDS = 1.5
"""Time beyond the statement's timeout after which the connection is broken, in seconds; also the time that a server has
to begin the transaction, which shows that the connection works."""


class Guard:
    """A guard that breaks a connection when its server does not answer in time.

    The connection is broken even while its user is being cancelled: a driver may wait for the server to confirm the end
    of a statement, which a frozen server never does. `break_connection` shuts the socket down, without waiting.
    """

    def __init__(self, break_connection: Callable[[], None]) -> None:
        self.broke = False
        """Whether the time was up."""
        self.renewed = False
        """Whether `allow` was called, as the server has answered."""
        self.started = math.inf
        """Time when the scope began, in seconds on the event loop's clock."""
        self.begun = math.inf
        """Time when `allow` was first called, in seconds on the event loop's clock."""
        self._break_connection = break_connection
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def allowing(self, seconds: float) -> Iterator[None]:
        """Break the connection when the scope lasts longer than this, unless more is allowed."""
        self.started = self._loop.time()
        self._start(seconds)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def allow(self, seconds: float) -> None:
        """Allow the scope this time from now on."""
        if not self.renewed:
            self.renewed, self.begun = True, self._loop.time()
        self._start(seconds)

    def _start(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._break)

    def _break(self) -> None:
        self.broke = True
        self._break_connection()
