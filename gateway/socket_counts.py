"""The numbers of events on a gateway's sockets."""

from __future__ import annotations


class SocketCounts:
    """Numbers of events on a gateway's sockets since it started."""

    __slots__ = ("malformed", "refusals", "slow", "stuck")

    def __init__(self) -> None:
        self.malformed = 0  # messages that closed their socket
        self.slow = 0  # times that a socket fell behind
        self.stuck = 0  # sockets that were closed because they did not read
        self.refusals: dict[str, int] = {}  # error replies by reason

    def refused(self, reason: str) -> None:
        """Count an error reply."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1
