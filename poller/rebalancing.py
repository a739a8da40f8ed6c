"""The hand-overs by which one poller evens out loads and follows pins. Pure.

Once the loads of ready pollers have been too uneven for SETTLE_SECONDS, each poller carries out its part of the plan
that evens them out (poller/balance.py), in steps of STEP_SECONDS. It takes about STEPS steps, however many topics move.
A poller that joins gets its share this way, and the topics of one that died are evened out among the others, if they
need it. A pinned topic goes to its poller at once. A hesitant poller, which no gateway reaches or which has never
reached a database, hands over all that others can take; one that has never reached a source hands over the topics of
that source (poller/source_reach.py). Times are arguments, in seconds on any one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import cycle, islice

from pollcast.poller.balance import Balance, is_uneven, part_of_plan
from pollcast.poller.movable import MovableTopics
from pollcast.poller.ranking import Ranking, query_of, rank

SETTLE_SECONDS = 2.0
"""Time that loads must be uneven before topics move, and since when no poller has joined or left, in seconds."""

MAX_SETTLE_SECONDS = 3.0
"""Maximum time that pollers which join or leave one after the other keep topics from moving, in seconds."""

MAX_WAIT_SECONDS = 3.0
"""Maximum time for which free topics, which change the loads when they are claimed, keep others from moving."""

STEP_SECONDS = 0.1
"""Time between two steps of moving topics, in seconds."""

STEPS = 25
"""Number of steps in which a poller hands its surplus over."""

STEP_TOPICS = 20
"""Minimum number of topics to hand over in one step, if the surplus is as large."""

TRIAL_STEPS = 3
"""Number of first steps of STEP_TOPICS each: a receiver whose catalogue lacks a query shows that meanwhile."""

MAX_STEP_TOPICS = 500
"""Maximum number of topics handed over in one step, to even out loads, and for pins."""

YIELD_SECONDS = 5.0
"""Time for which others must have been ready before a hesitant poller hands its topics to them, in seconds.

After an outage of the network all pollers are reached again within 4 s, and none should get everything meanwhile.
"""

SURRENDER_SECONDS = 5.0
"""Time after a hand-over within which a topic without an owner was surrendered by its receiver, in seconds.

The receiver's catalogue does not have the query then.
"""


class Rebalancing:
    """The loads of all pollers as one poller sees them, and its own recent hand-overs."""

    def __init__(self, ranking: Ranking) -> None:
        self.balance = Balance()
        self.movable = MovableTopics(ranking.me)
        self.step_at: float | None = None  # when to compute the next moves; None while nothing has changed
        self.yield_at: float | None = None  # when to hand topics over next, while this poller is hesitant
        self._ranking = ranking
        self._latest_step_at: float | None = None  # the latest time of the first step, while it is put off
        self._size = 0  # number of topics in one step; 0 while no topics are moved to even out loads
        self._wait_until: float | None = None  # how long to wait for free topics to be claimed
        self._steps = 0  # number of steps with moves so far
        self._fruitless = 0  # number of movable topics looked at since one was moved
        self._handed_over: dict[str, tuple[str, float]] = {}  # topic → (receiver, when)

    def set_ready_changed(self, now: float) -> list[str]:
        """Start the settling time again, because other pollers are ready than before, or reach other sources.

        Return the topics that may be moved again; call `movable.update` for each.
        """
        if self.step_at is None or self._latest_step_at is None or self._size:
            self._latest_step_at = now + MAX_SETTLE_SECONDS
        self._size = 0
        self.yield_later(now)
        self.step_at = None if self._ranking.alone else min(now + SETTLE_SECONDS, self._latest_step_at)
        return self.movable.settle()

    def step_later(self, now: float) -> None:
        """Compute moves after the settling time, because loads have changed; do nothing without other pollers."""
        if self.step_at is None and not self._ranking.alone:
            self.step_at = now + SETTLE_SECONDS

    def next_moves(self, now: float, *, claiming: bool = False) -> dict[str, str]:
        """Return the topics to hand over now, each with its receiver, and plan the next step.

        `claiming` is true while free topics are about to be claimed.
        """
        if self.step_at is None or self.step_at > now:
            return {}
        ranking, self._latest_step_at = self._ranking, None
        misplaced = self.movable.misplaced(ranking.ready_since, MAX_STEP_TOPICS)
        moves = {topic: poller for topic, poller in misplaced.items() if ranking.fits(poller, topic)}
        looked_at = 0
        waiting = claiming and not self._size
        self._wait_until = (self._wait_until or now + MAX_WAIT_SECONDS) if waiting else None
        waiting = self._wait_until is not None and now < self._wait_until
        if ranking.me in ranking.ready_since and not waiting:
            amounts = part_of_plan(self.balance.load, ranking.ready_since, ranking.me)
            if not amounts:
                self._size = 0
            elif not self._size and is_uneven(self.balance.load, ranking.ready_since):
                self._size = min(MAX_STEP_TOPICS, max(STEP_TOPICS, -(-sum(amounts.values()) // STEPS)))
                self._steps = self._fruitless = 0
            settled = ranking.ready_for(SETTLE_SECONDS, now)
            if self._size and (amounts := {poller: n for poller, n in amounts.items() if poller in settled}):
                looked_at = self._size if self._steps >= TRIAL_STEPS else STEP_TOPICS
                moves |= self.movable.choose(amounts, looked_at, self._can_take)
                self._steps += bool(moves)
        self._fruitless = 0 if moves else self._fruitless + looked_at
        if not moves and self._fruitless >= len(self.movable):
            self._size = 0
        self.step_at = now + STEP_SECONDS if moves or self._size or waiting else None
        return moves

    def _can_take(self, poller: str, topic: str) -> bool:
        """Return False when the poller is known to have no query of this topic, or another definition of it, or not to
        reach its source."""
        return self._ranking.fits(poller, topic) and self.balance.can_take(poller, topic)

    def yield_later(self, now: float, wait: float = 0.0) -> None:
        """Look in `wait` seconds for topics to yield, if this poller is hesitant."""
        self.yield_at = now + wait if self._ranking.hesitant or self._ranking.reach.hesitant else None

    def next_yields(self, topics: Iterable[str], now: float) -> dict[str, str]:
        """Return some of these topics, which are all that this poller holds, to hand over because it hesitates for
        them, each with its receiver, and plan the next step. What nobody else can take stays here."""
        if self.yield_at is None or self.yield_at > now:
            return {}
        ranking, me, since = self._ranking, self._ranking.me, now - YIELD_SECONDS
        settled = ranking.ready_for(YIELD_SECONDS, now)
        others = settled - {me}

        def can_take(poller: str, topic: str) -> bool:
            return self._can_take(poller, topic) and ranking.reach.has_reached(poller, query_of(topic), since)

        yielded = filter(ranking.hesitates, topics)
        wanted = (topic for topic in yielded if any(can_take(poller, topic) for poller in others))
        targets = self.drain_targets(islice(wanted, MAX_STEP_TOPICS), others, can_take)
        waiting = [at for poller, at in ranking.ready_since.items() if poller != me and poller not in settled]
        waiting += ranking.reach.reached_after(since)
        if targets:
            self.yield_at = now + STEP_SECONDS
        else:
            self.yield_at = max(now, min(waiting) + YIELD_SECONDS) if waiting else None
        return {topic: target for target, given in targets.items() for topic in given}

    def record_hand_over(self, topic: str, receiver: str, now: float) -> None:
        """Record that this poller has handed the topic over."""
        self._handed_over.pop(topic, None)
        self._handed_over[topic] = receiver, now
        oldest = next(iter(self._handed_over))
        if now - self._handed_over[oldest][1] >= SURRENDER_SECONDS:
            del self._handed_over[oldest]

    def confirm_owner(self, topic: str, poller: str) -> None:
        """Forget the hand-over of the topic if it has another owner than its receiver."""
        if topic in self._handed_over and self._handed_over[topic][0] != poller:
            del self._handed_over[topic]

    def take_surrender(self, topic: str, now: float) -> str | None:
        """Return the receiver that has just surrendered the topic, which has no owner now; None if there is none."""
        receiver, when = self._handed_over.pop(topic, ("", 0.0))
        return receiver if receiver in self._ranking.ready_since and now - when < SURRENDER_SECONDS else None

    def drain_targets(
        self, topics: Iterable[str], pollers: Iterable[str], can_take: Callable[[str, str], bool] | None = None
    ) -> dict[str, list[str]]:
        """Divide these topics, which are all that this poller holds, among `pollers` by the plan of a cluster without
        this poller. A topic that its receiver cannot take goes to the first in rank that can, otherwise to the first.
        """
        can_take = can_take or self._can_take
        ready = sorted(set(pollers) - {self._ranking.me})
        targets: dict[str, list[str]] = {}
        amounts = part_of_plan(self.balance.load, ready, self._ranking.me)
        turns = cycle(ready)
        for topic in topics if ready else ():
            target = next(iter(amounts)) if amounts else next(turns)
            if not can_take(target, topic):
                order = rank(topic, ready)
                target = next((poller for poller in order if can_take(poller, topic)), order[0])
            targets.setdefault(target, []).append(topic)
            if target in amounts:
                amounts[target] -= 1
                if not amounts[target]:
                    del amounts[target]
        return targets

    def reset(self) -> None:
        """Forget all loads and hand-overs."""
        self.balance = Balance()
        self.movable.clear()
        self.step_at = None
        self.yield_at = None
        self._latest_step_at = None
        self._wait_until = None
        self._size = 0
        self._handed_over.clear()
