"""The messages that a watch sends on one connection, and their times. Pure: messages and times in, messages out.

Heartbeats and joins are due by the clock, however many messages arrive meanwhile: call `due` after each message.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from pollcast_client.channel import Channel
from pollcast_client.phoenix import Message

ANSWER_PART = 0.5
"""Part of the heartbeat's time within which a gateway has to answer a heartbeat or a new connection."""

FIRST_REJOIN_SECONDS = 1.0
"""Maximum pause before a topic is joined again that the gateway closed, or for which it asked to slow down, in seconds.
It doubles with each further time."""

LAST_REJOIN_SECONDS = 30.0
"""Maximum pause before any such join, in seconds."""

PATIENCE_SECONDS = 1.0
"""Minimum wait for a message before a gateway counts as unresponsive, in seconds: messages that arrived while the
consumer was busy are read before that."""

CALM_SECONDS = 60.0
"""Time after which the next trouble with a topic counts as its first, in seconds."""


class Unresponsive(Exception):
    """The gateway did not answer a heartbeat in time."""


class Conversation:
    """The topics of a watch on one connection. All times are in seconds of one monotonic clock.

    `next_ref` returns an identifier for each message that is sent. `jitter` returns a number from 0 to 1.
    """

    def __init__(
        self,
        channels: dict[str, Channel],
        *,
        heartbeat: float,
        now: float,
        next_ref: Callable[[], str],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._channels = channels
        self._heartbeat = heartbeat
        self._next_ref = next_ref
        self._jitter = jitter
        self._beat_at = now + heartbeat
        self._overdue_at: float | None = None  # when the answer to a heartbeat is late
        self._quiet_since: float | None = None  # the beginning of the wait for the next message
        self._rejoins: dict[Channel, float] = {}
        self._troubles: dict[Channel, tuple[int, float]] = {}  # number in a row, and the time of the last one

    def joins(self) -> Iterable[Message]:
        """Return the messages that join all topics on the new connection, as they are when the message is sent."""
        for channel in list(self._channels.values()):
            if self._channels.get(channel.topic) is channel:  # `leave` may run while a message is sent
                yield channel.join(self._next_ref())

    def due(self, now: float) -> Iterable[Message]:
        """Return the messages to send now: the joins of topics whose pause has ended, and a heartbeat."""
        for channel, at in list(self._rejoins.items()):
            if self._channels.get(channel.topic) is not channel or not channel.rejoin:
                del self._rejoins[channel]
            elif at <= now:
                del self._rejoins[channel]
                yield channel.join(self._next_ref())
        if self._beat_at <= now:
            self._beat_at = now + self._heartbeat
            if self._overdue_at is None:
                self._overdue_at = now + self._heartbeat * ANSWER_PART
            yield Message(None, self._next_ref(), "phoenix", "heartbeat", {})

    def wait(self, now: float) -> float:
        """Return how long to wait for the next message before `due` or `idle` has something to do, in seconds."""
        if self._quiet_since is None:
            self._quiet_since = now
        due_at = min([self._beat_at, *self._rejoins.values()])
        if self._overdue_at is not None:
            due_at = min(due_at, max(self._overdue_at, self._quiet_since + PATIENCE_SECONDS))
        return max(0.0, due_at - now)

    def heard(self, message: Message) -> Channel | None:
        """Take note of a message, and return the channel that it is for. Call it before the channel takes it."""
        self._quiet_since = None
        if message.topic == "phoenix":
            self._overdue_at = None
        return self._channels.get(message.topic)

    def after(self, channel: Channel, now: float) -> None:
        """Take note of a channel that took a message: it may have to be joined again after a pause."""
        if not channel.rejoin or channel in self._rejoins:
            return
        times, last = self._troubles.get(channel, (0, 0.0))
        times = 1 if now - last > CALM_SECONDS else times + 1
        self._troubles[channel] = times, now
        pause = min(LAST_REJOIN_SECONDS, FIRST_REJOIN_SECONDS * 2.0 ** min(times - 1, 10))
        self._rejoins[channel] = now + pause * (0.5 + self._jitter() / 2)

    def idle(self, now: float) -> None:
        """Judge the gateway when no message has arrived during the wait. Raises Unresponsive when the answer to a
        heartbeat is late."""
        if self._overdue_at is None or self._quiet_since is None:
            return
        if max(self._overdue_at, self._quiet_since + PATIENCE_SECONDS) <= now:
            raise Unresponsive("the gateway does not answer")
