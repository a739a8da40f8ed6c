"""The hand-overs by which one poller evens out loads and follows pins. Pure.

A poller that holds more than its share hands the excess to pollers that hold less (poller/balance.py), a few topics per
step, once loads have been uneven for SETTLE_SECONDS. A poller that joins gets its share this way. A pinned topic goes
to its poller at once. Times are arguments, in seconds on any one clock.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable

from pollcast.poller.balance import Balance, rank
from pollcast.poller.ranking import Ranking

SETTLE_SECONDS = 2.0
"""Time that loads must be uneven before topics move, and a poller be ready before it receives any, in seconds."""

STEP_SECONDS = 0.1
"""Time between two steps of moving topics, in seconds."""

SURRENDER_SECONDS = 5.0
"""Time after a hand-over within which a topic without an owner was surrendered by its receiver, in seconds.

The receiver's catalogue does not have the query then.
"""


class Rebalancing:
    """The loads of all pollers as one poller sees them, and its own recent hand-overs."""

    def __init__(self, ranking: Ranking) -> None:
        self.balance = Balance(ranking.me)
        self.step_at: float | None = None  # when to compute the next moves; None while nothing has changed
        self._ranking = ranking
        self._handed_over: dict[str, tuple[str, float]] = {}  # topic → (receiver, when)

    def set_owner(self, topic: str, poller: str | None, now: float) -> None:
        """Record the owner of the topic, or None when it has no owner."""
        self.balance.set_owner(topic, poller)
        self.step_later(now)

    def set_ready_changed(self, now: float) -> None:
        """Start the settling time again, because other pollers are ready than before."""
        self.step_at = None
        self.step_later(now)

    def step_later(self, now: float) -> None:
        """Compute moves after the settling time, because loads have changed; do nothing without other pollers."""
        if self.step_at is None and self._ranking.others:
            self.step_at = now + SETTLE_SECONDS

    def next_moves(self, held: Collection[str], demanded: Container[str], now: float) -> dict[str, str]:
        """Return the topics to hand over now, each with its receiver, and plan the next step.

        `held` are the topics of this poller. Those without demand are not moved to even out loads.
        """
        if self.step_at is None or self.step_at > now:
            return {}
        ranking, others = self._ranking, self._ranking.others
        moves: dict[str, str] = {}
        if ranking.me in ranking.ready_since:
            movable = {topic for topic in held if topic in demanded and topic not in ranking.pins}
            takers = ranking.ready_for(SETTLE_SECONDS, now)
            moves = self.balance.next_moves(movable, ranking.ready_since, takers)
        for topic, poller in ranking.pins.items():
            if topic in held and poller in others:
                moves[topic] = poller
        self.step_at = now + STEP_SECONDS if moves else None
        return moves

    def record_hand_over(self, topic: str, receiver: str, now: float) -> None:
        """Record that this poller has handed the topic over."""
        self._handed_over[topic] = receiver, now

    def confirm_owner(self, topic: str, poller: str) -> None:
        """Forget the hand-over of the topic if it has another owner than its receiver."""
        if self._handed_over.get(topic, ("",))[0] != poller:
            self._handed_over.pop(topic, None)

    def take_surrender(self, topic: str, now: float) -> str | None:
        """Return the receiver that has just surrendered the topic, which has no owner now; None if there is none."""
        receiver, when = self._handed_over.pop(topic, ("", 0.0))
        return receiver if receiver in self._ranking.ready_since and now - when < SURRENDER_SECONDS else None

    def drain_target(self, topic: str, pollers: Iterable[str]) -> str | None:
        """Return the poller to leave the topic to: the first in rank that has its query, otherwise the first in rank.

        Return None when `pollers` is empty.
        """
        order = rank(topic, pollers)
        return next((poller for poller in order if self.balance.can_take(poller, topic)), order[0] if order else None)

    def reset(self) -> None:
        """Forget all loads and hand-overs."""
        self.balance = Balance(self._ranking.me)
        self.step_at = None
        self._handed_over.clear()
