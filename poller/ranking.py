"""Ranking: the order in which ready pollers claim a free topic. Pure.

Topics are ranked by rendezvous hashing (poller/balance.py), so that pollers do not all claim every topic at once: the
poller that ranks first claims immediately, and each of the others waits RANK_WAIT_SECONDS longer than the one before
it. Times are arguments, in seconds on any one clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from pollcast.poller.balance import rank

RANK_WAIT_SECONDS = 0.2
"""Time that a poller leaves to each poller ranked before it to claim a free topic, in seconds."""


def claim_delay(topic: str, me: str, pollers: Iterable[str], pinned: str | None = None) -> float:
    """Return the seconds that `me` leaves a free topic to the pollers ranked before it.

    `me` counts whether or not it is one of `pollers`. The poller that the topic is pinned to ranks first if it is one
    of `pollers`.
    """
    order = rank(topic, {*pollers, me})
    if pinned in order:
        order.remove(pinned)
        order.insert(0, pinned)
    return order.index(me) * RANK_WAIT_SECONDS


class Ranking:
    """The pollers that are ready and the pinned topics, which decide the preferred owner of each topic."""

    def __init__(self, me: str) -> None:
        self.me = me
        self.ready_since: dict[str, float] = {}  # ready poller → time since when it is ready
        self.pins: dict[str, str] = {}  # topic → the poller that should own it while that poller is ready

    @property
    def others(self) -> set[str]:
        """The ready pollers other than `me`."""
        return self.ready_since.keys() - {self.me}

    def set_ready(self, pollers: Iterable[str], now: float) -> bool:
        """Set the ready pollers, and return whether they are other ones than before."""
        before = self.ready_since
        self.ready_since = {poller: before.get(poller, now) for poller in pollers}
        return self.ready_since.keys() != before.keys()

    def ready_for(self, seconds: float, now: float) -> set[str]:
        """Return the pollers that have been ready for at least this long."""
        return {poller for poller, since in self.ready_since.items() if now - since >= seconds}

    def claim_delay(self, topic: str) -> float:
        """Return the seconds that `me` leaves the free topic to others, by `claim_delay`."""
        return claim_delay(topic, self.me, self.ready_since, self.pins.get(topic))
