"""Whether a poller should be given topics, as far as gateways reach it: a pure core.

A poller whose address is wrong, or whom a firewall hides, is alive for etcd, and owns topics that no client sees. So a
poller does not **offer** itself while gateways are registered and none of them has a stream to it: from its start on
until it is reached for the first time, and later after UNREACHED_SECONDS. It **hesitates** then: it claims only what
nobody else does, and hands over what it has. That one gateway does not reach it is not enough, because a gateway that
is itself at fault must not move everybody's topics (docs/design/design.md#partitions).

A poller that is reached now and then must not make topics move to and fro. Each time it is found unreached, it has to
be reached for longer before it offers itself again: at once the first time, then 5 s, 10 s, up to a minute.
"""

from __future__ import annotations

STEP_SECONDS = 0.5
"""Maximum time that one look adds, in seconds: beyond it this process itself stood still, and heard nobody."""

MOMENT_SECONDS = 0.001
"""Minimum time that a look adds which finds the poller unreached, in seconds."""

UNREACHED_SECONDS = 5.0
"""Time without a gateway's stream after which a poller does not offer itself any more, in seconds.

A gateway that has started, or is back, takes at most 4 s to connect.
"""

UNPROVEN_SECONDS = 0.3
"""The same for a poller that was never reached, in seconds. It hesitates at once: a gateway that is ready has connected
to all pollers, or is about to."""

PROBATION_SECONDS = (5.0, 60.0)
"""The second and the longest time for which a poller must be reached before it offers itself again, in seconds."""

FORGIVEN_SECONDS = 600.0
"""Time after which earlier failures count no more, in seconds."""


class Reachability:
    """The knowledge of one poller whether it is reached. `offered` is whether it should be given topics."""

    def __init__(self) -> None:
        self.offered = False
        self._proven = False  # whether it was ever reached
        self.falls = 0
        """Number of times that it was found unreached, as far as they still count."""
        self.missed = 0.0
        """Time without a stream, although there are gateways, in seconds."""
        self._looked_at: float | None = None
        self._steady = 0.0  # time since that was so last

    @property
    def hesitant(self) -> bool:
        """Whether the poller should leave topics to others."""
        return not self.offered or (self.missed > 0 and not self._proven)

    @property
    def probation(self) -> float:
        """The time for which the poller must be reached before it offers itself again, in seconds."""
        if self.falls < 2:
            return 0.0
        first, longest = PROBATION_SECONDS
        return min(longest, first * 2.0 ** (self.falls - 2))

    def step(self, now: float) -> float:
        """Return the time that a look at `now` (any clock, in seconds) adds to what it sees."""
        return 0.0 if self._looked_at is None else min(max(0.0, now - self._looked_at), STEP_SECONDS)

    def look(self, now: float, *, gateways: bool, reached: bool) -> bool:
        """Note whether any gateway is registered, and whether one has a stream to here. Return `offered`."""
        step = self.step(now)
        self._looked_at = now
        if gateways and not reached:
            self.missed += max(step, MOMENT_SECONDS)
            self._steady = 0.0
            if self.offered and self.missed >= (UNREACHED_SECONDS if self._proven else UNPROVEN_SECONDS):
                self.offered = False
                self.falls += self._proven
            return self.offered
        self._proven = self._proven or reached
        self.missed = 0.0
        self._steady += step
        if self._steady >= FORGIVEN_SECONDS:
            self.falls = 0
        self.offered = self.offered or self._steady >= self.probation
        return self.offered
