"""Clients of a topic that are served by a coroutine each: JSON requests and gRPC calls.

A follower has no queue. Whenever the topic changes it is woken and reads what its consumer needs from the topic: the
deltas if the log holds them and they are few, else the present snapshot. A consumer that reads slowly thereby skips
intermediate versions and costs no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pollcast.gateway.conditional import Condition
from pollcast.gateway.history import Entry, Result
from pollcast.gateway.hub import Hub
from pollcast.gateway.status import Status
from pollcast.gateway.topic import LiveTopic
from pollcast.gateway.version import Version
from pollcast.services.catalogue.topics import Topic
from pollcast.services.clock import now_us
from pollcast.services.errors import Draining, NoResult, PollcastError, PollFailed

RESULT_SECONDS = 10.0
"""Maximum time that a request for one snapshot waits for a first result, in seconds.

docs/reference/http.md#json-snapshots
"""

MAX_LIFETIME_SECONDS = 365 * 24 * 3600.0
"""Upper bound of a follower's lifetime, in seconds: a token may be valid for longer than a timer can be set."""

MAX_STEPS = 32
"""Maximum number of deltas with which a follower that lags behind catches up; beyond, it gets a snapshot."""


@dataclass(frozen=True, slots=True)
class DeltaEvent:
    """A step of the topic's log, for a consumer that knows the step's base by the version `base`."""

    entry: Entry
    base: Version


TopicEvent = Result | DeltaEvent | Status
"""One message to a consumer: a snapshot, a delta or a status."""


class Position(NamedTuple):
    """The part of a topic that a consumer has: a version (None before the first result), and the status that it knows.

    `since` is the version with which it came. `reported` is None before the consumer's first event.
    """

    version: Version | None = None
    since: Version | None = None
    reported: Status | None = None


def due(
    topic: LiveTopic, position: Position, deltas: bool, largest: int | None = None
) -> tuple[list[TopicEvent], Position]:
    """Return the events that bring a consumer up to date, and its position after them.

    Without `deltas` each change is a snapshot, and likewise a change with a delta of more than `largest` bytes.
    """
    events: list[TopicEvent] = []
    version, since, reported = position
    status = topic.status
    if reported is None:
        if status.state != "live":
            events.append(status)
        reported = status
    elif not status.same_as(reported):
        events.append(status)
        reported = status
    present = topic.present
    if present is None or present.version == version:
        return events, Position(version, since, reported)
    at = version or since
    steps = topic.history.since(at) if at is not None else None
    lags = version is not None and steps is not None and len(steps) > MAX_STEPS
    if steps and largest is not None and max(entry.size for entry in steps) > largest:
        steps = None
    if at is None or steps is None or lags or (steps and not deltas):
        events.append(present)
        at = present.version
    else:  # without steps it is the same result, which the consumer goes on knowing by its own version
        for entry in steps:
            events.append(DeltaEvent(entry, at))
            at = entry.version
    return events, Position(at, since, reported)


class Follower:
    """One consumer's position in a topic. Create it with `following`, and read `events` once."""

    def __init__(
        self,
        topic: LiveTopic,
        on_renew: Callable[[Follower], None],
        *,
        since: Version | None = None,
        deltas: bool = True,
        largest: int | None = None,
    ) -> None:
        """`largest` is the maximum size of a delta in bytes: instead of a larger one there is a snapshot.

        `on_renew` moves the follower to the topic that its client means by the catalogue in force, or fails it.
        """
        self._topic = topic
        self._on_renew = on_renew
        self._position = Position(since=since)
        self._deltas = deltas and bool(topic.topic.query.key)
        self._largest = largest
        self._wake = asyncio.Event()
        self._ended = False
        self.error: PollcastError | None = None
        """The reason of an end that is the topic's, or the client's lack of access to it."""

    @property
    def topic(self) -> LiveTopic:
        """The topic that is followed now."""
        return self._topic

    @property
    def status(self) -> Status:
        """The topic's status now."""
        return self._topic.status

    def wake(self) -> None:
        """Make `events` look for new events, because the topic has changed."""
        self._wake.set()

    def renew(self) -> None:
        """Go on under the catalogue that has just come into force."""
        self._on_renew(self)

    def end(self) -> None:
        """Make `events` return."""
        self._ended = True
        self._wake.set()

    def move(self, topic: LiveTopic) -> None:
        """Follow another topic, beginning with a snapshot."""
        self._topic, self._position = topic, Position(reported=self._position.reported)
        self._deltas = self._deltas and bool(topic.topic.query.key)
        self._wake.set()

    def fail(self, error: PollcastError) -> None:
        """Make `events` return, after a status `failed`, because the topic may not be followed any more."""
        self.error = error
        self.end()

    async def events(self, silence: float | None = None) -> AsyncGenerator[TopicEvent | None, None]:
        """Yield each event as it comes, until `end`; yield None after every `silence` seconds without an event."""
        while not self._ended:
            self._wake.clear()
            events = deque(self.due())
            while events:  # the consumer may take long: hold nothing that it has taken
                yield events.popleft()
            try:
                async with asyncio.timeout(silence):
                    await self._wake.wait()
            except TimeoutError:
                yield None
        if self.error is not None:
            yield Status("failed", self.error.explained, now_us())

    def knows(self, known: Condition) -> bool:
        """Return whether the present result is one that the client knows, perhaps by an older version."""
        history = self._topic.history
        return known.any or any(history.since(version) == [] for version in known.versions)

    def due(self) -> list[TopicEvent]:
        """Return the events that bring the consumer up to date, and count them as delivered."""
        events, self._position = due(self._topic, self._position, self._deltas, self._largest)
        return events


class Refusable(Protocol):
    """A client that ends when the catalogue in force refuses what it follows (`Follower`, or an event stream)."""

    def fail(self, error: PollcastError) -> None:
        """End with a last status `failed`."""


def meant_now(hub: Hub, before: LiveTopic, client: Refusable, again: Callable[[], Topic]) -> Topic | None:
    """Return the topic to which to move a client of the topic `before`, because the catalogue has changed.

    `again` returns the topic that the client means by the catalogue in force, or raises what refuses it: then the
    client fails, and the result is None, as it is when the topic has not changed.
    """
    try:
        topic = again()
    except PollcastError as error:
        client.fail(error)
        return None
    return None if hub.topics.get(topic.canonical) is before else topic


@contextlib.contextmanager
def following(
    hub: Hub,
    topic: Topic,
    *,
    since: Version | None = None,
    deltas: bool = True,
    lifetime: float | None = None,
    largest: int | None = None,
    again: Callable[[], Topic] | None = None,
) -> Iterator[Follower]:
    """Add a follower to the topic's clients inside the scope.

    The follower ends after `lifetime` seconds, when its token expires; None means no limit. `again` returns the topic
    that the client means by the catalogue in force then, or raises what refuses it.
    """
    live = hub.enter(topic, time.monotonic())

    def on_renew(follower: Follower) -> None:
        before = follower.topic
        if follower in before.followers and (renewed := meant_now(hub, before, follower, again or (lambda: topic))):
            follower.move(hub.enter(renewed, time.monotonic()))
            follower.topic.followers.add(follower)
            before.followers.discard(follower)
            hub.leave(before, time.monotonic())

    follower = Follower(live, on_renew, since=since, deltas=deltas, largest=largest)
    live.followers.add(follower)
    try:
        with ending_after(lifetime, follower.end):
            yield follower
    finally:
        follower.topic.followers.discard(follower)
        hub.leave(follower.topic, time.monotonic())


async def first_result(hub: Hub, topic: Topic, again: Callable[[], Topic] | None = None) -> Result:
    """Return the topic's result as soon as there is one.

    Raises PollFailed at once when the query failed, NoResult after RESULT_SECONDS, and Draining when the gateway shuts
    down first.
    """
    result, _ = await another_result(hub, topic, Condition(), again)
    return result


async def another_result(
    hub: Hub, topic: Topic, known: Condition, again: Callable[[], Topic] | None = None
) -> tuple[Result, bool]:
    """Return the topic's result, and whether it is another than the client knows, for which it waits `known.wait`
    seconds. `again` is as for `following`, and what it raises is raised.

    The wait ends early when the gateway shuts down. Raises PollFailed at once when the query failed, NoResult when no
    result comes within RESULT_SECONDS, and Draining when the gateway shuts down first.
    """
    with following(hub, topic, deltas=False, again=again) as follower:
        async with contextlib.aclosing(follower.events()) as events:
            try:
                async with asyncio.timeout(RESULT_SECONDS):
                    result = await _next_result(follower, events)
            except TimeoutError:
                status = follower.status
                why = f"the topic is {status.state}: {status.reason}" if status.reason else "no answer to the query yet"
                raise NoResult(f"no result within {RESULT_SECONDS:g} s; {why}") from None
            if not follower.knows(known):
                return result, True
            try:
                async with asyncio.timeout(known.wait):
                    return await _next_result(follower, events), True
            except (TimeoutError, Draining):  # what the client has is still right
                return result, False


async def _next_result(follower: Follower, events: AsyncGenerator[TopicEvent | None, None]) -> Result:
    """Return the follower's next result. Raises its error when it has one, PollFailed when the query failed, and
    Draining when the events end."""
    async for event in events:
        if follower.error is not None:
            raise follower.error
        if isinstance(event, Status) and event.state == "failed":
            raise PollFailed(event.reason)
        if isinstance(event, Result):
            return event
    raise Draining()


@contextlib.contextmanager
def ending_after(lifetime: float | None, end: Callable[[], None]) -> Iterator[None]:
    """Call `end` when `lifetime` seconds have passed inside the scope; None means no limit."""
    if lifetime is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(min(lifetime, MAX_LIFETIME_SECONDS), end)
    try:
        yield
    finally:
        timer.cancel()
