"""The topics that one poller holds under one lease, and the times at which to give some of them up. Pure.

A held topic without demand is released when its query's `linger` is over. A held topic of a query that this poller's
catalogue does not have, or defines otherwise than the gateways that demand it, is surrendered at once, so that a poller
which has their definition can own it. Times are
arguments, in seconds on any one clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pollcast.poller.timetable import Timetable
from pollcast.services.coordination.claims import Claim

GIVE_UP_TOPICS = 500
"""Maximum number of releases, and of surrenders, that are due in one step."""

Linger = Callable[[str], float | None]
"""Function from a topic to its query's linger in seconds; None when the catalogue does not have the query."""


class HeldTopics:
    """The held topics with their epochs, planned releases and planned surrenders."""

    def __init__(self, lease: int, linger: Linger) -> None:
        self.lease = lease
        self.linger = linger
        self.epochs: dict[str, int] = {}
        self._releases = Timetable()  # topics without demand
        self._surrenders = Timetable()  # topics of unknown queries

    def is_held(self, claim: Claim) -> bool:
        """Return whether the claim's topic is held under the claim's epoch."""
        return self.epochs.get(claim.topic) == claim.epoch

    def claims(self, topics: Iterable[str]) -> list[Claim]:
        """Return the claims of these topics, all of which must be held."""
        return [Claim(topic, self.epochs[topic], self.lease) for topic in topics]

    def add(self, topic: str, epoch: int, now: float, *, demanded: bool) -> None:
        """Hold the topic under this epoch from now on."""
        self.epochs[topic] = epoch
        if self.linger(topic) is None:
            self._surrenders.set(topic, now)
        elif not demanded:
            self.release_after_linger(topic, now)

    def remove(self, topic: str) -> list[str]:
        """Remove the topic with its plans. Return a list with the topic if it was held, otherwise an empty one."""
        if self.epochs.pop(topic, None) is None:
            return []
        self._releases.cancel(topic)
        self._surrenders.cancel(topic)
        return [topic]

    def clear(self) -> list[str]:
        """Remove all topics with their plans, and return the topics."""
        lost = list(self.epochs)
        self.epochs.clear()
        self._releases.clear()
        self._surrenders.clear()
        return lost

    # --- giving up

    def release_after_linger(self, topic: str, now: float) -> None:
        """Plan the release of the topic, which has no demand, for the end of its linger; ignore a topic not held."""
        if topic in self.epochs and topic not in self._surrenders:
            self._releases.set(topic, now + (self.linger(topic) or 0.0))

    def release_at(self, topic: str, at: float) -> None:
        """Plan the release of the topic for this time."""
        self._releases.set(topic, at)

    def surrender_at(self, topic: str, at: float) -> None:
        """Plan the surrender of the topic for this time."""
        self._surrenders.set(topic, at)

    def cancel_surrender(self, topic: str) -> None:
        """Drop the planned surrender of the topic, if there is one."""
        self._surrenders.cancel(topic)

    def cancel_release(self, topic: str) -> None:
        """Drop the planned release of the topic, if there is one."""
        self._releases.cancel(topic)

    def take_due_releases(self, now: float) -> list[Claim]:
        """Remove plans of releases that are due, and return the claims to release, at most GIVE_UP_TOPICS."""
        return self.claims(self._releases.take_due(now, GIVE_UP_TOPICS))

    def take_due_surrenders(self, now: float) -> list[Claim]:
        """Remove plans of surrenders that are due, and return the claims to surrender, at most GIVE_UP_TOPICS."""
        return self.claims(self._surrenders.take_due(now, GIVE_UP_TOPICS))

    def next_at(self) -> float | None:
        """Return the time of the next release or surrender; None when none is planned."""
        times = [at for at in (self._releases.next_at(), self._surrenders.next_at()) if at is not None]
        return min(times, default=None)
