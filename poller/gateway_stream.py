"""A gateway's stream: the topics that one gateway has attached, and the updates queued for it.

A gateway that reads slowly costs this poller at most QUEUE_BYTES and the snapshot being sent. Beyond that, the queued
updates of a topic are dropped, and the topic's current state is sent instead when its turn comes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pollcast.poller import metrics
from pollcast.poller.owned import OwnedTopic, Updates, followed_by, updates_size

QUEUE_BYTES = 8 * 1024 * 1024
"""Maximum size of the updates queued for one gateway, in bytes."""

BATCH_BYTES = 64 * 1024
"""Approximate maximum size of one message to a gateway, in bytes; the gateway handles a message in one go."""

UNKNOWN = "unknown"
"""State reported to the gateway when the update that reported it may have been dropped, or was of another epoch."""


@dataclass(slots=True)
class TopicQueue:
    """The updates of one topic that wait to be sent to one gateway."""

    sending: Iterator[bytes] | None = None
    """Rest of a group of updates that belong together, the first of which may have been sent."""

    later: deque[Updates] = field(default_factory=deque)
    """Further groups of updates."""

    resync: bool = False
    """Whether to send the topic's current state, as of its next turn, instead of further groups."""


class GatewayStream:
    """One gateway's attached topics and their queues. Topics take turns."""

    def __init__(self, owned: Mapping[str, OwnedTopic], limit: int = QUEUE_BYTES) -> None:
        self.gateway = ""  # the gateway's node name, once its first request has come
        self.queued = 0  # bytes in `later` of all topics
        self._owned = owned
        self._limit = limit
        self._reported: dict[str, str] = {}  # attached topic → the state last reported to the gateway
        self._queues: dict[str, TopicQueue] = {}  # topics with something to send, in the order of their turns
        self._filled = asyncio.Event()

    @property
    def attached(self) -> Iterable[str]:
        """The attached topics."""
        return self._reported

    def attach(self, name: str, epoch: int, seq: int) -> None:
        """Send the topic's updates from now on. The gateway has the version (epoch, seq), which is not sent again.

        The state is always sent: the gateway may have set the topic to stale while it could not reach this poller.
        """
        self.detach(name)
        self._reported[name] = UNKNOWN
        owned = self._owned.get(name)
        if owned is None or (owned.seq == 0 and owned.state == "live"):
            return
        if (epoch, seq) != (owned.epoch, owned.seq):
            self._queues[name] = TopicQueue(resync=True)
        else:
            self._enqueue(name, [owned.status()])
            self._reported[name] = owned.state
        self._filled.set()

    def detach(self, name: str) -> None:
        """Send no updates of the topic any more."""
        self._drop(name)
        self._reported.pop(name, None)

    def push(self, name: str, updates: Updates) -> None:
        """Queue the updates of an owned topic, whose state is already the new one; ignore a topic not attached."""
        reported = self._reported.get(name)
        if reported is None:
            return
        queue = self._queues.get(name)
        if queue is not None and queue.resync:
            return
        owned = self._owned[name]
        self._enqueue(name, followed_by(updates, [owned.status()]) if reported == UNKNOWN else updates)
        self._reported[name] = owned.state
        if self.queued > self._limit:
            self._reset(name)
        self._filled.set()

    def forget(self, name: str) -> None:
        """Drop what is queued of the topic, which this poller has lost; the topic stays attached."""
        self._drop(name)
        if name in self._reported:
            self._reported[name] = UNKNOWN

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """Yield the queued updates, as many at a time as are ready, up to about BATCH_BYTES; never end."""
        while True:
            while not self._queues:
                self._filled.clear()
                await self._filled.wait()
            batch: list[bytes] = []
            size = 0
            while self._queues and size < BATCH_BYTES:
                update = self._next(next(iter(self._queues)))
                if update is not None:
                    batch.append(update)
                    size += len(update)
            if batch:
                yield batch

    def _next(self, name: str) -> bytes | None:
        """Return the next update of the topic, whose turn it is."""
        queue = self._queues.pop(name)
        update = None if queue.sending is None else next(queue.sending, None)
        if update is None:
            queue.sending = self._next_group(name, queue)
            update = None if queue.sending is None else next(queue.sending, None)
        if update is not None or queue.later or queue.resync:
            self._queues[name] = queue  # at the end: it is the others' turn first
        return update

    def _next_group(self, name: str, queue: TopicQueue) -> Iterator[bytes] | None:
        """Begin with the next group of updates of the topic."""
        if queue.resync:
            owned = self._owned[name]
            queue.resync = False
            updates = owned.current_updates(self._reported[name])
            self._reported[name] = owned.state
        elif queue.later:
            updates = queue.later.popleft()
            self.queued -= updates_size(updates)
        else:
            return None
        return iter(updates)

    def _enqueue(self, name: str, updates: Updates) -> None:
        self._queues.setdefault(name, TopicQueue()).later.append(updates)
        self.queued += updates_size(updates)

    def _reset(self, name: str) -> None:
        """Replace the queued groups of the topic by its current state; the group being sent is completed first."""
        queue = self._queues[name]
        self.queued -= sum(map(updates_size, queue.later))
        queue.later.clear()
        queue.resync = True
        self._reported[name] = UNKNOWN
        metrics.RESETS.inc()

    def _drop(self, name: str) -> None:
        queue = self._queues.pop(name, None)
        if queue is not None:
            self.queued -= sum(map(updates_size, queue.later))
