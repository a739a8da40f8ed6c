"""The WebSocket clients of one topic, grouped so that one encoded frame serves as many of them as possible.

Channels with the same spelling, the same wish for deltas, the same compression and the same version form a cohort: they
get the very same bytes. There is usually one cohort per spelling. A second one appears when a channel joins after a
change of owner that left the result unchanged; the next change of the result merges the two.

Nothing is written to a channel whose socket is congested, and nothing is queued for it. It falls behind: it leaves its
cohort until its socket has drained, and then starts again from the present snapshot (gateway/backlog.py). Only a
channel that joined with `since` and has not received all its steps yet goes on with them.
"""

from __future__ import annotations

from typing import Protocol

from pollcast.gateway import phoenix
from pollcast.gateway.backlog import PRESENCE, RESULT
from pollcast.gateway.history import Entry, History
from pollcast.gateway.outbound_frames import Framed
from pollcast.gateway.status import Status
from pollcast.gateway.version import Version

MAX_READY = 16
"""Maximum number of encoded catch-ups that are kept, by spelling and `since`."""


class Outlet(Protocol):
    """The destination of a channel's frames (`pollcast.gateway.wire.Wire`)."""

    @property
    def blocked(self) -> bool:
        """Whether nothing should be written now, because the socket is congested or closing."""

    @property
    def deflates(self) -> bool:
        """Whether the peer accepts compressed frames."""

    def write(self, frames: bytes) -> None:
        """Send encoded frames; must not block."""


class Subscriber(Protocol):
    """One join of a topic.

    The audience sets `cohort`, which is None while the channel waits for a result and while it lacks one. `behind` is
    the sum of the parts of its state (gateway/backlog.py) that it missed.
    """

    spelling: bytes
    deltas: bool
    cohort: Cohort | None
    behind: int

    @property
    def wire(self) -> Outlet:
        """The outlet of its socket."""

    def fell_behind(self, part: int) -> None:
        """Notice that it missed a message of this part of its state: send it the part once the socket has drained.

        `Audience.catch_up` sends the part RESULT.
        """


class Cohort:
    """Channels at the same version that are served by the same bytes.

    `members` has at most one channel per outlet, because a socket has at most one channel per spelling.
    """

    __slots__ = ("members", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        self.members: dict[Outlet, Subscriber] = {}


class Traffic:
    """Counters of the messages and bytes pushed to channels since the gateway started."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages: dict[bytes, int] = {}  # by event
        self.bytes = 0

    def count(self, event: bytes, messages: int, size: int) -> None:
        """Add messages of one event, with their bytes in all."""
        self.messages[event] = self.messages.get(event, 0) + messages
        self.bytes += size


Group = tuple[bytes, bool, bool]
"""The properties that the channels of a cohort share beside the version: spelling, with deltas, compressed."""


class Audience:
    """The channels of one topic. `serving` is whether the history's present result may be given to them."""

    __slots__ = (
        "_cohorts",
        "_history",
        "_last_status",
        "_reached",
        "_ready",
        "_ready_for",
        "_traffic",
        "_waiting",
        "channels",
        "serving",
    )

    def __init__(self, history: History, traffic: Traffic) -> None:
        self._history = history
        self._traffic = traffic
        self._cohorts: dict[Group, list[Cohort]] = {}
        self._ready: dict[tuple[bytes, Version | None], CatchUp] = {}
        self._ready_for: Version | None = None
        self._waiting: dict[Subscriber, Version | None] = {}  # the channels that wait for a result, with their `since`
        self._last_status: dict[Subscriber, Status] = {}  # the status known to each channel that missed a later one
        self._reached: dict[Subscriber, Version] = {}  # of each channel that is behind with the steps since its join
        self.channels: set[Subscriber] = set()
        self.serving = False

    def join(self, channel: Subscriber, since: Version | None) -> None:
        """Add a channel and bring it from `since` to the present result, as soon as there is one."""
        self.channels.add(channel)
        if self.serving:
            self._bring(channel, since)
        else:
            self._waiting[channel] = since

    def leave(self, channel: Subscriber) -> None:
        """Remove a channel."""
        self.channels.discard(channel)
        self._waiting.pop(channel, None)
        self._last_status.pop(channel, None)
        self._reached.pop(channel, None)
        self._leave_cohort(channel)
        if not self.channels:
            self._ready.clear()

    def serve(self) -> None:
        """Start serving the history's present result, beginning with the channels that wait for it."""
        self.serving = True
        waiting, self._waiting = self._waiting, {}
        for channel, since in waiting.items():
            self._bring(channel, since)

    def step(self, entry: Entry) -> None:
        """Push a step that has a delta and that the history has already taken."""
        snapshots: dict[bytes, Framed] = {}
        deltas: dict[tuple[bytes, Version], Framed] = {}
        for group, cohorts in list(self._cohorts.items()):
            spelling, with_deltas, _ = group
            for cohort in list(cohorts):  # a cohort is removed meanwhile when all its members fall behind
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

    def broadcast_presence(self, event: bytes, payload: bytes) -> None:
        """Push an event of the presence list to every channel, encoded once per spelling."""
        self._broadcast(event, payload, PRESENCE)

    def broadcast_status(self, status: Status, before: Status) -> None:
        """Push a new status; `before` is the one that the channels know."""
        for channel in self._broadcast(b"status", status.payload(), RESULT):
            self._last_status.setdefault(channel, before)

    def catch_up(self, channel: Subscriber, status: Status) -> None:
        """Send a channel whose socket has drained the status, if it knows another one, and the present snapshot."""
        known = self._last_status.pop(channel, status)
        if not known.same_as(status):
            channel.wire.write(Framed(phoenix.push(channel.spelling, b"status", status.payload())).plain)
        since = self._reached.pop(channel, None)
        if self.serving:
            self._bring(channel, since)
        else:
            self._waiting.setdefault(channel, since)

    # --- inside -----------------------------------------------------------------------------------------------

    def _broadcast(self, event: bytes, payload: bytes, part: int) -> list[Subscriber]:
        """Push a message of one part of the state to every channel; return the channels that missed it."""
        frames: dict[bytes, Framed] = {}
        missed: list[Subscriber] = []
        messages = size = 0
        for channel in self.channels:
            framed = frames.get(channel.spelling)
            if framed is None:
                framed = frames[channel.spelling] = Framed(phoenix.push(channel.spelling, event, payload))
            wire = channel.wire
            if wire.blocked or channel.behind & part:
                missed.append(channel)
            else:
                ready = framed.ready(wire.deflates)
                wire.write(ready)
                messages += 1
                size += len(ready)
        for channel in missed:
            self._leave_behind(channel, part)
        self._traffic.count(event, messages, size)
        return missed

    def _bring(self, channel: Subscriber, since: Version | None) -> None:
        """Bring a channel from `since` to the present result, as far as its socket takes it."""
        if channel.behind & RESULT:  # it waited for a result and missed a status meanwhile: it gets both later
            if since is not None:
                self._reached[channel] = since
            return
        catch_up = self._catch_up(channel.spelling, since, channel.deltas)
        wire = channel.wire
        reached = since if catch_up.event != b"snapshot" else None
        for framed, version in catch_up.frames:
            if wire.blocked:
                if reached is not None:
                    self._reached[channel] = reached
                self._leave_behind(channel, RESULT)
                return
            ready = framed.ready(wire.deflates)
            wire.write(ready)
            self._traffic.count(catch_up.event, 1, len(ready))
            reached = version
        self._enter_cohort(channel, catch_up.to)

    def _catch_up(self, spelling: bytes, since: Version | None, with_deltas: bool) -> CatchUp:
        """Return the messages that lead from `since` to the present result."""
        present = self._history.present
        assert present is not None
        if self._ready_for != present.version:
            self._ready.clear()
            self._ready_for = present.version
        steps = self._history.since(since) if since is not None else None
        if since is None or steps is None or (steps and not with_deltas):
            steps = since = None
        catch_up = self._ready.get((spelling, since))
        if catch_up is not None:
            return catch_up
        if since is None or steps is None:
            catch_up = CatchUp(b"snapshot", [(self._snapshot(spelling), present.version)], present.version)
        elif not steps:  # the same result, which the client goes on knowing by its own version
            return CatchUp(b"", [], since)
        else:
            frames = []
            at = since
            for entry in steps:
                frames.append((Framed(phoenix.push(spelling, b"delta", entry.payload(at))), entry.version))
                at = entry.version
            catch_up = CatchUp(b"delta", frames, at)
        if len(self._ready) >= MAX_READY:
            self._ready.clear()
        self._ready[spelling, since] = catch_up
        return catch_up

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
            self._leave_behind(cohort.members[wire], RESULT)

    def _leave_behind(self, channel: Subscriber, part: int) -> None:
        if part == RESULT:
            self._leave_cohort(channel)
        channel.fell_behind(part)

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
            return  # another channel of its socket has replaced it
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


class CatchUp:
    """The encoded messages that bring a client to a result, and the version by which it then knows the result.

    Each message stands beside the version that it leads to.
    """

    __slots__ = ("event", "frames", "to")

    def __init__(self, event: bytes, frames: list[tuple[Framed, Version]], to: Version) -> None:
        self.event = event
        self.frames = frames
        self.to = to


def _group(channel: Subscriber) -> Group:
    return channel.spelling, channel.deltas, channel.wire.deflates
