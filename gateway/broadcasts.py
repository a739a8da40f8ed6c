"""Messages to all channels of a topic: statuses, and changes of the presence list.

A message to an audience of usual size is written at once. To a larger one it is written to a part of the channels in
each turn of the event loop, and the messages that come meanwhile wait behind it, so that every channel gets them in
their order. A channel that joins or catches up meanwhile has the present state from then on, so it is left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

from pollcast.gateway import phoenix
from pollcast.gateway.cohorts import AT_ONCE_MEMBERS, SLICE_MEMBERS, Subscriber, Traffic
from pollcast.gateway.offload import Offload
from pollcast.gateway.outbound_frames import Framed
from pollcast.gateway.status import Status


class Broadcast:
    """A message of one part of the state (gateway/backlog.py), and the channels that it has still to be written to.

    `before` is the status that the channels know when the message is a status, otherwise None.
    """

    __slots__ = ("_frames", "before", "event", "part", "payload", "todo")

    def __init__(
        self, channels: Iterable[Subscriber], part: int, event: bytes, payload: bytes, before: Status | None = None
    ) -> None:
        self.todo = dict.fromkeys(channels)
        self.part = part
        self.event = event
        self.payload = payload
        self.before = before
        self._frames: dict[bytes, Framed] = {}

    def frame(self, channel: Subscriber) -> bytes:
        """Return the message as the channel takes it; it is encoded once per spelling."""
        framed = self._frames.get(channel.spelling)
        if framed is None:
            text = phoenix.push(channel.spelling, self.event, self.payload)
            framed = self._frames[channel.spelling] = Framed(text)
        return framed.ready(channel.wire.deflates)


class Broadcasts:
    """The messages to one topic's channels that are being written. `missed` is called with each message that a channel
    cannot take."""

    __slots__ = ("_missed", "_offload", "_queue", "_traffic")

    def __init__(self, traffic: Traffic, offload: Offload, missed: Callable[[Subscriber, Broadcast], None]) -> None:
        self._missed = missed
        self._traffic = traffic
        self._offload = offload
        self._queue: deque[Broadcast] = deque()

    def send(self, broadcast: Broadcast) -> None:
        """Write a message after all that were sent before."""
        self._queue.append(broadcast)
        if len(self._queue) == 1:
            self._write(len(broadcast.todo) if len(broadcast.todo) <= AT_ONCE_MEMBERS else SLICE_MEMBERS)

    def leave_out(self, channel: Subscriber, parts: int) -> list[Broadcast]:
        """Take a channel out of the messages of these parts that are still to be written to it, and return them."""
        found = [each for each in self._queue if each.part & parts and channel in each.todo]
        for broadcast in found:
            del broadcast.todo[channel]
        return found

    def _write(self, most: int) -> None:
        """Write the first message to its next channels, and go on in a later turn of the loop."""
        broadcast = self._queue[0]
        messages = size = 0
        for channel in list(islice(broadcast.todo, most)):
            del broadcast.todo[channel]
            wire = channel.wire
            if wire.blocked or channel.behind & broadcast.part:
                self._missed(channel, broadcast)
            else:
                ready = broadcast.frame(channel)
                wire.write(ready)
                messages += 1
                size += len(ready)
        self._traffic.count(broadcast.event, messages, size)
        if not broadcast.todo:
            self._queue.popleft()
        if self._queue:
            self._offload.soon(self._go_on)

    def _go_on(self) -> None:
        self._write(SLICE_MEMBERS)
