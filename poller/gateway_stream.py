"""A gateway's stream: the topics that one gateway has attached, and the updates queued for it.

Every update that is sent carries the number of the attachment that it answers. A further attachment of the topic, or
its loss, abandons what is being sent of it, even in the midst of a snapshot; the gateway drops what still arrives.

A gateway gets no result that was made by another definition of the topic's query than its own, but a status that says
so: while a catalogue is being rolled out, nodes have different ones.

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
from pollcast.v1 import feed_pb2

QUEUE_BYTES = 8 * 1024 * 1024
"""Maximum size of the updates queued for one gateway, in bytes."""

BATCH_BYTES = 64 * 1024
"""Approximate maximum size of one message to a gateway, in bytes; the gateway handles a message in one go."""

PART_BYTES = 128 * 1024
"""Maximum size of an update that is sent in one message, in bytes; a larger delta or row is sent in parts."""

HEARTBEAT_SECONDS = 1.0
"""Maximum time between two messages to a gateway, in seconds."""

SILENT_SECONDS = 5.0
"""Silence of a gateway after which it does not reach this poller any more, in seconds. It sends a request every 2 s."""

UNKNOWN = "unknown"
"""State reported to the gateway when the update that reported it may have been dropped, or was of another epoch."""

DIFFERS = "differs"
"""State reported to the gateway when it has another definition of the topic's query than this poller."""


@dataclass(slots=True)
class Attachment:
    """A gateway's attachment of one topic."""

    suffix: bytes
    """Encoded number of the attachment, to be appended to each serialised FeedUpdate that answers it."""

    definition: str = ""
    """Definition of the topic's query on the gateway; empty for any."""

    reported: str = UNKNOWN
    """State last reported to the gateway."""

    def fits(self, owned: OwnedTopic) -> bool:
        """Return whether the gateway may see results of this topic."""
        return not self.definition or self.definition == owned.definition


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
        self.beats = False  # whether the gateway has said that it sends requests all the time
        self.silence = 0.0  # seconds since its last request, as far as they were counted
        self.queued = 0  # bytes in `later` of all topics
        self._owned = owned
        self._limit = limit
        self._attached: dict[str, Attachment] = {}  # by topic
        self._queues: dict[str, TopicQueue] = {}  # topics with something to send, in the order of their turns
        self._filled = asyncio.Event()

    @property
    def is_sound(self) -> bool:
        """Whether there is a gateway at the other end, as far as is known."""
        return bool(self.gateway) and not (self.beats and self.silence > SILENT_SECONDS)

    @property
    def attached(self) -> Iterable[str]:
        """The attached topics."""
        return self._attached

    def attach(self, name: str, epoch: int, seq: int, number: int = 0, definition: str = "") -> None:
        """Send the topic's updates from now on, with the attachment's number.

        The gateway has the version (epoch, seq), which is not sent again, and this definition of the topic's query.

        The state is always sent: the gateway may have set the topic to stale while it could not reach this poller.
        """
        self.detach(name)
        suffix = feed_pb2.FeedUpdate(attachment=number).SerializeToString()
        attachment = self._attached[name] = Attachment(suffix, definition)
        owned = self._owned.get(name)
        if owned is None:
            return
        if not attachment.fits(owned):
            self._refuse(name, attachment, owned)
            return
        if owned.rows is None and owned.state == "live":
            return
        if (epoch, seq) != (owned.epoch, owned.seq):
            self._queues[name] = TopicQueue(resync=True)
        else:
            self._enqueue(name, [owned.status()])
            attachment.reported = owned.state
        self._filled.set()

    def detach(self, name: str) -> None:
        """Send no updates of the topic any more."""
        self._drop(name)
        self._attached.pop(name, None)

    def push(self, name: str, updates: Updates) -> None:
        """Queue the updates of an owned topic, whose state is already the new one; ignore a topic not attached."""
        attachment = self._attached.get(name)
        if attachment is None:
            return
        owned = self._owned[name]
        if not attachment.fits(owned):
            self._refuse(name, attachment, owned)
            return
        queue = self._queues.get(name)
        if queue is not None and queue.resync:
            return
        self._enqueue(name, followed_by(updates, [owned.status()]) if attachment.reported == UNKNOWN else updates)
        attachment.reported = owned.state
        if self.queued > self._limit:
            self._reset(name)
        self._filled.set()

    def forget(self, name: str) -> None:
        """Drop what is queued of the topic, which this poller has lost; the topic stays attached."""
        self._drop(name)
        if name in self._attached:
            self._attached[name].reported = UNKNOWN

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """Yield the queued updates, as many at a time as are ready, up to about BATCH_BYTES; never end.

        Yield an empty batch whenever there has been none for HEARTBEAT_SECONDS.
        """
        while True:
            if not self._queues:
                self._filled.clear()
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await self._filled.wait()
                except TimeoutError:
                    yield []
                    continue
            if batch := self.take():
                yield batch

    def take(self) -> list[bytes]:
        """Return the updates whose turn it is, up to about BATCH_BYTES; none when nothing is queued."""
        batch: list[bytes] = []
        size = 0
        while self._queues and size < BATCH_BYTES:
            name = next(iter(self._queues))
            update = self._next(name)
            if update is not None:
                batch.append(update + self._attached[name].suffix)
                size += len(update)
        return batch

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
            updates = owned.current_updates(self._attached[name].reported)
            self._attached[name].reported = owned.state
        elif queue.later:
            updates = queue.later.popleft()
            self.queued -= updates_size(updates)
        else:
            return None
        return iter(updates)

    def _refuse(self, name: str, attachment: Attachment, owned: OwnedTopic) -> None:
        """Report once that the gateway has another definition."""
        if attachment.reported != DIFFERS:
            attachment.reported = DIFFERS
            self._enqueue(name, [owned.differs()])
            self._filled.set()

    def _enqueue(self, name: str, updates: Updates) -> None:
        self._queues.setdefault(name, TopicQueue()).later.append(updates)
        self.queued += updates_size(updates)

    def _reset(self, name: str) -> None:
        """Replace the queued groups of the topic by its current state; the group being sent is completed first."""
        queue = self._queues[name]
        self.queued -= sum(map(updates_size, queue.later))
        queue.later.clear()
        queue.resync = True
        self._attached[name].reported = UNKNOWN
        metrics.RESETS.inc()

    def _drop(self, name: str) -> None:
        queue = self._queues.pop(name, None)
        if queue is not None:
            self.queued -= sum(map(updates_size, queue.later))


def messages(batch: list[bytes]) -> Iterator[bytes]:
    """Yield the serialised FeedUpdates messages that carry a batch, each of about PART_BYTES at most. Pure."""
    together: list[bytes] = []
    for update in batch:
        if len(update) <= PART_BYTES:
            together.append(update)
            continue
        if together:
            yield feed_pb2.EncodedUpdates(updates=together).SerializeToString()
            together = []
        for start in range(0, len(update), PART_BYTES):
            end = start + PART_BYTES
            part = feed_pb2.FeedUpdates(part=update[start:end], more_parts=end < len(update))
            yield part.SerializeToString()
    if together or not batch:
        yield feed_pb2.EncodedUpdates(updates=together).SerializeToString()
