"""The held topics that one poller may hand over, kept up to date per event. Pure.

A topic may be moved to even out loads when it is held, has demand, is not pinned, and was not handed to this poller
since the ready pollers changed last: after a change of the cluster no topic moves twice. A held topic that is pinned to
another poller is misplaced: it is to be handed to that poller as soon as that one is ready.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import islice

from pollcast.poller.ranking import prefers

LOOK_AHEAD = 4
"""Number of topics that are looked at for each one that is moved, to find those that rank the receiver first."""


class MovableTopics:
    """The movable and the misplaced ones among the topics that the poller `me` holds."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._free: dict[str, None] = {}  # movable topics, the next to be looked at first
        self._received: dict[str, None] = {}  # held topics that were handed to this poller since the last change
        self._misplaced: dict[str, dict[str, None]] = {}  # other poller → held topics that are pinned to it
        self._pinned: dict[str, str] = {}  # the same the other way round

    def update(self, topic: str, *, held: bool, demanded: bool, pinned: str | None) -> None:
        """Record the topic's state; call this after each change of it."""
        self._set_pinned(topic, pinned if held and pinned != self._me else None)
        if not held:
            self._received.pop(topic, None)
        if held and demanded and pinned is None and topic not in self._received:
            self._free.setdefault(topic)
        else:
            self._free.pop(topic, None)

    def receive(self, topic: str) -> None:
        """Record that the topic was handed to this poller, before `update` records that it is held."""
        self._received[topic] = None

    def settle(self) -> list[str]:
        """Let the received topics move again. Return them; call `update` for each."""
        received, self._received = list(self._received), {}
        return received

    def misplaced(self, ready: Collection[str], limit: int) -> dict[str, str]:
        """Return at most `limit` topics that are pinned to other ready pollers, each with its poller."""
        found: dict[str, str] = {}
        for poller, topics in self._misplaced.items():
            if poller in ready:
                found |= dict.fromkeys(islice(topics, limit - len(found)), poller)
        return found

    def choose(self, amounts: Mapping[str, int], limit: int, can_take: Callable[[str, str], bool]) -> dict[str, str]:
        """Return topics to hand over, each with its receiver: at most `limit`, and at most its amount for a receiver.

        Among the next LOOK_AHEAD * `limit` topics, those that rank their receiver before this poller come first. Topics
        that no receiver can take are left for later calls.
        """
        takers = list(amounts)
        left = dict(amounts)
        limit = min(limit, sum(left.values()))
        moves: dict[str, str] = {}
        others: list[str] = []
        stuck: list[str] = []

        def give(topic: str, taker: str) -> None:
            moves[topic] = taker
            left[taker] -= 1
            if not left[taker]:
                takers.remove(taker)

        for turn, topic in enumerate(islice(self._free, LOOK_AHEAD * limit)):
            if len(moves) >= limit or not takers:
                break
            taker = takers[turn % len(takers)]
            if prefers(topic, taker, self._me) and can_take(taker, topic):
                give(topic, taker)
            else:
                others.append(topic)
        for topic in others:
            if len(moves) >= limit or not takers:
                break
            able = next((taker for taker in takers if can_take(taker, topic)), None)
            if able is None:
                stuck.append(topic)
            else:
                give(topic, able)
        for topic in stuck:  # to the end, so that the next call looks at others
            del self._free[topic]
            self._free[topic] = None
        return moves

    def __len__(self) -> int:
        return len(self._free)

    def clear(self) -> None:
        """Forget all topics."""
        self._free.clear()
        self._received.clear()
        self._misplaced.clear()
        self._pinned.clear()

    def _set_pinned(self, topic: str, poller: str | None) -> None:
        before = self._pinned.pop(topic, None)
        if before is not None:
            del self._misplaced[before][topic]
            if not self._misplaced[before]:
                del self._misplaced[before]
        if poller is not None:
            self._pinned[topic] = poller
            self._misplaced.setdefault(poller, {})[topic] = None
