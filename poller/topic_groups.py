"""Groups of a query's topics: each topic is in one group and is polled only there, so never twice at a time."""

from __future__ import annotations

import asyncio

from pollcast.poller.owned import OwnedTopic


class TopicGroup:
    """Topics that are polled by the same loop, in the order in which they were added."""

    __slots__ = ("_filled", "topics")

    def __init__(self) -> None:
        self.topics: dict[str, OwnedTopic] = {}
        self._filled = asyncio.Event()

    def add(self, topic: OwnedTopic) -> None:
        """Add the topic at the end."""
        self.topics[topic.name] = topic
        self._filled.set()

    def remove(self, topic: OwnedTopic) -> bool:
        """Remove the topic, and return whether it was in the group under the same epoch."""
        if self.topics.get(topic.name) is not topic:
            return False
        del self.topics[topic.name]
        return True

    def not_polled_since(self, time: float) -> list[OwnedTopic]:
        """Return the topics whose last poll started at or before `time`, on the loop's clock."""
        return [topic for topic in self.topics.values() if topic.history.started <= time]

    async def filled(self) -> None:
        """Wait until the group has a topic."""
        while not self.topics:
            self._filled.clear()
            await self._filled.wait()


class TopicGroups:
    """All topics of a query that this poller owns.

    - `new`: just gained; polled at once, together with the topics gained at the same time.
    - `regular`: polled together once per interval, on the query's phase.
    - `failing`: found to fail when polled alone; polled alone, once per interval, until it gives a result again.
    - `slow`: found to time out when polled alone; polled alone, with rests as long as its polls.
    """

    def __init__(self) -> None:
        self.new = TopicGroup()
        self.regular = TopicGroup()
        self.failing = TopicGroup()
        self.slow = TopicGroup()

    def remove(self, topic: OwnedTopic) -> bool:
        """Remove the topic from its group, and return whether it was in one."""
        return any(group.remove(topic) for group in (self.new, self.regular, self.failing, self.slow))
