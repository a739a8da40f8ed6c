"""The WebSocket clients of one topic: they get its results, statuses and presence, each encoded once for many.

Nothing is written to a channel whose socket is congested, and nothing is queued for it. It falls behind: it leaves its
cohort (gateway/cohorts.py) until its socket has drained, and then starts again from the present snapshot
(gateway/backlog.py). Only a channel that joined with `since` and has not received all its steps yet goes on with them.
"""

from __future__ import annotations

from functools import partial

from pollcast.gateway import phoenix
from pollcast.gateway.backlog import PRESENCE, RESULT
from pollcast.gateway.broadcasts import Broadcast, Broadcasts
from pollcast.gateway.cohorts import AT_ONCE_MEMBERS, Cohorts, Subscriber, Traffic
from pollcast.gateway.history import Entry, History
from pollcast.gateway.offload import INLINE, Offload
from pollcast.gateway.outbound_frames import Framed
from pollcast.gateway.status import Status
from pollcast.gateway.version import Version


class Audience:
    """The channels of one topic. `serving` is whether the history's present result may be given to them."""

    __slots__ = ("_broadcasts", "_cohorts", "_last_status", "_waiting", "channels", "serving")

    def __init__(self, history: History, traffic: Traffic, offload: Offload = INLINE) -> None:
        self._cohorts = Cohorts(history, traffic, offload)
        self._waiting: dict[Subscriber, Version | None] = {}  # the channels that wait for a result, with their `since`
        self._last_status: dict[Subscriber, Status] = {}  # the status known to each channel that missed a later one
        # The function refers to parts only, so that the topic's results are freed as soon as it is forgotten.
        self._broadcasts = Broadcasts(traffic, offload, partial(_missed, self._cohorts, self._last_status))
        self.channels: set[Subscriber] = set()
        self.serving = False

    def join(self, channel: Subscriber, since: Version | None) -> None:
        """Add a channel and bring it from `since` to the present result, as soon as there is one."""
        self.channels.add(channel)
        if self.serving:
            self._cohorts.join(channel, since)
        else:
            self._waiting[channel] = since

    def leave(self, channel: Subscriber) -> None:
        """Remove a channel."""
        self.channels.discard(channel)
        self._waiting.pop(channel, None)
        self._last_status.pop(channel, None)
        self._cohorts.leave(channel)
        self._broadcasts.leave_out(channel, RESULT | PRESENCE)
        if not self.channels:
            self._cohorts.forget_encoded()

    def serve(self) -> None:
        """Start serving the history's present result, beginning with the channels that wait for it."""
        self.serving = True
        waiting, self._waiting = self._waiting, {}
        at_once = len(waiting) <= AT_ONCE_MEMBERS
        for channel, since in waiting.items():
            self._cohorts.join(channel, since, at_once=at_once)

    def step(self, entry: Entry) -> None:
        """Push a step that has a change and that the history has already taken."""
        self._cohorts.step(entry)

    def broadcast_presence(self, event: bytes, payload: bytes) -> None:
        """Push an event of the presence list to every channel."""
        self._broadcasts.send(Broadcast(self.channels, PRESENCE, event, payload))

    def skip_presence(self, channel: Subscriber) -> None:
        """Leave a channel out of the presence events that are still to be written: it gets the whole list instead."""
        self._broadcasts.leave_out(channel, PRESENCE)

    def broadcast_status(self, status: Status, before: Status) -> None:
        """Push a new status; `before` is the one that the channels know."""
        self._broadcasts.send(Broadcast(self.channels, RESULT, b"status", status.payload(), before))

    def known_status(self, channel: Subscriber, status: Status) -> Status:
        """Return the status that a channel knows, which may have missed the present one. It is not written to it any
        more: the caller brings the channel up to date."""
        for broadcast in self._broadcasts.leave_out(channel, RESULT):
            if broadcast.before is not None:
                self._last_status.setdefault(channel, broadcast.before)
        return self._last_status.pop(channel, status)

    def catch_up(self, channel: Subscriber, status: Status) -> None:
        """Send a channel whose socket has drained the status, if it knows another one, and the present snapshot."""
        known = self.known_status(channel, status)
        if not known.same_as(status):
            channel.wire.write(Framed(phoenix.push(channel.spelling, b"status", status.payload())).plain)
        since = self._cohorts.resume(channel, serving=self.serving)
        if not self.serving:
            self._waiting.setdefault(channel, since)


def _missed(cohorts: Cohorts, last_status: dict[Subscriber, Status], channel: Subscriber, broadcast: Broadcast) -> None:
    """Note that a channel could not take a message to all."""
    if broadcast.before is not None:
        last_status.setdefault(channel, broadcast.before)
        cohorts.drop_out(channel)
    channel.fell_behind(broadcast.part)
