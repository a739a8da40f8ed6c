"""Hints from notifications: which topics this poller makes due for what PostgreSQL has notified.

Whoever receives a notification has little to do for it: `add` collects it in bounded memory (notifications.py). A task
turns what was collected into hints, in small steps, and takes at most a fifth of the event loop's time for it. So one
notification waits for nobody, and a flood of them holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import NoReturn, Protocol

from pollcast.poller import metrics
from pollcast.poller.notifications import Channels, Heard, Ignored, Notifications, meant_by
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.topics import Topic
from pollcast.services.catalogue.values import Value
from pollcast.services.process import logs
from pollcast.services.process.occasional import Occasional

log = logs.get_logger("listener")

STEP_SECONDS = 0.002
"""Time after which turning notifications into hints lets the event loop do other work, in seconds."""

REST_SHARE = 4.0
"""Rest after turning notifications into hints, as a multiple of the time that it took."""

MAX_SEARCHES = 16
"""Maximum number of payloads without the value of a claim, for each of which the query's topics are searched, before
all topics of the query are meant instead."""


class HintReceiver(Protocol):
    """The receiver of hints. Its methods ignore topics that are not owned, and must not block."""

    def hint_topic(self, topic: str) -> int:
        """Make the topic due at once, and return the number of topics made due."""

    async def hint_query(self, name: str, fixed: Mapping[str, Value]) -> int:
        """Make all topics of the query with these values due at once, and return their number."""

    def owns_any(self, name: str) -> bool:
        """Return whether any topic of the query is owned."""


class NotificationHints:
    """The hints of one poller from notifications. `run` gives them to the receiver until it is cancelled."""

    def __init__(self, channels: Channels, receiver: HintReceiver) -> None:
        self._channels = channels
        self._receiver = receiver
        self._notifications = Notifications()
        self._arrived = asyncio.Event()
        self._ignored: dict[str, Occasional] = {}  # the log line of each query

    @property
    def size(self) -> int:
        """The memory that the notifications which were not turned into hints yet take, in bytes."""
        return self._notifications.size

    def add(self, channel: bytes, payload: bytes) -> None:
        """Record a notification; ignore one of a channel that is not in the catalogue."""
        if self._channels.queries(channel):
            self._notifications.add(channel, payload)
            self._arrived.set()

    def add_missed(self, channel: bytes) -> None:
        """Record that notifications of the channel may have been missed."""
        self._notifications.add_missed(channel)
        self._arrived.set()

    async def run(self) -> NoReturn:
        """Turn notifications into hints until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            steps = Steps()
            for channel, heard in self._notifications.take().items():
                for query in self._channels.queries(channel):
                    metrics.NOTIFICATIONS.labels(query.name).inc(heard.times)
                    if self._receiver.owns_any(query.name):
                        await self._hint(query, heard, steps)
            await asyncio.sleep(steps.took() * REST_SHARE)

    async def _hint(self, query: Query, heard: Heard, steps: Steps) -> None:
        """Give the hints that notifications of the query's channel mean for the query."""
        whole, searches = heard.whole, 0
        for payload, times in heard.payloads.items():
            if not self._receiver.owns_any(query.name):
                return
            meant = meant_by(query, payload)
            if isinstance(meant, Topic):
                self._receiver.hint_topic(meant.canonical)
            elif isinstance(meant, Ignored):
                metrics.IGNORED.labels(query.name).inc(times)
                self._log_ignored(query, meant.reason)
            elif searches < MAX_SEARCHES:
                searches += 1
                await steps.outside(self._receiver.hint_query(query.name, meant))
            else:
                whole = True
                break
            await steps.give_way()
        if whole and self._receiver.owns_any(query.name):
            await steps.outside(self._receiver.hint_query(query.name, {}))

    def _log_ignored(self, query: Query, reason: str) -> None:
        line = self._ignored.setdefault(query.name, Occasional(log.warning, "ignored a notification"))
        line(query=query.name, channel=query.listen, reason=reason)


class Steps:
    """The time that a task has computed, in steps of STEP_SECONDS between which the event loop does other work."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._took = 0.0

    def took(self) -> float:
        """Return the time that the task has computed, in seconds."""
        return self._took + self._clock() - self._began

    async def give_way(self) -> None:
        """Let the event loop do other work if the present step has taken its time."""
        if self._clock() - self._began >= STEP_SECONDS:
            await self.outside(asyncio.sleep(0))

    async def outside(self, work: Awaitable[object]) -> None:
        """Wait for work of others, whose time does not count."""
        self._took = self.took()
        await work
        self._began = self._clock()
