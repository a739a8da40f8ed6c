"""The hints of one query: from a hint for an owned topic to the poll of it, which bypasses the query's probe.

When a hinted topic is due (poller/hints.py), and its group is `regular`, it moves to the group `hinted`, which has a
loop of its own; so it neither waits for a regular round nor shifts one. A topic in another group is polled by its own
loop, for which it becomes urgent: among the others, a topic set apart would make them slow, or fail. While the database
is unavailable, regular topics only become urgent too: the loop of regular topics has to find the database again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Mapping

from pollcast.poller import metrics
from pollcast.poller.counts import Count
from pollcast.poller.hints import Hints
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.sweeps import Sweeps
from pollcast.poller.topic_groups import TopicGroups
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.values import Value

MOST_AT_ONCE = 2000
"""Maximum number of topics that become due at once, so that the event loop is not held up."""


class Hinting:
    """The hinted topics of one query. `available` tells it whether the database answered the last statement; `polls`
    counts the polls that hints asked for."""

    def __init__(self, query: Query, groups: TopicGroups) -> None:
        self.available = True
        self.sweeps = Sweeps(query.min_interval, groups.all_topics, self.hint)
        self._groups = groups
        self._hints = Hints(query.min_interval)
        self.held: Collection[str] = self._hints.held
        """The hinted topics for which `settled` has to be called."""
        self._topics: dict[str, OwnedTopic] = {}  # those that are in `_hints`
        self._rounds: dict[int, Mapping[str, object]] = {}  # the topics that rounds have polled and not settled yet
        self._hinted = asyncio.Event()
        self._received = metrics.HINTS.labels(query.name)
        self.polls = Count(metrics.HINTED_POLLS, query.name)

    def hint(self, topic: OwnedTopic) -> bool:
        """Poll the topic soon, and return whether it is still owned."""
        if self._groups.group_of(topic) is None:
            return False
        self._received.inc()
        self._topics[topic.name] = topic
        self._hints.hint(topic.name, asyncio.get_running_loop().time(), topic.history.started)
        self._hinted.set()
        return True

    async def hint_all(self, fixed: Mapping[str, Value]) -> int:
        """Poll all topics with these values soon, and return their number; `{}` means all topics of the query."""
        return await self.sweeps.sweep(fixed)

    def forget(self, topic: str) -> None:
        """Forget the hints of a topic that is lost."""
        if self._topics.pop(topic, None) is not None:
            self._hints.forget(topic)

    @contextlib.contextmanager
    def polling(self, unsettled: Mapping[str, object]) -> Iterator[None]:
        """Heed the topics that a round has polled and not settled yet, for as long as the round runs."""
        self._rounds[id(unsettled)] = unsettled
        try:
            yield
        finally:
            del self._rounds[id(unsettled)]
            for topic in list(self._hints.held):
                self.settled(topic)

    def settled(self, topic: str) -> None:
        """Let a topic that is held become due again, unless another round polls it."""
        if topic in self._hints.held and not self._is_polled(topic):
            started = self._topics[topic].history.started
            self._hints.ended(topic, asyncio.get_running_loop().time(), started)
            self._hinted.set()

    async def due(self) -> list[OwnedTopic]:
        """Wait until topics are to be polled in the group `hinted`, and return them."""
        loop = asyncio.get_running_loop()
        while True:
            self._hinted.clear()
            topics = self._take(loop.time())
            if topics:
                return topics
            await self._wait(loop)

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until a topic may be due."""
        at = self._hints.next_at()
        delay = None if at is None else at - loop.time()
        if delay is not None and delay <= 0:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._hinted.wait()

    def _take(self, now: float) -> list[OwnedTopic]:
        """Take the topics that are due out of the regular ones, and return them; make the others urgent."""
        groups = self._groups
        taken: list[OwnedTopic] = []
        for name in self._hints.take_due(now, MOST_AT_ONCE):
            topic = self._topics[name]
            group = groups.group_of(topic)
            assert group is not None  # a lost topic is forgotten
            busy = group is groups.new or group is groups.hinted or self._is_polled(name)
            asked = self._hints.decide(name, now, topic.history.started, busy=busy)
            if name not in self._hints:
                del self._topics[name]
            if asked is None:
                continue
            self.polls.add(1)
            if group is groups.regular and self.available:
                group.remove(topic)
                groups.hinted.add(topic)
                taken.append(topic)
            else:
                group.urge(topic, asked, wake=self.available)
        return taken

    def _is_polled(self, topic: str) -> bool:
        return any(topic in unsettled for unsettled in self._rounds.values())
