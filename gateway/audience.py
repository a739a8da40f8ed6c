"""The WebSocket clients of one topic, grouped so that one frame serves as many as can be.

Channels that spelled the topic alike, want deltas alike and are at the same version form a cohort: they all get the
very same bytes, compressed or not. There is usually one cohort per spelling; a second one appears when somebody joins
between a change of owner without a change of the result and the next change, and goes with that change.

A channel whose socket is congested is not written to. It falls behind: it is in no cohort until its socket has drained,
and then starts again from the present snapshot. Nothing is ever queued for it.
"""

from __future__ import annotations

from typing import Protocol

from pollcast.gateway import phoenix
from pollcast.gateway.frames import Framed
from pollcast.gateway.history import Entry, History
from pollcast.gateway.status import Status
from pollcast.gateway.version import Version

MAX_READY = 16
"""How many ways to the present result are kept ready, by spelling and `since`."""


class Outlet(Protocol):
    """Where a channel's frames go (`pollcast.gateway.wire.Wire`)."""

    @property
    def blocked(self) -> bool:
        """Whether nothing should be sent to it now."""

    @property
    def deflates(self) -> bool:
        """Whether it takes compressed frames."""

    def write(self, frames: bytes) -> None: ...


class Subscriber(Protocol):
    """One join. The audience keeps `cohort`, which is None while it waits for a result and while it is behind."""

    spelling: bytes
    deltas: bool
    cohort: Cohort | None

    @property
    def wire(self) -> Outlet:
        """Its socket's."""

    def fell_behind(self) -> None:
        """Told when it missed something: to call `Audience.catch_up` when the socket has drained."""


class Cohort:
    """Channels at the same version that are served by the same bytes. A wire has one channel at most in a cohort, as
    it has one for a spelling."""

    __slots__ = ("members", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        self.members: dict[Outlet, Subscriber] = {}


class Traffic:
    """What has been pushed to channels, ever."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages: dict[bytes, int] = {}  # by event
        self.bytes = 0

    def count(self, event: bytes, messages: int, size: int) -> None:
        self.messages[event] = self.messages.get(event, 0) + messages
        self.bytes += size


Group = tuple[bytes, bool, bool]
"""Spelling, with deltas, compressed."""


class Audience:
    """See the module."""

    __slots__ = (
        "_cohorts",
        "_history",
        "_ready",
        "_ready_for",
        "_traffic",
        "_untold",
        "_waiting",
        "channels",
        "serving",
    )

    def __init__(self, history: History, traffic: Traffic) -> None:
        self._history = history
        self._traffic = traffic
        self._cohorts: dict[Group, list[Cohort]] = {}
        self._ready: dict[tuple[bytes, Version | None], Way] = {}
        self._ready_for: Version | None = None
        self._waiting: dict[Subscriber, Version | None] = {}  # for a result, with their `since`
        self._untold: dict[Subscriber, Status] = {}  # who missed a status, with the last that they were told
        self.channels: set[Subscriber] = set()
        self.serving = False  # whether the history's present result may be given to those who join

    def join(self, channel: Subscriber, since: Version | None) -> None:
        """Adds a channel and brings it to the present result by what it needs from `since` on, now or as soon as
        there is one."""
        self.channels.add(channel)
        if self.serving:
            self._bring(channel, since)
        else:
            self._waiting[channel] = since

    def leave(self, channel: Subscriber) -> None:
        self.channels.discard(channel)
        self._waiting.pop(channel, None)
        self._untold.pop(channel, None)
        self._leave_cohort(channel)
        if not self.channels:
            self._ready.clear()

    def serve(self) -> None:
        """The history's present result is good: those who wait get it."""
        self.serving = True
        waiting, self._waiting = self._waiting, {}
        for channel, since in waiting.items():
            self._bring(channel, since)

    def step(self, entry: Entry) -> None:
        """The result has changed by `entry`, which the history has taken already and which has a delta."""
        snapshots: dict[bytes, Framed] = {}
        deltas: dict[tuple[bytes, Version], Framed] = {}
        for group, cohorts in list(self._cohorts.items()):
            spelling, with_deltas, _ = group
            for cohort in list(cohorts):  # one whose members all fall behind is taken out meanwhile
                if with_deltas and self._history.key:
                    framed = deltas.get((spelling, cohort.version))
                    if framed is None:
                        payload = entry.payload(cohort.version)
                        framed = Framed(phoenix.push(spelling, b"delta", payload))
                        deltas[spelling, cohort.version] = framed
                    self._send(group, cohort, b"delta", framed)
                else:
                    framed = snapshots.get(spelling)
                    if framed is None:
                        framed = snapshots[spelling] = self._snapshot(spelling)
                    self._send(group, cohort, b"snapshot", framed)
            self._merge(group, entry.version)

    def broadcast(self, event: bytes, payload: bytes) -> list[Subscriber]:
        """A message for everybody: one frame per spelling. Returns who missed it, as they are behind."""
        frames: dict[bytes, Framed] = {}
        missed: list[Subscriber] = []
        messages = size = 0
        for channel in self.channels:
            framed = frames.get(channel.spelling)
            if framed is None:
                framed = frames[channel.spelling] = Framed(phoenix.push(channel.spelling, event, payload))
            wire = channel.wire
            if wire.blocked:
                missed.append(channel)
                self._leave_behind(channel)
            else:
                ready = framed.ready(wire.deflates)
                wire.write(ready)
                messages += 1
                size += len(ready)
        self._traffic.count(event, messages, size)
        return missed

    def broadcast_status(self, status: Status, before: Status) -> None:
        """The status has changed."""
        for channel in self.broadcast(b"status", status.payload()):
            self._untold.setdefault(channel, before)

    def catch_up(self, channel: Subscriber, status: Status) -> None:
        """A channel that fell behind and whose socket has drained gets the status, if it knows another, and the present
        snapshot."""
        self._leave_cohort(channel)  # where `serve` may have put it meanwhile
        told = self._untold.pop(channel, status)
        if not told.same_as(status):
            channel.wire.write(Framed(phoenix.push(channel.spelling, b"status", status.payload())).plain)
        if self.serving:
            self._bring(channel, None)
        else:
            self._waiting[channel] = None

    # --- inside -----------------------------------------------------------------------------------------------

    def _bring(self, channel: Subscriber, since: Version | None) -> None:
        wire = channel.wire
        if wire.blocked:
            self._leave_behind(channel)
            return
        way = self._way(channel.spelling, since, channel.deltas)
        for framed in way.frames:
            ready = framed.ready(wire.deflates)
            wire.write(ready)
            self._traffic.count(way.event, 1, len(ready))
        self._enter_cohort(channel, way.to)

    def _way(self, spelling: bytes, since: Version | None, with_deltas: bool) -> Way:
        """How one who knows `since` gets to the present result."""
        present = self._history.present
        assert present is not None
        if self._ready_for != present.version:
            self._ready.clear()
            self._ready_for = present.version
        steps = self._history.since(since) if since is not None else None
        if since is None or steps is None or (steps and not with_deltas):
            steps = since = None
        way = self._ready.get((spelling, since))
        if way is not None:
            return way
        if since is None or steps is None:
            way = Way(b"snapshot", [self._snapshot(spelling)], present.version)
        elif not steps:  # the same result under the version that the client knows it by
            return Way(b"", [], since)
        else:
            frames = []
            at = since
            for entry in steps:
                frames.append(Framed(phoenix.push(spelling, b"delta", entry.payload(at))))
                at = entry.version
            way = Way(b"delta", frames, at)
        if len(self._ready) >= MAX_READY:
            self._ready.clear()
        self._ready[spelling, since] = way
        return way

    def _snapshot(self, spelling: bytes) -> Framed:
        present = self._history.present
        assert present is not None
        return Framed(phoenix.push(spelling, b"snapshot", present.payload))

    def _send(self, group: Group, cohort: Cohort, event: bytes, framed: Framed) -> None:
        ready = framed.ready(group[2])
        behind: list[Outlet] = []
        for wire in cohort.members:  # the hot loop: nothing but the write happens here
            if wire.blocked:
                behind.append(wire)
            else:
                wire.write(ready)
        served = len(cohort.members) - len(behind)
        self._traffic.count(event, served, served * len(ready))
        for wire in behind:
            self._leave_behind(cohort.members[wire])

    def _leave_behind(self, channel: Subscriber) -> None:
        self._leave_cohort(channel)
        channel.fell_behind()

    def _enter_cohort(self, channel: Subscriber, version: Version) -> None:
        cohorts = self._cohorts.setdefault(_group(channel), [])
        cohort = next((c for c in cohorts if c.version == version), None)
        if cohort is None:
            cohort = Cohort(version)
            cohorts.append(cohort)
        cohort.members[channel.wire] = channel
        channel.cohort = cohort

    def _leave_cohort(self, channel: Subscriber) -> None:
        cohort = channel.cohort
        if cohort is None:
            return
        channel.cohort = None
        if cohort.members.get(channel.wire) is not channel:
            return  # another of its socket has replaced it
        del cohort.members[channel.wire]
        if not cohort.members:
            group = _group(channel)
            cohorts = self._cohorts[group]
            cohorts.remove(cohort)
            if not cohorts:
                del self._cohorts[group]

    def _merge(self, group: Group, version: Version) -> None:
        cohorts = self._cohorts.get(group)
        if not cohorts:
            return
        first, *others = cohorts
        first.version = version
        for other in others:
            for channel in other.members.values():
                channel.cohort = first
            first.members |= other.members
        del cohorts[1:]


class Way:
    """The messages that bring a client to a result, and the version that it knows it by then."""

    __slots__ = ("event", "frames", "to")

    def __init__(self, event: bytes, frames: list[Framed], to: Version) -> None:
        self.event = event
        self.frames = frames
        self.to = to


def _group(channel: Subscriber) -> Group:
    return channel.spelling, channel.deltas, channel.wire.deflates
