"""The lease of another node that has our name, observed until it is clear whether that node lives: a pure core.

A node that crashed and was started again finds its former entry, and its former lease has yet to end. etcd also gives
every lease its full time again when it changes its leader, so one extension proves nothing. A node that lives extends
its lease every third of its time.
"""

from __future__ import annotations

EXTENSIONS = 3
"""Number of extensions that prove that somebody renews the lease."""

ROUNDING_SECONDS = 1.0
"""Maximum time by which etcd rounds down the time that a lease has left, in seconds."""


class Predecessor:
    """A lease as it is observed. `extensions` counts how often it turned out to last longer than it had left before."""

    def __init__(self, lease: int) -> None:
        self.lease = lease
        self.extensions = 0
        self._ends = float("inf")  # latest end of the lease, without a further extension

    def observe(self, sent: float, received: float, left: float) -> None:
        """Note that the lease had `left` seconds left, as etcd rounds it, at a time between these two."""
        if sent + left > self._ends:
            self.extensions += 1
            self._ends = float("inf")
        self._ends = min(self._ends, received + left + ROUNDING_SECONDS)

    @property
    def lives(self) -> bool:
        """Whether somebody renews the lease."""
        return self.extensions >= EXTENSIONS
