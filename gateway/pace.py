"""The pace of broadcasts that may wait: those of presence, which take a bounded share of a core. Pure; no clock.

Every broadcast is charged with what it costs by estimate, and the next one waits until the share has paid for it. A
list waits for its own broadcasts, so that a large or restless one cannot take the whole share; all lists of a gateway
wait for each other when they have spent their allowance. Changes that come meanwhile are gathered, so that they make
the next broadcast larger, and not more of them.
"""

from __future__ import annotations

SHARE = 0.05
"""The share of a core that broadcasts of presence may take.

Joins, writes to etcd and the lists themselves take the rest of a tenth (docs/design/performance.md).
"""

WRITE_SECONDS = 12e-6
"""CPU time of a small message to one client, in seconds."""

BYTE_SECONDS = 1.5e-9
"""CPU time of each byte of a message to one client, in seconds."""

ALLOWANCE_SECONDS = 2.0
"""Time for which a gateway's lists may spend in advance, so that a small list need not wait for one large broadcast."""


def cost(clients: int, size: int) -> float:
    """Return the estimated CPU time, in seconds, of a message of `size` bytes to so many clients."""
    return clients * (WRITE_SECONDS + size * BYTE_SECONDS)


class Pace:
    """The time at which broadcasts may go on, for one list, or for all lists of a gateway with an `allowance`.

    Times and `allowance` are in seconds.
    """

    __slots__ = ("_allowance", "_paid_at")

    def __init__(self, allowance: float = 0.0) -> None:
        self._allowance = allowance
        self._paid_at = float("-inf")

    @property
    def ready_at(self) -> float:
        """The earliest time of the next broadcast."""
        return self._paid_at - self._allowance

    def spend(self, now: float, seconds: float) -> None:
        """Charge a broadcast at `now` that takes this much CPU time."""
        self._paid_at = max(self._paid_at, now) + seconds / SHARE
