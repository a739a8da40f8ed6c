"""Log lines about events that a client can cause as often as it likes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

SECONDS: Final = 60.0
"""Minimum time between two lines about events of one kind."""


class Occasional:
    """A log line that is written at most once in SECONDS, with the number of events until then as `times`.

    `write` is a logger's method, and `now` returns monotonic seconds.
    """

    def __init__(self, write: Callable[..., Any], event: str, now: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._event = event
        self._now = now
        self._written_at: float | None = None
        self.times = 0
        """The number of events since the start."""

    def __call__(self, **fields: object) -> None:
        """Count an event, and write the line with these fields if it is due."""
        self.times += 1
        now = self._now()
        if self._written_at is None or now - self._written_at >= SECONDS:
            self._written_at = now
            self._write(self._event, times=self.times, **fields)
