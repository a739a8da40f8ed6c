"""The time for which nothing has come from a peer that promises to send something every second. Pure.

A process that stood still itself (stopped, swapped out, busy) finds that nothing came meanwhile, although all of it
waits in its own socket. So silence is counted in steps, by `pass_time` a few times a second, and no step counts for
more than STEP_SECONDS.
"""

from __future__ import annotations

STEP_SECONDS = 0.5
"""Maximum time that one step adds to the silence, in seconds: beyond it this process itself stood still."""


class Silence:
    """The silence of one peer."""

    __slots__ = ("_counted_at", "seconds")

    def __init__(self, now: float) -> None:
        self.seconds = 0.0
        """Time without a message, in seconds, as far as it was counted."""
        self._counted_at = now

    def end(self) -> None:
        """Note that a message has come."""
        self.seconds = 0.0

    def pass_time(self, now: float) -> float:
        """Count the time since the last call, and return the silence; `now` is monotonic seconds."""
        self.seconds += min(now - self._counted_at, STEP_SECONDS)
        self._counted_at = now
        return self.seconds
