"""Groups of a query's topics: each topic is in one group and is polled only there, so never twice at a time."""

from __future__ import annotations

import asyncio
import contextlib

from pollcast.poller.apart import Conduct
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.schedule import LONGEST_RETRY_SECONDS, polled_before


class TopicGroup:
    """Topics that are polled by the same loop, in the order in which they were added."""

    __slots__ = ("_added", "_urged", "topics", "urgent")

    def __init__(self) -> None:
        self.topics: dict[str, OwnedTopic] = {}
        self.urgent: dict[str, float] = {}
        """The topics that are due although their turn has not come, each with the time after which a poll of it has to
        start, in seconds on the loop's clock."""
        self._added = asyncio.Event()
        self._urged = asyncio.Event()

    def add(self, topic: OwnedTopic) -> None:
        """Add the topic at the end."""
        self.topics[topic.name] = topic
        self._added.set()

    def remove(self, topic: OwnedTopic) -> bool:
        """Remove the topic, and return whether it was in the group under the same epoch."""
        if self.topics.get(topic.name) is not topic:
            return False
        del self.topics[topic.name]
        if self.urgent:
            self.urgent.pop(topic.name, None)
        return True

    def urge(self, topic: OwnedTopic, asked: float, *, wake: bool) -> None:
        """Make a topic of the group due until a poll of it has started after `asked`; `wake` ends a rest that
        `urged` may end."""
        self.urgent[topic.name] = asked
        if wake:
            self._urged.set()
            self._added.set()

    def has(self, topic: OwnedTopic) -> bool:
        """Return whether the topic is in the group under the same epoch."""
        return self.topics.get(topic.name) is topic

    def due(self, now: float, interval: float, retry: float, *, on_turn: bool | None = None) -> list[OwnedTopic]:
        """Return the topics to poll in a round that starts `now`, those that were polled longest ago first.

        Rounds start once per interval, or every LONGEST_RETRY_SECONDS if that is shorter; a topic for which the next
        round is nearer to its turn is polled then. For a topic that is not live, or has no result, `retry` counts
        where it is shorter than the interval. `on_turn` is True for the regular round of a query, for which all topics
        are due that were not polled just before it (schedule.py), False between these rounds, in which only topics
        without a result are due, and None for groups without such rounds. Urgent topics are always due. Times are in
        seconds on the loop's clock.
        """
        urgent = self._still_urgent()
        if on_turn:
            before = polled_before(interval, now)
        else:
            pace = min(interval, LONGEST_RETRY_SECONDS)
            before = float("-inf") if on_turn is False else now - interval + pace / 2
        tried_before = now - min(interval, retry) / 2
        due = [
            topic
            for topic in self.topics.values()
            if topic.history.started <= (before if _is_well(topic) else tried_before) or topic.name in urgent
        ]
        return sorted(due, key=lambda topic: topic.history.started)

    def all_well(self) -> bool:
        """Return whether every topic has a result and is live."""
        return all(map(_is_well, self.topics.values()))

    def _still_urgent(self) -> dict[str, float]:
        """Return the urgent topics, after forgetting those that have been polled."""
        self._urged.clear()
        if self.urgent:
            topics = self.topics
            self.urgent = {name: at for name, at in self.urgent.items() if topics[name].history.started <= at}
        return self.urgent

    async def filled(self) -> None:
        """Wait until the group has a topic."""
        while not self.topics:
            await self.topic_added(None)

    async def topic_added(self, seconds: float | None) -> None:
        """Wait until a topic is added, or urged as for `urged`, at most for this time."""
        if self._urged.is_set():
            return
        self._added.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._added.wait()

    async def urged(self, seconds: float) -> None:
        """Wait until a topic is urged that `due` has not returned yet, at most for this time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._urged.wait()


class TopicGroups:
    """All topics of a query that this poller owns.

    - `new`: just gained; polled at once, together with the topics gained at the same time.
    - `hinted`: regular topics that a hint has made due (poller/hinting.py); polled at once, together.
    - `regular`: polled once per interval, on the query's phase, together where that is cheaper.
    - `suspects`: in a statement that timed out or was conspicuous; polled in parts until the slow topic is found.
    - `failing`: found to fail when polled alone; polled alone, once per interval, until it gives a result again.
    - `slow`: found to time out or to be slow when polled alone; polled alone, with rests as long as its polls.
    """

    def __init__(self) -> None:
        self.new = TopicGroup()
        self.hinted = TopicGroup()
        self.regular = TopicGroup()
        self.suspects = TopicGroup()
        self.failing = TopicGroup()
        self.slow = TopicGroup()
        self._all = self.regular, self.new, self.hinted, self.suspects, self.failing, self.slow
        self.conduct: dict[str, Conduct] = {}
        """The conduct of each topic that was set apart at least once."""

    def remove(self, topic: OwnedTopic) -> bool:
        """Remove the topic from its group, and return whether it was in one."""
        self.conduct.pop(topic.name, None)
        return any(group.remove(topic) for group in self._all)

    def group_of(self, topic: OwnedTopic) -> TopicGroup | None:
        """Return the group of the topic; None when it is not owned under the same epoch."""
        return next((group for group in self._all if group.has(topic)), None)

    def all_topics(self) -> list[OwnedTopic]:
        """Return the topics of all groups."""
        return [topic for group in self._all for topic in group.topics.values()]

    def set_apart(self, topic: OwnedTopic, group: TopicGroup, before: TopicGroup) -> None:
        """Add the topic, which was found at fault in the group `before`, to `failing` or `slow`."""
        conduct = self.conduct.setdefault(topic.name, Conduct())
        if before in (self.failing, self.slow):
            conduct.fail_again()
        else:
            conduct.offend()
        group.add(topic)

    def take_back(self, topic: OwnedTopic, before: TopicGroup) -> None:
        """Add the topic, which had a good poll in the group `before`, to `regular`, or leave it apart for now."""
        apart = before in (self.failing, self.slow)
        if apart and not self.conduct.setdefault(topic.name, Conduct()).behave():
            before.add(topic)
        else:
            self.regular.add(topic)


def _is_well(topic: OwnedTopic) -> bool:
    return topic.rows is not None and topic.state == "live"
