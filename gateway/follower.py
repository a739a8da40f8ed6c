"""A consumer of one topic that is served by a coroutine: server-sent events and gRPC.

A follower has no queue. It is woken, looks at the topic, and takes what it needs from where it is: the deltas if the
log holds them and they are few, else the present snapshot. One that reads slowly thereby misses intermediate versions
and costs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pollcast.gateway.history import Entry, Result
from pollcast.gateway.status import Status
from pollcast.gateway.version import Version
from pollcast.services.catalogue.topics import Topic

if TYPE_CHECKING:
    from pollcast.gateway.hub import Hub
    from pollcast.gateway.topic import LiveTopic

MAX_LIFETIME_SECONDS = 365 * 24 * 3600.0
"""A token may be good for longer than a timer can be set."""

MAX_STEPS = 32
"""A follower that is further behind gets a snapshot."""


@dataclass(frozen=True, slots=True)
class DeltaEvent:
    entry: Entry
    base: Version


TopicEvent = Result | DeltaEvent | Status


class Follower:
    """Made by `following`. `events()` runs until the gateway ends it (`end`) or the consumer stops."""

    def __init__(self, topic: LiveTopic, *, since: Version | None = None, deltas: bool = True) -> None:
        self._topic = topic
        self._since = since
        self._deltas = deltas and bool(topic.topic.query.key)
        self._version: Version | None = None
        self._told: Status | None = None
        self._wake = asyncio.Event()
        self._ended = False

    @property
    def status(self) -> Status:
        return self._topic.status

    def wake(self) -> None:
        """Something about the topic has changed."""
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    async def events(self, silence: float | None = None) -> AsyncGenerator[TopicEvent | None, None]:
        """What is new, as it comes; None whenever nothing came for `silence` seconds."""
        while not self._ended:
            self._wake.clear()
            for event in self._due():
                yield event
            try:
                async with asyncio.timeout(silence):
                    await self._wake.wait()
            except TimeoutError:
                yield None

    def _due(self) -> list[TopicEvent]:
        events: list[TopicEvent] = []
        status = self._topic.status
        if self._told is None:
            if status.state != "live":
                events.append(status)
            self._told = status
        elif not status.same_as(self._told):
            events.append(status)
            self._told = status
        present = self._topic.present
        if present is None or present.version == self._version:
            return events
        at = self._version or self._since
        steps = self._topic.history.since(at) if at is not None else None
        lags = self._version is not None and steps is not None and len(steps) > MAX_STEPS
        if at is None or steps is None or lags or (steps and not self._deltas):
            events.append(present)
            at = present.version
        else:  # without steps: the same result, which the consumer goes on knowing by its own version
            for entry in steps:
                events.append(DeltaEvent(entry, at))
                at = entry.version
        self._version = at
        return events


@contextlib.contextmanager
def following(
    hub: Hub, topic: Topic, *, since: Version | None = None, deltas: bool = True, lifetime: float | None = None
) -> Iterator[Follower]:
    """Inside the scope the follower counts as a client of the topic. It ends after `lifetime` seconds, when its token
    does."""
    live = hub.enter(topic, time.monotonic())
    follower = Follower(live, since=since, deltas=deltas)
    live.followers.add(follower)
    try:
        with ending_after(lifetime, follower.end):
            yield follower
    finally:
        live.followers.discard(follower)
        hub.leave(live, time.monotonic())


@contextlib.contextmanager
def ending_after(lifetime: float | None, end: Callable[[], None]) -> Iterator[None]:
    """Inside the scope `end` is called when `lifetime` seconds are over; None: never."""
    if lifetime is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(min(lifetime, MAX_LIFETIME_SECONDS), end)
    try:
        yield
    finally:
        timer.cancel()
